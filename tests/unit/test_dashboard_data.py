"""Derived data: everything is found by sample id, nothing shared is changed."""

import base64
import io
import threading

import numpy as np
import pandas as pd
import pytest
from dashboard_synthetic import SyntheticRuns
from PIL import Image

from diffviews.data.samples import SampleSet
from diffviews.errors import RunNotFoundError, SelectionError
from diffviews.processing.palette import class_colours
from panel_app.data import DataStore
from panel_app.filter import Filter
from panel_app.points import UNLABELLED, join_points


@pytest.fixture(scope="module")
def runs():
    return SyntheticRuns(300)


def only(column, *values):
    return Filter().with_values(column, values)


@pytest.fixture
def store(runs):
    return DataStore(runs)


@pytest.fixture
def layer_map(store):
    return store.open(store.layer_run("ext-1", "midblock", 2.0))


def test_each_point_carries_what_its_own_sample_is(layer_map, runs):
    for sample_id in ("digits-0000", "digits-0123", "digits-0299"):
        row = layer_map.table.iloc[layer_map.row_of[sample_id]]
        assert row["sample_id"] == sample_id
        assert row["class_label"] == runs.labels[int(sample_id[-4:])]
        assert layer_map.text_of(sample_id).startswith(f"{row['class_label']}: ")
        where = runs.projector(layer_map.map_run).embedding[int(sample_id[-4:])]
        assert layer_map.position(sample_id) == pytest.approx(tuple(where), rel=1e-5)


def test_thumbnail_shows_the_sample_asked_for(layer_map, runs):
    data = layer_map.thumbnail("digits-0042").partition(",")[2]
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    assert (image == runs.images[42]).all()


def test_class_filter_hides_points_and_changes_nothing_else(layer_map):
    before = layer_map.table.copy(deep=True)
    neighbours = layer_map.neighbours("digits-0003", 5, "activation")
    shown = layer_map.shown(only("class", "4: four"))
    assert set(shown["class"]) == {"4: four"}
    assert 0 < len(shown) < len(layer_map.table)
    assert layer_map.neighbours("digits-0003", 5, "activation") == neighbours
    pd.testing.assert_frame_equal(layer_map.table, before)
    assert len(layer_map.shown(Filter())) == len(layer_map.table)


def test_point_under_the_pointer_is_the_nearest_one_shown(layer_map):
    x, y = layer_map.position("digits-0010")
    assert layer_map.sample_at(layer_map.row_near(x, y, within=(0.5, 0.5))) == "digits-0010"
    other = next(c for c in layer_map.categories_of("class") if c != layer_map.text_of("digits-0010"))
    found = layer_map.sample_at(layer_map.row_near(x, y, within=(50, 50), wanted=only("class", other)))
    assert found is not None
    assert layer_map.text_of(found) == other
    assert layer_map.row_near(1e6, 1e6, within=(0.5, 0.5)) is None


def test_neighbours_are_those_in_activation_space_unless_the_map_is_asked_for(layer_map):
    points = layer_map.projector.pca_points
    row = layer_map.projector_row_of["digits-0007"]
    gaps = np.linalg.norm(points - points[row], axis=1)
    expected = [layer_map.projector.sample_ids[i] for i in np.argsort(gaps)[1:8]]
    found = layer_map.neighbours("digits-0007", 7, "activation")
    assert [n.sample_id for n in found] == expected
    assert [n.distance for n in found] == pytest.approx(np.sort(gaps)[1:8], rel=1e-5)
    assert [n.sample_id for n in layer_map.neighbours("digits-0007", 7, "map")] != expected


def test_distances_agree_with_the_neighbours_listed(layer_map):
    for space in ("activation", "map"):
        found = layer_map.neighbours("digits-0007", 5, space)
        again = layer_map.distances("digits-0007", [n.sample_id for n in found], space)
        assert list(again.values()) == pytest.approx([n.distance for n in found], rel=1e-5)
    assert layer_map.distances("digits-0007", [], "map") == {}


def test_more_neighbours_than_samples_is_refused(layer_map):
    with pytest.raises(SelectionError, match="only 299 other samples"):
        layer_map.neighbours("digits-0007", 300, "activation")


def test_colours_of_classes_stay_when_a_filter_or_number_is_chosen(layer_map):
    colouring = layer_map.colouring("class")
    assert colouring.categories == layer_map.categories_of("class")
    assert list(colouring.colours) == class_colours(len(colouring.categories))  # as the figures in MLflow have them
    number = layer_map.colouring("distance_to_data")
    assert (number.low, number.high) == (
        pytest.approx(layer_map.table["distance_to_data"].min()),
        pytest.approx(layer_map.table["distance_to_data"].max()),
    )
    assert layer_map.colouring("no such column") == colouring


def test_map_is_loaded_once_for_all_visitors(runs, monkeypatch):
    calls = []
    load = runs.points
    monkeypatch.setattr(runs, "points", lambda run, *_: calls.append(run) or load(run))
    store = DataStore(runs)
    layer = store.layer_run("ext-1", "midblock", 2.0)
    found = []
    threads = [threading.Thread(target=lambda: found.append(store.open(layer))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert all(layer_map is found[0] for layer_map in found)


def test_least_recently_used_maps_are_let_go(runs):
    store = DataStore(runs, max_maps=2)
    layers = runs.layers("ext-1")[:3]
    first = store.open(layers[0])
    store.open(layers[1])
    assert store.open(layers[0]) is first
    store.open(layers[2])
    assert store.open(layers[0]) is first
    assert store.open(layers[1]).table is not None


def test_failed_load_is_tried_again(runs, monkeypatch):
    store = DataStore(runs)
    layer = store.layer_run("ext-1", "midblock", 2.0)
    with monkeypatch.context() as broken:
        broken.setattr(runs, "points", lambda *_: (_ for _ in ()).throw(OSError("gone")))
        with pytest.raises(OSError, match="gone"):
            store.open(layer)
    assert store.open(layer).map_run == layer.run_id


def test_unknown_layer_run_says_what_there_is(store):
    with pytest.raises(
        RunNotFoundError, match=r"no finished layer 'midblock' at sigma 7; it has .*encoder_block_0 at 0\.5"
    ):
        store.layer_run("ext-1", "midblock", 7.0)


def test_points_without_coordinates_are_left_out(runs):
    points = pd.DataFrame({"sample_id": ["digits-0001", "digits-0002"], "x": [1.0, np.nan], "y": [2.0, 3.0]})
    assert join_points(points, runs.sample_set)["sample_id"].tolist() == ["digits-0001"]


def test_point_of_an_unknown_sample_is_refused(runs):
    points = pd.DataFrame({"sample_id": ["elsewhere-1"], "x": [1.0], "y": [2.0]})
    with pytest.raises(SelectionError, match="elsewhere-1"):
        join_points(points, runs.sample_set)


def test_samples_without_class_are_unlabelled_and_told_by_their_prompt(runs):
    images = np.zeros((3, 4, 4, 3), np.uint8)
    samples = SampleSet.from_images(images, ["a", "b", "c"], prompts=["a red cube", None, "a red cube"])
    points = pd.DataFrame({"sample_id": ["c", "a", "b"], "x": [0.0, 1, 2], "y": [0.0, 1, 2]})
    table = join_points(points, samples)
    assert set(table["class"]) == {UNLABELLED}
    assert table.set_index("sample_id")["prompt"].fillna("-").to_dict() == {
        "a": "a red cube",
        "b": "-",
        "c": "a red cube",
    }


def test_classes_are_listed_in_the_order_of_their_numbers():
    images = np.zeros((3, 4, 4, 3), np.uint8)
    samples = SampleSet.from_images(images, ["a", "b", "c"], class_labels=[10, 9, 0])
    points = pd.DataFrame({"sample_id": ["a", "b", "c"], "x": [0.0, 1, 2], "y": [0.0, 1, 2]})
    assert list(join_points(points, samples)["class"].cat.categories) == ["0", "9", "10"]
