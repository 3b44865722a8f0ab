"""What Panel and HoloViews would keep of a visitor who has left; the only place that knows."""

import panel as pn
import panel_material_ui as pmui


def let_go(page: pmui.Page) -> None:
    """Take a page out of what lives as long as the process; call it once its session has ended.

    HoloViews lists the callbacks of each plot in `Callback._callbacks`, with its streams. Panel means to clean them up
    when a session ends. By then Bokeh has emptied the models, and for a component written in JavaScript, as the page
    is, Panel asks the emptied model which children to clean up (`ReactiveESM._cleanup`).
    """
    for pane in page.select(pn.pane.HoloViews):
        for plot, _ in pane._plots.values():
            plot.cleanup()
