"""Models with prompts in the dashboard: what is asked, where a mask acts, what is found, shown and coloured by."""

import base64
import io
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from dashboard_synthetic import FlatProjector, PromptRuns, SyntheticRunner, SyntheticRuns
from PIL import Image

from diffviews.data.samples import SampleSet
from diffviews.errors import ConfigError
from panel_app.cards import hover_card, selected_card
from panel_app.computing.job_bar import SessionJobs
from panel_app.dashboard import Dashboard
from panel_app.data import DataStore
from panel_app.filter import Filter
from panel_app.generation.conditioning_section import UNIFORM
from panel_app.generation.contradictions import check_channels, check_region
from panel_app.generation.values import read_channels
from panel_app.model_facts import ModelFacts
from panel_app.pictures import picture_address
from panel_app.points import SIGMA, UNLABELLED, join_points

GRID, TOKENS = (64, 8, 8), (77, 320)


def dashboard_of(runs):
    view = Dashboard(DataStore(runs), SyntheticRunner(runs), SessionJobs())
    view.open({})
    return view


@pytest.fixture
def runs():
    return PromptRuns(100)


@pytest.fixture
def dashboard(runs):
    return dashboard_of(runs)


def recipe_of(dashboard, **values):
    form = dashboard.generation.form
    for name, value in values.items():
        part = next(part for part in (form.conditioning, form.mask, form.sampling) if hasattr(part, name))
        getattr(part, name).value = value
    return form.recipe()


# -- asking ----------------------------------------------------------------------------


def test_prompts_and_no_class_are_asked_of_a_model_that_takes_them(dashboard, runs):
    dashboard.session.click("digits-0003")
    recipe = recipe_of(dashboard, negative="blurry, dull")
    assert recipe.prompt == runs.sample_set.prompts[3]
    assert (recipe.negative_prompt, recipe.class_label) == ("blurry, dull", UNIFORM)
    assert not dashboard.generation.form.conditioning.label.visible
    assert recipe_of(dashboard, prompt="  a cat\n").prompt == "a cat"
    assert recipe_of(dashboard, prompt="").prompt == ""


def test_selected_samples_prompt_never_replaces_what_was_typed(dashboard, runs):
    asked, session = dashboard.generation.form.conditioning, dashboard.session
    session.click("digits-0003")
    session.clear()
    session.click("digits-0004")
    assert asked.prompt.value == runs.sample_set.prompts[4]
    assert not asked.take.visible
    asked.prompt.value = "my own"
    session.clear()
    session.click("digits-0005")
    assert asked.prompt.value == "my own"
    assert asked.take.visible
    asked.take.clicks += 1
    assert asked.prompt.value == runs.sample_set.prompts[5]


def test_unconditional_model_is_asked_for_nothing():
    runs = SyntheticRuns(60)
    runs.noted = {"takes_prompts": False, "num_classes": 0}
    dashboard = dashboard_of(runs)
    asked = dashboard.generation.form.conditioning
    assert not asked.label.visible
    assert not asked._prompts.visible
    recipe = recipe_of(dashboard)
    assert (recipe.prompt, recipe.class_label) == (None, UNIFORM)


def test_classes_of_an_unlabelled_set_are_those_of_the_model():
    runs = SyntheticRuns(60)
    runs.sample_set = SampleSet.from_images(runs.images, runs.sample_set.sample_ids)
    runs.noted = {"num_classes": 3}
    offered = dashboard_of(runs).generation.form.conditioning.label.options
    assert [label for label in offered.values() if label not in (None, -1)] == [0, 1, 2]


def test_defaults_are_the_models_own_and_survive_a_change_of_layer(dashboard):
    sampling = dashboard.generation.form.sampling
    assert (sampling.steps.value, sampling.guidance.value) == (50, 7.5)
    assert sampling.guidance.end >= 15
    asked = recipe_of(dashboard).sampling
    assert (asked.sampler, asked.schedule, asked.num_steps, asked.guidance_scale) == (None, "auto", 50, 7.5)
    sampling.guidance.value, sampling.steps.value = 12.0, 20
    dashboard.session.choose_layer("midblock", 2.0)
    assert (sampling.steps.value, sampling.guidance.value) == (20, 12.0)


def test_model_of_which_nothing_was_noted_has_classes_and_usual_defaults():
    dashboard = dashboard_of(SyntheticRuns(60))
    form = dashboard.generation.form
    assert form.conditioning.label.visible
    assert len(form.conditioning.label.options) == 12
    recipe = recipe_of(dashboard)
    sampling = recipe.sampling
    assert (sampling.num_steps, sampling.guidance_scale, sampling.sampler) == (18, 1.0, None)
    assert recipe.precision == "auto"


@pytest.mark.parametrize(
    "noted",
    [None, [], "x", {"default_steps": -3, "default_guidance": "high", "layers": [1]}, {"layers": {"a": [0], "b": "c"}}],
)
def test_malformed_note_on_a_model_counts_as_absent(noted):
    assert ModelFacts.read(noted) == ModelFacts()


def test_weights_and_precision_are_those_the_layer_was_captured_with(runs):
    for partial in (True, False):
        runs.params = {"checkpoint": "/weights/sd", "precision": "float16", "adapter_partial": str(partial)}
        recipe = recipe_of(dashboard_of(runs))
        assert (recipe.checkpoint, recipe.precision) == ("/weights/sd", "float16")
        assert recipe.adapter_partial is partial


# -- sampling --------------------------------------------------------------------------


def test_churn_reaches_the_recipe_and_is_refused_by_renoising(dashboard):
    churn = {"s_churn": 40.0, "s_min": 0.05, "s_max": "50", "s_noise": 1.003}
    recipe = recipe_of(dashboard, **churn, schedule="karras")
    sampling = recipe.sampling
    assert (sampling.s_churn, sampling.s_min, sampling.s_max, sampling.s_noise) == (40.0, 0.05, 50.0, 1.003)
    assert recipe.sampling.schedule == "karras"
    recipe = recipe_of(dashboard, sampler="renoise")
    assert (recipe.sampling.s_churn, recipe.sampling.s_max) == (0.0, None)
    assert dashboard.generation.form.sampling.s_churn.disabled


def test_churn_between_no_levels_is_a_sentence(dashboard):
    with pytest.raises(ConfigError, match="from σ 2 up to 1"):
        recipe_of(dashboard, s_churn=5.0, s_min=2.0, s_max="1")


# -- masks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "channels"),
    [
        ("", None),
        (" All ", None),
        ("3", (3,)),
        ("0-3, 32", (0, 1, 2, 3, 32)),
        ("5; 0 – 2", (5, 0, 1, 2)),
        ("1 2,4", (1, 2, 4)),
    ],
)
def test_channels_are_read_as_people_write_them(text, channels):
    assert read_channels(text) == channels


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("3-1", "'3-1'"), ("a", "'a'"), ("-2", "'-2'"), ("0-4, 3", "channel 3 twice")],
)
def test_impossible_channels_are_a_sentence(text, sentence):
    with pytest.raises(ConfigError, match=sentence):
        read_channels(text)


def test_channels_are_counted_along_the_first_axis_of_grids_and_the_last_of_tokens():
    check_channels((63,), {"midblock": GRID})
    with pytest.raises(ConfigError, match="channels 0 to 63"):
        check_channels((64,), {"midblock": GRID})
    check_channels((319,), {"text": TOKENS})
    with pytest.raises(ConfigError, match="0 to 319"):
        check_channels((320,), {"text": TOKENS})


def test_region_must_lie_on_every_masked_layers_grid():
    check_region((0, 4, 8, 4), {"midblock": GRID})
    with pytest.raises(ConfigError, match="grid of midblock is 8 high and 8 wide"):
        check_region((0, 5, 8, 4), {"encoder": (32, 16, 16), "midblock": GRID})
    with pytest.raises(ConfigError, match="no grid"):
        check_region((0, 0, 1, 1), {"text": TOKENS})


def test_channels_and_region_reach_the_recipe_of_a_masked_generation(dashboard):
    dashboard.session.choose_layer("midblock", 2.0)
    assert recipe_of(dashboard, channels="0-3", limited=True).channels is None  # nothing is masked yet
    dashboard.session.click("digits-0003")
    assert recipe_of(dashboard).region == (0, 0, 8, 8)
    recipe = recipe_of(dashboard, top=2, left=1, height=4, width=3)
    assert (recipe.channels, recipe.region) == ((0, 1, 2, 3), (2, 1, 4, 3))
    with pytest.raises(ConfigError, match="the grid of midblock is 8 high"):
        recipe_of(dashboard, height=7)
    assert "grid 8 high, 8 wide, 64 channels" in dashboard.generation.form.mask._grid.object


def test_layer_of_tokens_takes_no_region(dashboard):
    mask = dashboard.generation.form.mask
    dashboard.session.choose_layer("midblock", 2.0)
    mask.limited.value = True
    dashboard.session.choose_layer("decoder_block_2", 2.0)
    assert mask.limited.disabled
    assert recipe_of(dashboard).region is None


# -- finding ---------------------------------------------------------------------------


def shown_by(dashboard, **asked):
    filters, state = dashboard.navigation.filters, dashboard.session.state
    if "words" in asked:
        filters.words.value = asked["words"]
    if "column" in asked:
        filters.column.value = asked["column"]
        filters._change(values=asked.get("values"), limits=asked.get("limits"))
    return dashboard.session.map.shown(state.filter)


def test_all_words_must_occur_in_prompt_or_class_in_any_order_and_case(dashboard, runs):
    shown = shown_by(dashboard, words="THREE bold")
    samples = runs.sample_set
    expected = {s for s, p in zip(samples.sample_ids, samples.prompts, strict=True) if "bold three" in p}
    assert set(shown["sample_id"]) == expected
    assert expected
    assert f"{len(expected)} of 100 shown" in dashboard.drawing.legend.caption.object
    assert set(shown_by(dashboard, words="odd three")["class"]) == {"odd"}
    assert len(shown_by(dashboard, words="three even")) == 0


def test_words_are_found_by_their_beginning_and_samples_by_their_whole_id(dashboard):
    assert len(shown_by(dashboard, words="ive")) == 0  # five
    assert len(shown_by(dashboard, words="digits-0042")) == 1
    assert len(shown_by(dashboard, words="digits")) == 0
    assert len(shown_by(dashboard, words="(*.[")) == 0
    assert len(shown_by(dashboard, words=" ")) == 100


def test_map_is_filtered_by_any_column_and_shown_whole_again(dashboard):
    state = dashboard.session.state
    assert set(shown_by(dashboard, column="prompt_cluster", values=["2: thin"])["prompt_cluster"]) == {"2: thin"}
    table = dashboard.session.map.table
    both = shown_by(dashboard, column="length", limits=(0.0, 18.0))
    assert set(both["prompt_cluster"]) == {"2: thin"}
    assert both["length"].max() <= 18
    assert 0 < len(both) < (table["prompt_cluster"] == "2: thin").sum()
    dashboard.navigation.filters.clear.clicks += 1
    assert not state.filter
    assert len(dashboard.session.map.shown(state.filter)) == len(table)


def test_hidden_samples_are_not_found_under_the_pointer(dashboard):
    layer_map = dashboard.session.map
    x, y = layer_map.position("digits-0002")
    within = (1e-3, 1e-3)
    assert layer_map.row_near(x, y, within=within) == layer_map.row_of["digits-0002"]
    other = next(c for c in layer_map.categories_of("class") if c != layer_map.text_of("digits-0002"))
    assert layer_map.row_near(x, y, within=within, wanted=Filter().with_values("class", (other,))) is None


def test_filter_on_a_column_another_extraction_lacks_is_dropped(dashboard, runs):
    state = dashboard.session.state
    state.filter = Filter().with_values("prompt_cluster", ("1: round",)).with_words("bold").with_range("length", (0, 9))
    layer_map = DataStore(SyntheticRuns(60)).open(SyntheticRuns(60).layers("ext-1")[0])
    assert layer_map.fitting(state.filter) == Filter(words="bold")


# -- showing ---------------------------------------------------------------------------


def test_prompt_and_category_are_told_and_escaped(runs):
    prompt = "<b>bold</b> & " + "very " * 60 + "long"
    frame = runs.sample_set.table.assign(prompt=[prompt] * len(runs.sample_set))
    runs.sample_set = SampleSet(frame, runs.sample_set.pictures, "categories")
    store = DataStore(runs)
    layer_map = store.open(store.layer_run("ext-1", "midblock", 2.0))
    card, whole = hover_card(layer_map, layer_map.row_of["digits-0003"]), selected_card(layer_map, "digits-0003")
    for html in (card, whole):
        assert "<b>" not in html
        assert "&lt;b&gt;bold&lt;/b&gt; &amp;" in html
        assert ">odd<" in html
    assert "long" not in card
    assert "long</p>" in whole
    assert "Prompt cluster 4: slanted" in whole


def test_sample_without_class_is_told_by_its_prompt(runs):
    runs = PromptRuns(60, categories=False)
    dashboard = dashboard_of(runs)
    layer_map = dashboard.session.map
    assert layer_map.text_of("digits-0003") == runs.sample_set.prompts[3]
    assert dashboard.session.state.colour_by == "prompt_cluster"
    dashboard.session.click("digits-0003")
    dashboard.session.suggest()
    near = dashboard.samples.list.entries[0]
    assert near["title"] == near["help"] == layer_map.prompt_of(near["id"])


def test_set_without_classes_or_prompts_is_grey_and_works():
    runs = SyntheticRuns(60)
    runs.sample_set = SampleSet.from_images(runs.images, runs.sample_set.sample_ids)
    dashboard = dashboard_of(runs)
    assert [(e["name"], e["count"]) for e in dashboard.drawing.legend.key.entries] == [(UNLABELLED, 60)]
    dashboard.session.click("digits-0003")
    dashboard.session.suggest()
    assert len(dashboard.session.state.selection.suggested) == 5
    assert dashboard.session.notice is None


def test_legend_counts_and_filters_the_column_that_colours(dashboard):
    state, legend = dashboard.session.state, dashboard.drawing.legend
    state.colour_by = "prompt_cluster"
    assert [(e["name"], e["count"]) for e in legend.key.entries] == [
        (f"{i + 1}: {word}", 20) for i, word in enumerate(PromptRuns.WORDS)
    ]
    for _ in range(2):  # the first click highlights
        legend._toggle({"toggle": "3: bold"})
    assert state.filter == Filter().with_values("prompt_cluster", ("3: bold",))
    assert dashboard.navigation.filters.column.value == "prompt_cluster"
    state.colour_by = "length"
    assert legend.key.scale["label"] == "Length"


def test_clusters_are_ordered_by_their_number_and_gaps_are_unlabelled(runs):
    columns = pd.DataFrame({"sample_id": ["digits-0000", "digits-0001", "digits-0002"], "c": ["10: x", "9: y", None]})
    points = pd.DataFrame({"sample_id": runs.sample_set.sample_ids[:4], "x": [0.0, 1, 2, 3], "y": [0.0, 1, 2, 3]})
    joined = join_points(points, runs.sample_set, columns)["c"]
    assert list(joined.cat.categories) == ["9: y", "10: x", UNLABELLED]
    assert list(joined) == ["10: x", "9: y", UNLABELLED, UNLABELLED]


def test_few_prompts_with_several_seeds_colour_the_map(runs):
    frame = runs.sample_set.table.assign(prompt=["a cat", "a dog"] * 50)
    runs.sample_set = SampleSet(frame, runs.sample_set.pictures, "categories")
    layer_map = dashboard_of(runs).session.map
    assert layer_map.categories_of("prompt_text") == ("a cat", "a dog")


def test_joint_map_is_coloured_by_sigma_and_keeps_each_level_apart(runs):
    single = dashboard_of(runs).session.map
    layer = replace_sigma(single.layer, 0.5)
    ids = runs.sample_set.sample_ids
    points = runs.points(single.map_run).sort_values("sample_id")
    joint = pd.concat([points.assign(sigma=0.5), points.assign(sigma=2.0, x=points["x"] + 1000)], ignore_index=True)
    projector = FlatProjector(ids * 2, np.concatenate([runs._features, runs._features + 0.01]))
    projector.row_sigmas = np.repeat([0.5, 2.0], len(ids))
    store = DataStore(runs)
    store.library = SimpleNamespace(
        samples=runs.samples, model=runs.model, columns=runs.columns, points=lambda *_: joint,
        projector=lambda *_: projector,
    )  # fmt: skip
    layer_map = store.open(layer, "joint-map")
    assert layer_map.categories_of(SIGMA) == ("σ 0.5", "σ 2")
    assert len(set(layer_map.colouring(SIGMA).colours)) == 2
    assert layer_map.position("digits-0003")[0] < 900
    x, y = layer_map.position("digits-0003")
    far = layer_map.row_near(x + 1000, y, within=(0.1, 0.1))
    assert (layer_map.sample_at(far), layer_map.sigma_at(far)) == ("digits-0003", "σ 2")
    found = [n.sample_id for n in layer_map.neighbours("digits-0003", 5, "activation")]
    gaps = np.linalg.norm(projector.pca_points[:100] - projector.pca_points[3], axis=1)
    assert found == [ids[i] for i in np.argsort(gaps, kind="stable")[1:6]]


def replace_sigma(layer, sigma):
    return SimpleNamespace(**{**vars(layer), "sigma": sigma})


@pytest.mark.parametrize(
    ("size", "kind", "longest"), [((16, 16), "png", 16), ((128, 96), "png", 128), ((768, 512), "jpeg", 256)]
)
def test_small_pictures_are_exact_and_large_ones_light(size, kind, longest):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    head, _, data = picture_address(image, 256).partition(",")
    sent = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind in head
    assert max(sent.size) == longest
    assert sent.size[0] / sent.size[1] == pytest.approx(size[1] / size[0], abs=0.01)
    if kind == "png":
        assert (np.asarray(sent.convert("RGB")) == image).all()


def test_generation_of_a_prompt_is_titled_by_it(dashboard):
    dashboard.session.click("digits-0003")
    recipe = recipe_of(dashboard, steps=3, prompt="a " + "very " * 30 + "long one")
    dashboard.generation.generate()
    while dashboard.generation.bar.busy:
        time.sleep(0.01)
        dashboard.generation.bar.follow()
    shown = dashboard.results.current
    assert "asked for “a very" in shown.title
    assert shown.title == dashboard.generation.form.name_of_order
    assert len(shown.title) <= 160
    assert shown.generation.recipe.prompt == recipe.prompt
