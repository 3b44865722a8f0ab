"""Which points may be among the nearest: fast scores, and how far everything else is at least."""

import math
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import numpy as np

from diffviews.processing.umap_backend import cuda_devices

GPU_PAIRS = 10**8
"""From this many pairs on the scores are computed on CUDA devices, where there are any."""

TREE_DIMENSIONS = 3
"""Up to this many dimensions a k-d tree finds euclidean neighbours; more make it slower than products."""

SINGLE, TINY = float(np.finfo(np.float32).eps), float(np.finfo(np.float64).tiny)

Finder = Callable[[np.ndarray, np.ndarray | None], tuple[np.ndarray, np.ndarray]]
"""Takes queries (m, d) and which of the points they are, or None; returns columns of candidates (m, count) and
what no other point's score is below, (m,). A score is the squared distance, half of it on unit rows for
cosine and correlation, and the distance itself for the other metrics."""


def candidate_finder(points: np.ndarray, queries: int, count: int, metric: str) -> Finder:
    """Return the function that finds the `count` likeliest neighbours of a block of queries.

    Args:
        points: (N, d); rows of length 1 for cosine and correlation.
        queries: how many will be asked for in all.
        count: candidates a query.
        metric: one of neighbors.METRICS.
    """
    if metric in ("manhattan", "chebyshev"):
        return lambda block, own: _by_scores(pairwise_distances(block, points, metric), own, count)
    if metric == "euclidean" and points.shape[1] <= TREE_DIMENSIONS:
        return _tree_finder(points, count)
    # Distances do not change when the mean is taken off, but their rounding does.
    center = points.mean(axis=0, dtype=np.float64)
    centered = np.subtract(points, center, dtype=np.float64).astype(np.float32)
    squared = np.einsum("ij,ij->i", centered, centered, dtype=np.float64)
    devices = cuda_devices() if queries * len(points) >= GPU_PAIRS else []
    find = _torch_finder(centered, squared, count, devices) if devices else _product_finder(centered, squared, count)
    scale = 1.0 if metric == "euclidean" else 0.5

    def found(block: np.ndarray, own: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        rows = np.subtract(block, center, dtype=np.float64).astype(np.float32)
        columns, worst = find(rows, own)
        lengths = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        return columns, (worst + lengths - _rounding(lengths, squared.max(), points.shape[1])) * scale

    return found


def pairwise_distances(queries: np.ndarray, points: np.ndarray, metric: str = "euclidean") -> np.ndarray:
    """Return all distances (M, N) float64; for blocks small enough to hold."""
    from scipy.spatial.distance import cdist

    name = {"manhattan": "cityblock"}.get(metric, metric)
    return cdist(np.asarray(queries, np.float64), np.asarray(points, np.float64), name)


def unit_rows(points: np.ndarray, metric: str) -> np.ndarray:
    """Return rows of length 1, on which half the squared distance is the cosine distance."""
    rows = np.asarray(points, dtype=np.float64)
    if metric == "correlation":
        rows = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)


def _rounding(lengths: np.ndarray, longest: float, dimensions: int) -> np.ndarray:
    """Return by how much a score in float32 may be off: errors of sums grow with the root of their length."""
    return 4 * math.sqrt(dimensions + 2) * SINGLE * (np.sqrt(lengths) + math.sqrt(longest)) ** 2 + TINY


def _product_finder(centered: np.ndarray, squared: np.ndarray, count: int) -> Finder:
    """Return a finder by one matrix product a block: (q, 1) · (−2 p, ‖p‖²)."""
    factors = np.concatenate([-2 * centered, squared[:, None]], axis=1, dtype=np.float32).T

    def find(rows: np.ndarray, own: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        with_one = np.concatenate([rows, np.ones((len(rows), 1), np.float32)], axis=1)
        return _by_scores(with_one @ factors, own, count)

    return find


def _torch_finder(centered: np.ndarray, squared: np.ndarray, count: int, devices: Sequence[str]) -> Finder:
    """Return a finder whose matrix products and selection run on `devices`, which take blocks in turn."""
    import torch

    lengths = squared.astype(np.float32)
    copies: Any = cycle([(torch.from_numpy(lengths).to(to), torch.from_numpy(centered).to(to)) for to in devices])

    def find(rows: np.ndarray, own: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        squares, others = next(copies)
        scores = torch.addmm(squares, torch.from_numpy(rows).to(others.device), others.T, alpha=-2)
        if own is not None:
            scores[torch.arange(len(own)), torch.from_numpy(own)] = torch.inf
        values, columns = torch.topk(scores, count, dim=1, largest=False, sorted=False)
        return columns.cpu().numpy(), _limit(values.amax(dim=1).cpu().numpy(), count, len(centered), own)

    return find


def _tree_finder(points: np.ndarray, count: int) -> Finder:
    from scipy.spatial import cKDTree

    tree = cKDTree(points)

    def find(block: np.ndarray, own: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        gaps, columns = tree.query(block, [*range(1, count + 1 + (own is not None))])
        if own is not None:
            # Among many copies of the same point its own row may not be there: then the last is left out.
            others = np.argsort(columns == own[:, None], axis=1, kind="stable")[:, :count]
            gaps, columns = (np.take_along_axis(found, others, axis=1) for found in (gaps, columns))
        return columns, _limit(gaps.max(axis=1) ** 2, count, len(points), own)

    return find


def _by_scores(scores: np.ndarray, own: np.ndarray | None, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns of the `count` smallest scores of each row, in any order, and the largest among them."""
    if own is not None:
        scores[np.arange(len(own)), own] = np.inf
    columns = _smallest(scores, count)
    worst = np.take_along_axis(scores, columns, axis=1).max(axis=1)
    return columns, _limit(worst, count, scores.shape[1], own)


def _limit(worst: np.ndarray, count: int, total: int, own: np.ndarray | None) -> np.ndarray:
    """Return what all others' scores reach; where every point is a candidate there are none."""
    everything = count == total - (own is not None)
    return np.full(len(worst), np.inf) if everything else worst.astype(np.float64)


def _smallest(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the columns of the `count` smallest of each row, in any order.

    Columns are dealt to groups: the smallest scores lie in the `count` groups with the smallest minima,
    and minima are found ten times faster than a partition.
    """
    width = scores.shape[1]
    depth = math.isqrt(width // count)
    if depth < 4:
        return np.argpartition(scores, count - 1, axis=1)[:, :count]
    groups = width // depth
    whole = groups * depth
    minima = scores[:, :whole].reshape(len(scores), depth, groups).min(axis=1)
    likely = np.argpartition(minima, count - 1, axis=1)[:, :count]
    columns = (likely[:, None, :] + groups * np.arange(depth)[:, None]).reshape(len(scores), -1)
    left = np.broadcast_to(np.arange(whole, width), (len(scores), width - whole))
    columns = np.concatenate([columns, left], axis=1)
    values = np.take_along_axis(scores, columns, axis=1)
    return np.take_along_axis(columns, np.argpartition(values, count - 1, axis=1)[:, :count], axis=1)
