"""What two maps share and where they differ, computed once and shared by all visitors."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffviews.errors import SelectionError
from diffviews.processing.neighbors import exact_neighbors, neighborhood_change
from diffviews.processing.similarity import Similarity, compare_grams, spanned_gram
from panel_app.layer_map import LayerMap
from panel_app.recent import Recent

CHANGE = "neighborhood_change"
"""Column of a compared map: share of a sample's nearest that are others on the other map."""
FEWEST = 3
"""Fewer common samples have no neighbourhoods to compare."""
MOST_ALIKE = 1000
"""Of more common samples, evenly spaced ones say how alike two layers are."""
MOST_PAIRS = 10**9
"""Up to so many distances are computed for one comparison; of larger sets only some samples are answered for."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairing:
    """Which samples two maps have in common, matched by sample_id."""

    sample_ids: tuple[str, ...]
    """Samples on both, in the order of the left map's table."""
    only_left: int
    """How many samples the right map lacks."""
    only_right: int
    """How many samples the left map lacks."""

    def __len__(self) -> int:
        return len(self.sample_ids)


@dataclass(frozen=True, slots=True, eq=False)
class NeighbourhoodChange:
    """How much the neighbourhood of each sample changes between two maps."""

    k: int
    """Size of a neighbourhood; smaller than asked for where there are too few samples."""
    total: int
    """Samples that neighbours were looked for among."""
    values: Mapping[str, float]
    """Share of a sample's k nearest that are others on the other map, 0 to 1, by sample_id."""

    @property
    def is_whole(self) -> bool:
        """Whether every common sample was answered for."""
        return len(self.values) == self.total

    def on(self, layer_map: LayerMap) -> LayerMap:
        """Return a map coloured by the column CHANGE; samples that were not answered for have no number there."""
        column = layer_map.table["sample_id"].map(self.values).astype("float64")
        return replace(layer_map.with_columns(**{CHANGE: column}), painted=CHANGE)


def pair(left: LayerMap, right: LayerMap) -> Pairing:
    """Return which samples two maps have in common."""
    both = tuple(s for s in left.row_of if s in right.row_of)
    return Pairing(both, len(left.row_of) - len(both), len(right.row_of) - len(both))


def measure(
    left: LayerMap, right: LayerMap, sample_ids: Sequence[str], k: int, *, most_pairs: int = MOST_PAIRS
) -> NeighbourhoodChange:
    """Return how much neighbourhoods in activation space change from one map to the other.

    Neighbours are exact, each map's own metric in its PCA space, among the samples that both have.

    Args:
        left: one map; of a joint map the rows at its own noise level.
        right: the other.
        sample_ids: samples on both.
        k: size of a neighbourhood; at most one fewer than the common samples.
        most_pairs: distances computed at most; more samples are answered for in even steps only.

    Raises:
        SelectionError: if the maps share fewer than `FEWEST` samples.
    """
    if len(sample_ids) < FEWEST:
        raise SelectionError(
            f"these maps share {len(sample_ids)} samples; neighbourhoods need at least {FEWEST} to compare"
        )
    k, total = min(k, len(sample_ids) - 1), len(sample_ids)
    rows = np.unique(np.linspace(0, total - 1, min(total, max(most_pairs // total, 1))).astype(np.int64))
    change = neighborhood_change(
        _points(left, sample_ids),
        _points(right, sample_ids),
        k,
        metrics=(left.projector.parameters.metric, right.projector.parameters.metric),
        rows=None if len(rows) == total else rows,
    )
    values = {sample_ids[row]: float(share) for row, share in zip(rows.tolist(), change, strict=True)}
    return NeighbourhoodChange(k, total, values)


def alike(left: LayerMap, right: LayerMap, sample_ids: Sequence[str]) -> Similarity:
    """Return how alike the layers of two maps are on common samples, as far as the components that maps keep span them.

    The layers may be of different extractions, models and noise levels.
    """
    spaced = np.linspace(0, len(sample_ids) - 1, min(len(sample_ids), MOST_ALIKE)).astype(np.int64).tolist()
    chosen, grams = [sample_ids[row] for row in spaced], {}
    for side, layer_map in (("left", left), ("right", right)):
        projector = layer_map.projector
        points = _points(layer_map, chosen)
        grams[side] = spanned_gram(points, projector.pca_components, np.asarray(projector.scaler_scale))
    return compare_grams(grams)


class Comparisons:
    """Keeps what was compared lately; safe to call from several threads, of which one measures at a time.

    Args:
        library: where CKA tables come from.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self._measuring = threading.Lock()
        self._pairings = Recent[Pairing](16)
        self._changes = Recent[NeighbourhoodChange](16)
        self._similarities = Recent[Similarity | None](16)
        self._pairs = Recent[Similarity](16)

    def pairing(self, left: LayerMap, right: LayerMap) -> Pairing:
        """Return which samples two maps have in common."""
        return self._pairings.get((_key(left), _key(right)), lambda: pair(left, right))

    def change(self, left: LayerMap, right: LayerMap, k: int) -> NeighbourhoodChange | None:
        """Return how much neighbourhoods change between two maps, None where they share too few; see `measure`."""
        sample_ids = self.pairing(left, right).sample_ids
        if len(sample_ids) < FEWEST:
            return None

        def make() -> NeighbourhoodChange:
            with self._measuring:
                return measure(left, right, sample_ids, k)

        return self._changes.get((_key(left), _key(right), k), make)

    def alike(self, left: LayerMap, right: LayerMap) -> Similarity | None:
        """Return how alike the layers of two maps are, None where these share too few samples; see `alike`."""
        sample_ids = self.pairing(left, right).sample_ids
        if len(sample_ids) < FEWEST:
            return None
        return self._pairs.get((_key(left), _key(right)), lambda: alike(left, right, sample_ids))

    def similarity(self, extraction: str, sigma: float) -> Similarity | None:
        """Return how alike all layers of an extraction are at a noise level, or None where it was not logged."""
        return self._similarities.get((extraction, sigma), lambda: self._library.similarity(extraction, sigma))


def nearest(layer_map: LayerMap, sample_ids: Sequence[str], sample_id: str, k: int) -> tuple[str, ...]:
    """Return the k samples nearest to one in activation space among `sample_ids`, itself left out, nearest first."""
    if len(sample_ids) == len(layer_map.row_of):
        return tuple(n.sample_id for n in layer_map.neighbours(sample_id, k, "activation"))
    points, own = _points(layer_map, sample_ids), _points(layer_map, [sample_id])
    rows = exact_neighbors(points, k + 1, own, metric=layer_map.projector.parameters.metric)[0][0].tolist()
    return tuple([sample_ids[row] for row in rows if sample_ids[row] != sample_id][:k])


def _key(layer_map: LayerMap) -> tuple[str, str]:
    return layer_map.map_run, layer_map.layer.run_id


def _points(layer_map: LayerMap, sample_ids: Sequence[str]) -> np.ndarray:
    rows = [layer_map.projector_row_of[s] for s in sample_ids]
    return np.asarray(layer_map.projector.pca_points)[rows]
