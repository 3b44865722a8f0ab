"""Exact nearest neighbours, and the membership strengths that UMAP gives them."""

import numpy as np

from diffviews.errors import ConfigError, SelectionError
from diffviews.processing.candidates import Finder, candidate_finder, pairwise_distances, unit_rows
from diffviews.processing.in_order import in_order

__all__ = ["METRICS", "check_k", "check_metric", "exact_neighbors", "membership_strengths", "pairwise_distances"]

METRICS = ("euclidean", "cosine", "correlation", "manhattan", "chebyshev")

BLOCK_ELEMENTS = 4_000_000
"""Numbers in one block of a distance matrix; the whole matrix is never held."""

SPARE_CANDIDATES = 8
"""Points beyond k whose distances are computed exactly, so that rounding of scores rarely leaves a doubt."""


def exact_neighbors(
    points: np.ndarray, k: int, queries: np.ndarray | None = None, *, metric: str = "euclidean"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest of `points` for each query, nearest first, ties by index.

    Candidates come from blocked float32 matrix products (‖p‖² − 2 q·p), or a k-d tree where there are two or
    three dimensions; their distances are then computed from differences in float64. Where rounding could
    have hidden a nearer point, all distances of that query are computed so.

    Args:
        points: (N, d) float.
        k: number of neighbours.
        queries: (M, d) float; None: the points themselves, none its own neighbour.
        metric: one of METRICS.

    Returns:
        indices (M, k) int64 and distances (M, k) float64.

    Raises:
        SelectionError: if there are fewer than k other points.
        ConfigError: if the metric is unknown.
    """
    check_metric(metric)
    check_k(k, len(points) - (queries is None))
    if metric in ("cosine", "correlation"):
        points = unit_rows(points, metric)
        queries = None if queries is None else unit_rows(queries, metric)
    asked = points if queries is None else queries
    count = min(k + SPARE_CANDIDATES, len(points) - (queries is None))
    find = candidate_finder(points, len(asked), count, metric)
    indices = np.empty((len(asked), k), dtype=np.int64)
    distances = np.empty((len(asked), k), dtype=np.float64)
    step = _block_rows(len(points), count * points.shape[1])

    def nearest(start: int) -> tuple[int, np.ndarray, np.ndarray]:
        block = asked[start : start + step]
        own = np.arange(start, start + len(block)) if queries is None else None
        return start, *_nearest(points, block, own, k, find=find, metric=metric)

    for start, found, away in in_order(nearest, range(0, len(asked), step)):
        indices[start : start + len(found)], distances[start : start + len(found)] = found, away
    return indices, np.sqrt(distances) if metric == "euclidean" else distances


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


def _block_rows(*row_elements: int) -> int:
    return max(1, BLOCK_ELEMENTS // max(row_elements))


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
