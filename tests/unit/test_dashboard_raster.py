"""The map's pixels: the right colour at the right place, for few points and many."""

from functools import partial

import numpy as np
import pandas as pd
import pytest

from panel_app import raster
from panel_app.raster import Colouring, Window, disc_radius

WINDOW = Window((0.0, 10.0), (0.0, 10.0), 100, 80)
TWO = Colouring("class", ("#ff0000", "#0000ff"), ("a", "b"))


def frame(points):
    table = pd.DataFrame(points, columns=["x", "y", "class"])
    return table.assign(**{"class": pd.Categorical(table["class"], ["a", "b"])})


def draw_frame(table, window, colouring, **options):
    return raster.draw_points(raster.Points.of(table, colouring), window, colouring, **options)


@pytest.fixture(params=["discs", "density"])
def draw(request):
    """Draw as for few points, and as for many."""
    return partial(draw_frame, few_points=0) if request.param == "density" else draw_frame


def at(pixels, x, y):
    height, width, _ = pixels.shape
    return pixels[int((1 - y / 10) * height), int(x / 10 * width)]


def test_point_is_drawn_in_its_class_colour_where_it_lies(draw):
    pixels = draw(frame([(2, 8, "a"), (7, 3, "b")]), WINDOW, TWO)
    assert pixels.shape == (80, 100, 4)
    for (x, y), colour in (((2.01, 7.99), (255, 0, 0)), ((7.01, 2.99), (0, 0, 255))):
        red, green, blue, alpha = at(pixels, x, y)
        assert alpha > 100
        assert np.abs(np.array([red, green, blue]) - colour).max() <= 12
    assert at(pixels, 5, 5)[3] == 0


def test_points_outside_the_window_are_not_drawn(draw):
    assert not draw(frame([(40, 40, "a"), (-30, 5, "b")]), WINDOW, TWO).any()


def test_no_points_give_an_empty_picture(draw):
    assert not draw(frame([]), WINDOW, TWO).any()


def test_colours_do_not_depend_on_which_other_classes_are_shown(draw):
    everything = draw(frame([(2, 8, "a"), (7, 3, "b")]), WINDOW, TWO)
    filtered = draw(frame([(7, 3, "b")]), WINDOW, TWO)
    assert (at(filtered, 7.01, 2.99)[:3] == at(everything, 7.01, 2.99)[:3]).all()


def test_numbers_run_from_the_first_colour_to_the_last(draw):
    table = pd.DataFrame({"x": [2.0, 8.0], "y": [5.0, 5.0], "v": [1.0, 3.0]})
    pixels = draw(table, WINDOW, Colouring("v", ("#000000", "#ffffff"), low=1.0, high=3.0))
    assert at(pixels, 2.01, 4.99)[:3].max() <= 12
    assert at(pixels, 8.01, 4.99)[:3].min() >= 243


def test_number_that_is_missing_or_constant_is_still_drawn():
    table = pd.DataFrame({"x": [2.0, 8.0], "y": [5.0, 5.0], "v": [1.0, np.nan]})
    pixels = draw_frame(table, WINDOW, Colouring("v", ("#000000", "#ffffff"), low=1.0, high=1.0))
    assert at(pixels, 2.01, 4.99)[3] > 0
    assert at(pixels, 8.01, 4.99)[3] > 0


def test_discs_are_round_with_smooth_edges():
    pixels = draw_frame(frame([(5, 5, "a")]), Window((0, 10), (0, 10), 100, 100), TWO, radius=6)
    alpha = pixels[..., 3]
    rows, columns = np.nonzero(alpha > 128)
    assert 10 <= np.ptp(rows) + 1 <= 14
    assert abs(int(np.ptp(rows)) - int(np.ptp(columns))) <= 1
    assert ((alpha > 0) & (alpha < alpha.max())).any()


def test_dots_shrink_as_points_grow_but_stay_visible():
    radii = [disc_radius(n, 800 * 500) for n in (50, 500, 5_000, 500_000)]
    assert radii == sorted(radii, reverse=True)
    assert radii[-1] == 2
