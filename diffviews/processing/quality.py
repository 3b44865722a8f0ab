"""How good a map is, and how much a layer tells: one summary and two values per point.

What compares some samples with all others, in two spaces, computes distances in tiles of bounded size, so that time and
memory grow with the number of samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from diffviews.errors import ShapeError
from diffviews.processing.blocks import in_order
from diffviews.processing.candidates import pairwise_distances
from diffviews.processing.fitting import FittedMap
from diffviews.processing.neighbors import exact_neighbors, near_neighbors, shared_counts

QUALITY_NEIGHBORS = 10
"""Neighbourhood size of all measures, the same for every map so that maps can be compared."""

MAX_POINTS = 5000
"""Above this many samples the measures that need all distances are means over this many evenly spaced
samples, each still compared with all others."""

TILE_ELEMENTS = 4_000_000
"""Distances held at a time, by each thread, in each space."""

TILE_ROWS = 256
"""Samples of a tile at least, since the points they are compared with are converted anew for each."""

_AT_ONCE = 8
"""Samples whose neighbours' distances are computed together."""


@dataclass(frozen=True, slots=True, eq=False)
class MapQuality:
    """Measures of one fitted map. Those by class are absent where there are fewer than two classes."""

    summary: dict[str, float]
    """By name: trustworthiness, continuity, neighborhood_preservation, nan_count, quality_points; where the activations
    themselves were at hand sampled_effective_rank, sampled_intrinsic_dimension, space_samples, held_out_variance; with
    labels knn_accuracy_activation, knn_accuracy_map, silhouette, silhouette_map."""
    per_point: dict[str, np.ndarray]
    """neighborhood_preservation and distance_to_data, each (N,) float32."""
    held_out_variance: np.ndarray | None
    """(d,) float64 cumulative share of held-out samples' variance that the first 1 … d components hold."""


def map_quality(fitted: FittedMap, labels: Sequence[Any] | np.ndarray | None = None) -> MapQuality:
    """Measure a fitted map.

    * trustworthiness, continuity (Venna & Kaski 2001): 1 when the map shows no false neighbours, and
      tears no true ones apart; k = 10. trustworthiness = 1 − 2 / (N k (2N − 3k − 1)) Σᵢ Σ_{j among i's k
      nearest on the map} max(0, r(i, j) − k), r the rank of j by distance from i in PCA space; continuity the
      same with the spaces exchanged. A rank counts the points that are nearer, so that equally near ones share
      the better one.
    * knn_accuracy_activation, knn_accuracy_map: share of samples whose class is the commonest among their
      10 nearest others, in PCA space and on the map. A sample without a class neither votes nor counts.
    * silhouette, silhouette_map (Rousseeuw 1987) by class, in PCA space and on the map.
    * sampled_effective_rank (Roy & Vetterli 2007), sampled_intrinsic_dimension (TwoNN, Facco et al. 2017): of the
      standardised activations, before any PCA, at `space_samples` samples.
    * held_out_variance: the share of the variance that the principal axes hold of samples they were not fitted to.
    * per point: the share of a sample's 10 nearest in PCA space that are among its 10 nearest on the
      map; and its mean distance in PCA space to the nearest samples, as many as a placement uses.

    Args:
        fitted: the map.
        labels: (N,) class of each sample; None, NaN or NA for one without.

    Raises:
        ShapeError: if there is not one label a sample.
    """
    projector = fitted.projector
    count, metric = len(projector), projector.parameters.metric
    k = min(QUALITY_NEIGHBORS, max(1, (count - 1) // 2))
    high = _leading_neighbors(fitted, k)
    low = exact_neighbors(projector.embedding, k)[0]
    classes = _class_numbers(labels, count)
    preserved = (shared_counts(high, low) / k).astype(np.float32)
    sample = quality_sample(count)
    ranks = _mean_measures(fitted, (high, low), classes, sample, metric)
    summary = {
        **ranks,
        "neighborhood_preservation": float(preserved.mean()),
        **fitted.space,
        # A map is only fitted to finite values; the key says so in every run.
        "nan_count": 0.0,
        "quality_points": float(len(sample)),
    }
    curve = fitted.held_out_variance
    if curve is not None:
        summary["held_out_variance"] = float(curve[-1])
    if classes is not None:
        summary["knn_accuracy_activation"] = knn_accuracy(high, classes)
        summary["knn_accuracy_map"] = knn_accuracy(low, classes)
    per_point = {
        "neighborhood_preservation": preserved,
        "distance_to_data": fitted.neighbor_distances.mean(axis=1).astype(np.float32),
    }
    return MapQuality(summary, per_point, curve)


def quality_sample(count: int) -> np.ndarray:
    """Return the rows that means are taken over: all, or MAX_POINTS evenly spaced ones."""
    if count <= MAX_POINTS:
        return np.arange(count)
    return np.linspace(0, count - 1, MAX_POINTS).astype(np.int64)


def knn_accuracy(neighbors: np.ndarray, classes: np.ndarray) -> float:
    """Return the share of labelled samples whose class is the commonest among their neighbours.

    Args:
        neighbors: (N, k) rows of each sample's nearest others: leaving one out costs nothing.
        classes: (N,) int from 0, −1 for none. Neighbours without a class have no vote, and a sample without
            any that votes is left out; among equally common classes the smallest wins, as in scikit-learn.

    Returns:
        The share; NaN where no labelled sample has a labelled neighbour.
    """
    votes = knn_votes(neighbors, classes)
    counted = (classes >= 0) & (votes >= 0)
    if not counted.any():
        return float("nan")
    return float(np.mean(votes[counted] == classes[counted]))


def knn_votes(neighbors: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the commonest class among each sample's neighbours, the smallest of equally common ones; −1 for none.

    Args:
        neighbors: (N, k) rows of each sample's nearest others.
        classes: (N,) int from 0, −1 for none, which has no vote.

    Returns:
        (N,) int64.
    """
    votes = classes[neighbors]
    counts = np.stack([np.count_nonzero(votes == c, axis=1) for c in range(classes.max() + 1)], axis=1)
    return np.where(counts.any(axis=1), np.argmax(counts, axis=1), -1)


def _mean_measures(
    fitted: FittedMap,
    neighbors: tuple[np.ndarray, np.ndarray],
    classes: np.ndarray | None,
    sample: np.ndarray,
    metric: str,
) -> dict[str, float]:
    """Return the measures that need every distance from the sampled rows."""
    projector, k = fitted.projector, neighbors[0].shape[1]
    excess, widths = excess_and_widths(
        (projector.pca_points, projector.embedding), neighbors, sample, metrics=(metric, "euclidean"), classes=classes
    )
    count = len(projector)
    scale = 2.0 / (len(sample) * k * (2 * count - 3 * k - 1))
    result = {"trustworthiness": float(1 - excess[0] * scale), "continuity": float(1 - excess[1] * scale)}
    if classes is not None:
        labelled = max(int(np.count_nonzero(classes[sample] >= 0)), 1)
        result["silhouette"], result["silhouette_map"] = (widths / labelled).tolist()
    return result


def _leading_neighbors(fitted: FittedMap, k: int) -> np.ndarray:
    if fitted.neighbor_indices.shape[1] >= k:
        return fitted.neighbor_indices[:, :k]
    points, chosen = fitted.projector.pca_points, fitted.projector.parameters
    return near_neighbors(points, k, metric=chosen.metric, random_state=chosen.random_state)[0]


def _class_numbers(labels: Sequence[Any] | np.ndarray | None, count: int) -> np.ndarray | None:
    """Return classes numbered from 0 in sorted order, −1 for none; None with fewer than two classes."""
    if labels is None:
        return None
    if len(labels) != count:
        raise ShapeError(f"there are {len(labels)} labels for {count} samples")
    known = ~pd.isna(pd.array(list(labels), dtype=object))
    if not known.any():
        return None
    numbers, names = pd.factorize(pd.Series(list(labels), dtype=object)[known], sort=True)
    if len(names) < 2:
        return None
    classes = np.full(count, -1, dtype=np.int64)
    classes[known] = numbers
    return classes


def excess_and_widths(
    spaces: tuple[np.ndarray, np.ndarray],
    neighbors: tuple[np.ndarray, np.ndarray],
    rows: np.ndarray,
    *,
    metrics: tuple[str, str],
    classes: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each of two spaces, by how much ranks exceed k in it, and the sum of silhouette widths.

    Args:
        spaces: the samples as points, (N, d) and (N, e).
        neighbors: of every sample in each space, (N, k). Ranks are those, in a space, of the neighbours in the
            other one.
        rows: samples that are compared with all.
        metrics: distance of each space.
        classes: (N,) int from 0, −1 for none; None: there are no widths.

    Returns:
        Σ max(0, rank − k), (2,) float64, and the summed widths, (2,) float64, 0 without classes.
    """
    count = len(spaces[0])
    height = max(TILE_ROWS, TILE_ELEMENTS // count)

    def of_rows(part: np.ndarray) -> np.ndarray:
        tallies = [
            _Tally(points, part, neighbors[1 - own][part], metric, classes)
            for own, (points, metric) in enumerate(zip(spaces, metrics, strict=True))
        ]
        for start in range(0, count, width):
            for tally in tallies:
                tally.add(slice(start, start + width))
        return np.array([[tally.excess() for tally in tallies], [tally.widths().sum() for tally in tallies]])

    width = max(1, TILE_ELEMENTS // height)
    parts = (rows[start : start + height] for start in range(0, len(rows), height))
    total = sum(in_order(of_rows, parts), np.zeros((2, 2)))
    return total[0], total[1]


class _Tally:
    """What some samples' distances to all others in one space add up to.

    Args:
        points: (N, d) all samples.
        rows: (m,) which are compared.
        asked: (m, k) samples whose ranks are wanted.
        metric: of the space.
        classes: (N,) int, or None.
    """

    def __init__(
        self, points: np.ndarray, rows: np.ndarray, asked: np.ndarray, metric: str, classes: np.ndarray | None
    ) -> None:
        self._points, self._rows, self._metric, self._classes = points, rows, metric, classes
        self._asked, self._own = _distances_to(points, rows, asked, metric)
        self._nearer = np.zeros(asked.shape, np.int64)
        self._sums = np.zeros((len(rows), 0 if classes is None else classes.max() + 1))

    def add(self, columns: slice) -> None:
        """Count in the distances to some of the samples."""
        distances = pairwise_distances(self._points[self._rows], self._points[columns], self._metric)
        for number, values in enumerate(self._asked.T):
            self._nearer[:, number] += np.count_nonzero(distances < values[:, None], axis=1)
        if self._classes is not None:
            members = self._classes[columns]
            labelled = np.flatnonzero(members >= 0)
            member = np.zeros((len(members), self._sums.shape[1]))
            member[labelled, members[labelled]] = 1.0
            self._sums += distances @ member

    def excess(self) -> float:
        """Return Σ max(0, rank − k); a sample's rank counts those nearer, but not the one they are near to."""
        nearer = self._nearer - (self._own[:, None] < self._asked)
        return float(np.maximum(nearer + 1 - self._asked.shape[1], 0).sum())

    def widths(self) -> np.ndarray:
        """Return the silhouette widths, (m,); empty without classes."""
        return np.zeros(0) if self._classes is None else silhouette_widths(self._sums, self._rows, self._classes)


def _distances_to(
    points: np.ndarray, rows: np.ndarray, asked: np.ndarray, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances of rows (m,) to the points asked for (m, k), and each to itself (m,), as the tiles' are."""
    wanted = np.concatenate([asked, rows[:, None]], axis=1)
    found = np.empty(wanted.shape)
    for start in range(0, len(rows), _AT_ONCE):
        part = wanted[start : start + _AT_ONCE]
        each = np.arange(len(part))
        table = pairwise_distances(points[part[:, -1]], points[part.ravel()], metric)
        found[start : start + _AT_ONCE] = table.reshape(len(part), *part.shape)[each, each]
    return found[:, :-1], found[:, -1]


def silhouette_widths(sums: np.ndarray, rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the silhouette width (b − a) / max(a, b) of each row, 0 without a class or alone in it.

    Args:
        sums: (m, C) of the rows' distances to the samples of each class.
        rows: (m,) which samples they are.
        classes: (N,) int from 0, −1 for none.
    """
    sizes = np.bincount(classes[classes >= 0], minlength=sums.shape[1]).astype(np.float64)
    own, index = classes[rows], np.arange(len(rows))
    within = sums[index, own] / np.maximum(sizes[own] - 1, 1)
    means = sums / sizes
    means[index, own] = np.inf
    between = means.min(axis=1)
    widths = (between - within) / np.maximum(np.maximum(within, between), np.finfo(np.float64).tiny)
    return np.where((own >= 0) & (sizes[own] > 1), widths, 0.0)
