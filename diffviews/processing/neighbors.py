"""Exact nearest neighbours, and the membership strengths that UMAP gives them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from diffviews.errors import ConfigError, SelectionError
from diffviews.processing.umap_backend import cuda_is_allowed

METRICS = ("euclidean", "cosine", "correlation", "manhattan", "chebyshev")

BLOCK_ELEMENTS = 4_000_000
"""Numbers in one block of a distance matrix; the whole matrix is never held."""

FLOAT64_DIMENSIONS = 512
"""Up to this many dimensions scores are computed in float64, above in float32."""

SPARE_CANDIDATES = 8
"""Points beyond k whose distances are computed exactly, so that rounding of scores cannot drop a neighbour."""

GPU_PAIRS = 10**8
"""From this many pairs on the scores are computed on a CUDA device, where there is one."""

Finder = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


def exact_neighbors(
    points: np.ndarray, k: int, queries: np.ndarray | None = None, *, metric: str = "euclidean"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest of `points` for each query, nearest first, ties by index.

    Candidates come from blocked matrix products (‖p‖² − 2 q·p); their distances are then computed
    from differences in float64, so that no cancellation reaches the result.

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
    if metric not in METRICS:
        raise ConfigError(f"metric {metric!r} is not one of: {', '.join(METRICS)}")
    check_k(k, len(points) - (queries is None))
    if metric in ("cosine", "correlation"):
        points = _unit_rows(points, metric)
        queries = None if queries is None else _unit_rows(queries, metric)
    asked = points if queries is None else queries
    count = min(k + SPARE_CANDIDATES, len(points) - (queries is None))
    find = _finder(points, len(asked), count, metric)
    indices = np.empty((len(asked), k), dtype=np.int64)
    distances = np.empty((len(asked), k), dtype=np.float64)
    step = _block_rows(len(points), count * points.shape[1])
    for start in range(0, len(asked), step):
        block = asked[start : start + step]
        own = np.arange(start, start + len(block)) if queries is None else None
        candidates = np.sort(find(block, own), axis=1)
        exact = _exact_distances(points, block, candidates, metric)
        order = np.argsort(exact, axis=1, kind="stable")[:, :k]
        indices[start : start + step] = np.take_along_axis(candidates, order, axis=1)
        distances[start : start + step] = np.take_along_axis(exact, order, axis=1)
    return indices, distances


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


def pairwise_distances(queries: np.ndarray, points: np.ndarray, metric: str = "euclidean") -> np.ndarray:
    """Return all distances (M, N) float64; for blocks small enough to hold."""
    from scipy.spatial.distance import cdist

    name = {"manhattan": "cityblock"}.get(metric, metric)
    return cdist(np.asarray(queries, np.float64), np.asarray(points, np.float64), name)


def _block_rows(*row_elements: int) -> int:
    return max(1, BLOCK_ELEMENTS // max(row_elements))


def _unit_rows(points: np.ndarray, metric: str) -> np.ndarray:
    """Return rows of length 1, on which half the squared distance is the cosine distance."""
    rows = np.asarray(points, dtype=np.float64)
    if metric == "correlation":
        rows = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)


def _finder(points: np.ndarray, queries: int, count: int, metric: str) -> Finder:
    """Return the function that finds the `count` likeliest neighbours (m, count) of a block of queries."""
    if metric in ("manhattan", "chebyshev"):
        return lambda block, own: _smallest(pairwise_distances(block, points, metric), own, count)
    dtype = np.float64 if points.shape[1] <= FLOAT64_DIMENSIONS else np.float32
    # Distances do not change when the mean is taken off, but their rounding does.
    center = points.mean(axis=0, dtype=np.float64)
    centered = np.subtract(points, center, dtype=np.float64).astype(dtype) if dtype is np.float64 else (
        points - center.astype(np.float32)
    )
    squared = np.einsum("ij,ij->i", centered, centered)
    if queries * len(points) >= GPU_PAIRS and cuda_is_allowed():
        return _torch_finder(centered, squared, center, count, "cuda")

    def find(block: np.ndarray, own: np.ndarray | None) -> np.ndarray:
        scores = (block - center).astype(dtype) @ centered.T
        scores *= -2
        scores += squared
        return _smallest(scores, own, count)

    return find


def _smallest(scores: np.ndarray, own: np.ndarray | None, count: int) -> np.ndarray:
    if own is not None:
        scores[np.arange(len(own)), own] = np.inf
    if count == scores.shape[1]:
        return np.broadcast_to(np.arange(count), scores.shape)
    return np.argpartition(scores, count - 1, axis=1)[:, :count]


def _torch_finder(
    centered: np.ndarray, squared: np.ndarray, center: np.ndarray, count: int, device: str
) -> Finder:
    """Return a finder whose matrix products and selection run on `device`."""
    import torch

    on_device: Any = torch.from_numpy(centered).to(device)
    lengths: Any = torch.from_numpy(squared).to(device)

    def find(block: np.ndarray, own: np.ndarray | None) -> np.ndarray:
        rows = torch.from_numpy((block - center).astype(centered.dtype)).to(device)
        scores = torch.addmm(lengths, rows, on_device.T, alpha=-2)
        if own is not None:
            scores[torch.arange(len(own)), torch.from_numpy(own)] = torch.inf
        return torch.topk(scores, count, dim=1, largest=False, sorted=False).indices.cpu().numpy()

    return find


def _exact_distances(
    points: np.ndarray, block: np.ndarray, candidates: np.ndarray, metric: str
) -> np.ndarray:
    gaps = points[candidates].astype(np.float64)
    gaps -= block[:, None].astype(np.float64)
    if metric == "manhattan":
        return np.abs(gaps).sum(axis=2)
    if metric == "chebyshev":
        return np.abs(gaps).max(axis=2)
    squared = np.einsum("ijk,ijk->ij", gaps, gaps)
    return np.sqrt(squared) if metric == "euclidean" else squared / 2
