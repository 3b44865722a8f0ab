"""Whether the server works for the visitor who looks, and for nobody else."""

from typing import Any

import panel as pn
import panel_material_ui as pmui

from panel_app.components import BusyLine


class Busy(pn.viewable.Viewer):
    """Moves a line while the page's own document is at work.

    Panel has one state for all visitors. A page of its template follows that state: it moves for everybody at each
    event of anybody, and looks through all its models each time, which took most of a busy server's time.

    Args:
        page: which no longer follows.
    """

    def __init__(self, page: pmui.Page) -> None:
        super().__init__()
        self._line = BusyLine(height=0, margin=0)
        self._document = pn.state.curdoc
        _stop_following(page)
        self._watcher = pn.state.param.watch(self._follow, "busy")

    def __panel__(self) -> pn.viewable.Viewable:
        return self._line

    def _follow(self, event: Any) -> None:
        busy = event.new and pn.state.curdoc is self._document
        if busy != self._line.busy:
            self._line.busy = busy

    def leave(self) -> None:
        """Follow no longer; the visitor has left."""
        pn.state.param.unwatch(self._watcher)


def _stop_following(page: pmui.Page) -> None:
    for watchers in pn.state.param.watchers.get("busy", {}).values():
        for watcher in list(watchers):
            if getattr(getattr(watcher.fn, "__self__", None), "self", None) is page:
                pn.state.param.unwatch(watcher)
