"""One side of a comparison: a map of its own, with the samples that the session has chosen."""

import contextlib
from collections.abc import Iterator
from typing import Any

import param

from panel_app.comparisons import CHANGE, NeighbourhoodChange
from panel_app.layer_map import LayerMap
from panel_app.session import Session, Severity
from panel_app.state import Selection

_FOLLOWED = ("selection", "group", "hovered", "filter", "highlight", "k", "space", "colour_by")
"""Parts of the session's state that both sides show."""
_HANDED_ON = ("group", "hovered", "filter", "highlight")
"""Parts that a visitor changes on one side and that the session, and so the other side, takes over."""


class Side(Session):
    """Shows a map; whatever is chosen on it is chosen for the session, by sample_id.

    Args:
        session: the visitor's session.
        name_of_side: 'left' or 'right', for sentences.
    """

    def __init__(self, session: Session, name_of_side: str, **params: Any) -> None:
        super().__init__(session.store, **params)
        self.session, self._side = session, name_of_side
        self._following = False
        self._plain: LayerMap | None = None
        self._change: NeighbourhoodChange | None = None
        session.state.param.watch(lambda *_: self.follow(), list(_FOLLOWED))
        self.state.param.watch(self._hand_on, list(_HANDED_ON))

    @property
    def plain(self) -> LayerMap | None:
        """The map on show, as it is without a comparison."""
        return self._plain

    def tell(self, text: str, severity: Severity = "error") -> None:
        """Show the visitor a sentence."""
        self.session.tell(text, severity)

    def click(self, sample_id: str) -> None:
        """Answer a click on a sample of this side's map."""
        layer_map = self.session.map
        if layer_map is None or sample_id not in layer_map.row_of:
            self.tell(f"Sample {sample_id} is only on the {self._side} map, so it cannot be selected here.", "info")
            return
        self.session.click(sample_id)

    def toggle(self, sample_id: str) -> None:
        """Add or remove a neighbour."""
        self.session.toggle(sample_id)

    def clear(self) -> None:
        """Select nothing."""
        self.session.clear()

    def show(self, layer_map: LayerMap, map_run: str | None, change: NeighbourhoodChange | None = None) -> None:
        """Show a map, coloured by how much neighbourhoods change where `change` is given."""
        if self._plain is layer_map and self._change is change:
            return
        self._plain, self._change = layer_map, change
        layer = layer_map.layer
        drawn = layer_map if change is None else change.on(layer_map)
        with self._quiet():
            self.state.param.update(
                extraction=layer.parent_id, layer=layer.layer, sigma=layer.sigma, map_run=map_run,
                colour_by=self._colour(drawn), filter=drawn.fitting(self.session.state.filter),
            )  # fmt: skip
            self.map = drawn
        self.follow()

    def follow(self) -> None:
        """Show the samples, the filter and the colours of the session, as far as this map has them."""
        layer_map, session = self.map, self.session.state
        if layer_map is None or self._following:
            return
        wanted: dict[str, Any] = {name: getattr(session, name) for name in _FOLLOWED}
        wanted["filter"] = layer_map.fitting(session.filter)
        wanted["colour_by"] = self._colour(layer_map)
        if session.hovered not in layer_map.row_of:
            wanted["hovered"] = None
        changed = {name: value for name, value in wanted.items() if value != getattr(self.state, name)}
        if changed:
            with self._quiet():
                self.state.param.update(**changed)

    def _colour(self, layer_map: LayerMap) -> str:
        if self._change is not None:
            return CHANGE
        asked = self.session.state.colour_by
        return (
            asked if asked in (*layer_map.categorical_columns, *layer_map.numeric_columns) else layer_map.default_colour
        )

    def _hand_on(self, event: param.parameterized.Event) -> None:
        if self._following or self.session.map is None:
            return
        # What the session marks is on its own map; this side may have further samples.
        new = event.new.intersect(self.session.map.row_of) if event.name == "group" else event.new
        if new != getattr(self.session.state, event.name):
            setattr(self.session.state, event.name, new)

    def _select(self, selection: Selection) -> None:
        self.session._select(selection)

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """While this side follows the session, its changes are not the visitor's."""
        before, self._following = self._following, True
        try:
            yield
        finally:
            self._following = before
