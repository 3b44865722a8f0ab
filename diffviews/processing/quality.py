"""How good a map is, and how much a layer tells: one summary and two values per point."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from diffviews.errors import ShapeError
from diffviews.processing.all_distances import excess_and_widths
from diffviews.processing.fitting import FittedMap
from diffviews.processing.neighbors import exact_neighbors, near_neighbors, shared_counts

QUALITY_NEIGHBORS = 10
"""Neighbourhood size of all measures, the same for every map so that maps can be compared."""

MAX_POINTS = 5000
"""Above this many samples the measures that need all distances are means over this many evenly spaced
samples, each still compared with all others."""


@dataclass(frozen=True, slots=True, eq=False)
class MapQuality:
    """Measures of one fitted map. Those by class are absent where there are fewer than two classes."""

    summary: dict[str, float]
    """By name: trustworthiness, continuity, neighborhood_preservation, effective_rank,
    intrinsic_dimension, explained_variance, nan_count, quality_points; and with labels
    knn_accuracy_activation, knn_accuracy_map, silhouette, silhouette_map."""
    per_point: dict[str, np.ndarray]
    """neighborhood_preservation and distance_to_data, each (N,) float32."""
    explained_variance: np.ndarray
    """(d,) float64 cumulative share of the variance that the first 1 … d components explain."""


def map_quality(fitted: FittedMap, labels: Sequence[Any] | np.ndarray | None = None) -> MapQuality:
    """Measure a fitted map.

    * trustworthiness, continuity (Venna & Kaski 2001): 1 when the map shows no false neighbours, and
      tears no true ones apart; k = 10. trustworthiness = 1 − 2 / (N k (2N − 3k − 1)) Σᵢ Σ_{j among i's k
      nearest on the map} max(0, r(i, j) − k), r the rank of j by distance from i in PCA space; continuity the
      same with the spaces exchanged. A rank counts the points that are nearer, so that equally near ones share
      the better one.
    * knn_accuracy_activation, knn_accuracy_map: share of samples whose class is the commonest among their
      10 nearest others, in PCA space and on the map.
    * silhouette, silhouette_map (Rousseeuw 1987) by class, in PCA space and on the map.
    * effective_rank (Roy & Vetterli 2007), intrinsic_dimension (TwoNN, Facco et al. 2017).
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
        "effective_rank": effective_rank(fitted.eigenvalues),
        "intrinsic_dimension": intrinsic_dimension(*_two_nearest(fitted)),
        "explained_variance": float(fitted.explained_variance_ratio.sum()),
        # A map is only fitted to finite values; the key says so in every run.
        "nan_count": 0.0,
        "quality_points": float(len(sample)),
    }
    if classes is not None:
        summary["knn_accuracy_activation"] = knn_accuracy(high, classes)
        summary["knn_accuracy_map"] = knn_accuracy(low, classes)
    per_point = {
        "neighborhood_preservation": preserved,
        "distance_to_data": fitted.neighbor_distances.mean(axis=1).astype(np.float32),
    }
    return MapQuality(summary, per_point, np.cumsum(fitted.explained_variance_ratio))


def quality_sample(count: int) -> np.ndarray:
    """Return the rows that means are taken over: all, or MAX_POINTS evenly spaced ones."""
    if count <= MAX_POINTS:
        return np.arange(count)
    return np.linspace(0, count - 1, MAX_POINTS).astype(np.int64)


def knn_accuracy(neighbors: np.ndarray, classes: np.ndarray) -> float:
    """Return the share of labelled samples whose class is the commonest among their neighbours.

    Args:
        neighbors: (N, k) rows of each sample's nearest others: leaving one out costs nothing.
        classes: (N,) int from 0, −1 for none. Neighbours without a class have no vote; among equally
            common classes the smallest wins, as in scikit-learn.
    """
    votes = classes[neighbors]
    counts = np.stack([np.count_nonzero(votes == c, axis=1) for c in range(classes.max() + 1)], axis=1)
    labelled = classes >= 0
    return float(np.mean(np.argmax(counts, axis=1)[labelled] == classes[labelled]))


def effective_rank(eigenvalues: np.ndarray) -> float:
    """Return exp of the entropy of the normalised singular values (Roy & Vetterli 2007).

    p = s / Σ s with s the square roots of the covariance's eigenvalues: the number of equally strong
    directions that would spread as evenly.
    """
    strengths = np.sqrt(np.maximum(eigenvalues, 0.0))
    shares = strengths[strengths > 0] / strengths.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def intrinsic_dimension(nearest: np.ndarray, second: np.ndarray, discard: float = 0.1) -> float:
    """Return the TwoNN estimate of the data's dimension (Facco et al. 2017).

    The ratio µ = r₂ / r₁ has the distribution F(µ) = 1 − µ^(−d): d is the slope of −log(1 − F) over
    log µ, a line through the origin fitted without the `discard` largest ratios.

    Args:
        nearest, second: (N,) distances of each point to its two nearest others. Copies (r₁ = 0) are left
            out.

    Returns:
        The dimension; NaN where fewer than 3 different points are left.
    """
    apart = nearest > 0
    ratios = np.sort(second[apart] / nearest[apart])
    kept = int(len(ratios) * (1 - discard))
    if kept < 2:
        return float("nan")
    share = np.arange(1, kept + 1) / len(ratios)
    x, y = np.log(ratios[:kept]), -np.log1p(-share)
    spread = float(x @ x)
    return float(x @ y) / spread if spread > 0 else float("nan")


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


def _two_nearest(fitted: FittedMap) -> tuple[np.ndarray, np.ndarray]:
    return fitted.neighbor_distances[:, 0], fitted.neighbor_distances[:, 1]


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
