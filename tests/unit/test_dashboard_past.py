"""Logged generations, ordered extractions, what is under way, and a store that is down, as a page has them."""

import time
from datetime import UTC, datetime

import pytest

from diffviews.errors import ConfigError, TrackingError
from diffviews.processing.map_parameters import MapParameters
from diffviews.tracking.schema import Kind
from panel_app.computing.job_bar import SessionJobs
from panel_app.computing.order import read_sigmas, recipe_of
from panel_app.computing.pending import Pending
from panel_app.dashboard import Dashboard
from panel_app.data import DataStore
from panel_app.generation.history import PAGE
from tests.unit.dashboard_synthetic import LAYERS, SyntheticRunner, SyntheticRuns


@pytest.fixture
def runs():
    made = SyntheticRuns(120, ui_url="http://127.0.0.1:5000")
    made.params = {"dataset": "digits", "n_neighbors": "20", "min_dist": "0.3", "normalize": "True", "dtype": "float32"}
    made.noted = {"num_classes": 10, "layers": {layer: [32, 8, 8] for layer in (*LAYERS, "decoder_block_9")}}
    return made


@pytest.fixture
def runner(runs):
    return SyntheticRunner(runs)


@pytest.fixture
def dashboard(runs, runner):
    view = Dashboard(DataStore(runs), runner, SessionJobs())
    view.open({})
    yield view
    view.close()


def until(condition, *followed, seconds=10):
    """Wait for what a page without a browser is told only when it looks."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        for part in followed:
            part.follow()
        time.sleep(0.01)


def generate(dashboard, count=1, **values):
    bar = dashboard.generation.bar
    for seed in range(count):
        dashboard.generation.form.sampling.seed.value = seed
        dashboard.generation.generate()
        until(lambda: not bar.busy, bar)


def unfolded(dashboard):
    past = dashboard.generation.history
    past._layout.active = [0]
    until(lambda: not past._lists.busy and not past._previews.busy, past._lists, past._previews)
    return past


# -- the gallery ------------------------------------------------------------------------


def test_nothing_is_read_before_the_list_is_unfolded_and_then_one_page_newest_first(dashboard, runs):
    generate(dashboard, PAGE + 3)
    past = dashboard.generation.history
    until(lambda: not past._lists.busy and not past._previews.busy, past._lists, past._previews)
    assert runs.generations.read == []
    unfolded(dashboard)
    assert [row["id"] for row in past.list.entries] == [f"gen-{n}" for n in range(PAGE + 3, 3, -1)]
    assert sorted(runs.generations.read) == sorted(f"gen-{n}" for n in range(4, PAGE + 4))
    assert past.list.entries[0]["src"].endswith(f"gen-{PAGE + 3}")
    assert past.list.entries[0]["title"] == f"uniform label, seed {PAGE + 2}, samples 0–3"
    assert past.list.entries[0]["detail"] == "no mask; path on the map of decoder_block_2 at σ 0.5"
    assert past.list.entries[0]["url"].endswith(f"/runs/gen-{PAGE + 3}")
    past._turn(1)
    until(lambda: not past._previews.busy, past._previews)
    assert [row["id"] for row in past.list.entries] == ["gen-3", "gen-2", "gen-1"]
    assert past.older.disabled
    assert not past.newer.disabled


def test_list_is_of_the_layer_run_or_of_the_whole_extraction(dashboard):
    generate(dashboard)
    dashboard.session.choose_layer("midblock", 2.0)
    generate(dashboard)
    past = unfolded(dashboard)
    assert [row["id"] for row in past.list.entries] == ["gen-2"]
    past.scope.value = "extraction"
    until(lambda: len(past.list.entries) == 2, past._lists, past._previews)
    assert past.list.entries[1]["id"] == "gen-1"


def test_generation_that_cannot_be_read_says_so_and_the_others_are_shown(dashboard, runs, monkeypatch):
    generate(dashboard, 2)
    whole = runs.generations.preview

    def preview(run_id):
        if run_id == "gen-1":
            raise TrackingError("the bucket does not answer")
        return whole(run_id)

    monkeypatch.setattr(runs.generations, "preview", preview)
    rows = unfolded(dashboard).list.entries
    assert rows[0]["src"]
    assert (rows[1]["src"], rows[1]["detail"]) == ("", "the bucket does not answer")


def test_loading_brings_map_form_and_selection_back(dashboard, runner):
    session = dashboard.session
    session.choose_layer("midblock", 2.0)
    session.click("digits-0007")
    session.click("digits-0008")
    form = dashboard.generation.form
    form.mask.mode.value, form.mask.strength.value = "interpolate", 0.5
    form.sampling.steps.value, form.count.value = 7, 2
    generate(dashboard)
    asked = runner.recipes[-1]
    session.choose_layer("encoder_block_0", 0.5)
    session.clear()
    form.mask.mode.value, form.sampling.steps.value = "replace", 30
    past = unfolded(dashboard)
    past.scope.value = "extraction"
    until(lambda: len(past.list.entries) == 1, past._lists, past._previews)
    past._on_list({"load": "gen-1"})
    until(lambda: not past._shows.busy, past._shows)
    assert (session.map.layer.layer, session.map.layer.sigma) == ("midblock", 2.0)
    assert session.state.selection.members == ("digits-0007", "digits-0008")
    assert form.recipe() == asked


def test_showing_puts_the_logged_result_and_its_path_on_the_page(dashboard):
    dashboard.session.click("digits-0007")
    generate(dashboard, 2)
    other = Dashboard(dashboard.session.store, dashboard.generation.runner, SessionJobs())
    other.open({"layer": "encoder_block_0"})
    past = unfolded(other)
    past.scope.value = "extraction"
    until(lambda: len(past.list.entries) == 2, past._lists, past._previews)
    past._on_list({"show": "gen-1"})
    until(lambda: not past._shows.busy, past._shows)
    assert other.results.current.generation.run_id == "gen-1"
    assert other.session.map.layer.layer == dashboard.session.map.layer.layer
    assert [path.baseline for path in other.drawing.paths] == [True, False]
    assert '"seed": 0' in other.results.view.recipe
    assert other.results.view.command.startswith("diffviews generate --layer_run=")
    other.close()


def test_replay_tells_whether_it_came_out_equal(dashboard, runner, monkeypatch):
    from diffviews.pipelines.replay import ReplayError

    generate(dashboard)
    past = unfolded(dashboard)
    past._on_list({"replay": "gen-1"})
    assert past.list.busy
    until(lambda: not past.bar.busy, past.bar)
    assert past.list.entries[0]["note"] == "Replayed: 4 images equal, to the pixel."
    assert not past.list.busy

    def differs(run_id, job):
        raise ReplayError(f"generation {run_id} differs from its replay by up to 9 grey levels")

    monkeypatch.setattr(runner, "replay", differs)
    past._on_list({"replay": "gen-1"})
    until(lambda: not past.bar.busy, past.bar)
    assert "up to 9 grey levels" in dashboard.session.notice.text


def test_paths_of_several_generations_are_drawn_at_once_and_taken_away_again(dashboard):
    dashboard.session.click("digits-0007")
    generate(dashboard, 2)
    results = dashboard.results
    assert len(dashboard.drawing.paths) == 2
    results._on_gallery({"path": "gen-1", "on": True})
    assert [path.baseline for path in dashboard.drawing.paths] == [True, False, False]
    drawn = {entry["id"]: (entry["drawn"], entry["drawable"]) for entry in results.gallery.entries}
    assert drawn == {"gen-2": (True, False), "gen-1": (True, True)}
    dashboard.session.choose_layer("encoder_block_0", 2.0)
    assert dashboard.drawing.paths == []
    dashboard.session.choose_layer(LAYERS[-1], 0.5)
    assert len(dashboard.drawing.paths) == 3
    results._on_gallery({"path": "gen-1", "on": False})
    assert len(dashboard.drawing.paths) == 2


# -- ordering an extraction -------------------------------------------------------------


def test_order_takes_everything_else_from_the_extraction_on_show(dashboard, runs):
    recipe = recipe_of(dashboard.session.map, ["decoder_block_9"], (0.5, 4.0), dashboard.session.layers)
    assert (recipe.layers, recipe.sigmas) == (("decoder_block_9",), (0.5, 4.0))
    assert (recipe.dataset, recipe.max_samples, recipe.dtype) == ("digits", 120, "float32")
    assert recipe.conditioning == "label"
    assert recipe.maps == MapParameters(n_neighbors=20, min_dist=0.3)


def test_order_is_one_that_a_worker_accepts(dashboard):
    from diffviews.serving.requests import read_extraction

    recipe = recipe_of(dashboard.session.map, ["decoder_block_9"], (4.0,), dashboard.session.layers)
    assert read_extraction(recipe.to_json().encode())[0] == recipe


def test_order_of_a_sketch_says_so(dashboard, runner):
    order = dashboard.order
    order.layers.value, order.sigmas.value = ["decoder_block_9"], "4, 8"
    assert "It writes 2.1 MB of activations." in order.note.object  # 120 × 32×8×8 float32 twice, in chunks
    order.storage.value = "sketch"
    assert "It writes" not in order.note.object
    order.order()
    until(lambda: not order.bar.busy, order.bar)
    assert runner.ordered[0].storage == "sketch"


def test_order_keeps_what_the_extraction_on_show_kept(runs, runner):
    runs.params["storage"] = "sketch"
    view = Dashboard(DataStore(runs), runner, SessionJobs())
    view.open({})
    assert view.order.storage.value == "sketch"
    there = view.session.layers[0]
    wanted = ([there.layer], (there.sigma,), [there])
    assert recipe_of(view.session.map, *wanted, "full").storage == "full"
    with pytest.raises(ConfigError, match="holds these layers"):
        recipe_of(view.session.map, *wanted, "sketch")
    view.close()


def test_ordered_layer_is_extracted_and_opened(dashboard, runner):
    order = dashboard.order
    assert next(iter(order.layers.options)) == "decoder_block_9"
    order.layers.value, order.sigmas.value = ["midblock"], "4"
    order.order()
    assert order.button.disabled
    until(lambda: not order.bar.busy, order.bar)
    assert runner.ordered[0].layers == ("midblock",)
    assert dashboard.session.state.extraction == "ext-2"
    assert dashboard.session.map.layer.layer == "midblock"


@pytest.mark.parametrize(
    ("layers", "sigmas", "sentence"),
    [
        ([], "2", "no layer is chosen"),
        (["midblock"], "2", "holds these layers"),
        (["midblock"], "two", "write a number"),
    ],
)
def test_impossible_order_is_a_sentence(dashboard, runner, layers, sigmas, sentence):
    dashboard.order.layers.value, dashboard.order.sigmas.value = layers, sigmas
    dashboard.order.order()
    assert sentence in dashboard.session.notice.text
    assert not runner.ordered


@pytest.mark.parametrize(
    ("kind", "sentence"), [(Kind.IMPORT, "imported"), (Kind.GENERATE_DATASET, "diffviews extract --dataset run:ext-1")]
)
def test_what_was_not_extracted_offers_no_order(runs, runner, monkeypatch, kind, sentence):
    records = runs.extractions("diffviews")
    for record in records:
        record.kind = kind
    monkeypatch.setattr(runs, "extractions", lambda experiment: records)
    view = Dashboard(DataStore(runs), runner, SessionJobs())
    view.open({})
    assert view.order.button.disabled
    assert sentence in view.order.note.object
    view.close()


def test_noise_levels_are_read_ascending():
    assert read_sigmas("4; 0.5, 2") == (0.5, 2.0, 4.0)


# -- what is under way, and what is down ------------------------------------------------


def test_extraction_under_way_is_listed_with_its_progress_and_opens_to_choice_when_done(dashboard, runs):
    runs.under_way = [Pending("ext-9", "edm-<b>", "digits", datetime(2026, 3, 1, tzinfo=UTC), 3, 16)]
    pending = dashboard.pending
    until(lambda: not pending._work.busy, pending._work)
    pending.look()
    until(lambda: pending._layout.visible, pending._work)
    assert "3 of 16 layer runs" in pending._layout.object
    assert "edm-&lt;b&gt;" in pending._layout.object
    runs.under_way, runs.extraction_ids = [], ("ext-9", "ext-1")
    pending.look()
    until(lambda: not pending._layout.visible, pending._work)
    assert [e.run_id for e in dashboard.session.extractions] == ["ext-9", "ext-1"]


def test_store_that_is_down_is_told_once_and_can_be_tried_again(runs, runner):
    runs.troubled = "the bucket digits does not answer"
    view = Dashboard(DataStore(runs), runner, SessionJobs())
    view.open({})
    banner = view.banner
    until(lambda: banner.alert.visible, banner._work)
    assert "the bucket digits does not answer" in banner.alert.object
    assert "can still be looked at" in banner.alert.object
    assert banner.retry.visible
    assert view.session.map is not None
    banner.alert.closed = True
    assert not banner.retry.visible
    runs.troubled = None
    banner.look(again=True)
    until(lambda: not banner._work.busy, banner._work)
    assert not banner.alert.visible
    assert "answers again" in view.session.notice.text
    view.close()


def test_first_map_that_cannot_be_opened_is_no_empty_store(runs, runner, monkeypatch):
    def points(map_run, slice_sigma=None):
        raise TrackingError("its table is damaged")

    monkeypatch.setattr(runs, "points", points)
    view = Dashboard(DataStore(runs), runner, SessionJobs())
    view.open({})
    assert "its table is damaged" in view.session.notice.text
    assert view.welcome.visible
    assert "The map could not be opened" in view.welcome.object
    view.close()
