"""Points in the order of a grid's cells: a window, a click or a lasso touches only the cells it covers."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.sparse import coo_array

Range = tuple[float, float]
"""From, to on one axis of the map."""

_PER_CELL = 64
"""Points that a cell holds on average, until the grid has as many cells as it may."""
_MOST_CELLS = 1024
"""Cells along a side at most: 10 M points need no finer grid."""
_RINGS = (1 / 8, 1 / 2, 1.0)
"""Shares of its reach in which the nearest point is looked for; where points are dense the first has some."""


@dataclass(frozen=True, slots=True, eq=False)
class PointGrid:
    """Points sorted by cell, row of cells after row of cells; never changed."""

    x: np.ndarray
    """(N,) float32, in the order of the cells."""
    y: np.ndarray
    """(N,) float32."""
    rows: np.ndarray
    """(N,) row of each point in the table that the grid was made of."""
    starts: np.ndarray
    """(side² + 1,) where each cell's points begin, and the number of points."""
    side: int
    x_range: Range
    y_range: Range

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, *, side: int | None = None) -> Self:
        """Sort points into cells.

        Args:
            x: (N,) finite.
            y: (N,) finite.
            side: cells along a side; chosen by the number of points unless given. One keeps the order.
        """
        x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
        count = len(x)
        side = side or int(np.clip(np.sqrt(count / _PER_CELL), 1, _MOST_CELLS))
        ranges = _extent(x), _extent(y)
        if side == 1:
            return cls(x, y, np.arange(count, dtype=np.int32), np.array([0, count]), 1, *ranges)
        cells = _cell(y, ranges[1], side) * side + _cell(x, ranges[0], side)
        # A sparse matrix by rows is a counting sort: linear, where a comparison sort of 10 M takes seconds.
        marks = coo_array((np.ones(count, np.int8), (cells, np.arange(count, dtype=np.int32))), (side**2, count))
        by_cell = marks.tocsr()
        rows = by_cell.indices.astype(np.int32, copy=False)
        return cls(x[rows], y[rows], rows, by_cell.indptr.astype(np.int64), side, *ranges)

    def __len__(self) -> int:
        return len(self.x)

    def only(self, keep: np.ndarray) -> Self:
        """Return the grid of some of its points: `keep` is (N,) bool in the order of the grid."""
        before = np.concatenate([[0], np.cumsum(keep)])
        kept = self.x[keep], self.y[keep], self.rows[keep]
        return type(self)(*kept, before[self.starts], self.side, self.x_range, self.y_range)

    def spans(self, x_range: Range, y_range: Range) -> list[slice]:
        """Return where the points of the cells that a window touches are, in as few slices as there can be."""
        if not self._touches(x_range, y_range):
            return []
        left, right = (int(_cell(np.array(value), self.x_range, self.side)) for value in x_range)
        low, high = (int(_cell(np.array(value), self.y_range, self.side)) for value in y_range)
        if (left, right) == (0, self.side - 1):
            return [slice(int(self.starts[low * self.side]), int(self.starts[(high + 1) * self.side]))]
        lines = np.arange(low, high + 1) * self.side
        ends = zip(self.starts[lines + left], self.starts[lines + right + 1], strict=True)
        return [slice(int(start), int(stop)) for start, stop in ends if stop > start]

    def count(self, x_range: Range, y_range: Range) -> int:
        """Return how many points a window holds; of large windows those of the cells at the edge count whole."""
        spans = self.spans(x_range, y_range)
        total = sum(span.stop - span.start for span in spans)
        return total if total > 200_000 else len(self.inside(x_range, y_range))

    def inside(self, x_range: Range, y_range: Range) -> np.ndarray:
        """Return the places, in the order of the grid, of the points in a window; its edges belong to it."""
        places = joined(self.spans(x_range, y_range))
        x, y = self.x[places], self.y[places]
        inside = (x >= x_range[0]) & (x <= x_range[1]) & (y >= y_range[0]) & (y <= y_range[1])
        return np.asarray(places[inside])

    def nearest(self, x: float, y: float, within: tuple[float, float]) -> int | None:
        """Return the row of the point nearest to (x, y), None when none lies within (dx, dy), as the eye measures."""
        for share in _RINGS:
            dx, dy = within[0] * share, within[1] * share
            places = self.inside((x - dx, x + dx), (y - dy, y + dy))
            if len(places):
                gaps = np.hypot((self.x[places] - x) / within[0], (self.y[places] - y) / within[1])
                best = int(np.argmin(gaps))
                if gaps[best] <= share:
                    return int(self.rows[places[best]])
        return None

    def _touches(self, x_range: Range, y_range: Range) -> bool:
        pairs = ((x_range, self.x_range), (y_range, self.y_range))
        return len(self) > 0 and all(wanted[0] <= own[1] and wanted[1] >= own[0] for wanted, own in pairs)


def joined(spans: list[slice]) -> np.ndarray:
    """Return the places that slices name, one after the other."""
    return np.concatenate([np.arange(s.start, s.stop) for s in spans]) if spans else np.zeros(0, np.int64)


def _extent(values: np.ndarray) -> Range:
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    return (low, high) if high > low else (low, low + 1.0)


def _cell(values: np.ndarray, extent: Range, side: int) -> np.ndarray:
    """Return the cell of each value along one axis; what lies outside belongs to the outermost cell."""
    share = (values.astype(np.float64) - extent[0]) / (extent[1] - extent[0])
    return np.clip(share * side, 0, side - 1).astype(np.int32)
