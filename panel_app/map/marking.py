"""Marking samples together by a box or a lasso drawn on the map."""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, get_args

import numpy as np
import shapely

from panel_app.map.point_grid import PointGrid, Range
from panel_app.state import Group

Way = Literal["new", "add", "remove", "intersect"]
"""What a further box or lasso does to the samples marked before."""
WAYS: tuple[Way, ...] = get_args(Way)


def combined(before: Group, found: Iterable[str], way: Way) -> Group:
    """Return the group that marking further samples makes of the one before."""
    changes: Mapping[Way, Callable[[Iterable[str]], Group]] = {
        "new": Group().union,
        "add": before.union,
        "remove": before.minus,
        "intersect": before.intersect,
    }
    return changes[way](found)


def way_held(chosen: Way, *, shift: bool, alt: bool) -> Way:
    """Return what is meant while keys are held down: Shift adds, Alt removes, both intersect."""
    held: dict[tuple[bool, bool], Way] = {(True, False): "add", (False, True): "remove", (True, True): "intersect"}
    return held.get((shift, alt), chosen)


def rows_in_box(grid: PointGrid, x_range: Range, y_range: Range) -> np.ndarray:
    """Return the rows of the points in a box, (n,) in the order of the table."""
    return np.sort(grid.rows[grid.inside(x_range, y_range)])


def rows_in_outline(grid: PointGrid, outline: np.ndarray) -> np.ndarray:
    """Return the rows of the points within a closed line, (n,) in the order of the table.

    Args:
        grid: the points.
        outline: (m, 2) corners; a line of fewer than three encloses nothing. Where it crosses itself, what it
            goes round twice is outside, as in drawing programs.
    """
    corners = np.asarray(outline, np.float64).reshape(-1, 2)
    corners = corners[np.isfinite(corners).all(axis=1)]
    if len(np.unique(corners, axis=0)) < 3:
        return np.zeros(0, grid.rows.dtype)
    (x0, y0), (x1, y1) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    places = grid.inside((x0, x1), (y0, y1))
    held = shapely.contains_xy(shapely.Polygon(corners), grid.x[places], grid.y[places])
    return np.sort(grid.rows[places[held]])
