"""What the dashboard shows, derived once and shared by all visitors: nothing here is ever changed in place."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd

from diffviews.data.sample_index import SampleIndex
from diffviews.data.samples import SampleSet
from diffviews.errors import RunNotFoundError
from diffviews.noise import format_sigma
from diffviews.processing.projector import Projector
from diffviews.processing.similarity import Similarity
from diffviews.tracking.records import ExtractionRecord, LayerRecord, MapRecord
from panel_app.comparisons import Comparisons
from panel_app.layer_map import LayerMap
from panel_app.model_facts import ModelFacts
from panel_app.points import LEVEL, join_points
from panel_app.recent import Recent
from panel_app.state import Address

T = TypeVar("T")

_POINTS_OF_ONE = 500_000
"""Points that a map may have to count as one of those that are kept; a larger one counts as several."""


class Library(Protocol):
    """Where logged runs come from; `panel_app.library` reads them from MLflow."""

    def experiments(self) -> Sequence[str]:
        """Names of the experiments that hold DiffViews runs."""

    def extractions(self, experiment: str) -> Sequence[ExtractionRecord]:
        """Finished extractions, imports and generated sets with layer runs, newest first."""

    def layers(self, extraction: str) -> Sequence[LayerRecord]:
        """Finished layer runs of an extraction, in the network's order."""

    def maps(self, layer_run: str) -> Sequence[MapRecord]:
        """Finished re-computed maps of a layer run, at its own sigma or joint over several, newest first."""

    def aligned_maps(self, layer_runs: Sequence[str]) -> Sequence[MapRecord]:
        """Finished aligned maps made of any of these layer runs, which are one layer's, newest first."""

    def samples(self, extraction: str) -> SampleSet:
        """The sample set of an extraction."""

    def model(self, extraction: str) -> Mapping[str, Any] | None:
        """What an extraction noted of its model, or None where it noted nothing."""

    def columns(self, extraction: str) -> pd.DataFrame | None:
        """Further columns of an extraction's samples, by sample_id, or None."""

    def points(self, map_run: str, slice_sigma: float | None = None) -> pd.DataFrame:
        """The table of a layer run's or re-computed map's points, or of one slice of an aligned map."""

    def projector(self, map_run: str, slice_sigma: float | None = None) -> Projector:
        """The projector of a layer run's or re-computed map, or of one slice of an aligned map."""

    def similarity(self, extraction: str, sigma: float) -> Similarity | None:
        """How alike all layers of an extraction are at a noise level, or None where it was not logged."""

    def address_of(self, run_id: str) -> Address | None:
        """Where a layer run, a map or a generation is looked at, or None."""

    def pending(self, experiment: str) -> Sequence[Any]:
        """Extractions of an experiment that are being made, newest first."""

    def trouble(self) -> str | None:
        """Why the artifact store cannot be used, or None where it answers, or is a folder of this host."""

    generations: Any
    """The logged generations; `panel_app.generation.archive` reads them."""

    def log_export(self, source_run: str, files: Mapping[str, bytes], *, title: str, link: str) -> str:
        """Log files made of a map as a run of their own, and return its id."""

    def run_url(self, run_id: str) -> str | None:
        """Address of a run in the MLflow UI, or None when no UI is known."""


class DataStore:
    """Opens maps and keeps the most recently used ones; safe to call from several threads."""

    def __init__(self, library: Library, *, max_maps: int = 16) -> None:
        self.library = library
        self._maps = Recent[LayerMap](max_maps, _weight)
        self._slices = Recent[tuple[LayerMap, ...]](max_maps, lambda slices: sum(map(_weight, slices)))
        self._samples = Recent[SampleSet](4)
        self._facts = Recent[ModelFacts](64)
        self._derived = Recent[Any](64)
        self._columns = Recent[pd.DataFrame | None](4)
        self.comparisons = Comparisons(library)

    def layer_run(self, extraction: str, layer: str, sigma: float) -> LayerRecord:
        """Return the layer run of an extraction at one noise level.

        Raises:
            RunNotFoundError: if there is none, naming what there is.
        """
        records = self.library.layers(extraction)
        for record in records:
            if record.layer == layer and record.sigma == sigma:
                return record
        known = sorted({f"{r.layer} at {format_sigma(r.sigma)}" for r in records})
        wanted = f"layer {layer!r} at sigma {format_sigma(sigma)}"
        raise RunNotFoundError(f"this extraction has no finished {wanted}; it has {', '.join(known[:8]) or 'none yet'}")

    def open(self, layer: LayerRecord, map_run: str | None = None) -> LayerMap:
        """Return a layer run's map, or a re-computed one of it."""
        run = map_run or layer.run_id
        return self._maps.get(run, lambda: self._load(layer, run))

    def slices(self, map_run: str, layers: Sequence[LayerRecord]) -> tuple[LayerMap, ...]:
        """Return an aligned map's slices, one at the noise level of each of these layer runs of its layer."""
        key = (map_run, *(layer.run_id for layer in layers))
        return self._slices.get(key, lambda: tuple(self._load(layer, map_run, layer.sigma) for layer in layers))

    def derived(self, layer_map: LayerMap, what: Hashable, make: Callable[[], T]) -> T:
        """Return what was made of a map, such as its clusters; once for all visitors."""
        value: T = self._derived.get((layer_map.map_run, layer_map.layer.run_id, what), make)
        return value

    def known_derived(self, layer_map: LayerMap, what: Hashable) -> Any:
        """Return what was made of a map before, or None."""
        return self._derived.known((layer_map.map_run, layer_map.layer.run_id, what))

    def samples(self, extraction: str) -> SampleSet:
        """Return the sample set of an extraction."""
        return self._samples.get(extraction, lambda: self.library.samples(extraction))

    def facts(self, extraction: str) -> ModelFacts:
        """Return what an extraction noted of its model."""
        return self._facts.get(extraction, lambda: ModelFacts.read(self.library.model(extraction)))

    def columns(self, extraction: str) -> pd.DataFrame | None:
        """Return the further columns of an extraction's samples, or None."""
        return self._columns.get(extraction, lambda: self.library.columns(extraction))

    def _load(self, layer: LayerRecord, run: str, slice_sigma: float | None = None) -> LayerMap:
        samples = self.samples(layer.parent_id)
        table = join_points(self.library.points(run, slice_sigma), samples, self.columns(layer.parent_id))
        projector = self.library.projector(run, slice_sigma)
        return LayerMap(
            layer=layer,
            map_run=run,
            table=table,
            row_of=SampleRows(samples.index, table["sample_id"].tolist(), _is_level(table, layer.sigma)),
            samples=samples,
            projector=projector,
            projector_row_of=SampleRows(samples.index, projector.sample_ids, _projected_at(projector, layer.sigma)),
            facts=self.facts(layer.parent_id),
        )


class SampleRows(Mapping[str, int]):
    """The row of each sample, in the order of the rows, in four bytes a sample over an index that maps share.

    Args:
        index: the extraction's samples; ids that it lacks are left out.
        sample_ids: id of each row.
        chosen: (N,) bool, which row counts where a sample has several; None: the last.
    """

    def __init__(self, index: SampleIndex, sample_ids: Sequence[str], chosen: np.ndarray | None = None) -> None:
        samples = index.find(sample_ids)
        kept = np.flatnonzero(samples >= 0 if chosen is None else chosen & (samples >= 0))
        self._index = index
        self._rows = np.full(len(index), -1, np.int32)
        self._rows[samples[kept]] = kept
        self._count = int(np.count_nonzero(self._rows >= 0))

    def __getitem__(self, sample_id: str) -> int:
        row = int(self._rows[self._index.row(sample_id)])
        if row < 0:
            raise KeyError(sample_id)
        return row

    def __contains__(self, sample_id: object) -> bool:
        return sample_id in self._index and int(self._rows[self._index.row(str(sample_id))]) >= 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        samples = np.flatnonzero(self._rows >= 0)
        ids = self._index.sample_ids
        return (ids[sample] for sample in samples[np.argsort(self._rows[samples])].tolist())


def _weight(layer_map: LayerMap) -> int:
    return 1 + len(layer_map.table) // _POINTS_OF_ONE


def _is_level(table: pd.DataFrame, sigma: float) -> np.ndarray | None:
    """Return which points of a joint map are at a noise level, None for other maps."""
    return (table[LEVEL] == sigma).to_numpy(dtype=bool) if LEVEL in table else None


def _projected_at(projector: Projector, sigma: float) -> np.ndarray | None:
    levels = getattr(projector, "row_sigmas", None)
    return None if levels is None else np.asarray(levels) == sigma
