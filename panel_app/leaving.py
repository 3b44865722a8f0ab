"""What Panel and HoloViews would keep of a visitor who has left; the only place that knows."""

import panel as pn
import panel_material_ui as pmui


def let_go(page: pmui.Page) -> None:
    """Take a page out of everything that lives as long as the process; call it once its session has ended."""
    _drop_plots(page)
    _stop_watching_busy(page)


def _drop_plots(page: pmui.Page) -> None:
    """Clean up the page's plots: HoloViews lists the callbacks of each in `Callback._callbacks`, with its streams.

    Panel means to do so when a session ends. By then Bokeh has emptied the models, and for a component written in
    JavaScript, as the page is, Panel asks the emptied model which children to clean up (`ReactiveESM._cleanup`).
    """
    for pane in page.select(pn.pane.HoloViews):
        for plot, _ in pane._plots.values():
            plot.cleanup()


def _stop_watching_busy(page: pmui.Page) -> None:
    """End what the page's template watches of Panel's one state of the process."""
    for watchers in pn.state.param.watchers.get("busy", {}).values():
        for watcher in list(watchers):
            if getattr(getattr(watcher.fn, "__self__", None), "self", None) is page:
                pn.state.param.unwatch(watcher)
