import subprocess
import sys
from io import BytesIO
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffviews.errors import ShapeError
from diffviews.processing.figures import cka_figure, map_figure, maps_figure, ranking_figure
from diffviews.processing.palette import CLASS_COLOURS, class_colours

RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(10), 30)
CENTRES = 5 * np.stack([np.cos(LABELS), np.sin(LABELS)], axis=1)
EMBEDDING = (CENTRES + RNG.standard_normal((300, 2)) * 0.4).astype(np.float32)


def picture(png):
    assert png.startswith(b"\x89PNG")
    return np.asarray(Image.open(BytesIO(png)).convert("RGB")).astype(int)


def rgb(colour):
    return np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)])


def area(pixels, colour, tolerance=3):
    return int((np.abs(pixels - rgb(colour)).max(axis=2) <= tolerance).sum())


def test_map_shows_every_class_in_its_colour_on_a_light_ground():
    pixels = picture(map_figure(EMBEDDING, LABELS, title="midblock · σ 2", caption="trustworthiness 0.98"))
    assert (pixels[0, 0] == 255).all()
    for colour in CLASS_COLOURS:
        assert area(pixels, colour) > 50


def test_map_puts_points_where_they_are():
    corners = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], np.float32)
    points = np.repeat(corners, 40, axis=0) + RNG.uniform(-0.8, 0.8, (160, 2))
    pixels = picture(map_figure(points, np.repeat([0, 1, 2, 3], 40)))[:, :630]
    centres = []
    for colour in CLASS_COLOURS[:4]:
        rows, columns = np.nonzero(np.abs(pixels - rgb(colour)).max(axis=2) <= 25)
        centres.append((columns.mean(), -rows.mean()))
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = centres
    assert min(x1 - x0, x2 - x3, y3 - y0, y2 - y1) > 300
    assert abs(x0 - x3) < 15
    assert abs(y0 - y1) < 15


def test_map_is_drawn_the_same_each_time():
    assert map_figure(EMBEDDING, LABELS, title="a") == map_figure(EMBEDDING, LABELS, title="a")


def test_map_shows_title_and_class_names():
    plain = map_figure(EMBEDDING, LABELS, title="one")
    assert plain != map_figure(EMBEDDING, LABELS, title="two")
    names = [f"class {number}" for number in range(10)]
    assert plain != map_figure(EMBEDDING, LABELS, title="one", class_names=names)
    assert map_figure(EMBEDDING, LABELS, class_names=names) == map_figure(
        EMBEDDING, LABELS, class_names=dict(enumerate(names))
    )


def test_map_draws_samples_without_a_class_grey():
    labels = [None if label == 0 else int(label) for label in LABELS]
    pixels = picture(map_figure(EMBEDDING, labels))
    assert area(pixels, "#9aa1ab", 12) > 50
    assert area(picture(map_figure(EMBEDDING, None)), "#9aa1ab", 12) > 50


@pytest.mark.parametrize("count", [15, 60])
def test_map_takes_many_classes(count):
    pixels = picture(map_figure(EMBEDDING, np.arange(300) % count))
    assert pixels.std() > 5


def test_map_in_three_dimensions_is_drawn():
    deep = np.column_stack([EMBEDDING, EMBEDDING.sum(axis=1)])
    assert area(picture(map_figure(deep, LABELS)), CLASS_COLOURS[0], 40) > 30


def test_labels_must_match_the_points():
    with pytest.raises(ShapeError, match="299 labels for 300 points"):
        map_figure(EMBEDDING, LABELS[1:])


def test_maps_stand_side_by_side_in_the_order_given():
    only_left = np.where(LABELS == 0, 0, 1)
    maps = {"first": EMBEDDING, "second": EMBEDDING[::-1], "third": EMBEDDING * 2}
    one, three = (picture(maps_figure(part, only_left)) for part in ({"first": EMBEDDING}, maps))
    assert three.shape[1] > 2 * one.shape[1] - 200
    assert three.shape[0] == one.shape[0]
    assert maps_figure(maps, LABELS) != maps_figure(dict(reversed(maps.items())), LABELS)


def test_cka_is_darkest_on_the_diagonal():
    values = np.full((4, 4), 0.1) + 0.9 * np.eye(4)
    pixels = picture(cka_figure(["a", "b", "c", "d"], values, title="CKA"))
    # Four full cells and the end of the colour bar are the only large dark areas.
    assert area(pixels, "#1c2f63", 6) > 4 * 1000
    dark = np.abs(pixels - rgb("#1c2f63")).max(axis=2) <= 6
    rows, columns = np.nonzero(dark[:, : pixels.shape[1] * 4 // 5])
    assert np.corrcoef(rows, columns)[0, 1] > 0.9


def test_cka_of_undefined_values_is_drawn():
    picture(cka_figure(["a", "b"], np.array([[1, np.nan], [np.nan, np.nan]])))


def test_cka_below_zero_is_lighter_than_zero():
    pixels = picture(cka_figure(["a", "b"], np.array([[1, -0.4], [0, 1]])))
    dark = np.abs(pixels - rgb("#1c2f63")).max(axis=2) <= 6
    rows, columns = np.nonzero(dark[:, : pixels.shape[1] * 4 // 5])
    top, bottom, left, right = (np.quantile(v, q).astype(int) for v in (rows, columns) for q in (0.1, 0.9))
    assert pixels[top, right].sum() > pixels[bottom, left].sum() + 20


def test_cka_must_be_square():
    with pytest.raises(ShapeError, match="3 × 3"):
        cka_figure(["a", "b", "c"], np.eye(2))


def test_ranking_draws_bars_as_long_as_the_values():
    rows = pd.DataFrame({"layer": ["a", "b"], "knn_accuracy_activation": [0.4, 0.8], "control_rate": [1.0, np.nan]})
    pixels = picture(ranking_figure(rows))[110:]
    knows = np.abs(pixels - rgb("#0b7edd")).max(axis=2).min(axis=1) <= 2
    widths = [(np.abs(row - rgb("#0b7edd")).max(axis=1) <= 2).sum() for row in pixels[knows]]
    assert max(widths) / min(widths) == pytest.approx(2, rel=0.03)
    assert area(pixels, "#c94b85") > 5000
    assert ranking_figure(rows.assign(control_baseline=0.1)) != ranking_figure(rows.assign(control_baseline=0.3))


def test_ranking_says_what_was_not_measured():
    rows = pd.DataFrame({"layer": ["a"], "knn_accuracy_activation": [0.5]})
    assert ranking_figure(rows) != ranking_figure(rows.assign(control_rate=0.0))


def test_rate_of_images_unlike_real_ones_is_a_hollow_bar():
    rows = pd.DataFrame({"layer": ["a", "b"], "knn_accuracy_activation": 0.5, "control_rate": [0.9, 0.9]})
    filled = area(picture(ranking_figure(rows)), "#c94b85")
    hollow = area(picture(ranking_figure(rows.assign(control_on_manifold=[0.1, 0.9]))), "#c94b85")
    assert 0.5 < hollow / filled < 0.65  # one bar, the outline of the other, the key
    assert area(picture(ranking_figure(rows.assign(control_on_manifold=[np.nan, 0.9]))), "#c94b85") == filled
    none = rows.assign(control_rate=0.0, control_on_manifold=[0.0, 0.9])  # a bar without length is marked, too
    assert ranking_figure(none) != ranking_figure(none.assign(control_on_manifold=[0.9, 0.0]))


def test_interval_and_best_group_are_drawn():
    rows = pd.DataFrame({"layer": ["a", "b"], "knn_accuracy_activation": 0.5, "control_rate": [0.6, 0.3]})
    ends = rows.assign(control_rate_low=[0.4, 0.2], control_rate_high=[0.8, 0.5])
    tables = (rows, ends, ends.assign(control_best=[True, None]))
    ink = [area(picture(ranking_figure(table)), "#1b1f24") for table in tables]
    assert ink[0] < ink[1] < ink[2]


DRAWINGS = [(maps_figure, {}), (ranking_figure, pd.DataFrame())]


@pytest.mark.parametrize(("draw", "nothing"), DRAWINGS)
def test_nothing_to_draw_is_said(draw, nothing):
    with pytest.raises(ShapeError, match="at least one"):
        draw(nothing)


def test_figures_leave_no_pyplot_behind():
    code = (
        "import sys, numpy as np\nfrom diffviews.processing.figures import map_figure\n"
        "map_figure(np.eye(2), [0, 1])\nassert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


SIGHT = {
    "normal": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}


def oklab(colour, sight):
    """Oklab of an sRGB colour seen with a colour deficiency (Machado et al. 2009, severity 1)."""
    values = rgb(colour) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    ) @ np.clip(SIGHT[sight] @ linear, 0, 1)
    return np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    ) @ np.cbrt(cones)


@pytest.mark.parametrize("sight", SIGHT)
def test_class_colours_are_told_apart_by_any_eyes(sight):
    seen = [oklab(colour, sight) for colour in CLASS_COLOURS]
    assert len(seen) >= 10
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 0.1


def lab(colour, sight):
    """CIELAB, D65, of an sRGB colour seen with a colour deficiency."""
    values = rgb(colour) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    )
    f = to_xyz @ np.clip(SIGHT[sight] @ linear, 0, 1) / to_xyz.sum(axis=1)
    f = np.where(f > 216 / 24389, np.cbrt(f), (24389 / 27 * f + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def ciede2000(first, second):
    """Colour difference of two CIELAB colours (Sharma, Wu and Dalal 2005)."""
    (l1, a1, b1), (l2, a2, b2) = first, second
    c7 = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    grown = 1.5 - 0.5 * np.sqrt(c7 / (c7 + 25**7))
    c1, c2 = np.hypot(a1 * grown, b1), np.hypot(a2 * grown, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a * grown)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180
    hue, chroma, light = (h1 + turn / 2) % 360, (c1 + c2) / 2, ((l1 + l2) / 2 - 50) ** 2
    waves = ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.2, 4, -63))
    t = 1 + sum(size * np.cos(np.radians(times * hue + shift)) for size, times, shift in waves)
    dl = (l2 - l1) / (1 + 0.015 * light / np.sqrt(20 + light))
    dc = (c2 - c1) / (1 + 0.045 * chroma)
    dh = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * chroma * t)
    rotated = np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2)))
    return np.sqrt(dl**2 + dc**2 + dh**2 - 2 * np.sqrt(chroma**7 / (chroma**7 + 25**7)) * np.sin(rotated) * dc * dh)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ],
)
def test_colour_difference_is_that_of_the_published_pairs(first, second, expected):
    assert ciede2000(first, second) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("sight", ["normal", "deuteranopia"])
def test_first_ten_class_colours_differ_by_15_in_ciede2000(sight):
    seen = [lab(colour, sight) for colour in class_colours(10)]
    assert min(ciede2000(a, b) for a, b in combinations(seen, 2)) >= 15


@pytest.mark.parametrize("page", ["light", "dark"])
def test_class_colours_are_seen_on_light_and_dark_pages(page):
    paper = lab({"light": "#ffffff", "dark": "#181c21"}[page], "normal")
    assert min(ciede2000(lab(colour, "normal"), paper) for colour in CLASS_COLOURS) >= 15


@pytest.mark.parametrize("count", [1, 10, 20, 200])
def test_every_class_has_a_colour(count):
    colours = class_colours(count)
    assert len(colours) == count
    assert len(set(colours)) >= min(count, 100)
