"""The generation form: whose average masks, what it refuses before ordering, and recipes loaded back into it."""

import shlex
from dataclasses import replace
from html import escape

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffviews.errors import ConfigError
from diffviews.recipes import GenerationRecipe, Sampling
from diffviews.recipes.naming import Subject, generation_name
from diffviews.recipes.options import options_of
from panel_app.computing.job_bar import SessionJobs
from panel_app.dashboard import Dashboard
from panel_app.data import DataStore
from panel_app.generation.form import _GIVEN
from panel_app.generation.form_model import form_model
from panel_app.generation.values import read_channels, write_channels
from panel_app.state import Group, Selection
from tests.jobs import recipe_of
from tests.unit.dashboard_synthetic import LAYERS, PromptRuns, SyntheticRunner, SyntheticRuns


@pytest.fixture(scope="module")
def runs():
    made = SyntheticRuns(400)
    made.noted = {
        "num_classes": 10, "default_steps": 18, "default_guidance": 1.0, "default_sampler": "heun",
        "sigma_min": 0.002, "sigma_max": 80.0, "layers": {layer: [32, 8, 8] for layer in LAYERS},
    }  # fmt: skip
    return made


@pytest.fixture
def dashboard(runs):
    view = Dashboard(DataStore(runs), SyntheticRunner(runs), SessionJobs())
    view.open({})
    return view


def ids(count, first=0):
    return tuple(f"digits-{i:04d}" for i in range(first, first + count))


# -- whose average ----------------------------------------------------------------------


def test_group_is_offered_only_while_there_is_one_and_is_averaged_when_chosen(dashboard):
    form, state = dashboard.generation.form, dashboard.session.state
    dashboard.session.click("digits-0390")
    assert not form.average.source.visible
    state.group = Group(ids(300))
    assert form.average.source.visible
    assert form.recipe().sample_ids == ("digits-0390",)
    form.average.source.value = "group"
    assert form.recipe().sample_ids == ids(300)
    assert "the average of 300 samples" in form.average._text.object
    assert "at σ " in form.average._text.object
    state.group = Group()
    assert form.recipe().sample_ids == ("digits-0390",)


def test_group_is_taken_by_itself_where_nothing_is_selected(dashboard):
    dashboard.session.state.group = Group(ids(3))
    assert dashboard.generation.form.recipe().sample_ids == ids(3)


def test_neighbours_alone_are_averaged_without_the_selected_sample(dashboard):
    form = dashboard.generation.form
    dashboard.session.select(Selection("digits-0001", manual=("digits-0002", "digits-0003")))
    assert form.average.include.visible
    form.average.include.value = False
    assert form.recipe().sample_ids == ("digits-0002", "digits-0003")


# -- contradictions ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"mode": "interpolate", "strength": 0.0}, "the strength is 0"),
        ({"passes": "unconditional"}, "choose both passes, or another guidance"),
        ({"passes": "conditional", "guidance": 0.0}, "choose both passes, or another guidance"),
        ({"sigma_max": "0.001"}, "σ goes from 0.001 to 0.002"),
        ({"channels": "0-40"}, "has the channels 0 to 31"),
        ({"channels": "many"}, "write numbers and ranges"),
        ({"sigma_min": "low"}, "write a number"),
    ],
)
def test_contradiction_is_told_before_it_is_ordered_and_goes_when_it_is_mended(dashboard, values, sentence):
    dashboard.session.click("digits-0003")
    generation = dashboard.generation
    before = {}
    for name, value in values.items():
        part = next(p for p in (generation.form.mask, generation.form.sampling) if hasattr(p, name))
        before[getattr(part, name)] = getattr(part, name).value
        getattr(part, name).value = value
    assert sentence in generation.form.trouble
    assert generation.form._remarks.visible
    assert generation.button.disabled
    for widget, value in before.items():
        widget.value = value
    assert generation.form.trouble == ""
    assert not generation.button.disabled


def test_surprises_are_told_and_allowed(dashboard):
    form = dashboard.generation.form
    form.sampling.noise.value = "zero"
    assert "start alike" in form._remarks.object
    assert not dashboard.generation.button.disabled


# -- loading a recipe -------------------------------------------------------------------

STEPS = st.integers(2, 40)


@st.composite
def recipes(draw):
    steps = draw(STEPS)
    masked = draw(st.booleans())
    mode = draw(st.sampled_from(["replace", "add", "interpolate"]))
    first = draw(st.integers(0, steps - 1))
    window = (first, draw(st.integers(first + 1, steps)))
    guidance = draw(st.sampled_from([0.5, 2.0, 7.5]))
    mask = {
        "sample_ids": ids(draw(st.sampled_from([1, 4, 50, 51, 200])), draw(st.integers(0, 150))),
        "layers": tuple(draw(st.sets(st.sampled_from(LAYERS), max_size=3))),
        "mode": mode,
        "strength": 1.0 if mode == "replace" else draw(st.sampled_from([0.25, 0.5, 1.0])),
        "target": "fixed" if mode == "add" else draw(st.sampled_from(["fixed", "matched"])),
        "window": None if window == (0, steps) else window,
        "passes": draw(st.sampled_from(["both", "conditional", "unconditional"])),
        "channels": draw(st.none() | st.sets(st.integers(0, 31), min_size=1).map(lambda c: tuple(sorted(c)))),
        "region": draw(st.none() | st.just((1, 2, 3, 4))),
    }
    sampler = draw(st.sampled_from([None, "heun", "euler", "renoise"]))
    churn = {"s_churn": 40.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003}
    return GenerationRecipe(
        model="edm-digits",
        layer_run="ext-1/midblock/2.0",
        **(mask if masked else {}),
        class_label=draw(st.sampled_from([-1, None, 0, 7])),
        num_samples=draw(st.sampled_from([1, 4, 16, 40])),
        seed=draw(st.none() | st.integers(0, 10_000)),
        sampling=Sampling(
            sampler=sampler,
            schedule=draw(st.sampled_from(["auto", "karras", "model"])),
            num_steps=steps,
            sigma_max=draw(st.none() | st.just(40.0)),
            sigma_min=draw(st.none() | st.just(0.01)),
            rho=draw(st.sampled_from([3.0, 7.0])),
            guidance_scale=guidance,
            noise_mode=draw(st.sampled_from(["stochastic", "fixed", "zero"])),
            **(churn if sampler != "renoise" and draw(st.booleans()) else {}),
        ),
    )


@pytest.fixture(scope="module")
def page(runs):
    view = Dashboard(DataStore(runs), SyntheticRunner(runs), SessionJobs())
    view.open({})
    return view


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(recipe=recipes())
def test_recipe_that_is_loaded_into_the_form_comes_out_as_it_was(page, recipe):
    page.session.choose_layer("midblock", 2.0)
    page.generation.form.load(recipe)
    assert page.generation.form.trouble == ""
    # the order of the masked layers has no meaning, the form shows them as chosen
    assert page.generation.form.recipe() == replace(recipe, window=recipe.steps)
    opened = page.session.map
    subject = Subject.of(
        recipe, layer="midblock", sigma=2.0, samples=opened.samples, class_names=opened.samples.classes
    )
    name = generation_name(recipe, subject)
    assert page.generation.form.name_of_order == name
    assert escape(name) in page.generation.form._name.object


def test_name_of_the_order_follows_selection_and_form_and_is_none_of_a_contradiction(dashboard):
    form, samples = dashboard.generation.form, dashboard.session.map.samples
    layer = dashboard.session.map.layer.layer
    for sample in ("digits-0390", "digits-0003"):
        dashboard.session.select(Selection(sample))
        digit = samples.classes[int(samples.class_labels[samples.index_of([sample])[0]])]
        assert form.name_of_order == f"{digit} → {layer}, replace, seeds 0–3"
        assert form.name_of_order in form._name.object
    form.count.value = 3
    form.mask.layers.value = ["encoder_block_0", "midblock"]
    assert form.name_of_order == f"{digit} → encoder_block_0 + midblock, replace, seeds 0–2"
    form.mask.channels.value = "many"
    assert (form.name_of_order, "midblock" in form._name.object) == ("", False)


def test_recipe_on_a_recomputed_map_names_it(dashboard):
    form, session = dashboard.generation.form, dashboard.session
    assert (form.recipe().map_run, form.recipe().layer_run) == (None, session.map.layer.run_id)
    session.map = replace(session.map, map_run="recomputed")
    assert (form.recipe().map_run, form.recipe().layer_run) == ("recomputed", session.map.layer.run_id)


def test_recipe_of_a_prompt_model_brings_its_prompts_back():
    runs = PromptRuns()
    view = Dashboard(DataStore(runs), SyntheticRunner(runs), SessionJobs())
    view.open({})
    recipe = GenerationRecipe(
        model="edm-digits", layer_run="ext-1/midblock/2.0", sample_ids=ids(2), prompt="a bold six",
        negative_prompt="thin", sampling=Sampling(num_steps=9, guidance_scale=12.0), seed=4,
    )  # fmt: skip
    view.session.choose_layer("midblock", 2.0)
    view.generation.form.load(recipe)
    made = view.generation.form.recipe()
    assert (made.prompt, made.negative_prompt, made.sampling.guidance_scale) == ("a bold six", "thin", 12.0)
    assert made.sample_ids == ids(2)


@pytest.mark.parametrize("channels", [None, (0,), (0, 1, 2, 5), (3, 5, 6)])
def test_channels_are_written_as_they_are_read(channels):
    assert read_channels(write_channels(channels)) == channels


# -- large groups -----------------------------------------------------------------------


def test_mean_of_a_large_group_is_exact_and_reads_each_chunk_once_and_no_other(tmp_path):
    from diffviews.data.activations import ActivationReader, ActivationWriter
    from diffviews.pipelines.masks import mean_of

    rng = np.random.default_rng(0)
    values = rng.normal(size=(4000, 8, 16, 16)).astype(np.float32)
    names = tuple(f"s{i:05d}" for i in range(len(values)))
    writer = ActivationWriter(
        tmp_path / "a.zarr", sample_ids=names, layer="l", shape=(8, 16, 16), dtype="float32", sigma=1.0,
        model_digest="m", dataset_digest="d",
    )  # fmt: skip
    rows = writer.chunk_rows
    for first in range(0, len(values), rows):
        writer.write(first, values[first : first + rows])
    writer.finish()
    asked = []
    folder = tmp_path / "a.zarr"

    def fetch(key):
        asked.append(key)
        path = folder / key
        return path.read_bytes() if path.is_file() else None

    reader = ActivationReader.open(fetch)
    assert reader.num_chunks > 3
    chosen = [i for i in rng.permutation(len(values)) if i // rows in (0, 2)]
    asked.clear()
    mean = mean_of(reader, [names[i] for i in chosen])
    np.testing.assert_allclose(mean[0], values[chosen].mean(axis=0, dtype=np.float64), atol=1e-6)
    chunks = [key for key in asked if key.startswith("c/")]
    assert sorted(chunks) == [f"c/{number}/0/0/0" for number in (0, 2)]


def test_recipe_of_ten_thousand_samples_is_checked_at_once():
    many = tuple(f"sample-{i}" for i in range(10_000))
    recipe = GenerationRecipe(layer_run="a" * 32, sample_ids=many)
    assert GenerationRecipe.from_json(recipe.to_json()).sample_ids == many


@settings(max_examples=40, deadline=None)
@given(recipe=recipes())
def test_command_line_of_a_recipe_is_read_back_as_the_recipe(recipe):
    program, command, *words = shlex.split(recipe.command())
    assert (program, command) == ("diffviews", "generate")
    assert recipe_of(GenerationRecipe, "generate", words) == recipe


@pytest.mark.parametrize("prompt", ["it's \"quoted\" $HOME `x`", "#sunset", "a: b", "12", "yes", "[a]", "línea",
     '"hello"', "a #b", "two\nlines", " padded", "- item", "{x}", "? y", "*star"])
def test_prompt_of_any_kind_survives_the_command_line(prompt):
    recipe = GenerationRecipe(model="sd-v1.5", prompt=prompt, negative_prompt="- blurry")
    words = shlex.split(recipe.command())[2:]
    assert recipe_of(GenerationRecipe, "generate", words) == recipe


# -- the form's model --------------------------------------------------------------------


def test_model_has_every_field_of_the_recipe_with_its_choices_default_and_text():
    model = form_model()()
    assert model.recipe() == GenerationRecipe()
    for option in options_of(GenerationRecipe):
        assert model.param[option.name].default == option.default
        assert model.param[option.name].doc == option.text
    assert model.param.passes.objects == ["both", "conditional", "unconditional"]
    assert None in model.param.sampler.objects
    with pytest.raises(ValueError, match="sideways"):
        model.passes = "sideways"


def test_every_field_is_shown_or_given_by_map_and_selection(dashboard):
    form = dashboard.generation.form
    assert form._further() == []
    assert {option.name for option in options_of(GenerationRecipe)} == {*form.model.bound, *_GIVEN}


@pytest.mark.parametrize(
    ("name", "typed", "value"),
    [("rho", "3", 3.0), ("num_steps", "7", 7), ("s_max", "", None), ("prompt", "6", "6"), ("passes", "both", "both")],
)
def test_field_without_a_widget_of_its_own_gets_a_plain_one(name, typed, value):
    model = form_model()()
    widget = model.plain_field(name)
    widget.value = typed
    assert getattr(model, name) == value
    model.load(GenerationRecipe())
    assert model.recipe() == GenerationRecipe()
    assert widget.description == model.param[name].doc


def test_what_cannot_be_read_is_a_fault_until_it_is_mended_or_a_recipe_is_loaded():
    model = form_model()()
    widget = model.plain_field("rho")
    for mend in (lambda: setattr(widget, "value", "5"), lambda: model.load(GenerationRecipe())):
        widget.value = "steep"
        with pytest.raises(ConfigError, match="“Rho” is 'steep'; write a number"):
            model.recipe()
        assert model.recipe(idle=["rho"]) == GenerationRecipe()
        mend()
        assert model.recipe().sampling.rho == model.rho
    assert widget.value == "7.0"
