"""What the map's colours mean and how much of the map is shown; a click on a value filters."""

from html import escape
from typing import Any

import panel as pn

from panel_app.cards import column_label
from panel_app.components import ColourKey
from panel_app.data import OpenMap
from panel_app.points import short_sigma
from panel_app.raster import Colouring
from panel_app.session import Session
from panel_app.theme import PANE_CSS

_MOST_ENTRIES = 24
"""Values in the legend; further ones are counted and can be chosen in the sidebar."""


class MapLegend(pn.viewable.Viewer):
    """The colour key; its `caption` says which map this is and how many of its points are shown."""

    def __init__(self, session: Session, **params: Any) -> None:
        super().__init__(**params)
        self.session = session
        self.key = ColourKey(self._toggle, margin=(6, 12, 8, 12))
        self.caption = pn.pane.HTML("", margin=(7, 8, 0, 14), sizing_mode="stretch_width", stylesheets=[PANE_CSS])
        session.param.watch(lambda *_: self.show(), "opened")
        session.state.param.watch(lambda *_: self.show(), ["filter", "colour_by"])
        self.show()

    def __panel__(self) -> pn.viewable.Viewable:
        return self.key

    def show(self) -> None:
        """Show the session's map and colouring."""
        opened, state = self.session.opened, self.session.state
        self.key.visible = self.caption.visible = opened is not None
        if opened is None:
            return
        self.caption.object = _caption(opened, len(opened.shown(state.filter)))
        colouring = opened.colouring(state.colour_by)
        if colouring.categorical:
            entries = _entries(opened, colouring, state.filter.values_of(colouring.column))
            self.key.param.update(scale={}, entries=entries)
            return
        self.key.scale = {
            "label": column_label(state.colour_by),
            "low": colouring.low,
            "high": colouring.high,
            "colours": list(colouring.colours),
        }

    def _toggle(self, message: dict[str, Any]) -> None:
        name, opened, state = message.get("toggle"), self.session.opened, self.session.state
        if opened is None:
            return
        column = opened.colouring(state.colour_by).column
        if column not in opened.categorical_columns or name not in opened.categories_of(column):
            return
        before = state.filter.values_of(column)
        chosen = tuple(c for c in before if c != name) if name in before else (*before, name)
        everything = len(chosen) == len(opened.categories_of(column))
        state.filter = state.filter.with_values(column, () if everything else chosen)


def _entries(opened: OpenMap, colouring: Colouring, chosen: tuple[str, ...]) -> list[dict[str, Any]]:
    counts = opened.table[colouring.column].value_counts()
    entries = [
        {"name": name, "colour": colour, "count": int(counts[name]), "on": not chosen or name in chosen}
        for name, colour in zip(colouring.categories, colouring.colours, strict=True)
    ]
    hidden = colouring.categories[_MOST_ENTRIES:]
    if hidden:
        count = int(counts[list(hidden)].sum())
        more = {"name": f"and {len(hidden)} more", "colour": "", "count": count, "on": True}
        return [*entries[:_MOST_ENTRIES], more]
    return entries


def _caption(opened: OpenMap, shown: int) -> str:
    where = "over several σ" if opened.is_joint else f"at σ {short_sigma(opened.layer.sigma)}"
    sigma = f'<span class="muted" style="font-weight:400">{where}</span>'
    return (
        '<div style="display:flex;justify-content:space-between;gap:16px;align-items:baseline">'
        f'<span class="title">{escape(opened.layer.layer)} {sigma}</span>'
        f'<span class="muted num small">{shown:,} of {len(opened.table):,} shown</span></div>'
    )
