"""One visitor's session: turns what is chosen into a map on show, and every failure into a sentence."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import param

from diffviews.errors import RunNotFoundError
from diffviews.tracking.records import ExtractionRecord, LayerRecord
from panel_app.best_layer import best_layer
from panel_app.clustering import CLUSTER, Clustering, FoundClusters
from panel_app.data import DataStore
from panel_app.failures import failures_to
from panel_app.layer_map import LayerMap, Neighbour
from panel_app.places import ANYWHERE
from panel_app.state import MAP, Address, Group, Selection, ViewState

P = ParamSpec("P")
R = TypeVar("R")
Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence for the visitor."""

    text: str
    severity: Severity = "error"


def reported(
    method: Callable[Concatenate["Session", P], R],
) -> Callable[Concatenate["Session", P], R | None]:
    """Let a session's method tell its failures to the visitor instead of raising them."""

    @functools.wraps(method)
    def wrapper(self: "Session", *args: P.args, **kwargs: P.kwargs) -> R | None:
        with failures_to(self.tell, method.__name__):
            return method(self, *args, **kwargs)
        return None

    return wrapper


class Session(param.Parameterized):
    """The visitor's state, what it opens, and what to tell the visitor. No widgets."""

    map = param.Parameter(None, doc="LayerMap on show, or None")
    extractions = param.List(default=[], doc="extractions of the chosen experiment, newest first")
    layers = param.List(default=[], doc="layer runs of the chosen extraction")
    maps = param.List(default=[], doc="re-computed maps of the layer run on show")
    notice = param.ClassSelector(class_=Notice, default=None, allow_None=True)

    def __init__(self, store: DataStore, **params: Any) -> None:
        super().__init__(**params)
        self.store = store
        self.state = ViewState()
        self._colour_awaited = False

    def tell(self, text: str, severity: Severity = "error") -> None:
        """Show the visitor a sentence."""
        self.notice = Notice(text, severity)

    # -- choosing what to look at ---------------------------------------------------------

    @reported
    def start(self, address: Address, experiment: str | None = None, model: str | None = None) -> None:
        """Open what an address names, or the newest extraction's layer that knows and decides most.

        Args:
            address: what was asked for.
            experiment: looked into first when the address names no run.
            model: preferred when the address names no run.
        """
        self.state.view, self.state.against, self.state.across = address.view, address.against, address.across
        clustering = Clustering.read(address.clusters)
        self.state.clusters = None if clustering is None else str(clustering)
        experiments = self.store.library.experiments()
        home = self._home_of(address.run, experiments) if address.run else None
        if address.run and home is None and (place := self.store.library.address_of(address.run)):
            address = _address_of(address, place)
            self.state.view, self.state.across = address.view, address.across
            home = self._home_of(str(address.run), experiments)
        if address.run and home is None:
            lacking = f"Run {address.run} of this address is not finished, or holds no layer runs, on this server."
            self.tell(lacking, "warning")
        if home is None:
            home = experiment if experiment in experiments else next(iter(experiments), None)
        if home is None:
            return
        self.state.experiment = home
        self.extractions = list(self.store.library.extractions(home))
        extraction = next((e for e in self.extractions if e.run_id == address.run), None) or self._newest(model)
        self._open_extraction(extraction.run_id, layer=address.layer, sigma=address.sigma, map_run=address.map)
        self._restore(address)

    @reported
    def choose_experiment(self, name: str) -> None:
        """Show the newest extraction of an experiment."""
        extractions = list(self.store.library.extractions(name))
        if not extractions:
            raise RunNotFoundError(f"experiment {name!r} has no finished layer runs yet")
        self.state.experiment = name
        self.extractions = extractions
        self._open_extraction(self._newest().run_id)

    @reported
    def choose_extraction(self, run_id: str) -> None:
        """Show another extraction, at the same layer and sigma where it has them."""
        self._open_extraction(run_id, layer=self.state.layer, sigma=self.state.sigma)

    @reported
    def choose(self, extraction: str, layer: str, sigma: float, map_run: str | None = None) -> None:
        """Show a map of any extraction, wherever it is logged."""
        if extraction not in {e.run_id for e in self.extractions}:
            home = self._home_of(extraction, self.store.library.experiments())
            if home is None:
                raise RunNotFoundError(f"run {extraction} is not finished, or holds no layer runs, on this server")
            self.state.experiment, self.extractions = home, list(self.store.library.extractions(home))
        self._open_extraction(extraction, layer=layer, sigma=sigma, map_run=map_run)

    @reported
    def choose_layer(self, layer: str, sigma: float | None = None) -> None:
        """Show another layer or noise level of this extraction."""
        self._open_layer(self._best(layer, sigma if sigma is not None else self.state.sigma))

    @reported
    def choose_map(self, map_run: str | None) -> None:
        """Show a re-computed map of this layer, or (None) its own."""
        layer = self.map.layer
        self._show(self.store.open(layer, map_run), map_run)

    @reported
    def refresh(self) -> None:
        """Look for runs logged since."""
        if self.state.experiment is None:
            self.start(Address())
            return
        self.extractions = list(self.store.library.extractions(self.state.experiment))
        if self.state.extraction is not None:
            self.layers = list(self.store.library.layers(self.state.extraction))
        if self.map is not None:
            self.maps = list(self.store.library.maps(self.map.layer.run_id))

    # -- clusters -------------------------------------------------------------------------

    @reported
    def show_clusters(self, found: FoundClusters, *, colour: bool = True) -> None:
        """Give the map on show its clusters as a column.

        Args:
            found: clusters of the map on show.
            colour: colour the map by them; False does so only if the colour that was asked for was theirs.
        """
        self.state.clusters = str(found.clustering)
        self.map = found.on(self.map)
        if colour or self._colour_awaited:
            self.state.colour_by = CLUSTER
        self._colour_awaited = False

    @reported
    def drop_clusters(self) -> None:
        """Show the map without clusters."""
        self.state.clusters, self._colour_awaited = None, False
        self._show(self.store.open(self.map.layer, self.state.map_run), self.state.map_run)

    # -- choosing samples -----------------------------------------------------------------

    @reported
    def click(self, sample_id: str) -> None:
        """Answer a click on a sample of the map."""
        self.state.selection = self.state.selection.click(sample_id)

    @reported
    def choose_sample(self, sample_id: str) -> None:
        """Select a sample in place of the one selected before."""
        self.state.selection = Selection(sample_id)

    @reported
    def mark(self, sample_ids: Sequence[str]) -> None:
        """Mark these samples together in place of those marked before."""
        self.state.group = Group().union(sample_ids).intersect(self.map.row_of)

    @reported
    def toggle(self, sample_id: str) -> None:
        """Add or remove a neighbour."""
        self.state.selection = self.state.selection.toggle(sample_id)

    @reported
    def suggest(self) -> None:
        """Suggest the k nearest samples of the selected one."""
        chosen = self.state.selection
        if chosen.sample_id is None:
            self.tell("Click a point on the map first; then its nearest samples can be suggested.", "info")
            return
        found: tuple[Neighbour, ...] = self.map.neighbours(chosen.sample_id, self.state.k, self.state.space)
        self.state.selection = chosen.suggest(tuple(n.sample_id for n in found))

    @reported
    def select(self, selection: Selection) -> None:
        """Select a sample and neighbours, those on this map only."""
        self.state.selection = selection.only(self.map.row_of)

    @reported
    def clear(self) -> None:
        """Select nothing."""
        self.state.selection = Selection()

    @property
    def distances(self) -> dict[str, float]:
        """Distance of each neighbour to the selected sample, in the space chosen."""
        chosen = Selection() if self.map is None else self.state.selection.only(self.map.row_of)
        if chosen.sample_id is None:
            return {}
        measured: dict[str, float] = self.map.distances(chosen.sample_id, chosen.neighbours, self.state.space)
        return measured

    def _refresh_neighbours(self) -> None:
        """Keep the selected samples on another map; suggestions are made anew, for nearness differs there."""
        kept = self.state.selection.only(self.map.row_of)
        if kept.suggested:
            k = min(max(self.state.k, 1), len(self.map.row_of) - 1)
            found = self.map.neighbours(kept.sample_id, k, self.state.space)
            kept = kept.suggest(tuple(n.sample_id for n in found))
        self.state.selection = kept

    # -- opening --------------------------------------------------------------------------

    def _home_of(self, run: str, experiments: Sequence[str]) -> str | None:
        library = self.store.library
        return next((e for e in experiments if any(x.run_id == run for x in library.extractions(e))), None)

    def _newest(self, model: str | None = None) -> ExtractionRecord:
        """Return the newest extraction that has layer runs, of a model if it has any, or the newest where none has."""
        layers = self.store.library.layers
        preferred = sorted(self.extractions, key=lambda e: e.model != model) if model else self.extractions
        return next((e for e in preferred if layers(e.run_id)), preferred[0])

    def _open_extraction(
        self, run_id: str, *, layer: str | None = None, sigma: float | None = None, map_run: str | None = None
    ) -> None:
        layers = list(self.store.library.layers(run_id))
        if not layers:
            raise RunNotFoundError("this extraction has no finished layer run yet; choose another or wait")
        self.state.extraction = run_id
        self.layers = layers
        self._open_layer(self._best(layer, sigma), map_run)

    def _best(self, layer: str | None, sigma: float | None) -> LayerRecord:
        """Return the layer run asked for; the rest is chosen by what layers know and decide."""
        record, lacking = best_layer(self.layers, layer, sigma)
        if lacking:
            self.tell(lacking, "warning")
        return record

    def _open_layer(self, record: LayerRecord, map_run: str | None = None) -> None:
        maps = list(self.store.library.maps(record.run_id))
        if map_run is not None and map_run not in {m.run_id for m in maps}:
            self.tell("The map of this address is no longer logged; the layer's own is shown.", "warning")
            map_run = None
        layer_map: LayerMap = self.store.open(record, map_run)
        self.maps = maps
        self._show(layer_map, map_run)

    def _show(self, layer_map: LayerMap, map_run: str | None) -> None:
        """Show a map; colour, filter and selection stay as far as it has them."""
        layer, clustering = layer_map.layer, Clustering.read(self.state.clusters)
        if clustering is not None and (known := self.store.known_derived(layer_map, clustering)) is not None:
            layer_map = known.on(layer_map)
        with param.parameterized.batch_call_watchers(self.state):
            self.state.layer, self.state.sigma, self.state.map_run = layer.layer, layer.sigma, map_run
            self.state.filter = layer_map.fitting(self.state.filter)
            if self.state.colour_by not in (*layer_map.categorical_columns, *layer_map.numeric_columns):
                self._colour_awaited = self.state.clusters is not None and self.state.colour_by == CLUSTER
                self.state.colour_by = layer_map.default_colour
        self.map = layer_map
        self.state.group = self.state.group.intersect(layer_map.row_of)
        self._refresh_neighbours()

    def _restore(self, address: Address) -> None:
        layer_map = self.map
        if layer_map is None:
            return
        self.state.filter = layer_map.fitting(address.filter)
        if address.colour in (*layer_map.categorical_columns, *layer_map.numeric_columns):
            self.state.colour_by = address.colour
        self._colour_awaited = self.state.clusters is not None and address.colour == CLUSTER
        selection = address.selection.only(layer_map.row_of)
        if address.selection.sample_id and selection != address.selection:
            self.tell("Some samples of this address are not on this map and were left out.", "warning")
        self.state.selection = selection
        self.state.group = address.group.intersect(layer_map.row_of)


def _address_of(address: Address, place: Address) -> Address:
    """Return an address that names a run of another kind than an extraction as what that run shows."""
    return replace(
        address,
        run=place.run,
        layer=address.layer or place.layer,
        sigma=place.sigma if address.sigma is None else address.sigma,
        map=address.map or place.map,
        selection=address.selection if address.selection.sample_id else place.selection,
        view=place.view if address.view == MAP else address.view,
        across=place.across if address.across == ANYWHERE else address.across,
    )
