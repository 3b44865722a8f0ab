"""One side of a comparison: a map of its own, with the samples that the visit has chosen."""

import contextlib
from collections.abc import Iterator
from typing import Any

import param

from panel_app.compare.data import CHANGE, NeighbourhoodChange
from panel_app.open_map import OpenMap
from panel_app.session import Session, Severity
from panel_app.state import Selection

_FOLLOWED = ("selection", "group", "hovered", "filter", "highlight", "k", "space", "colour_by")
"""Parts of the visit's state that both sides show."""
_HANDED_ON = ("group", "hovered", "filter", "highlight")
"""Parts that a visitor changes on one side and that the visit, and so the other side, takes over."""


class Side(Session):
    """Shows a map; whatever is chosen on it is chosen for the visit, by sample_id.

    Args:
        visit: the visitor's session.
        name_of_side: 'left' or 'right', for sentences.
    """

    def __init__(self, visit: Session, name_of_side: str, **params: Any) -> None:
        super().__init__(visit.store, **params)
        self.visit, self._side = visit, name_of_side
        self._following = False
        self._plain: OpenMap | None = None
        self._change: NeighbourhoodChange | None = None
        visit.state.param.watch(lambda *_: self.follow(), list(_FOLLOWED))
        self.state.param.watch(self._hand_on, list(_HANDED_ON))

    @property
    def plain(self) -> OpenMap | None:
        """The map on show, as it is without a comparison."""
        return self._plain

    def tell(self, text: str, severity: Severity = "error") -> None:
        """Show the visitor a sentence."""
        self.visit.tell(text, severity)

    def click(self, sample_id: str) -> None:
        """Answer a click on a sample of this side's map."""
        opened = self.visit.opened
        if opened is None or sample_id not in opened.row_of:
            self.tell(f"Sample {sample_id} is only on the {self._side} map, so it cannot be selected here.", "info")
            return
        self.visit.click(sample_id)

    def toggle(self, sample_id: str) -> None:
        """Add or remove a neighbour."""
        self.visit.toggle(sample_id)

    def clear(self) -> None:
        """Select nothing."""
        self.visit.clear()

    def show(self, opened: OpenMap, map_run: str | None, change: NeighbourhoodChange | None = None) -> None:
        """Show a map, coloured by how much neighbourhoods change where `change` is given."""
        if self._plain is opened and self._change is change:
            return
        self._plain, self._change = opened, change
        layer = opened.layer
        drawn = opened if change is None else change.on(opened)
        with self._quiet():
            self.state.param.update(
                extraction=layer.parent_id, layer=layer.layer, sigma=layer.sigma, map_run=map_run,
                colour_by=self._colour(drawn), filter=drawn.fitting(self.visit.state.filter),
            )  # fmt: skip
            self.opened = drawn
        self.follow()

    def follow(self) -> None:
        """Show the samples, the filter and the colours of the visit, as far as this map has them."""
        opened, visit = self.opened, self.visit.state
        if opened is None or self._following:
            return
        wanted: dict[str, Any] = {name: getattr(visit, name) for name in _FOLLOWED}
        wanted["filter"] = opened.fitting(visit.filter)
        wanted["colour_by"] = self._colour(opened)
        if visit.hovered not in opened.row_of:
            wanted["hovered"] = None
        changed = {name: value for name, value in wanted.items() if value != getattr(self.state, name)}
        if changed:
            with self._quiet():
                self.state.param.update(**changed)

    def _colour(self, opened: OpenMap) -> str:
        if self._change is not None:
            return CHANGE
        asked = self.visit.state.colour_by
        return asked if asked in (*opened.categorical_columns, *opened.numeric_columns) else opened.default_colour

    def _hand_on(self, event: param.parameterized.Event) -> None:
        if self._following or self.visit.opened is None:
            return
        # What the visit marks is on its own map; this side may have further samples.
        new = event.new.intersect(self.visit.opened.row_of) if event.name == "group" else event.new
        if new != getattr(self.visit.state, event.name):
            setattr(self.visit.state, event.name, new)

    def _select(self, selection: Selection) -> None:
        self.visit._select(selection)

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """While this side follows the visit, its changes are not the visitor's."""
        before, self._following = self._following, True
        try:
            yield
        finally:
            self._following = before
