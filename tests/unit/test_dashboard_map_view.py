"""What the map shows beside its dots: marks, highlight, names, pictures; and what its keys do."""

import base64
import io
import time

import numpy as np
import pandas as pd
import pytest
from dashboard_synthetic import SyntheticRuns
from PIL import Image

from diffviews.errors import CorruptDataError
from panel_app.data import DataStore
from panel_app.filter import Filter
from panel_app.map.embedding_map import EmbeddingMap
from panel_app.map.labels import MapLabel, category_labels, fitting, word_labels
from panel_app.map.legend import MapLegend
from panel_app.map.overlays import LIGHT, Emphasis, emphasis_of, emphasised, ring_columns
from panel_app.map.thumbnails import MOST, addresses, colours_of, thumbnails_in
from panel_app.map.tools import count_sentence
from panel_app.point_grid import PointGrid
from panel_app.raster import Colouring, Points, Window, over
from panel_app.session import Session
from panel_app.state import Address, Group, Selection

COUNT = 400
"""Enough that the points are sorted by place: their order differs from the table's."""


@pytest.fixture(scope="module")
def store():
    return DataStore(SyntheticRuns(COUNT))


@pytest.fixture
def session(store):
    session = Session(store)
    session.start(Address())
    return session


@pytest.fixture
def drawing(session):
    return EmbeddingMap(session)


@pytest.fixture
def layer_map(session):
    return session.map


def at_place_of(layer_map, sample_id):
    """The windows and pixel in the middle of which a sample lies."""
    x, y = layer_map.position(sample_id)
    return Window((x - 1, x + 1), (y - 1, y + 1), 41, 41)


# -- marks and highlight ---------------------------------------------------------------


def test_lasso_marks_only_the_samples_shown(drawing, session, layer_map):
    wanted = layer_map.text_of("digits-0003")
    session.state.filter = Filter().with_values("class", (wanted,))
    (x0, x1), (y0, y1) = layer_map.bounds
    drawing.hand.mark_outline(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]))
    shown = layer_map.shown(session.state.filter)["sample_id"]
    assert set(session.state.group.sample_ids) == set(shown)
    assert 0 < len(shown) < COUNT


def test_box_with_keys_adds_and_removes(drawing, session, layer_map):
    (x0, x1), (y0, y1) = layer_map.bounds
    middle = float(layer_map.table["x"].median())
    left = {s for s in layer_map.row_of if layer_map.position(s)[0] <= middle}
    drawing.hand.mark_box((x0, y0, middle, y1))
    assert set(session.state.group.sample_ids) == left
    drawing.hand.on_message({"shift": True, "alt": False})
    drawing.hand.mark_box((middle, y0, x1, y1))
    assert set(session.state.group.sample_ids) == set(layer_map.row_of)
    drawing.hand.on_message({"shift": False, "alt": True})
    drawing.hand.mark_box((x0, y0, middle, y1))
    assert set(session.state.group.sample_ids) == set(layer_map.row_of) - left
    assert f"{COUNT - len(left)} marked" in drawing.tools._marks.object


def test_marks_hidden_by_a_filter_are_told(layer_map):
    ids = tuple(layer_map.row_of)
    wanted = Filter().with_values("class", (layer_map.text_of(ids[0]),))
    hidden = COUNT - layer_map.count_shown(wanted)
    assert count_sentence(layer_map, Group(ids), wanted) == f"{COUNT} marked, {hidden} of them hidden by the filter"
    assert count_sentence(layer_map, Group(ids), Filter()) == f"{COUNT} marked"


def test_marked_points_stay_strong_with_an_outline_and_others_fade(session, layer_map):
    session.state.group = Group(("digits-0003",))
    colouring = layer_map.colouring("class")
    for sample_id, is_marked in (("digits-0003", True), ("digits-0100", False)):
        window = at_place_of(layer_map, sample_id)
        base = layer_map.picture(window, "class", radius=4)
        drawn = emphasised(
            base, emphasis_of(layer_map, session.state), window, colouring, radius=4, ink="#000000", scale=1
        )
        before, after = base[20, 20], drawn[20, 20]
        if is_marked:
            assert np.abs(after.astype(int) - before).max() < 30
            assert drawn[20, 26, 3] > 150
            assert drawn[20, 26, :3].max() < 60
        else:
            assert 0 < after[3] < before[3] / 3


def test_marked_samples_of_a_joint_map_are_brought_forward_at_every_noise_level(store, layer_map):
    twice = pd.concat([layer_map.table, layer_map.table], ignore_index=True)
    twice["sigma"] = pd.Categorical(["σ 0.5"] * COUNT + ["σ 2"] * COUNT)
    joint = type(layer_map)(None, "joint", twice, layer_map.row_of, layer_map.samples, None, {})
    rows = joint.rows_of(["digits-0007"])
    assert len(rows) == 2
    assert set(twice["sample_id"].iloc[rows]) == {"digits-0007"}
    assert joint.samples_at(rows) == ("digits-0007",)


def test_highlight_brings_one_category_forward(session, layer_map):
    name = layer_map.text_of("digits-0003")
    session.state.highlight = name
    points = emphasis_of(layer_map, session.state).highlighted
    assert set(layer_map.table["sample_id"].iloc[points.grid.rows]) == {
        s for s in layer_map.row_of if layer_map.text_of(s) == name
    }
    session.state.highlight = "no such class"
    assert not emphasis_of(layer_map, session.state)


def test_picture_over_another_hides_it_where_it_is_opaque():
    above, below = np.zeros((1, 2, 4), np.uint8), np.zeros((1, 2, 4), np.uint8)
    above[0, 0] = (255, 0, 0, 255)
    below[...] = (0, 0, 255, 200)
    laid = over(above, below, faded=0.5)
    assert laid[0, 0].tolist() == [255, 0, 0, 255]
    assert laid[0, 1].tolist() == [0, 0, 255, 100]


def test_shared_picture_is_drawn_once_and_never_changed(session, layer_map):
    window = at_place_of(layer_map, "digits-0003")
    base = layer_map.picture(window, "class", radius=3.0)
    before = base.copy()
    emphasised(base, Emphasis(), window, layer_map.colouring("class"), radius=3, ink="#000000", scale=1)
    session.state.group = Group(("digits-0003",))
    emphasised(
        base,
        emphasis_of(layer_map, session.state),
        window,
        layer_map.colouring("class"),
        radius=3,
        ink="#000000",
        scale=1,
    )
    assert layer_map.picture(window, "class", radius=3.0) is base
    assert (base == before).all()


def test_rings_of_hidden_samples_are_faint(layer_map):
    own = layer_map.text_of("digits-0001")
    other = next(s for s in layer_map.row_of if layer_map.text_of(s) != own)
    rings = ring_columns(
        layer_map, Selection("digits-0001", (other,)), 4.0, LIGHT, Filter().with_values("class", (own,))
    )
    alphas = dict(zip([other, "digits-0001"], rings["alpha"], strict=True))
    assert alphas["digits-0001"] == 1
    assert alphas[other] < 0.5


# -- legend ----------------------------------------------------------------------------


def test_first_click_highlights_second_filters_third_shows_all(session):
    legend, state = MapLegend(session), session.state
    legend._toggle({"toggle": "3: three"})
    assert (state.highlight, bool(state.filter)) == ("3: three", False)
    assert [e["name"] for e in legend.key.entries if e["lit"]] == ["3: three"]
    legend._toggle({"toggle": "3: three"})
    assert (state.highlight, state.filter.values_of("class")) == (None, ("3: three",))
    legend._toggle({"toggle": "3: three"})
    assert not state.filter


def test_legend_counts_what_is_shown(session, layer_map):
    legend = MapLegend(session)
    session.state.filter = Filter().with_range(
        "distance_to_data", (0.0, float(layer_map.table["distance_to_data"].median()))
    )
    shown = layer_map.shown(session.state.filter)["class"].value_counts()
    assert {e["name"]: e["count"] for e in legend.key.entries} == shown.to_dict()
    assert f"{shown.sum()} of {COUNT} shown" in legend.caption.object


def test_other_colours_end_the_highlight_and_hidden_rings_are_told(session, layer_map):
    legend = MapLegend(session)
    session.state.highlight = "3: three"
    session.state.colour_by = "distance_to_data"
    assert session.state.highlight is None
    session.click("digits-0001")
    own = layer_map.text_of("digits-0001")
    session.state.filter = Filter().with_values("class", tuple(c for c in layer_map.categories_of("class") if c != own))
    assert "1 ringed hidden" in legend.caption.object


# -- names -----------------------------------------------------------------------------


def clouds(*centres, count=300):
    rng = np.random.default_rng(0)
    places = np.concatenate([rng.normal(centre, 0.3, (count, 2)) for centre in centres])
    return PointGrid.of(places[:, 0], places[:, 1]), np.repeat(np.arange(len(centres)), count)


def test_class_is_named_where_it_is_densest():
    grid, codes = clouds((0, 0), (10, 4))
    labels = category_labels(Points(grid, codes[grid.rows]), ("0: zero", "tench"))
    places = {label.text: (label.x, label.y) for label in labels}
    assert places["zero"] == pytest.approx((0, 0), abs=0.4)
    assert places["tench"] == pytest.approx((10, 4), abs=0.4)


def test_class_that_is_nowhere_in_the_majority_is_not_named():
    grid, codes = clouds((0, 0), (10, 4))
    lost = np.where(np.arange(len(codes)) % 4 == 0, 2, codes)
    labels = category_labels(Points(grid, lost[grid.rows]), ("a", "b", "everywhere"))
    assert {label.text for label in labels} == {"a", "b"}


def test_prompts_are_named_by_the_words_that_tell_them_apart():
    grid, codes = clouds((0, 0), (10, 4))
    prompts = pd.Series([f"a photo of a {('red fox', 'blue whale')[code]}" for code in codes])
    words = {label.text: label.x for label in word_labels(grid, prompts)}
    assert words == {"fox red": pytest.approx(0, abs=0.5), "blue whale": pytest.approx(10, abs=0.5)}


def test_names_do_not_overlap_and_the_heavier_stays():
    view, pixels = ((0.0, 100.0), (0.0, 100.0)), (100.0, 100.0)
    labels = [
        MapLabel(50, 50, "light", 1),
        MapLabel(52, 51, "heavy", 9),
        MapLabel(50, 90, "far", 1),
        MapLabel(200, 50, "out", 5),
    ]
    assert {label.text for label in fitting(labels, view, pixels)} == {"heavy", "far"}


# -- pictures --------------------------------------------------------------------------


def test_pictures_take_the_dots_place_only_where_few_are_in_view(layer_map):
    assert thumbnails_in(layer_map.grid, layer_map.bounds, (800, 500), most=50).rows == ()
    x, y = layer_map.position("digits-0010")
    near = thumbnails_in(layer_map.grid, ((x - 2, x + 2), (y - 2, y + 2)), (800, 500))
    assert 0 < len(near.rows) <= MOST
    assert layer_map.row_of["digits-0010"] in near.rows or len(near.rows) > 1


def test_all_of_a_small_map_is_not_near_and_its_pictures_come_when_zoomed_in(drawing, session, layer_map):
    session.state.filter = Filter().with_values("class", (layer_map.text_of("digits-0003"),))
    decoration, size = drawing.decoration, (800, 500)
    decoration.show(layer_map, layer_map.bounds, size, LIGHT)
    assert decoration.thumbnails.rows == ()
    x, y = layer_map.position("digits-0003")
    (x0, x1), (y0, y1) = layer_map.bounds
    view = (x - (x1 - x0) / 4, x + (x1 - x0) / 4), (y - (y1 - y0) / 4, y + (y1 - y0) / 4)
    decoration.show(layer_map, view, size, LIGHT)
    assert len(decoration.thumbnails.rows) > 0
    decoration.show(layer_map, view, size, LIGHT, pictures=False)
    assert decoration.thumbnails.rows == ()


def test_pictures_keep_apart_and_come_in_one_order(layer_map):
    pixels = (800.0, 500.0)
    found = thumbnails_in(layer_map.grid, layer_map.bounds, pixels, most=COUNT)
    spans = [high - low for low, high in layer_map.bounds]
    places = layer_map.table[["x", "y"]].iloc[list(found.rows)].to_numpy() / spans * pixels
    gaps = np.abs(places[:, None] - places[None]).max(axis=-1) + 1e9 * np.eye(len(places))
    assert len(places) > 10
    assert gaps.min() >= 0.9 * found.side
    assert thumbnails_in(layer_map.grid, layer_map.bounds, pixels, most=COUNT) == found


def test_pictures_belong_to_their_samples_pixel_by_pixel(layer_map):
    ids = ["digits-0042", "digits-0007"]
    for sample_id, address in zip(ids, addresses(layer_map, ids), strict=True):
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB"))
        own = layer_map.samples.images_of([sample_id])[0]
        times = image.shape[0] // own.shape[0]
        assert times >= 2
        assert (image == own.repeat(times, 0).repeat(times, 1)).all()


def test_frames_have_the_colours_of_their_points(layer_map):
    row = layer_map.row_of["digits-0003"]
    colouring = layer_map.colouring("class")
    assert colours_of(layer_map, [row], colouring) == [
        colouring.colours[colouring.categories.index(layer_map.text_of("digits-0003"))]
    ]
    ramp = Colouring("distance_to_data", ("#000000", "#ffffff"), low=0, high=1)
    assert ramp.rgb(np.array([0.0, 9.0])).tolist() == [[0, 0, 0], [255, 255, 255]]


def test_pictures_that_cannot_be_read_are_told(drawing, session, layer_map, monkeypatch):
    def lost(samples, sample_ids):
        raise CorruptDataError(f"the picture of {sample_ids[0]} is gone; extract again")

    monkeypatch.setattr(type(layer_map.samples), "thumbnails_of", lost)
    x, y = layer_map.position("digits-0003")
    drawing.pointed(x, y)
    assert session.notice.text == "the picture of digits-0003 is gone; extract again"
    assert session.state.hovered == "digits-0003"
    session.notice = None
    drawing.decoration.show(layer_map, ((x - 2, x + 2), (y - 2, y + 2)), (800, 500), LIGHT)
    deadline = time.monotonic() + 10
    while session.notice is None and time.monotonic() < deadline:
        drawing.decoration.reading.follow()
        time.sleep(0.01)
    assert session.notice.text.endswith("is gone; extract again")


# -- keys ------------------------------------------------------------------------------


def test_escape_clears_help_then_marks_then_the_selection(drawing, session):
    session.click("digits-0003")
    session.state.group = Group(("digits-0004",))
    drawing.hand.on_message({"key": "?"})
    assert drawing.tools.keys.visible
    drawing.hand.on_message({"key": "Escape"})
    assert not drawing.tools.keys.visible
    assert len(session.state.group) == 1
    drawing.hand.on_message({"key": "Escape"})
    assert len(session.state.group) == 0
    assert session.state.selection.sample_id == "digits-0003"
    drawing.hand.on_message({"key": "Escape"})
    assert session.state.selection.sample_id is None


def test_keys_zoom_move_and_suggest(drawing, session, layer_map):
    seen = []
    drawing.plot.range.add_subscriber(lambda x_range, y_range: seen.append((x_range, y_range)))
    (x0, x1), _ = layer_map.bounds
    for key in ("+", "ArrowRight", "0"):
        drawing.hand.on_message({"key": key})
    (near, _), (moved, _), (whole, _) = seen
    assert near[1] - near[0] == pytest.approx(0.65 * (x1 - x0))
    assert moved[0] > x0
    assert whole == (x0, x1)
    session.click("digits-0003")
    drawing.hand.on_message({"key": "s"})
    assert len(session.state.selection.suggested) == session.state.k
    drawing.hand.on_message({"key": "no such key"})
