"""A visit: choosing, selecting and generating, without a browser; failures are sentences."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
from dashboard_synthetic import SyntheticRunner, SyntheticRuns

from diffviews.errors import TrackingError
from panel_app.best_layer import best_layer
from panel_app.computing.job_bar import SessionJobs
from panel_app.dashboard import Dashboard
from panel_app.data import DataStore
from panel_app.filter import Filter
from panel_app.generation.conditioning_section import RANDOM, UNIFORM
from panel_app.inspector import LayersPanel
from panel_app.session import Session
from panel_app.settings import Settings
from panel_app.state import Address, Selection


@pytest.fixture(scope="module")
def runs():
    return SyntheticRuns(200, "http://localhost:5000")


@pytest.fixture
def store(runs):
    runs.added_maps.clear()
    return DataStore(runs)


@pytest.fixture
def session(store):
    session = Session(store)
    session.start(Address())
    return session


@pytest.fixture
def runner(runs):
    return SyntheticRunner(runs)


@pytest.fixture
def dashboard(store, runner):
    view = Dashboard(store, runner, SessionJobs())
    view.open({})
    return view


def finish(bar):
    deadline = time.monotonic() + 20
    while bar.busy:
        assert time.monotonic() < deadline, "the job does not end"
        time.sleep(0.01)
        bar.follow()


def only(*classes):
    return Filter().with_values("class", classes)


def generate(dashboard, **values):
    form = dashboard.generation.form
    for name, value in values.items():
        parts = (form, form.average, form.conditioning, form.mask, form.sampling)
        part = next(part for part in parts if hasattr(part, name))
        getattr(part, name).value = value
    dashboard.generation.generate()
    finish(dashboard.generation.bar)


# -- opening ---------------------------------------------------------------------------


def test_visit_opens_the_layer_that_knows_and_decides_most(session):
    assert (session.state.layer, session.state.sigma) == ("decoder_block_2", 0.5)
    assert session.map.layer.layer == "decoder_block_2"
    assert session.notice is None


def test_why_measures_by_class_are_left_out_is_said(session):
    panel = LayersPanel(session)
    assert not panel.left_out.visible
    told = {"metrics": {}, "params": {"conditioning": "label"}}
    session.layers = [SimpleNamespace(**vars(record) | told) for record in session.layers]
    assert panel.left_out.visible
    assert "Class measures are left out: the model was told" in panel.left_out.object


def test_rate_of_images_unlike_real_ones_is_marked_and_no_reason_to_open_a_layer(session):
    measured = {"control_n": 30.0, "control_rate_low": 0.87, "control_rate_high": 1.0, "control_global_mean": 0.1}
    best = session.map.layer
    spoilt = {**best.metrics, **measured, "control_on_manifold": 0.0}
    panel = LayersPanel(session)
    assert all(row["control_rate_mark"] == row["control_rate_note"] == "" for row in panel.table.rows)  # older runs
    other = SimpleNamespace(**vars(best) | {"metrics": spoilt})
    session.layers = [other if record is best else record for record in session.layers]
    row = next(row for row in panel.table.rows if row["id"] == best.run_id)
    assert row["control_rate_mark"] == "◌"
    interval, control, near = row["control_rate_note"].split("\n")
    assert interval == "95 %: 0.87 to 1.00, of 30 generations"
    assert (control, near) == ("Control: the layer's global mean: 0.10", "0% of the images are near real ones")
    assert "◌, hollow" in panel.left_out.object
    assert best_layer(session.layers, None, None)[0].run_id != best.run_id


def test_gain_over_the_input_is_a_column_where_it_was_measured(session):
    panel = LayersPanel(session)
    assert "gain_knn" not in [each["key"] for each in panel.table.columns]
    gained = {"knows_knn": 0.8, "gain_knn": 0.12, "gain_knn_low": 0.05, "gain_knn_high": 0.19, "gain_knn_p": 0.002}
    layers = [SimpleNamespace(**vars(record)) for record in session.layers]
    for number, record in enumerate(layers):
        record.metrics = {**record.metrics, **gained, "knows_best": float(number == 0)}
    session.layers = layers
    assert [each["key"] for each in panel.table.columns].count("gain_knn") == 1
    assert [row["gain_knn_text"] for row in panel.table.rows][:2] == ["+0.12 ●", "+0.12"]
    assert "the noised input 0.68" in panel.table.rows[0]["gain_knn_note"]


def test_address_opens_the_same_view(session, store):
    session.choose_layer("midblock", 2.0)
    session.click("digits-0003")
    session.suggest()
    session.state.filter = only("3: three")
    session.state.colour_by = "distance_to_data"
    query = {k: v for k, v in session.state.to_query().items() if v is not None}
    colleague = Session(store)
    colleague.start(Address.from_query(query))
    assert colleague.state.to_query() == session.state.to_query()
    assert colleague.map is session.map


def test_address_of_what_is_gone_opens_something_else_and_says_so(store):
    session = Session(store)
    session.start(Address(run="deleted-run"))
    assert "deleted-run" in session.notice.text
    assert session.map is not None
    session.start(Address(layer="no_such_layer", selection=Selection("not-a-sample")))
    assert session.map is not None
    assert session.state.selection == Selection()
    assert "left out" in session.notice.text


def test_no_extractions_open_nothing_without_an_error():
    session = Session(DataStore(SyntheticRuns(50, extractions=())))
    session.start(Address())
    assert session.map is None
    assert session.notice is None
    session.refresh()
    assert session.notice is None


def test_failure_is_told_in_a_sentence_and_leaves_the_view(session, runs, monkeypatch):
    before = session.map

    def broken(*_):
        raise TrackingError("the tracking server does not answer; is it running?")

    monkeypatch.setattr(runs, "points", broken)
    session.choose_layer("encoder_block_0", 2.0)
    assert session.notice.text == "the tracking server does not answer; is it running?"
    assert session.map is before
    assert session.state.layer == before.layer.layer


def test_unexpected_failure_is_told_without_a_trace(session, runs, monkeypatch):
    monkeypatch.setattr(runs, "points", lambda *_: 1 / 0)
    session.choose_layer("encoder_block_0", 2.0)
    assert session.notice.text == "This did not work: division by zero. The server's log has the details."


def test_layer_at_a_sigma_it_lacks_opens_the_nearest_and_says_so(session):
    session.choose_layer("midblock", 1.9)
    assert session.state.sigma == 2.0
    assert "sigma 2 is shown" in session.notice.text


# -- visitors --------------------------------------------------------------------------


def test_visitors_do_not_disturb_one_another(store):
    one, other = Session(store), Session(store)
    for session in (one, other):
        session.start(Address())
    one.choose_layer("midblock", 2.0)
    one.click("digits-0003")
    one.state.filter = only("3: three")
    assert other.state.layer == "decoder_block_2"
    assert other.state.selection == Selection()
    assert not other.state.filter
    other.choose_layer("midblock", 2.0)
    assert other.map is one.map
    assert len(other.map.shown(other.state.filter)) == 200


def test_sample_keeps_its_picture_and_class_through_layers_sigmas_and_filters(session, runs):
    session.click("digits-0017")
    for layer, sigma, classes in (("midblock", 0.5, []), ("encoder_block_0", 2.0, ["1: one"]), ("midblock", 2.0, [])):
        session.choose_layer(layer, sigma)
        session.state.filter = only(*classes)
        layer_map, chosen = session.map, session.state.selection.sample_id
        assert chosen == "digits-0017"
        assert layer_map.text_of(chosen).startswith(str(runs.labels[17]))
        assert (layer_map.samples.images_of([chosen])[0] == runs.images[17]).all()


# -- neighbours ------------------------------------------------------------------------


def test_suggesting_without_a_selection_asks_for_one(session):
    session.suggest()
    assert session.notice.severity == "info"
    assert "Click a point" in session.notice.text


def test_suggested_neighbours_come_with_distances_in_order(session):
    session.state.k = 7
    session.click("digits-0003")
    session.suggest()
    suggested = session.state.selection.suggested
    gaps = [session.distances[s] for s in suggested]
    assert len(suggested) == 7
    assert gaps == sorted(gaps)
    assert all(gap > 0 for gap in gaps)


def test_suggestions_are_made_anew_on_another_layer(session):
    session.click("digits-0003")
    session.suggest()
    session.toggle("digits-0100")
    session.choose_layer("encoder_block_0", 2.0)
    chosen = session.state.selection
    expected = [n.sample_id for n in session.map.neighbours("digits-0003", 5, "activation")]
    assert list(chosen.suggested) == [s for s in expected if s != "digits-0100"]
    assert chosen.manual == ("digits-0100",)


# -- generating ------------------------------------------------------------------------


def test_generation_masks_with_the_selected_samples_by_id_whatever_is_filtered(dashboard, runner):
    session = dashboard.session
    session.click("digits-0003")
    session.suggest()
    members = session.state.selection.members
    session.state.filter = only("0: zero")
    generate(dashboard)
    recipe = runner.recipes[-1]
    assert recipe.sample_ids == members
    assert recipe.layer_run == session.map.layer.run_id
    generate(dashboard, include=False)
    assert runner.recipes[-1].sample_ids == members[1:]


@pytest.mark.parametrize(("value", "label"), [(0, 0), (UNIFORM, -1), (RANDOM, None), (9, 9)])
def test_class_asked_for_arrives_as_chosen(dashboard, runner, value, label):
    generate(dashboard, label=value)
    assert runner.recipes[-1].class_label == label
    assert runner.recipes[-1].class_label is label or label is not None


def test_every_choice_of_the_form_reaches_the_recipe(dashboard, runner):
    dashboard.session.click("digits-0003")
    generate(
        dashboard,
        mode="interpolate",
        strength=0.4,
        target="matched",
        layers=["midblock", "decoder_block_2"],
        passes="conditional",
        sampler="renoise",
        steps=6,
        sigma_max="40",
        sigma_min="0.01",
        guidance=2.0,
        noise="fixed",
        seed=11,
        count=3,
        window=(2, 4),
    )
    recipe = runner.recipes[-1]
    assert (recipe.mode, recipe.strength, recipe.target, recipe.passes) == (
        "interpolate",
        0.4,
        "matched",
        "conditional",
    )
    assert recipe.layers == ("midblock", "decoder_block_2")
    asked = recipe.sampling
    assert (asked.sampler, asked.num_steps, asked.sigma_max, asked.sigma_min) == ("renoise", 6, 40.0, 0.01)
    assert (asked.guidance_scale, asked.noise_mode, recipe.seed, recipe.num_samples) == (2.0, "fixed", 11, 3)
    assert recipe.window == (1, 4)
    generate(dashboard, seeded=False)
    assert runner.recipes[-1].seed is None


def test_window_over_all_steps_follows_their_number(dashboard, runner):
    dashboard.session.click("digits-0003")
    generate(dashboard, steps=30)
    assert runner.recipes[-1].window is None
    generate(dashboard, window=(1, 10))
    assert runner.recipes[-1].window == (0, 10)
    generate(dashboard, steps=4)
    assert dashboard.generation.form.mask.window.value == (1, 4)


def test_impossible_noise_level_is_a_sentence_and_nothing_is_queued(dashboard, runner):
    generate(dashboard, sigma_max="high")
    assert "σ from" in dashboard.session.notice.text
    assert not runner.recipes


def test_without_a_selection_nothing_is_masked_and_there_is_no_baseline(dashboard, runner):
    generate(dashboard)
    assert runner.recipes[-1].sample_ids == ()
    assert "baseline" not in dashboard.results.view.samples[0]


def test_path_is_drawn_only_on_the_map_it_was_placed_on(dashboard):
    session = dashboard.session
    session.click("digits-0003")
    generate(dashboard)
    assert [path.baseline for path in dashboard.drawing.paths] == [True, False]
    session.choose_layer("midblock", 2.0)
    assert dashboard.drawing.paths == []
    session.choose_layer("decoder_block_2", 0.5)
    assert len(dashboard.drawing.paths) == 2


def test_steps_shown_are_those_of_the_sample_chosen(dashboard, runner):
    dashboard.session.click("digits-0003")
    generate(dashboard, count=3, steps=5)
    view = dashboard.results.view
    assert len(view.steps) == 5
    first = view.steps[-1]["frame"]
    view._on_message({"sample": 2})
    assert view.active == 2
    assert view.steps[-1]["frame"] != first
    view._on_message({"step": 1})
    assert dashboard.drawing.step == 1


def test_gallery_keeps_this_visits_generations_newest_first_each_with_its_link(dashboard):
    generate(dashboard, label=0)
    generate(dashboard, label=1)
    entries = dashboard.results.gallery.entries
    assert [e["title"] for e in entries] == ["1: one, seeds 0–3", "0: zero, seeds 0–3"]
    assert entries[0]["url"].endswith("/runs/gen-2")
    dashboard.results.gallery._on_message({"show": "gen-1"})
    assert dashboard.results.current.generation.run_id == "gen-1"


def test_failed_generation_is_told_and_the_form_is_free_again(dashboard, runner, monkeypatch):
    def broken(recipe, job):
        raise TrackingError("the run could not be logged; is the server running?")

    monkeypatch.setattr(runner, "generate", broken)
    generate(dashboard)
    assert dashboard.alert.object == "the run could not be logged; is the server running?"
    assert dashboard.alert.visible
    assert not dashboard.generation.button.disabled


def test_cancelled_generation_shows_nothing_and_frees_the_form(dashboard, runner):
    runner.pause = 0.05
    dashboard.generation.generate()
    assert dashboard.generation.button.disabled
    dashboard.generation.bar._cancel()
    finish(dashboard.generation.bar)
    assert runner.made == 0
    assert dashboard.results.current is None
    assert "cancelled" in dashboard.session.notice.text
    assert not dashboard.generation.button.disabled


# -- maps ------------------------------------------------------------------------------


def test_recomputed_map_is_opened_and_the_logged_one_stays(dashboard):
    session = dashboard.session
    own = session.map
    places = own.table[["x", "y"]].to_numpy().copy()
    session.click("digits-0003")
    dashboard.remap.n_neighbors.value = 30
    dashboard.remap.compute()
    finish(dashboard.remap.bar)
    assert session.state.map_run == "map-1"
    assert session.map.map_run == "map-1"
    assert session.notice.text.startswith("The re-computed map is on show")
    assert session.state.selection.sample_id == "digits-0003"
    assert session.map.position("digits-0003") != own.position("digits-0003")
    session.choose_map(None)
    assert session.map is own
    assert (own.table[["x", "y"]].to_numpy() == places).all()


def test_choice_is_not_taken_back_while_it_is_answered(dashboard):
    """Panel does not send a browser again what it chose, so a value put in between would stay in sight."""
    dashboard.remap.compute()
    finish(dashboard.remap.bar)
    before, chosen = dashboard.session.state.sigma, dashboard.navigation.sigma
    seen = []
    chosen.param.watch(lambda event: seen.append(event.new), "value")
    chosen.value = other = 2.0 if before == 0.5 else 0.5
    assert dashboard.session.map.layer.sigma == other
    assert seen == [other]


def test_path_of_another_map_is_not_drawn_and_the_page_says_so(dashboard):
    session, results = dashboard.session, dashboard.results
    session.click("digits-0003")
    generate(dashboard)
    assert dashboard.drawing.paths
    assert not results._elsewhere.visible
    dashboard.remap.compute()
    finish(dashboard.remap.bar)
    assert not dashboard.drawing.paths
    assert results._elsewhere.visible
    session.choose_map(None)
    assert dashboard.drawing.paths
    assert not results._elsewhere.visible


def test_legend_filters_and_all_classes_again_means_no_filter(dashboard):
    drawing, state = dashboard.drawing, dashboard.session.state
    for _ in range(2):  # the first click highlights
        drawing.legend._toggle({"toggle": "3: three"})
    assert state.filter == only("3: three")
    counts = np.bincount(dashboard.session.store.library.labels, minlength=10)
    assert f"{counts[3]} of 200 shown" in drawing.legend.caption.object
    for name in dashboard.session.map.categories_of("class"):
        if name not in state.filter.values_of("class"):
            drawing.legend._toggle({"toggle": name})
    assert not state.filter
    assert "200 of 200 shown" in drawing.legend.caption.object


def test_ranking_opens_the_layer_clicked(dashboard):
    row = next(r for r in dashboard.layers.table.rows if (r["layer"], r["sigma"]) == ("midblock", 2.0))
    assert 0 <= row["knn_accuracy_activation"] <= 1
    dashboard.layers._on_message({"open": row["id"]})
    assert (dashboard.session.state.layer, dashboard.session.state.sigma) == ("midblock", 2.0)
    assert dashboard.navigation.layer.value == "midblock"
    assert dashboard.navigation.sigma.value == 2.0


# -- settings --------------------------------------------------------------------------


def test_settings_come_from_flags_before_the_environment():
    environment = {"DIFFVIEWS_PROFILE": "server", "DIFFVIEWS_MLFLOW_UI": "http://a:5000", "DIFFVIEWS_DEVICE": ""}
    settings = Settings.read(["--profile", "r2", "--tracking-uri", "sqlite:///x.db"], environment)
    assert settings == Settings("r2", "sqlite:///x.db", mlflow_ui="http://a:5000")
