"""Clusters of samples by density, and what each consists of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from diffviews.errors import ConfigError, CorruptDataError
from diffviews.processing.neighbors import exact_neighbors

LARGEST = 5_000
"""Up to so many points take part themselves; of more, so many do, and each other one follows its nearest."""

NONE = -1
"""Number of the points that lie in no cluster."""


@dataclass(frozen=True, slots=True)
class ClusterSummary:
    """What one cluster consists of."""

    number: int
    """From 0 by size, the largest first."""
    size: int
    majority: str | None
    """Commonest class; of equally common ones the first in the order of classes. None: no point has a class."""
    purity: float
    """Share of the points with a class that are of that class; NaN where none has one."""
    trust: float
    """Mean share of a point's neighbours that the map keeps; NaN where it was not measured."""


def find_clusters(points: np.ndarray, min_size: int, *, largest: int = LARGEST, seed: int = 0) -> np.ndarray:
    """Return the cluster of each point by HDBSCAN (Campello, Moulavi & Sander 2013; scikit-learn).

    Args:
        points: (N, d) finite coordinates, compared by Euclidean distance.
        min_size: fewest points that make a cluster, at least 2.
        largest: see `LARGEST`; `min_size` shrinks in the same proportion.
        seed: draws the points that take part.

    Returns:
        (N,) int64, clusters numbered from 0 by size, `NONE` for points in no cluster.

    Raises:
        ConfigError: if `min_size` is below 2.
        CorruptDataError: if a coordinate is not finite.
    """
    from sklearn.cluster import HDBSCAN

    if min_size < 2:
        raise ConfigError(f"a cluster of at least {min_size} points is no cluster; choose 2 or more")
    values = np.asarray(points, dtype=np.float64)
    if not np.isfinite(values).all():
        raise CorruptDataError("some points have coordinates that are NaN or infinite; clusters need finite ones")
    rows = _taking_part(len(values), largest, seed)
    fewest = max(2, round(min_size * len(rows) / max(len(values), 1)))
    if len(rows) < fewest:
        return np.full(len(values), NONE, dtype=np.int64)
    found = HDBSCAN(min_cluster_size=fewest, copy=True).fit_predict(values[rows])
    if len(rows) < len(values):
        nearest, _ = exact_neighbors(values[rows], 1, values)
        found = found[nearest[:, 0]]
    return _by_size(np.asarray(found, dtype=np.int64))


def describe_clusters(
    clusters: np.ndarray, classes: Sequence[Any] | pd.Categorical, trust: np.ndarray | None = None
) -> tuple[ClusterSummary, ...]:
    """Return what each cluster consists of, the largest first.

    Args:
        clusters: (N,) as `find_clusters` returns them.
        classes: (N,) class of each point, None or NaN for none; a Categorical keeps its order.
        trust: (N,) share of each point's neighbours that the map keeps; NaN counts as not measured.
    """
    given = classes if isinstance(classes, pd.Categorical) else pd.Categorical(list(classes))
    codes = np.asarray(given.codes, dtype=np.int64)
    summaries = []
    for number in range(int(clusters.max(initial=NONE)) + 1):
        members = clusters == number
        counts = np.bincount(codes[members & (codes >= 0)], minlength=max(len(given.categories), 1))
        labelled, best = int(counts.sum()), int(np.argmax(counts))
        kept = np.array([]) if trust is None else np.asarray(trust, dtype=np.float64)[members]
        kept = kept[np.isfinite(kept)]
        summaries.append(
            ClusterSummary(
                number=number,
                size=int(members.sum()),
                majority=str(given.categories[best]) if labelled else None,
                purity=float(counts[best] / labelled) if labelled else float("nan"),
                trust=float(kept.mean()) if len(kept) else float("nan"),
            )
        )
    return tuple(summaries)


def _taking_part(count: int, largest: int, seed: int) -> np.ndarray:
    if count <= largest:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, largest, replace=False))


def _by_size(found: np.ndarray) -> np.ndarray:
    """Number clusters by size, equally large ones by their first point."""
    numbers, firsts, sizes = np.unique(found[found >= 0], return_index=True, return_counts=True)
    order = sorted(range(len(numbers)), key=lambda i: (-sizes[i], firsts[i]))
    renamed = {int(numbers[i]): rank for rank, i in enumerate(order)}
    return np.array([renamed.get(int(number), NONE) for number in found], dtype=np.int64)
