"""Measures that compare some samples with all others in two spaces: false and torn neighbours, silhouettes.

Distances are computed in tiles of bounded size, so that time and memory grow with the number of samples.
"""

from collections.abc import Iterator

import numpy as np

from diffviews.processing.blocks import in_order
from diffviews.processing.candidates import pairwise_distances

TILE_ELEMENTS = 4_000_000
"""Distances held at a time, by each thread, in each space."""

TILE_ROWS = 256
"""Samples of a tile at least, since the points they are compared with are converted anew for each."""

_AT_ONCE = 8
"""Samples whose neighbours' distances are computed together."""


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
    total = sum(in_order(of_rows, _parts(rows, height)), np.zeros((2, 2)))
    return total[0], total[1]


def _parts(rows: np.ndarray, height: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), height):
        yield rows[start : start + height]


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
