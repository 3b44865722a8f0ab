"""What the map's colours mean and how much of the map is shown; a click on a value highlights, another filters."""

from html import escape
from typing import Any

import numpy as np
import param

from panel_app.cards import column_label
from panel_app.components import ColourKey
from panel_app.fields import Part, text
from panel_app.points import short_sigma
from panel_app.raster import Colouring
from panel_app.session import Session

_MOST_ENTRIES = 24
"""Values in the legend; further ones are counted and can be chosen in the sidebar."""


class MapLegend(Part):
    """The colour key; its `caption` says which map this is and how many of its points are shown."""

    def __init__(self, session: Session, **params: Any) -> None:
        self._layout = self.key = ColourKey(self._toggle, margin=(6, 12, 8, 12))
        self.caption = text(margin=(7, 8, 0, 14))
        super().__init__(session=session, **params)

    @param.depends("session.state.colour_by", watch=True)
    def _forget(self) -> None:
        self.session.state.highlight = None

    @param.depends(
        "session.map", "session.state.filter", "session.state.colour_by", "session.state.highlight", watch=True,
        on_init=True,
    )  # fmt: skip
    def show(self) -> None:
        """Show the session's map and colouring."""
        layer_map, state = self.session.map, self.session.state
        self.key.visible = self.caption.visible = layer_map is not None
        if layer_map is None:
            return
        self._describe()
        colouring = layer_map.colouring(state.colour_by)
        if colouring.categorical:
            values = layer_map.points(state.colour_by, state.filter).values
            counts = np.bincount(values, minlength=len(colouring.categories))
            chosen = state.filter.values_of(colouring.column)
            self.key.param.update(scale={}, entries=_entries(colouring, counts, chosen, state.highlight))
            return
        self.key.scale = {
            "label": column_label(colouring.column),
            "low": colouring.low,
            "high": colouring.high,
            "colours": list(colouring.colours),
        }

    @param.depends("session.state.selection", watch=True)
    def _describe(self) -> None:
        """Say which map this is, and how much of it is shown."""
        layer_map, state = self.session.map, self.session.state
        if layer_map is None:
            return
        rows = [layer_map.row_of[s] for s in state.selection.members if s in layer_map.row_of]
        hidden = int(np.count_nonzero(~layer_map.mask(state.filter)[rows]))
        where = "over several σ" if layer_map.is_joint else f"at σ {short_sigma(layer_map.layer.sigma)}"
        sigma = f'<span class="muted" style="font-weight:400">{where}</span>'
        ringed = f"{hidden} ringed hidden · " if hidden else ""
        shown = f"{layer_map.count_shown(state.filter):,} of {len(layer_map.table):,} shown"
        self.caption.object = (
            '<div style="display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 16px;align-items:baseline;'
            f'white-space:nowrap"><span class="title">{escape(layer_map.layer.layer)} {sigma}</span>'
            f'<span class="muted num small">{ringed}{shown}</span></div>'
        )

    def _toggle(self, message: dict[str, Any]) -> None:
        """Answer a click on a value: highlight it, then show only it; while values are chosen, add or remove it."""
        name, layer_map, state = message.get("toggle"), self.session.map, self.session.state
        if layer_map is None:
            return
        column = layer_map.colouring(state.colour_by).column
        if column not in layer_map.categorical_columns or name not in layer_map.categories_of(column):
            return
        before = state.filter.values_of(column)
        if not before and state.highlight != name:
            state.highlight = name
            return
        chosen = tuple(c for c in before if c != name) if name in before else (*before, name)
        everything = len(chosen) == len(layer_map.categories_of(column))
        state.param.update(highlight=None, filter=state.filter.with_values(column, () if everything else chosen))


def _entries(
    colouring: Colouring, counts: np.ndarray, chosen: tuple[str, ...], highlight: str | None
) -> list[dict[str, Any]]:
    """Return the values with how many of their points are shown."""
    entries: list[dict[str, Any]] = [
        {
            "name": name,
            "colour": colour,
            "count": int(count),
            "on": not chosen or name in chosen,
            "lit": name == highlight,
            "help": _help(name, chosen, highlight),
        }
        for name, colour, count in zip(colouring.categories, colouring.colours, counts, strict=True)
    ]
    hidden = entries[_MOST_ENTRIES:]
    if hidden:
        count = sum(entry["count"] for entry in hidden)
        more = {"name": f"and {len(hidden)} more", "colour": "", "count": count, "on": True, "lit": False}
        return [*entries[:_MOST_ENTRIES], {**more, "help": "Choose them in the sidebar"}]
    return entries


def _help(name: str, chosen: tuple[str, ...], highlight: str | None) -> str:
    if chosen:
        if name not in chosen:
            return f"Show {name} too"
        return f"Hide {name}" if len(chosen) > 1 else "Show all"
    return f"Show only {name}" if name == highlight else f"Highlight {name}; click again to show only it"
