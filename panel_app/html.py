"""HTML that may be hidden at any moment."""

from typing import Any

import panel as pn

from panel_app.theme import PANE_CSS


class Html(pn.pane.HTML):
    """A pane of HTML in the page's type and colours whose `visible` is a style.

    Panel's own fails in the browser, and with it whatever arrived in the same message, when it becomes visible
    before it was drawn for the first time.
    """

    def __init__(self, object: str = "", **params: Any) -> None:
        super().__init__(object, **{"stylesheets": [PANE_CSS], **params})

    def _process_param_change(self, params: dict[str, Any]) -> dict[str, Any]:
        changed = super()._process_param_change(params)
        if "visible" in changed or "styles" in changed:
            changed.pop("visible", None)
            # Named either way: Bokeh does not take back a style that is merely left out.
            changed["styles"] = {**(self.styles or {}), "display": "block" if self.visible else "none"}
        return changed
