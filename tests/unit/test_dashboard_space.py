"""Scenes: the same samples in several places, with the map's colours, and back from an index to its sample."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from dashboard_synthetic import SIGMAS, SyntheticRuns

from diffviews.errors import ConfigError, SelectionError
from panel_app.data import DataStore
from panel_app.filter import SHOW_ALL, Filter
from panel_app.scenes import scene as space_scene
from panel_app.scenes.cloud import CloudPane, PointCloud
from panel_app.scenes.scene import Scene, rgb_of
from panel_app.session import Session
from panel_app.state import Address, Group, Selection


class ShuffledRuns(SyntheticRuns):
    """Each slice has its rows in an order of its own: only ids say which sample a row is."""

    def points(self, map_run, slice_sigma=None):
        table = super().points(map_run, slice_sigma)
        return table if slice_sigma is None else table.sample(frac=1, random_state=int(10 * slice_sigma))


@pytest.fixture
def runs():
    made = ShuffledRuns(60)
    aligned = SimpleNamespace(run_id="aligned", source_run="ext-1/midblock/0.5", params={"map": "aligned"})
    solid = SimpleNamespace(run_id="solid", source_run="ext-1/midblock/2.0", params={"n_components": "3"})
    made.added_maps = [aligned, solid]
    return made


@pytest.fixture
def session(runs):
    made = Session(DataStore(runs))
    made.start(Address(layer="midblock", sigma=2.0))
    return made


@pytest.fixture
def scene(session):
    layers = [session.store.layer_run("ext-1", "midblock", sigma) for sigma in reversed(SIGMAS)]
    return Scene.of_slices("aligned", session.store.slices("aligned", layers))


def test_scene_of_slices_ascends_and_holds_each_sample_at_one_index(scene):
    assert scene.sigmas == SIGMAS
    assert scene.positions.shape == (2, 60, 2)
    for layer_map, rows, places in zip(scene.maps, scene.rows, scene.positions, strict=True):
        assert tuple(layer_map.sample_at(int(row)) for row in rows) == scene.sample_ids
        for index in (0, 17, 59):
            assert layer_map.position(scene.sample_ids[index]) == pytest.approx(tuple(places[index]))


def test_levels_lie_on_a_logarithmic_scale_with_short_texts(scene):
    assert [label for label, _ in scene.levels] == ["σ 0.5", "σ 2"]
    assert [at for _, at in scene.levels] == pytest.approx(np.log(SIGMAS))


def test_sample_that_a_slice_lacks_is_left_out_of_all(session, runs, monkeypatch):
    whole = runs.points

    def without_one(run, sigma=None):
        table = whole(run, sigma)
        return table[table["sample_id"] != "digits-0003"] if sigma == 0.5 else table

    monkeypatch.setattr(runs, "points", without_one)
    layers = [session.store.layer_run("ext-1", "midblock", sigma) for sigma in SIGMAS]
    scene = Scene.of_slices("aligned", session.store.slices("aligned", layers))
    assert "digits-0003" not in scene.sample_ids
    assert len(scene.sample_ids) == scene.total == 59
    assert scene.maps[1].sample_at(int(scene.rows[1, 10])) == scene.sample_ids[10]


def test_scene_in_space_needs_three_dimensions(session):
    with pytest.raises(ConfigError, match="two dimensions"):
        Scene.of_solid(session.map)
    solid = Scene.of_solid(session.store.open(session.map.layer, "solid"))
    assert solid.positions.shape == (1, 60, 3)


def test_one_slice_is_no_aligned_map(scene):
    with pytest.raises(ConfigError, match="not 1"):
        Scene.of_slices("aligned", scene.maps[:1])


def test_large_maps_are_thinned_evenly_and_say_so(scene, monkeypatch):
    monkeypatch.setattr(space_scene, "MOST_PLACES", 50)
    thinned = Scene.of_slices("aligned", scene.maps)
    assert thinned.sample_ids == scene.sample_ids[::3]
    assert thinned.positions.shape == (2, 20, 2)
    assert thinned.total == 60


def reordered(layer_map):
    """The same map with its rows in another order, as another run may have them."""
    table = layer_map.table.iloc[::-1].reset_index(drop=True)
    return replace(layer_map, table=table, row_of={s: row for row, s in enumerate(table["sample_id"])})


def test_colours_are_those_of_the_map_and_the_filter_hides(scene, session):
    layer_map = reordered(session.map)
    colouring = layer_map.colouring("class")
    wanted = Filter().with_values("class", ("3: three",))
    colours = scene.colours(layer_map, "class", wanted)
    for index, sample_id in enumerate(scene.sample_ids):
        text = layer_map.text_of(sample_id)
        colour = colouring.colours[colouring.categories.index(text)]
        assert "#" + bytes(colours[index, :3]).hex() == colour
        assert (colours[index, 3] > 0) == (text == "3: three")
    assert (scene.colours(layer_map, "class", SHOW_ALL)[:, 3] == 255).all()


def test_highlighted_category_keeps_its_colour_and_others_are_faint(scene, session):
    layer_map = reordered(session.map)
    colours = scene.colours(layer_map, "class", SHOW_ALL, "3: three")
    for index, sample_id in enumerate(scene.sample_ids):
        assert colours[index, 3] == (255 if layer_map.text_of(sample_id) == "3: three" else space_scene.FAINT)


def test_numbers_are_coloured_along_the_maps_own_scale(scene, session):
    layer_map = session.map
    colouring = layer_map.colouring("distance_to_data")
    colours = scene.colours(layer_map, "distance_to_data", SHOW_ALL)
    values = [layer_map.table["distance_to_data"].iloc[layer_map.row_of[s]] for s in scene.sample_ids]
    assert "#" + bytes(colours[int(np.argmin(values)), :3]).hex() == colouring.colours[0]
    assert "#" + bytes(colours[int(np.argmax(values)), :3]).hex() == colouring.colours[-1]


def test_missing_numbers_and_values_are_grey(session):
    layer_map = session.map
    frame = layer_map.table[["distance_to_data"]].astype(float).copy()
    frame.iloc[0, 0] = np.nan
    assert tuple(rgb_of(frame, layer_map.colouring("distance_to_data"))[0]) == (0x9A, 0xA1, 0xAB)


def test_marks_name_indices_with_the_selected_sample_on_top(scene):
    ids = scene.sample_ids
    marks = scene.marks(Selection(ids[4], (ids[7],), (ids[9], "elsewhere")), Group((ids[1],)))
    assert marks == [
        {"index": 1, "kind": "group"},
        {"index": 7, "kind": "suggested"},
        {"index": 9, "kind": "manual"},
        {"index": 4, "kind": "selected"},
    ]


@pytest.mark.parametrize("index", [-1, 60, "3", 2.0, None, True])
def test_index_that_is_none_of_the_samples_is_refused(scene, index):
    with pytest.raises(SelectionError, match="no sample number"):
        scene.sample_at(index)


@pytest.fixture
def pane(session, scene):
    levels = []
    made = CloudPane(session, solid=False, label="samples", on_level=levels.append)
    made.scene = scene
    made.told = levels
    return made


def test_pane_sends_positions_and_colours_as_bytes(pane, scene):
    sent = np.frombuffer(pane.cloud.positions, np.float32).reshape(2, 60, 2)
    assert (sent == scene.positions).all()
    assert len(pane.cloud.colours) == 60 * 4
    assert pane.cloud.visible


def test_click_selects_the_sample_at_its_index(pane, session, scene):
    pane._answer({"click": 23, "of": "aligned"})
    assert session.state.selection.sample_id == scene.sample_ids[23]
    assert pane.cloud.marks == [{"index": 23, "kind": "selected"}]


def test_message_of_a_scene_that_was_left_means_nothing(pane, session):
    pane._answer({"click": 23, "of": "an older map"})
    assert session.state.selection.sample_id is None


def test_wild_message_is_a_sentence_and_changes_nothing(pane, session):
    pane._answer({"click": 10**9, "of": "aligned"})
    assert "no sample number" in session.notice.text
    assert session.state.selection.sample_id is None
    pane._answer({"hover": 3, "slice": 7, "of": "aligned"})
    assert "no slice number 7" in session.notice.text


def test_hover_tells_of_the_very_sample_on_the_slice_meant(pane, session, scene):
    pane._answer({"hover": 5, "slice": 1, "of": "aligned"})
    card = pane.cloud.card
    assert (card["of"], card["index"], card["slice"]) == ("aligned", 5, 1)
    assert session.map.thumbnail(scene.sample_ids[5]) in card["html"]
    assert scene.sample_ids[5] in card["html"]
    assert "σ 2" in card["html"]
    assert session.state.hovered == scene.sample_ids[5]
    pane._answer({"hover": None, "slice": 0, "of": "aligned"})
    assert pane.cloud.card == {}
    assert session.state.hovered is None


def test_filter_and_colour_of_the_session_recolour_the_pane(pane, session):
    before = pane.cloud.colours
    session.state.filter = Filter().with_values("class", ("3: three",))
    hidden = np.frombuffer(pane.cloud.colours, np.uint8).reshape(-1, 4)[:, 3] == 0
    assert 0 < hidden.sum() < 60
    session.state.filter = SHOW_ALL
    session.state.colour_by = "distance_to_data"
    assert pane.cloud.colours != before


def test_player_tells_where_it_stopped(pane):
    pane._answer({"at": 0.25, "of": "aligned"})
    assert pane.told == [0.25]


def test_component_is_one_module_that_asks_no_other_host():
    module = PointCloud._render_esm()
    assert module.count("export function render") == 1
    assert not [line for line in module.splitlines() if line.startswith("import")]
    assert "http" not in module
