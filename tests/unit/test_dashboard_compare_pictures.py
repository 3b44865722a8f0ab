"""The compare view's moving picture, linked zoom, background work and similarity table, without a browser."""

import base64
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from dashboard_synthetic import SyntheticRuns
from scipy.spatial import procrustes

from diffviews.errors import CorruptDataError, DiffViewsError
from panel_app.compare import between as compare_between
from panel_app.compare.against import BETWEEN
from panel_app.compare.between import Moving, marks_of
from panel_app.compare.comparison import COMPARE
from panel_app.compare.view import CompareView
from panel_app.compare.zoom import around, is_same, part, shares
from panel_app.computing.background import Background
from panel_app.data import DataStore
from panel_app.library import LoggedRuns
from panel_app.map.embedding_map import EmbeddingMap
from panel_app.session import Session
from panel_app.state import Address, Selection
from panel_app.theme import NEIGHBOUR, SELECTED


@pytest.fixture(scope="module")
def store():
    return DataStore(SyntheticRuns(120))


@pytest.fixture
def page(store):
    session = Session(store)
    session.start(Address(view=COMPARE))
    view = CompareView(session, EmbeddingMap(session))
    finish(view.comparison)
    return view


def finish(comparison):
    deadline = time.monotonic() + 30
    while comparison.opening or comparison.measuring:
        assert time.monotonic() < deadline, "the comparison does not end"
        time.sleep(0.005)
        comparison._opener.follow()
        comparison._measurer.follow()


@pytest.fixture
def maps(page):
    return page.comparison.left.map, page.comparison.right.plain, page.comparison.pairing.sample_ids


# -- from one to the other -----------------------------------------------------------------


def places_on(layer_map, sample_ids):
    return np.array([layer_map.position(s) for s in sample_ids])


def test_moving_starts_on_the_left_map_and_ends_on_the_turned_right_one(maps):
    left, right, ids = maps
    moving = Moving.of(left, right, ids, "class")
    _, _, disparity = procrustes(places_on(left, ids), places_on(right, ids))
    assert 1 - moving.agreement**2 == pytest.approx(disparity)
    for own, layer_map in ((moving.left, left), (moving.right, right)):  # distances keep their ratios
        ours = np.linalg.norm(own[0] - own[1:], axis=1)
        theirs = np.linalg.norm((p := places_on(layer_map, ids))[0] - p[1:], axis=1)
        assert ours / theirs == pytest.approx(np.full(len(ours), ours[0] / theirs[0]), rel=1e-4)
    both = np.concatenate([moving.left, moving.right])
    assert both.min() >= -1e-9
    assert both.max() <= 1 + 1e-9
    assert np.ptp(both, axis=0) == pytest.approx(moving.span)


def test_moving_colours_are_those_of_the_left_map(maps):
    left, right, ids = maps
    for column in ("class", "distance_to_data"):
        moving, colouring = Moving.of(left, right, ids, column), left.colouring(column)
        sample = left.table[column].iloc[left.row_of[ids[7]]]
        expected = dict(zip(colouring.categories, colouring.colours, strict=False)).get(sample)
        expected = expected or colouring.colour_at(float(sample))
        got = "#" + "".join(f"{c:02x}" for c in moving.colours()[7])
        assert np.abs(np.array(_rgb(got)) - _rgb(expected)).max() <= 2


def _rgb(colour):
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def test_moving_picture_shows_a_sample_on_its_way(maps):
    left, right, ids = maps
    moving = Moving.of(left, right, ids, "class")
    lone = int(np.argmax(np.linalg.norm(moving.left - 0.5, axis=1)))
    for share in (0.0, 0.5, 1.0):
        pixels = moving.picture(share, 300, 200)
        assert pixels.shape == (200, 300, 4)
        x, y = (1 - share) * moving.left[lone] + share * moving.right[lone]
        scale = min(300 / moving.span[0], 200 / moving.span[1]) * 0.94
        column, row = round(150 + (x - 0.5) * scale), round(100 - (y - 0.5) * scale)
        assert pixels[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2, 3].max() > 150


def test_moving_picture_of_a_large_set_is_drawn_here_at_the_size_asked_for(page, monkeypatch):
    sent = []
    monkeypatch.setattr(compare_between, "MOST_LIVE", 50)
    page.comparison.set(tool=BETWEEN)
    stage = page.between.stage
    monkeypatch.setattr(stage, "_send_msg", sent.append)
    assert not stage.live
    assert stage.left == ""
    stage._handle_msg({"draw": 0.5, "width": 400, "height": 10**9})
    assert sent[0]["share"] == 0.5
    data = base64.b64decode(sent[0]["frame"].partition(",")[2])
    assert int.from_bytes(data[16:20], "big") == 400
    assert int.from_bytes(data[20:24], "big") <= 2400
    stage._handle_msg({"draw": "x", "width": None, "height": 1})
    assert len(sent) == 1


def test_moving_picture_sends_every_sample_and_a_click_selects_it(page):
    page.comparison.set(tool=BETWEEN)
    stage, moving = page.between.stage, page.between._moving[1]
    sent = np.frombuffer(base64.b64decode(stage.left), "<u2").reshape(-1, 2) / 65535
    assert sent == pytest.approx(moving.left.clip(0, 1), abs=1e-5)
    stage._handle_msg({"choose": 17})
    assert page.comparison.session.state.selection == Selection(moving.sample_ids[17])
    assert stage.marks[0]["left"] == moving.left[17].tolist()
    for wrong in (-1, 10**6, "x", None):
        stage._handle_msg({"choose": wrong})
    assert page.comparison.session.state.selection == Selection(moving.sample_ids[17])


def test_marks_ring_the_selected_its_neighbours_and_the_hovered(maps):
    moving = Moving.of(*maps, "class")
    ids = moving.sample_ids
    marks = marks_of(moving, Selection(ids[0], (ids[1],), (ids[2],)), ids[3])
    assert [m["colour"] for m in marks][:3] == [NEIGHBOUR, NEIGHBOUR, SELECTED]
    assert [m["right"] for m in marks] == [moving.right[i].tolist() for i in (1, 2, 0, 3)]
    assert marks_of(moving, Selection("not-there"), None) == []


# -- linked zoom ---------------------------------------------------------------------------


def test_shares_of_a_view_and_back_are_the_view():
    bounds, view = ((-2.0, 6.0), (10.0, 20.0)), ((0.0, 2.0), (12.0, 14.0))
    assert shares(view, bounds) == ((0.25, 0.5), (0.2, 0.4))
    assert np.array(part(shares(view, bounds), bounds)) == pytest.approx(np.array(view))
    assert around((1.0, 11.0), ((0.25, 0.5), (0.2, 0.4)), bounds) == ((0.0, 2.0), (10.0, 12.0))
    assert is_same(view, ((1e-9, 2.0), (12.0, 14.0)))
    assert not is_same(view, ((0.01, 2.0), (12.0, 14.0)))


def test_maps_zoom_together_only_where_it_is_asked_for(page):
    left, right = page.left, page.right
    bounds = left.session.map.bounds, right.session.map.bounds
    near = part(((0.2, 0.4), (0.5, 0.7)), bounds[0])
    left.look_at(*near)
    assert right.view is None
    page.comparison.set(together=True)
    assert np.array(shares(right.view, bounds[1])) == pytest.approx(np.array([[0.2, 0.4], [0.5, 0.7]]))
    right.look_at(*part(((0.0, 0.5), (0.0, 0.5)), bounds[1]))
    assert np.array(shares(left.view, bounds[0])) == pytest.approx(np.array([[0, 0.5], [0, 0.5]]))


def test_maps_follow_the_selected_sample(page):
    page.comparison.set(follow=True)
    page.comparison.left.click("digits-0040")
    for drawing in (page.left, page.right):
        middle = [(low + high) / 2 for low, high in drawing.view]
        assert middle == pytest.approx(drawing.session.map.position("digits-0040"))
    bounds = page.left.session.map.bounds
    page.left.look_at(*part(((0.1, 0.2), (0.1, 0.3)), bounds))
    (x0, x1), (y0, y1) = shares(page.right.view, page.right.session.map.bounds)
    assert (x1 - x0, y1 - y0) == pytest.approx((0.1, 0.2))
    middle = [(low + high) / 2 for low, high in page.right.view]
    assert middle == pytest.approx(page.right.session.map.position("digits-0040"))


def test_pointing_at_a_sample_of_one_map_rings_it_on_the_other(page):
    page.comparison.left.state.hovered = "digits-0033"
    ring = page.right.figure._sources["hover"].data
    assert (ring["x"][0], ring["y"][0]) == pytest.approx(page.right.session.map.position("digits-0033"))
    page.comparison.left.state.hovered = None
    assert page.right.figure._sources["hover"].data["x"] == []


# -- work beside the page --------------------------------------------------------------------


def follow_until_idle(background):
    deadline = time.monotonic() + 20
    while background.busy:
        assert time.monotonic() < deadline
        background.follow()
        time.sleep(0.002)


def test_background_hands_over_only_the_newest_and_drops_what_waits():
    done, gate, failed = [], threading.Event(), []
    background = Background(failed.append)
    background.start(lambda: (gate.wait(10), "first")[1], done.append)
    background.start(lambda: done.append("never"), done.append)
    background.start(lambda: "last", done.append)
    assert background.busy
    gate.set()
    follow_until_idle(background)
    assert done == ["last"]
    assert failed == []


def test_background_failures_are_sentences():
    failed = []
    background = Background(failed.append)

    def raise_own():
        raise DiffViewsError("the maps share 2 samples")

    for work in (raise_own, lambda: 1 / 0):
        background.start(work, failed.append)
        follow_until_idle(background)
    assert failed[0] == "the maps share 2 samples"
    assert failed[1] == "This did not work: division by zero. The server's log has the details."


# -- the logged similarity -------------------------------------------------------------------


def library_over(folder):
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    artifacts = SimpleNamespace(names=lambda: names, path=lambda name: folder / name)
    return LoggedRuns(SimpleNamespace(catalog=SimpleNamespace(artifacts=lambda run: artifacts)))


def test_similarity_is_read_from_the_table_of_its_noise_level(tmp_path):
    (tmp_path / "cka").mkdir()
    (tmp_path / "cka" / "0.5.csv").write_text("layer,enc,mid\nenc,1.0,0.25\nmid,0.25,1.0\n")
    library = library_over(tmp_path)
    table = library.similarity("run", 0.5)
    assert list(table.index) == list(table.columns) == ["enc", "mid"]
    assert table.loc["enc", "mid"] == 0.25
    assert library.similarity("run", 2.0) is None


@pytest.mark.parametrize(
    "text", ["layer,enc,mid\nenc,1.0,x\nmid,0.2,1.0\n", "layer,enc,mid\nmid,1.0,0.2\nenc,0.2,1.0\n", ""]
)
def test_damaged_similarity_is_named(tmp_path, text):
    (tmp_path / "cka").mkdir()
    (tmp_path / "cka" / "2.csv").write_text(text)
    with pytest.raises(CorruptDataError, match=r"2\.csv"):
        library_over(tmp_path).similarity("run", 2.0)
