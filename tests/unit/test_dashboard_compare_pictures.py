"""The compare view's moving picture, linked zoom, background work and similarity table, without a browser."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from dashboard_synthetic import SyntheticRuns
from scipy.spatial import procrustes

from diffviews.errors import CorruptDataError, DiffViewsError
from diffviews.processing.similarity import Similarity
from panel_app.compare.view import CompareView
from panel_app.compare.zoom import around, is_same, part, shares
from panel_app.computing.background import Background
from panel_app.data import DataStore
from panel_app.library import LoggedRuns
from panel_app.map.embedding_map import EmbeddingMap
from panel_app.places import BETWEEN, COMPARE
from panel_app.scenes import scene as scene_module
from panel_app.scenes.scene import Scene
from panel_app.session import Session
from panel_app.state import Address, Selection


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


def test_scene_starts_on_the_left_map_and_ends_on_the_turned_right_one(maps):
    left, right, ids = maps
    scene, agreement = Scene.from_one_to_the_other(left, right, ids)
    _, _, disparity = procrustes(places_on(left, ids), places_on(right, ids))
    assert 1 - agreement**2 == pytest.approx(disparity)
    assert [at for _, at in scene.levels] == [-1.0, 0.0]
    for own, layer_map, (label, _) in zip(scene.positions, (right, left), scene.levels, strict=True):
        assert label == f"{layer_map.layer.layer} at σ {layer_map.layer.sigma:g}"
        ours = np.linalg.norm(own[0] - own[1:], axis=1)  # distances keep their ratios
        theirs = np.linalg.norm((p := places_on(layer_map, ids))[0] - p[1:], axis=1)
        assert ours / theirs == pytest.approx(np.full(len(ours), ours[0] / theirs[0]), rel=1e-3)


def test_scene_sends_every_sample_in_the_colours_of_the_left_map_and_a_click_selects_it(page, maps):
    left, _, ids = maps
    page.comparison.set(tool=BETWEEN)
    cloud, scene = page.between.pane.cloud, page.between.pane.scene
    assert scene.sample_ids == ids
    sent = np.frombuffer(cloud.positions, np.float32).reshape(2, -1, 2)
    assert (sent == scene.positions).all()
    colours = np.frombuffer(cloud.colours, np.uint8).reshape(-1, 4)
    colouring = left.colouring("class")
    key = dict(zip(colouring.categories, colouring.colours, strict=True))
    assert "#" + colours[17, :3].tobytes().hex() == key[left.text_of(ids[17])]
    cloud._handle_msg({"click": 17, "of": cloud.key})
    assert page.comparison.session.state.selection == Selection(ids[17])
    assert cloud.marks == [{"index": 17, "kind": "selected"}]
    for wrong in (-1, 10**6, "x", None):
        cloud._handle_msg({"click": wrong, "of": cloud.key})
    assert page.comparison.session.state.selection == Selection(ids[17])


def test_scene_stands_where_the_address_says_and_notes_where_it_is_moved(page):
    page.comparison.set(tool=BETWEEN, share=0.25)
    cloud = page.between.pane.cloud
    assert cloud.at == -0.25
    cloud._handle_msg({"at": -0.5, "of": cloud.key})
    assert page.comparison.against.share == 0.5
    cloud._handle_msg({"at": 7, "of": cloud.key})
    assert page.comparison.against.share == 0


def test_scene_of_a_large_set_is_of_samples_chosen_evenly_and_says_so(page, monkeypatch):
    monkeypatch.setattr(scene_module, "MOST_PLACES", 100)
    page.comparison.set(tool=BETWEEN)
    assert page.between.pane.scene.positions.shape == (2, 40, 2)
    assert "40 of 120 samples are drawn" in page.between.summary.object


def test_scene_rings_what_is_pointed_at_on_a_map_and_not_twice_what_is_pointed_at_here(page, maps):
    page.comparison.set(tool=BETWEEN)
    cloud, ids = page.between.pane.cloud, maps[2]
    page.comparison.left.state.hovered = ids[3]
    assert cloud.marks == [{"index": 3, "kind": "hovered"}]
    page.comparison.left.state.hovered = None
    assert cloud.marks == []
    cloud._handle_msg({"hover": 5, "slice": 1, "of": cloud.key})
    assert page.comparison.session.state.hovered == ids[5]
    assert cloud.marks == []


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


def test_similarity_of_an_earlier_version_is_read_and_known_as_biased(tmp_path):
    (tmp_path / "cka").mkdir()
    (tmp_path / "cka" / "0.5.csv").write_text("layer,enc,mid\nenc,1.0,0.25\nmid,0.25,1.0\n")
    library = library_over(tmp_path)
    similarity = library.similarity("run", 0.5)
    assert not similarity.debiased
    assert similarity.names == ("enc", "mid")
    assert similarity.frame().loc["enc", "mid"] == 0.25
    assert similarity.frame("rsa").isna().all(axis=None)
    assert library.similarity("run", 2.0) is None


def test_similarity_is_read_from_the_table_of_all_measures_where_there_is_one(tmp_path):
    square = np.array([[1, -0.01], [-0.01, 1]])
    written = Similarity(("enc", "mid"), square, square / 2, square / 3, square / 4 + 0.01)
    for folder, table in (("similarity", written.table()), ("cka", written.frame())):
        (tmp_path / folder).mkdir()
        table.to_csv(tmp_path / folder / "2.csv", index=folder == "cka")
    read = library_over(tmp_path).similarity("run", 2.0)
    assert read.debiased
    assert read.frame("p_value").loc["enc", "mid"] == pytest.approx(0.0075)
    (tmp_path / "similarity" / "2.csv").write_text("left,right\nenc,mid\n")
    with pytest.raises(CorruptDataError, match=r"2\.csv.*lacks"):
        library_over(tmp_path).similarity("run", 2.0)


@pytest.mark.parametrize(
    "text", ["layer,enc,mid\nenc,1.0,x\nmid,0.2,1.0\n", "layer,enc,mid\nmid,1.0,0.2\nenc,0.2,1.0\n", ""]
)
def test_damaged_similarity_is_named(tmp_path, text):
    (tmp_path / "cka").mkdir()
    (tmp_path / "cka" / "2.csv").write_text(text)
    with pytest.raises(CorruptDataError, match=r"2\.csv"):
        library_over(tmp_path).similarity("run", 2.0)
