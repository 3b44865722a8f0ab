"""How much each sample's neighbourhood differs between two spaces."""

from collections.abc import Sequence

import numpy as np

from diffviews.errors import ShapeError
from diffviews.processing.neighbors import check_k, exact_neighbors


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
        metrics: distance of each space, of `processing.neighbors.METRICS`.
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
    asked = np.arange(len(first)) if rows is None else np.asarray(rows, np.int64)
    near = [_neighbors_of(asked, points, k, metric) for points, metric in zip((first, second), metrics, strict=True)]
    return 1 - shared_counts(*near) / k


def shared_counts(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return how many entries each row of `first` (M, k) shares with that of `second` (M, k), (M,) int64.

    Within a row no entry may occur twice.
    """
    both = np.sort(np.concatenate([first, second], axis=1), axis=1)
    return np.asarray((both[:, 1:] == both[:, :-1]).sum(axis=1), np.int64)


def _neighbors_of(rows: np.ndarray, points: np.ndarray, k: int, metric: str) -> np.ndarray:
    """Return the k nearest other points of each row, (M, k) int64."""
    check_k(k, len(points) - 1)
    if len(rows) == len(points):
        return exact_neighbors(points, k, metric=metric)[0][rows]
    found = exact_neighbors(points, k + 1, points[rows], metric=metric)[0]
    # Among many copies of a point its own row may not be the first, or there at all; then the last goes.
    own = found == rows[:, None]
    own[~own.any(axis=1), -1] = True
    return found[~own].reshape(len(rows), k)
