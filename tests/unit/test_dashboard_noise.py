"""The view over noise levels: which maps it offers, where it stands, what it orders."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
from dashboard_synthetic import SIGMAS, SyntheticRuns

from diffviews.errors import RunNotFoundError
from diffviews.processing.map_parameters import MapParameters
from diffviews.recipes import EmbeddingRecipe
from panel_app.computing.job_bar import SessionJobs
from panel_app.data import DataStore
from panel_app.generation.gallery_entry import Track
from panel_app.places import SIGMA_AXIS, Across
from panel_app.scenes.order import ALIGNED, SOLID, MapOrder
from panel_app.scenes.paths import paths_on
from panel_app.scenes.scene import aligned_scene, solid_scene
from panel_app.session import Session
from panel_app.state import Address, ViewState
from panel_app.theme import PATHS


def logged(run_id, sigma=0.5, **params):
    return SimpleNamespace(
        run_id=run_id, source_run=f"ext-1/midblock/{sigma}", params={"map": "aligned", "sigmas": "0.5,2", **params}
    )


@pytest.fixture
def runs():
    return SyntheticRuns(60)


@pytest.fixture
def session(runs):
    made = Session(DataStore(runs))
    made.start(Address(layer="midblock", sigma=2.0))
    assert made.map.layer.layer == "midblock"
    return made


def test_aligned_map_is_found_from_every_noise_level_and_for_its_own_layer_only(runs):
    store = DataStore(runs)
    runs.added_maps = [logged("aligned-1", sigma=0.5)]
    for sigma in SIGMAS:
        found = aligned_scene(store, store.layer_run("ext-1", "midblock", sigma))
        assert found.scene.map_run == "aligned-1"
        assert found.scene.sigmas == SIGMAS
    elsewhere = aligned_scene(store, store.layer_run("ext-1", "encoder_block_0", 0.5))
    assert elsewhere.scene is None
    assert elsewhere.levels == SIGMAS


def test_newest_aligned_map_is_shown_unless_another_is_asked_for(runs):
    store = DataStore(runs)
    runs.added_maps = [logged("newer"), logged("older")]
    layer = store.layer_run("ext-1", "midblock", 2.0)
    assert aligned_scene(store, layer).scene.map_run == "newer"
    asked = aligned_scene(store, layer, "older")
    assert (asked.scene.map_run, asked.lacking) == ("older", "")
    lost = aligned_scene(store, layer, "gone")
    assert lost.scene.map_run == "newer"
    assert "newest is shown" in lost.lacking


def test_slice_whose_layer_run_is_gone_is_an_error_that_names_it(runs):
    store = DataStore(runs)
    runs.added_maps = [logged("aligned-1", sigmas="0.5,2,8")]
    with pytest.raises(RunNotFoundError, match="sigma 8"):
        aligned_scene(store, store.layer_run("ext-1", "midblock", 2.0))


def test_slices_are_those_logged_for_their_noise_levels(runs):
    store = DataStore(runs)
    runs.added_maps = [logged("aligned-1")]
    scene = aligned_scene(store, store.layer_run("ext-1", "midblock", 2.0)).scene
    for index, sigma in enumerate(SIGMAS):
        table = runs.points("aligned-1", sigma).set_index("sample_id")
        expected = table.loc[list(scene.sample_ids), ["x", "y"]].to_numpy(np.float32)
        assert np.allclose(scene.positions[index], expected)
    assert not np.allclose(scene.positions[0], scene.positions[1])


def test_map_in_three_dimensions_is_the_one_on_show_or_the_newest(runs, session):
    flat = SimpleNamespace(run_id="flat", source_run="ext-1/midblock/2.0", params={"n_components": "2"})
    solid = SimpleNamespace(run_id="solid", source_run="ext-1/midblock/2.0", params={"n_components": "3"})
    assert solid_scene(session.store, session.map, [flat]).scene is None
    runs.added_maps = [flat, solid]
    assert solid_scene(session.store, session.map, [flat, solid]).scene.map_run == "solid"
    shown = session.store.open(session.map.layer, "solid")
    assert solid_scene(session.store, shown, []).scene.map_run == "solid"


def test_place_along_sigma_survives_the_address():
    state = ViewState(across=Across("run-1", 0.71, SIGMA_AXIS))
    asked = Address.from_query({k: v for k, v in state.to_query().items() if v is not None})
    assert asked.across == Across("run-1", 0.71, SIGMA_AXIS)
    assert ViewState().to_query()["across"] is None


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "{", '{"map": 3, "sigma": "x", "axis": "y"}', '{"sigma": -1}', '{"sigma": NaN}', '{"sigma": true}'],
)
def test_malformed_place_counts_as_absent(text):
    assert Across.from_json(text) == Across()


class RecordingRunner:
    def __init__(self, outcome="map-9"):
        self.asked, self.outcome = [], outcome

    def embed(self, recipe, job):
        self.asked.append(recipe)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def follow(bar):
    deadline = time.monotonic() + 10
    while bar.busy:
        assert time.monotonic() < deadline
        bar.follow()
        time.sleep(0.01)


@pytest.mark.parametrize(("order", "kind", "dimensions"), [(ALIGNED, "aligned", 2), (SOLID, "single", 3)])
def test_button_orders_the_missing_map_of_the_layer_on_show(session, order, kind, dimensions):
    runner, made = RecordingRunner(), []
    ordering = MapOrder(session, runner, SessionJobs(), lambda layer, run: made.append((layer.run_id, run)))
    ordering.offer(order, "None yet", "Why one would want it.")
    assert ordering.button.visible
    ordering.make()
    assert ordering.button.disabled
    follow(ordering.bar)
    assert runner.asked == [EmbeddingRecipe("ext-1/midblock/2.0", kind, maps=MapParameters(n_components=dimensions))]
    assert made == [("ext-1/midblock/2.0", "map-9")]
    assert not ordering.button.disabled


def test_failed_order_is_told_and_can_be_repeated(session):
    runner, made = RecordingRunner(RunNotFoundError("the disk is full")), []
    ordering = MapOrder(session, runner, SessionJobs(), lambda *of: made.append(of))
    ordering.offer(ALIGNED, "None yet", "Why.")
    ordering.make()
    follow(ordering.bar)
    assert session.notice.text == "the disk is full"
    assert made == []
    assert not ordering.button.disabled


def test_layer_with_one_noise_level_offers_no_button(session):
    ordering = MapOrder(session, RecordingRunner(), SessionJobs(), lambda *_: None)
    ordering.offer(ALIGNED, "None yet", "One level only.", possible=False)
    assert not ordering.button.visible
    assert "One level only." in ordering.text.object


def outcome_with(trajectory, layer_run="ext-1/midblock/2.0", path=None):
    result = SimpleNamespace(trajectory=trajectory, baseline_trajectory={}, sigmas=np.array([4.0, 1.9, 0.4]))
    recipe = SimpleNamespace(layer_run=layer_run)
    return SimpleNamespace(run_id="gen-1", recipe=recipe, result=result, path=path)


def track_of(outcome, sample=0):
    return Track(SimpleNamespace(generation=outcome, map_run="some other map"), sample, PATHS[1], has_baseline=True)


class NamingProjector:
    """Places everything at its own name."""

    def __init__(self, name):
        self.name = name

    def transform(self, activations):
        count = len(activations)
        return SimpleNamespace(
            coordinates=np.full((count, 2), self.name, np.float32), distance=np.zeros(count),
            distance_percentile=np.full(count, 99.0 if self.name == 0.5 else 50.0), residual_percentile=np.zeros(count),
        )  # fmt: skip


def test_steps_of_a_path_go_to_the_slice_of_their_own_noise_level(runs):
    store = DataStore(runs)
    runs.added_maps = [logged("aligned-1")]
    scene = aligned_scene(store, store.layer_run("ext-1", "midblock", 2.0)).scene
    for layer_map in scene.maps:
        object.__setattr__(layer_map, "projector", NamingProjector(layer_map.layer.sigma))
    outcome = outcome_with({"midblock": np.zeros((3, 2, 4))})
    (path,) = paths_on(scene, track_of(outcome, sample=1))
    assert path["x"] == [2.0, 2.0, 0.5]
    assert path["at"] == pytest.approx(np.log([4.0, 1.9, 0.4]))
    assert not path["dashed"]
    assert path["unusual"] == [False, False, True]
    assert path["stretches"] == [[0, 1, False], [1, 2, True]]
    assert path["colour"] == PATHS[1]

    # A path is projected once, whichever of its samples is looked at.
    known = {}
    assert paths_on(scene, track_of(outcome, sample=1), known) == [path]
    outcome.result.trajectory = None
    assert paths_on(scene, track_of(outcome, sample=0), known)[0]["x"] == path["x"]


def test_path_of_another_layer_or_without_activations_is_not_drawn(runs):
    store = DataStore(runs)
    runs.added_maps = [logged("aligned-1")]
    scene = aligned_scene(store, store.layer_run("ext-1", "midblock", 2.0)).scene
    assert paths_on(scene, track_of(outcome_with({}))) == []
    other = outcome_with({"encoder_block_0": np.zeros((3, 1, 4))}, "ext-1/encoder_block_0/2.0")
    assert paths_on(scene, track_of(other)) == []
