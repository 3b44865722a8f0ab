"""What a session compares: two maps, what they share, and how they differ. No widgets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import param

from diffviews.errors import DiffViewsError, RunNotFoundError
from diffviews.processing.similarity import Similarity
from diffviews.tracking.records import LayerRecord, MapRecord
from panel_app.best_layer import best_layer, standing
from panel_app.comparisons import NeighbourhoodChange, Pairing
from panel_app.computing.background import Background
from panel_app.data import DataStore
from panel_app.layer_map import LayerMap
from panel_app.places import COMPARE, Against
from panel_app.session import Session, Severity

NOTHING_ELSE = (
    "There is nothing to compare this layer with: it is the only finished layer run of its experiment. "
    "Extract more layers or noise levels, for example with: diffviews extract --layers all --sigmas 0.5,2"
)


@dataclass(frozen=True, slots=True, eq=False)
class RightMap:
    """The right-hand map that is asked for, or the nearest to it."""

    map: LayerMap
    layers: tuple[LayerRecord, ...]
    maps: tuple[MapRecord, ...]
    lacking: str
    """A sentence where it is not quite what was asked for."""


class Side(Session):
    """Draws a map; whatever is chosen on it is chosen for the session, by sample_id.

    Args:
        session: the visitor's session.
        name_of_side: 'left' or 'right', for sentences.
    """

    def __init__(self, session: Session, name_of_side: str) -> None:
        super().__init__(session.store)
        self.session, self.state, self._side = session, session.state, name_of_side
        self.plain: LayerMap | None = None
        """The map on show, as it is without a comparison."""
        self._change: NeighbourhoodChange | None = None

    def show(self, layer_map: LayerMap, change: NeighbourhoodChange | None = None) -> None:
        """Show a map, coloured by how much neighbourhoods change where `change` is given."""
        if self.plain is not layer_map or self._change is not change:
            self.plain, self._change = layer_map, change
            self.map = layer_map if change is None else change.on(layer_map)

    def tell(self, text: str, severity: Severity = "error") -> None:
        """Show the visitor a sentence."""
        self.session.tell(text, severity)

    def click(self, sample_id: str) -> None:
        """Answer a click on a sample of this side's map."""
        if self.session.map is None or sample_id not in self.session.map.row_of:
            self.tell(f"Sample {sample_id} is only on the {self._side} map, so it cannot be selected here.", "info")
        else:
            self.session.click(sample_id)

    def mark(self, sample_ids: Sequence[str]) -> None:
        """Mark samples together, those that are on the session's map."""
        self.session.mark(sample_ids)


class Comparison(param.Parameterized):
    """Keeps both sides at what the session's state names; does nothing while another view is on show."""

    pairing = param.ClassSelector(class_=Pairing, default=None, allow_None=True, doc="samples that both maps have")
    change = param.ClassSelector(
        class_=NeighbourhoodChange, default=None, allow_None=True, doc="how neighbourhoods change; None while unknown"
    )
    alike = param.ClassSelector(
        class_=Similarity, default=None, allow_None=True, doc="how alike the two layers are; None while unknown"
    )
    opening = param.Boolean(False, doc="whether the right-hand map is being opened")
    measuring = param.Boolean(False, doc="whether neighbourhoods are being compared")
    problem = param.String("", doc="why there are not two maps")

    def __init__(self, session: Session, **params: Any) -> None:
        self.session = session
        self.left, self.right = Side(session, "left"), Side(session, "right")
        self._opener = Background(self._not_found)
        self._measurer = Background(self._not_measured)
        self._wanted: tuple[Any, ...] | None = None
        self._measured: tuple[Any, ...] | None = None
        self._is_changing = False
        super().__init__(**params)

    @property
    def against(self) -> Against:
        """What stands on the right, and how it is compared."""
        against: Against = self.session.state.against
        return against

    @param.depends("session.map", "session.state.view", "session.state.against", watch=True, on_init=True)
    def update(self) -> None:
        """Bring both sides to what the session's state names."""
        if self.session.state.view != COMPARE or self.session.map is None or self._is_changing:
            return
        self._show_right()
        self._measure()
        self._draw()

    # -- the visitor's choices -------------------------------------------------------------

    def set(self, **options: Any) -> None:
        """Change how the maps are compared: the fields of `Against` other than its place."""
        changed = replace(self.against, **options)
        if changed != self.against:
            self.session.state.against = changed

    def choose(
        self, run: str, layer: str | None = None, sigma: float | None = None, map_run: str | None = None
    ) -> None:
        """Put a map on the right; of another extraction the same layer and sigma where it has them."""
        record = self.session.map.layer
        self.session.state.against = self.against.at(
            run, layer or record.layer, record.sigma if sigma is None else sigma, map_run
        )

    def choose_pair(self, left: str, right: str, sigma: float) -> None:
        """Put two layers of the left-hand extraction side by side, at one noise level."""
        run = self.session.state.extraction
        self._together((run, left, sigma), None, self.against.at(run, right, sigma))

    def swap(self) -> None:
        """Put the left map on the right and the right one on the left."""
        left, right = self.session.map, self.right.plain
        if right is not None:
            run, layer, sigma, map_run = _place(right)
            self._together((run, layer, sigma), map_run, self.against.at(*_place(left)))

    def _together(self, place: tuple[Any, Any, Any], map_run: str | None, against: Against) -> None:
        """Change both sides at once, so that no pair in between is compared; the right one only if the left could."""
        self._is_changing = True
        try:
            self.session.choose(*place, map_run)
            layer = self.session.map.layer
            if (layer.parent_id, layer.layer, layer.sigma) == place:
                self.session.state.against = against
        finally:
            self._is_changing = False
        self.update()

    # -- the right-hand map ----------------------------------------------------------------

    def _show_right(self) -> None:
        against = self.against
        if against.run is None:
            try:
                suggested = suggestion(self.session)
            except DiffViewsError as error:
                self._not_found(str(error))
                return
            if suggested is None:
                self.problem = NOTHING_ELSE
                return
            self._wanted, self._is_changing = None, True
            self.session.state.against = against = against.at(*suggested)
            self._is_changing = False
        if against.place == self._wanted:
            return
        self._wanted, self.opening, self.problem = against.place, True, ""
        store = self.session.store
        self._opener.start(lambda: find(store, against), self._show_found)

    def _show_found(self, found: RightMap) -> None:
        self.opening = False
        self.right.layers, self.right.maps = list(found.layers), list(found.maps)
        actual = self.against.at(*_place(found.map))
        self._wanted = actual.place
        if found.lacking:
            self.session.tell(f"On the right: {found.lacking}", "warning")
        self.right.show(found.map)
        if actual != self.against:
            self.session.state.against = actual
        self.update()
        self.param.trigger("opening")

    def _not_found(self, reason: str) -> None:
        self.opening = False
        self.problem = reason
        self.session.tell(reason)

    # -- how they differ -------------------------------------------------------------------

    def _measure(self) -> None:
        left, right, k = self.session.map, self.right.plain, self.against.k
        if right is None or self.opening:
            return
        wanted = (left.map_run, right.map_run, k)
        if wanted == self._measured:
            return
        same_maps = self._measured is not None and wanted[:2] == self._measured[:2]
        self._measured = wanted
        kept = {} if same_maps else {"pairing": None, "alike": None}
        self.param.update(measuring=True, change=None, **kept)
        comparisons = self.session.store.comparisons
        self._measurer.start(
            lambda: (
                comparisons.pairing(left, right), comparisons.change(left, right, k), comparisons.alike(left, right)
            ),
            self._on_measured,
        )  # fmt: skip

    def _on_measured(self, result: tuple[Pairing, NeighbourhoodChange | None, Similarity | None]) -> None:
        pairing, change, alike = result
        self.param.update(measuring=False, pairing=pairing, change=change, alike=alike)
        self._draw()

    def _not_measured(self, reason: str) -> None:
        self.measuring, self._measured = False, None
        self.session.tell(reason)

    def _draw(self) -> None:
        """Draw both sides, coloured by the change where that is asked for and known."""
        change = self.change if self.against.coloured and self.change and self.change.is_whole else None
        self.left.show(self.session.map, change)
        if self.right.plain is not None:
            self.right.show(self.right.plain, change)


def _place(layer_map: LayerMap) -> tuple[str, str, float, str | None]:
    """Return what names a map: extraction, layer, noise level, and the run of one that is not the layer's own."""
    layer = layer_map.layer
    return layer.parent_id, layer.layer, layer.sigma, layer_map.map_run if layer_map.map_run != layer.run_id else None


def suggestion(session: Session) -> tuple[str, str, float] | None:
    """Return (extraction, layer, sigma) of what to compare a session's layer with first, or None without any other.

    At the same noise level the layer that knows and decides most, then the same layer at another noise
    level, then any layer, then the same layer of the newest other extraction.
    """
    own = session.map.layer
    others = [r for r in session.layers if r.run_id != own.run_id]
    if others:
        near = max(others, key=lambda r: (r.sigma == own.sigma, r.layer == own.layer, standing(r)))
        return near.parent_id, near.layer, near.sigma
    for extraction in session.extractions:
        layers: Sequence[LayerRecord] = (
            session.store.library.layers(extraction.run_id) if extraction.run_id != own.parent_id else ()
        )
        if layers:
            record, _ = best_layer(layers, own.layer if own.layer in {r.layer for r in layers} else None, own.sigma)
            return record.parent_id, record.layer, record.sigma
    return None


def find(store: DataStore, against: Against) -> RightMap:
    """Open the right-hand map that is asked for, or the nearest to it.

    Raises:
        RunNotFoundError: if the extraction has no finished layer run.
    """
    layers = tuple(store.library.layers(str(against.run)))
    if not layers:
        raise RunNotFoundError(f"On the right: extraction {against.run} has no finished layer run; choose another.")
    record, lacking = best_layer(layers, against.layer, against.sigma)
    maps = tuple(store.library.maps(record.run_id))
    map_run = against.map
    if map_run is not None and map_run not in {m.run_id for m in maps}:
        map_run, lacking = None, lacking or "the map of this address is no longer logged; the layer's own is shown."
    return RightMap(store.open(record, map_run), layers, maps, lacking)
