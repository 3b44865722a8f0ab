"""Nearest neighbours, exact or approximate, the strengths that UMAP gives them, and how they differ between spaces."""

import math
from collections.abc import Sequence

import numpy as np

from diffviews.errors import ConfigError, SelectionError, ShapeError
from diffviews.processing.blocks import in_order
from diffviews.processing.candidates import Finder, candidate_finder, unit_rows

METRICS = ("euclidean", "cosine", "correlation", "manhattan", "chebyshev")
DIRECTIONS = ("cosine", "correlation")
"""Those that compare directions, as half the squared distance of unit vectors."""

BLOCK_ELEMENTS = 4_000_000
"""Numbers in one block of a distance matrix; the whole matrix is never held."""

SPARE_CANDIDATES = 8
"""Points beyond k whose distances are computed exactly, so that rounding of scores rarely leaves a doubt."""

EXACT_POINTS = 50_000
"""Up to so many points a map's neighbours are exact; the time for them grows with the square of their number."""

MEASURED_ROWS = 4096
"""Rows of a descent's graph whose distances are computed at a time."""


def exact_neighbors(
    points: np.ndarray,
    k: int,
    queries: np.ndarray | None = None,
    *,
    rows: Sequence[int] | np.ndarray | None = None,
    metric: str = "euclidean",
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest of `points` for each query, nearest first, ties by index.

    Candidates come from blocked float32 matrix products (‖p‖² − 2 q·p), or a k-d tree where there are two or
    three dimensions; their distances are then computed from differences in float64. Where rounding could
    have hidden a nearer point, all distances of that query are computed so.

    Args:
        points: (N, d) float.
        k: number of neighbours.
        queries: (M, d) float; None: the points themselves, none its own neighbour.
        rows: without queries, (M,) which of the points to answer for; None: all.
        metric: one of METRICS.

    Returns:
        indices (M, k) int64 and distances (M, k) float64.

    Raises:
        SelectionError: if there are fewer than k other points.
        ConfigError: if the metric is unknown.
    """
    check_metric(metric)
    check_k(k, len(points) - (queries is None))
    if metric in DIRECTIONS:
        points = unit_rows(points, metric)
        queries = None if queries is None else unit_rows(queries, metric)
    own = np.arange(len(points)) if rows is None else np.asarray(rows, dtype=np.int64)
    asked = queries if queries is not None else points if rows is None else points[own]
    count = min(k + SPARE_CANDIDATES, len(points) - (queries is None))
    find = candidate_finder(points, len(asked), count, metric)
    indices = np.empty((len(asked), k), dtype=np.int64)
    distances = np.empty((len(asked), k), dtype=np.float64)
    step = max(1, BLOCK_ELEMENTS // max(len(points), count * points.shape[1]))

    def nearest(start: int) -> tuple[int, np.ndarray, np.ndarray]:
        part = slice(start, start + step)
        selves = own[part] if queries is None else None
        return start, *_nearest(points, asked[part], selves, k, find=find, metric=metric)

    for start, found, away in in_order(nearest, range(0, len(asked), step)):
        indices[start : start + len(found)], distances[start : start + len(found)] = found, away
    return indices, np.sqrt(distances) if metric == "euclidean" else distances


def near_neighbors(
    points: np.ndarray, k: int, *, metric: str = "euclidean", random_state: int = 42
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest others of each point, nearest first, by `exact_neighbors` up to EXACT_POINTS.

    Beyond, by nearest-neighbour descent (Dong et al. 2011; pynndescent, which umap-learn uses too), with exact
    distances to what it found. The same points and seed give the same answer on any number of cores.

    Args:
        points: (N, d) float32.
        k: number of neighbours.
        metric: one of METRICS.
        random_state: seed of the descent.

    Returns:
        indices (N, k) int64 and distances (N, k) float64.

    Raises:
        SelectionError: if there are fewer than k other points.
        ConfigError: if the metric is unknown.
    """
    if len(points) <= EXACT_POINTS:
        return exact_neighbors(points, k, metric=metric)
    check_metric(metric)
    check_k(k, len(points) - 1)
    found = _without_self(_descended(points, k, metric, random_state), k)
    return _measured(points, found, metric)


def check_metric(metric: str) -> None:
    """Raise ConfigError unless it is one of METRICS."""
    if metric not in METRICS:
        raise ConfigError(f"metric {metric!r} is not one of: {', '.join(METRICS)}")


def check_k(k: int, available: int) -> None:
    """Raise SelectionError unless 1 ≤ k ≤ available."""
    if k < 1:
        raise SelectionError(f"{k} neighbours were asked for; ask for at least 1")
    if k > available:
        raise SelectionError(
            f"{k} neighbours were asked for, but there are only {available} other samples; ask for fewer"
        )


def membership_strengths(distances: np.ndarray) -> np.ndarray:
    """Return UMAP's membership strengths of a query's neighbours (McInnes et al. 2018, Alg. 3).

    w = exp(−max(0, d − ρ) / σ) with ρ the nearest distance (local connectivity 1) and σ such that
    the k strengths sum to log₂ k, found by bisection for all queries at once.

    Args:
        distances: (M, k) ascending.

    Returns:
        (M, k) float64, the nearest always 1.
    """
    beyond = np.asarray(distances, dtype=np.float64) - distances[:, :1]
    target = np.log2(max(distances.shape[1], 2))
    scale = np.maximum(beyond.mean(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    low, high = np.full_like(scale, -40.0), np.full_like(scale, 20.0)
    for _ in range(64):
        middle = (low + high) / 2
        too_many = np.exp(-beyond / (scale * np.exp2(middle))).sum(axis=1, keepdims=True) > target
        low, high = np.where(too_many, low, middle), np.where(too_many, middle, high)
    # UMAP's floor: where more points than log2 k are equally near, no bandwidth is small enough.
    sigma = np.maximum(scale * np.exp2(high), 1e-3 * scale)
    return np.exp(-beyond / sigma)


def neighborhood_change(
    first: np.ndarray,
    second: np.ndarray,
    k: int,
    *,
    metrics: tuple[str, str] = ("euclidean", "euclidean"),
    rows: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """Return the share of each sample's k nearest in one space that are not among its k nearest in the other.

    change_i = 1 − |N₁(i) ∩ N₂(i)| / k, with exact neighbours and the sample itself left out: 0 where both
    spaces put the same samples near it, 1 where they share none. It does not depend on which space is first.

    Args:
        first: (N, d) float, one row a sample.
        second: (N, e) float, the same samples in the same order.
        k: size of a neighbourhood.
        metrics: distance of each space, one of METRICS.
        rows: samples to answer for, whose neighbours still come from all N; None: all.

    Returns:
        (N,) or (len(rows),) float64, 0 to 1.

    Raises:
        ShapeError: if the spaces have different numbers of samples.
        SelectionError: if k is below 1, or there are fewer than k other samples.
    """
    if len(first) != len(second):
        raise ShapeError(
            f"neighbourhoods are compared on the same samples, but there are {len(first)} and {len(second)}"
        )
    near, other = (
        exact_neighbors(points, k, rows=rows, metric=metric)[0]
        for points, metric in zip((first, second), metrics, strict=True)
    )
    return 1 - shared_counts(near, other) / k


def shared_counts(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return how many entries each row of `first` (M, k) shares with that of `second` (M, k), (M,) int64.

    Within a row no entry may occur twice.
    """
    both = np.sort(np.concatenate([first, second], axis=1), axis=1)
    return np.asarray((both[:, 1:] == both[:, :-1]).sum(axis=1), np.int64)


def _nearest(
    points: np.ndarray, block: np.ndarray, own: np.ndarray | None, k: int, *, find: Finder, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return indices and scores (m, k) of a block's nearest, ascending."""
    candidates, limit = find(block, own)
    candidates = np.sort(candidates, axis=1)
    indices, scores = _leading(candidates, exact_scores(points, block, candidates, metric), k)
    for row in np.flatnonzero(scores[:, -1] >= limit).tolist():
        others = np.arange(len(points)) if own is None else np.delete(np.arange(len(points)), own[row])
        all_scores = exact_scores(points, block[row : row + 1], others[None], metric)
        indices[row : row + 1], scores[row : row + 1] = _leading(others[None], all_scores, k)
    return indices, scores


def _leading(candidates: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(candidates, order, axis=1), np.take_along_axis(scores, order, axis=1)


def exact_scores(points: np.ndarray, block: np.ndarray, candidates: np.ndarray, metric: str) -> np.ndarray:
    """Return what a finder scores, from differences in float64: (m, c) of a block's candidates (m, c)."""
    gaps = points[candidates].astype(np.float64)
    gaps -= block[:, None].astype(np.float64)
    if metric == "manhattan":
        return np.abs(gaps).sum(axis=2)
    if metric == "chebyshev":
        return np.abs(gaps).max(axis=2)
    squared = np.einsum("ijk,ijk->ij", gaps, gaps)
    return squared if metric == "euclidean" else squared / 2


def _descended(points: np.ndarray, k: int, metric: str, random_state: int) -> np.ndarray:
    """Return the graph (N, k + 1) int of a descent; a point is mostly its own nearest."""
    from pynndescent import NNDescent

    index = NNDescent(
        np.asarray(points, np.float32),
        metric=metric,
        n_neighbors=k + 1,
        n_trees=min(64, 5 + round(math.sqrt(len(points)) / 20)),
        n_iters=max(5, round(math.log2(len(points)))),
        max_candidates=60,
        low_memory=True,
        n_jobs=1,  # threads take turns that differ with their number, and so would the graph
        random_state=random_state,
    )
    return index.neighbor_graph[0]


def _without_self(graph: np.ndarray, k: int) -> np.ndarray:
    """Return (N, k): each row's own number left out, or its last neighbour where that is not there."""
    own = np.arange(len(graph))[:, None]
    order = np.argsort(graph == own, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(graph, order, axis=1).astype(np.int64)


def _measured(points: np.ndarray, found: np.ndarray, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what was found with exact distances, nearest first, ties by index."""
    if metric in DIRECTIONS:
        points = unit_rows(points, metric)
    indices, distances = np.sort(found, axis=1), np.empty(found.shape)
    for start in range(0, len(points), MEASURED_ROWS):
        part = slice(start, start + MEASURED_ROWS)
        scores = exact_scores(points, points[part], indices[part], metric)
        order = np.argsort(scores, axis=1, kind="stable")
        indices[part] = np.take_along_axis(indices[part], order, axis=1)
        distances[part] = np.take_along_axis(scores, order, axis=1)
    return indices, np.sqrt(distances) if metric == "euclidean" else distances
