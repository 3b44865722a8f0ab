"""Points by place: a window, a click and a lasso find what a search through all points finds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panel_app.map.tools import combined, rows_in_box, rows_in_outline, way_with
from panel_app.point_grid import PointGrid, joined
from panel_app.state import Group

COUNT = 3_000


@pytest.fixture(scope="module")
def places():
    rng = np.random.default_rng(0)
    clouds = [rng.normal(centre, spread, (COUNT // 3, 2)) for centre, spread in ((0, 1), (8, 0.05), (-5, 3))]
    return np.concatenate(clouds).astype(np.float32)


@pytest.fixture(scope="module")
def grid(places):
    return PointGrid.of(places[:, 0], places[:, 1], side=16)


def test_grid_holds_each_point_once_at_its_own_place(grid, places):
    assert sorted(grid.rows) == list(range(COUNT))
    assert (grid.x == places[grid.rows, 0]).all()
    assert (grid.y == places[grid.rows, 1]).all()
    assert grid.starts[0] == 0
    assert grid.starts[-1] == COUNT


ranges = st.tuples(st.floats(-20, 20), st.floats(0, 15)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@settings(max_examples=60, deadline=None)
@given(x_range=ranges, y_range=ranges)
def test_window_finds_the_points_that_a_full_search_finds(grid, places, x_range, y_range):
    x, y = places.T
    held = (x >= x_range[0]) & (x <= x_range[1]) & (y >= y_range[0]) & (y <= y_range[1])
    assert rows_in_box(grid, x_range, y_range).tolist() == np.flatnonzero(held).tolist()
    assert grid.count(x_range, y_range) == held.sum()
    touched = joined(grid.spans(x_range, y_range))
    assert len(set(touched.tolist())) == len(touched)
    assert set(np.flatnonzero(held)) <= set(grid.rows[touched])


def test_zoomed_in_window_touches_few_points(grid):
    assert sum(s.stop - s.start for s in grid.spans((-0.1, 0.1), (-0.1, 0.1))) < COUNT / 3


def test_part_of_a_grid_is_found_as_the_whole_is(grid, places):
    keep = grid.rows % 3 == 0
    part = grid.only(keep)
    x, y = places.T
    held = (np.abs(x) <= 1) & (np.abs(y) <= 1) & (np.arange(COUNT) % 3 == 0)
    assert rows_in_box(part, (-1, 1), (-1, 1)).tolist() == np.flatnonzero(held).tolist()
    assert len(part) == keep.sum()


@settings(max_examples=60, deadline=None)
@given(x=st.floats(-12, 12), y=st.floats(-12, 12), reach=st.floats(0.01, 4))
def test_nearest_point_is_the_one_a_full_search_finds(grid, places, x, y, reach):
    within = (reach, reach / 2)
    gaps = np.hypot((places[:, 0] - x) / within[0], (places[:, 1] - y) / within[1])
    found = grid.nearest(x, y, within)
    if gaps.min() > 1.00001:
        assert found is None
    elif gaps.min() < 0.99999:
        assert gaps[found] == pytest.approx(gaps.min(), abs=1e-4)


def test_point_just_outside_the_first_look_wins_over_a_farther_one_in_its_corner():
    grid = PointGrid.of(np.array([0.12, 0.14]), np.array([0.12, 0.0]))
    assert grid.nearest(0.0, 0.0, (1.0, 1.0)) == 1


def test_no_points_and_equal_points_make_grids_too():
    nothing = PointGrid.of(np.zeros(0), np.zeros(0))
    assert nothing.nearest(0, 0, (1, 1)) is None
    assert not len(rows_in_box(nothing, (-1, 1), (-1, 1)))
    same = PointGrid.of(np.full(500, 2.0), np.full(500, 3.0))
    assert len(rows_in_box(same, (2, 2), (3, 3))) == 500
    assert same.nearest(2, 3, (0.1, 0.1)) is not None


def test_lasso_marks_what_lies_within_its_line(grid, places):
    corners = np.array([(-2.0, -1.0), (2.0, -1.5), (2.5, 2.0), (0.0, 0.2), (-1.0, 2.0)])
    found = rows_in_outline(grid, corners)

    def is_inside(x, y):
        """Count how often a ray to the right crosses the line."""
        crossings = 0
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
                crossings += 1
        return crossings % 2 == 1

    assert found.tolist() == [row for row, (x, y) in enumerate(places.astype(float)) if is_inside(x, y)]
    assert 0 < len(found) < COUNT


@pytest.mark.parametrize("outline", [[], [(0, 0)], [(0, 0), (1, 1)], [(0, 0), (1, 1), (0, 0)], [(np.nan, 0)] * 5])
def test_line_that_encloses_nothing_marks_nothing(grid, outline):
    assert not len(rows_in_outline(grid, np.array(outline, float)))


def test_marking_again_replaces_adds_removes_or_intersects():
    before = Group(("a", "b"))
    assert combined(before, ["b", "c"], "new").sample_ids == ("b", "c")
    assert combined(before, ["b", "c"], "add").sample_ids == ("a", "b", "c")
    assert combined(before, ["b", "c"], "remove").sample_ids == ("a",)
    assert combined(before, ["b", "c"], "intersect").sample_ids == ("b",)


def test_keys_held_down_outrank_the_buttons():
    assert way_with("intersect", shift=False, alt=False) == "intersect"
    assert way_with("new", shift=True, alt=False) == "add"
    assert way_with("add", shift=False, alt=True) == "remove"
    assert way_with("new", shift=True, alt=True) == "intersect"
