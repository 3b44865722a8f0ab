"""The map for print: its size, its dots and pictures to the pixel, what is cut off at its edge, and words as words."""

import io
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from dashboard_synthetic import SyntheticRunner, SyntheticRuns
from PIL import Image

from diffviews.errors import ConfigError
from panel_app.computing.job_bar import SessionJobs
from panel_app.dashboard import Dashboard
from panel_app.data import DataStore
from panel_app.export.figure import figure_png, figure_svg, map_figure, view_of
from panel_app.filter import Filter
from panel_app.map.labels import MapLabel
from panel_app.map.overlays import DrawnPath
from panel_app.theme import NEIGHBOUR, SELECTED

HOSTILE = '<script>alert(1)</script> "onload=x & \x00 $\\frac'


@pytest.fixture(scope="module")
def seen():
    """The whole map with a selected sample and five neighbours."""
    runs = SyntheticRuns(120)
    page = Dashboard(DataStore(runs), SyntheticRunner(runs), SessionJobs())
    page.open({"sample": "digits-0003"})
    page.session.suggest()
    return view_of(page.session, page.drawing)


def around(seen, sample_id, share):
    """The same view, of a part of the map around one sample."""
    middle = seen.map.position(sample_id)
    half = [share * (high - low) / 2 for low, high in seen.view]
    return replace(seen, view=tuple((m - h, m + h) for m, h in zip(middle, half, strict=True)))


def pixels_of(seen, dpi=100):
    return np.asarray(Image.open(io.BytesIO(figure_png(seen, dpi=dpi))).convert("RGB")).astype(int)


def close_to(pixels, colour):
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.abs(pixels - wanted) < 12).all(axis=-1)


def test_png_has_the_size_and_resolution_asked_for(seen):
    picture = Image.open(io.BytesIO(figure_png(seen, width=50.8, dpi=300)))
    assert picture.width == 600
    assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    with pytest.raises(ConfigError, match="not possible"):
        figure_png(seen, dpi=100_000)


def test_rings_lie_around_their_samples_and_are_cut_off_at_the_edge_of_the_map(seen):
    alone = replace(seen, labels=False, pictures=False)
    pixels = pixels_of(alone)
    axes = map_figure(alone, dpi=100).axes[1]
    column, row = axes.transData.transform(seen.map.position("digits-0003"))
    rows, columns = np.nonzero(close_to(pixels, SELECTED))
    assert (rows.mean(), columns.mean()) == pytest.approx((len(pixels) - row, column), abs=1.5)
    assert close_to(pixels, NEIGHBOUR).sum() > 50
    x, _ = seen.map.position("digits-0003")
    half = around(alone, "digits-0003", 0.2)
    at_edge = replace(half, view=((x, x + half.view[0][1] - half.view[0][0]), half.view[1]))
    left = axes.bbox.x0
    assert np.nonzero(close_to(pixels_of(at_edge), SELECTED))[1].min() >= left - 1


def test_filter_keeps_dots_and_fades_the_rings_of_what_it_hides(seen):
    everything = replace(seen, labels=False)
    some = replace(everything, filter=Filter().with_values("class", ["3: three"]))
    assert close_to(pixels_of(some), NEIGHBOUR).sum() < close_to(pixels_of(everything), NEIGHBOUR).sum()
    assert "13 of 120 shown, coloured by class" in some.about


def test_pictures_stand_in_the_place_of_few_dots_to_the_pixel(seen):
    near = around(replace(seen, labels=False), "digits-0003", 0.12)
    figure = map_figure(near, dpi=100)
    pixels, (_, picture, *others) = pixels_of(near), figure.axes[1].get_images()
    assert not others or len(others) < 40
    x0, x1, y0, y1 = picture.get_extent()
    row = next(r for r in seen.map.row_of.values() if np.allclose(
        seen.map.table[["x", "y"]].iloc[r], ((x0 + x1) / 2, (y0 + y1) / 2)))  # fmt: skip
    image = seen.map.samples.images_of([seen.map.sample_at(row)])[0]
    (left, bottom), (right, top) = figure.axes[1].transData.transform([(x0, y0), (x1, y1)])
    for i, j in ((2, 2), (7, 9), (12, 5)):
        place = len(pixels) - top + (i + 0.5) / 16 * (top - bottom), left + (j + 0.5) / 16 * (right - left)
        assert (pixels[int(place[0]), int(place[1])] == image[i, j]).all()


def test_path_and_its_marked_step_are_drawn_over_fainter_dots(seen):
    (x0, x1), (y0, y1) = seen.view
    path = DrawnPath((x0 * 0.6 + x1 * 0.4, x1 * 0.6 + x0 * 0.4), ((y0 + y1) / 2,) * 2, (80.0, 0.5), (1.0, 1.0))
    pixels = pixels_of(replace(seen, paths=(path,), step=1))
    assert close_to(pixels, path.colour).sum() > 200
    svg = figure_svg(replace(seen, paths=(path,), step=1)).decode()
    assert ">σ 80<" in svg
    assert ">σ 0.5<" in svg


def test_svg_holds_words_and_shapes_as_such_and_nothing_from_elsewhere(seen, monkeypatch):
    middle = [sum(span) / 2 for span in seen.view]
    monkeypatch.setattr("panel_app.export.figure.labels_of", lambda *_: (MapLabel(*middle, HOSTILE, 1.0),))
    root = ElementTree.fromstring(figure_svg(replace(seen, pictures=False)))
    elements = [(element.tag.partition("}")[2], element) for element in root.iter()]
    assert {"path", "use", "text", "image"} <= {tag for tag, _ in elements}
    assert "script" not in {tag for tag, _ in elements}
    words = [element.text for tag, element in elements if tag == "text"]
    assert HOSTILE.replace("\x00", "\ufffd") in words
    assert seen.title in words
    rings = [element.get("style", "") for _, element in elements]
    assert sum(f"stroke: {SELECTED}" in ring for ring in rings) == 1
    assert sum(f"stroke: {NEIGHBOUR}" in ring for ring in rings) == 5
    links = [v for _, element in elements for k, v in element.attrib.items() if k.endswith("href")]
    assert {link.partition(",")[0] for link in links if not link.startswith("#")} == {"data:image/png;base64"}
