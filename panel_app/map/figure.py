"""The Bokeh figure under the map: its tools, its visible part, and the glyphs drawn over the picture."""

from collections.abc import Callable
from typing import Any

from bokeh.models import BoxSelectTool, LassoSelectTool, PanTool
from bokeh.plotting import figure as Figure

from panel_app.map.overlays import Columns, add_glyphs, empty_sources
from panel_app.map.tools import BOX, HAND, LASSO
from panel_app.point_grid import Range

_KINDS = {HAND: PanTool, BOX: BoxSelectTool, LASSO: LassoSelectTool}
WIDEST = 4.0
"""How many times as wide as the whole map a view can be; from further off nothing can be told apart."""

_SHEET = ".bk-Canvas { --highlight-color: transparent; clip-path: inset(2px 0 0 2px); }"
"""No dotted frame after a click; the keys' pane draws one for those who come by keyboard. Bokeh clears its canvas half
a pixel beside it, so that the first column and row would keep what was drawn there before: they are cut off, and one
more, for the canvas itself may begin between two pixels."""


class MapFigure:
    """The figure that HoloViews makes, once it has; before that every change waits in vain, for all is drawn anew."""

    def __init__(self) -> None:
        self.figure: Figure | None = None
        self._sources = empty_sources()

    def adopt(self, figure: Figure, tool: str) -> bool:
        """Prepare a figure: see-through, without axes, with tools and glyphs. Return whether it is a new one."""
        if self.figure is figure:
            return False
        self.figure = figure
        self._sources = empty_sources()
        figure.background_fill_alpha = figure.border_fill_alpha = 0
        figure.outline_line_color = None
        figure.min_border = 0
        figure.stylesheets = [_SHEET]
        figure.grid.visible = False
        figure.add_tools(BoxSelectTool(renderers=[]), LassoSelectTool(renderers=[]))
        add_glyphs(figure, self._sources)
        self.take(tool)
        return True

    def take(self, name: str) -> None:
        """Let dragging do what a tool does."""
        figure = self.figure
        if figure is not None:
            tool = next(tool for tool in figure.tools if isinstance(tool, _KINDS[name]))
            self._change(lambda: figure.toolbar.update(active_drag=tool))

    def put(self, **columns: Columns) -> None:
        """Hand columns to the overlays' glyphs; what is there already is not sent again."""
        sources = self._sources

        def change() -> None:
            for name, data in columns.items():
                if sources[name].data != data:
                    sources[name].data = data

        self._change(change)

    def begin(self, x_range: Range, y_range: Range) -> None:
        """Show all of a map that was not shown before, and let the wheel zoom out no further than some times as wide.

        Only while HoloViews draws: then the models may be changed, and the browser gets the view with the picture.
        """
        figure = self.figure
        if figure is not None:
            for axis, (low, high) in ((figure.x_range, x_range), (figure.y_range, y_range)):
                axis.update(start=low, end=high, reset_start=low, reset_end=high, max_interval=WIDEST * (high - low))

    def move_to(self, x_range: Range, y_range: Range) -> None:
        """Show this part of the map."""
        figure = self.figure
        if figure is None:
            return

        def change() -> None:
            for axis, (low, high) in ((figure.x_range, x_range), (figure.y_range, y_range)):
                axis.update(start=low, end=high, reset_start=low, reset_end=high)

        self._change(change)

    @property
    def view(self) -> tuple[Range, Range] | None:
        """The visible ranges of x and y, None before there are any."""
        figure = self.figure
        if figure is None or figure.x_range.start is None:
            return None
        return (figure.x_range.start, figure.x_range.end), (figure.y_range.start, figure.y_range.end)

    def _change(self, change: Callable[[], Any]) -> None:
        """Change Bokeh models once the document's lock is free; stream callbacks and threads do not hold it."""
        document = None if self.figure is None else self.figure.document
        if document is None or document.session_context is None:
            change()
        else:  # not by pn.state.execute, which in a thread knows no document and changes the models at once
            document.add_next_tick_callback(change)
