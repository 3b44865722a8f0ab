"""What the map's colours mean and how much of the map is shown; a click on a class filters."""

from html import escape
from typing import Any

import panel as pn

from diffviews.noise import format_sigma
from panel_app.cards import column_label
from panel_app.components import ColourKey
from panel_app.data import OpenMap
from panel_app.session import Session
from panel_app.theme import PANE_CSS

_MOST_ENTRIES = 24
"""Classes in the legend; further ones are counted and can be chosen in the sidebar."""


class MapLegend(pn.viewable.Viewer):
    """The colour key; its `caption` says which map this is and how many of its points are shown."""

    def __init__(self, session: Session, **params: Any) -> None:
        super().__init__(**params)
        self.session = session
        self.key = ColourKey(self._toggle, margin=(6, 12, 8, 12))
        self.caption = pn.pane.HTML("", margin=(7, 8, 0, 14), sizing_mode="stretch_width", stylesheets=[PANE_CSS])
        session.param.watch(lambda *_: self.show(), "opened")
        session.state.param.watch(lambda *_: self.show(), ["classes", "colour_by"])
        self.show()

    def __panel__(self) -> pn.viewable.Viewable:
        return self.key

    def show(self) -> None:
        """Show the session's map and colouring."""
        opened, state = self.session.opened, self.session.state
        self.key.visible = self.caption.visible = opened is not None
        if opened is None:
            return
        self.caption.object = _caption(opened, len(opened.shown(state.classes)))
        colouring = opened.colouring(state.colour_by)
        if colouring.categorical:
            self.key.param.update(scale={}, entries=_entries(opened, state.classes))
            return
        self.key.scale = {
            "label": column_label(state.colour_by),
            "low": colouring.low,
            "high": colouring.high,
            "colours": list(colouring.colours),
        }

    def _toggle(self, message: dict[str, Any]) -> None:
        name, opened, state = message.get("toggle"), self.session.opened, self.session.state
        if opened is None or name not in opened.categories:
            return
        chosen = [c for c in state.classes if c != name] if name in state.classes else [*state.classes, name]
        state.classes = [] if len(chosen) == len(opened.categories) else chosen


def _entries(opened: OpenMap, classes: list[str]) -> list[dict[str, Any]]:
    colouring = opened.colouring("class")
    counts = opened.table["class"].value_counts()
    entries = [
        {"name": name, "colour": colour, "count": int(counts[name]), "on": not classes or name in classes}
        for name, colour in zip(colouring.categories, colouring.colours, strict=True)
    ]
    hidden = colouring.categories[_MOST_ENTRIES:]
    if hidden:
        count = int(counts[list(hidden)].sum())
        more = {"name": f"and {len(hidden)} more classes", "colour": "", "count": count, "on": True}
        return [*entries[:_MOST_ENTRIES], more]
    return entries


def _caption(opened: OpenMap, shown: int) -> str:
    sigma = f'<span class="muted" style="font-weight:400">at σ {format_sigma(opened.layer.sigma)}</span>'
    return (
        '<div style="display:flex;justify-content:space-between;gap:16px;align-items:baseline">'
        f'<span class="title">{escape(opened.layer.layer)} {sigma}</span>'
        f'<span class="muted num small">{shown:,} of {len(opened.table):,} shown</span></div>'
    )
