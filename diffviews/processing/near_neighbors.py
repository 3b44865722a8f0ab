"""Neighbours for fitting a map: exact while that is quick, approximate for sets beyond."""

import math

import numpy as np

from diffviews.processing.candidates import unit_rows
from diffviews.processing.neighbors import check_k, check_metric, exact_neighbors, exact_scores

EXACT_POINTS = 50_000
"""Up to so many points neighbours are exact; the time for them grows with the square of their number."""

BLOCK_ROWS = 4096


def near_neighbors(
    points: np.ndarray, k: int, *, metric: str = "euclidean", random_state: int = 42
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest others of each point, nearest first, by `exact_neighbors` up to EXACT_POINTS.

    Beyond, by nearest-neighbour descent (Dong et al. 2011; pynndescent, which umap-learn uses too), with exact
    distances to what it found. The same points and seed give the same answer on any number of cores.

    Args:
        points: (N, d) float32.
        k: number of neighbours.
        metric: one of neighbors.METRICS.
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
    if metric in ("cosine", "correlation"):
        points = unit_rows(points, metric)
    indices, distances = np.sort(found, axis=1), np.empty(found.shape)
    for start in range(0, len(points), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        scores = exact_scores(points, points[part], indices[part], metric)
        order = np.argsort(scores, axis=1, kind="stable")
        indices[part] = np.take_along_axis(indices[part], order, axis=1)
        distances[part] = np.take_along_axis(scores, order, axis=1)
    return indices, np.sqrt(distances) if metric == "euclidean" else distances
