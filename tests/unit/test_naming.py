"""One generation, one name: title, run name, tags, params, description, command and report say the same."""

import shlex
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffviews.data.samples import SampleSet
from diffviews.errors import ConfigError
from diffviews.pipelines.generate import described
from diffviews.pipelines.report import Report, ReportedGeneration, report_html
from diffviews.recipes import GenerationRecipe, Sampling
from diffviews.recipes.naming import Subject, generation_name, joined_layers, spans
from diffviews.recipes.options import build
from diffviews.tracking.notes import Note, code
from diffviews.tracking.records import LayerRecord
from panel_app.generation.gallery_entry import GalleryEntry, subject_on
from panel_app.model_facts import ModelFacts

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LAYERS = ("encoder_block_0", "encoder_block_3", "midblock", "decoder_block_6", "decoder_block_7")
SAMPLES = SampleSet.from_images(
    np.zeros((30, 4, 4, 3), np.uint8),
    [f"digits-{i:04d}" for i in range(30)],
    class_labels=[i % 10 for i in range(30)],
    class_names=[NAMES[i % 10] for i in range(30)],
)
FACTS = ModelFacts(num_classes=10, class_names=dict(enumerate(NAMES)))


def layer_record(layer="encoder_block_3", sigma=2.0):
    return LayerRecord(
        run_id="a" * 32, name=layer, kind="layer", status="FINISHED", experiment_id="1", experiment="e",
        parent_id="b" * 32, start_time=datetime(2026, 1, 1, tzinfo=UTC), end_time=None, artifact_uri="", error=None,
        metrics={}, params={}, model="edm-digits", layer=layer, sigma=sigma, dataset="digits", layer_index=3,
    )  # fmt: skip


def on_map(layer=None):
    return SimpleNamespace(layer=layer or layer_record(), samples=SAMPLES, facts=FACTS, map_run="m", numeric_columns=())


def zeros(count=3):
    return tuple(s for s, label in zip(SAMPLES.sample_ids, SAMPLES.class_labels, strict=True) if label == 0)[:count]


def masked(**fields):
    return build(GenerationRecipe, {"layer_run": "a" * 32, "sample_ids": zeros(), **fields})


def name(recipe, **about):
    return generation_name(recipe, subject_on(recipe, on_map(layer_record(**about))))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"layers": ("decoder_block_6", "decoder_block_7"), "mode": "add", "region": (0, 0, 8, 8), "num_samples": 4},
            "zero → decoder_block_6 + 7, add 1.0, part 8×8, seeds 0–3",
        ),
        ({}, "zero → encoder_block_3, replace, seed 0"),
        (
            {"mode": "interpolate", "strength": 0.25, "region": (4, 0, 2, 8), "seed": 7, "num_samples": 2},
            "zero → encoder_block_3, interpolate 0.25, part 2×8 at 4,0, seed 7, samples 0–1",
        ),
        (
            {"window": (2, 5), "passes": "conditional", "channels": (0, 1, 2, 9), "class_label": 3},
            "zero → encoder_block_3, replace, channels 0–2, 9, steps 3–5, conditional pass, asked for 3: three, seed 0",
        ),
        ({"mask_steps": 1, "target": "matched"}, "zero → encoder_block_3, replace, matched, step 1, seed 0"),
        (
            {"sample_ids": ("digits-0000", "digits-0001"), "layers": ("midblock",), "noise_mode": "zero"},
            "zero + one → midblock, replace, no noise",
        ),
        (
            {"sample_ids": SAMPLES.sample_ids[:10], "class_label": None},
            "10 samples → encoder_block_3, replace, asked for random classes, seed 0",
        ),
        ({"sample_ids": ()}, "uniform label, seed 0"),
        ({"sample_ids": (), "class_label": 0, "num_samples": 3}, "0: zero, seeds 0–2"),
        ({"sample_ids": ("of another set",)}, "1 sample → encoder_block_3, replace, seed 0"),
    ],
)
def test_generation_is_named_by_what_masks_what(fields, told):
    assert name(masked(**fields)) == told


@pytest.mark.parametrize(
    ("asks", "fields", "told"),
    [
        ("prompt", {"prompt": "a red\ncircle"}, "“a red circle”, seed 0"),
        ("prompt", {}, "empty prompt, seed 0"),
        ("nothing", {}, "unconditional, seed 0"),
        ("class", {"class_label": 77}, "class 77, seed 0"),
        ("class", {"class_label": None, "seed": None}, "random classes, fresh seed"),
    ],
)
def test_generation_without_a_mask_is_named_by_what_is_asked_for(asks, fields, told):
    assert generation_name(GenerationRecipe(**fields), Subject(asks=asks)) == told


def test_average_of_one_prompt_is_named_by_it():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    samples = SampleSet.from_images(images, ["a", "b"], prompts=["a blue square"] * 2)
    recipe = GenerationRecipe(layer_run="a" * 32, sample_ids=("a", "b"))
    assert Subject.of(recipe, samples=samples).averaged == "“a blue square”"


def test_many_layers_and_channels_are_counted_and_the_name_stays_short():
    layers = tuple(f"down_block_{i}.attentions.1.transformer_blocks.0.attn2" for i in range(9))
    assert joined_layers(layers) == f"{layers[0]} + {layers[1]} + 7 more"
    assert joined_layers(("block_6", "midblock", "block_7")) == "block_6 + midblock + block_7"
    assert spans(range(0, 400, 2)).endswith("… (200)")
    assert len(name(masked(layers=layers, channels=tuple(range(0, 400, 2)), prompt="x" * 900))) <= 250


numbers = st.floats(0, 3, allow_nan=False).map(lambda x: round(x, 3))


@st.composite
def recipes(draw):
    """Return any recipe that a person may order, and the layer whose map is open."""
    mode = draw(st.sampled_from(["replace", "add", "interpolate"]))
    ids = draw(st.lists(st.sampled_from(SAMPLES.sample_ids), max_size=5, unique=True).map(tuple))
    prompt = draw(st.none() | st.text(max_size=40))
    fields = {
        "layer_run": "a" * 32,
        "sample_ids": ids,
        "mode": mode,
        "strength": draw(numbers if mode != "interpolate" else st.floats(0, 1).map(lambda x: round(x, 3))),
        "target": "fixed" if mode == "add" else draw(st.sampled_from(["fixed", "matched"])),
        "class_label": draw(st.none() | st.integers(-1, 9)),
        "prompt": prompt,
        "num_samples": draw(st.integers(1, 9)),
        "seed": draw(st.integers(0, 999)),
        "passes": draw(st.sampled_from(["both", "conditional", "unconditional"])),
        "model": draw(st.sampled_from(["edm-digits", "plaid"])),
        "sampling": Sampling(
            num_steps=draw(st.integers(1, 20)), guidance_scale=draw(st.none() | numbers),
            noise_mode=draw(st.sampled_from(["stochastic", "zero"])),
        ),
    }
    if ids:
        fields["layers"] = draw(st.lists(st.sampled_from(LAYERS), max_size=4, unique=True).map(tuple))
        fields["region"] = draw(st.none() | st.tuples(*[st.integers(0, 4)] * 2, *[st.integers(1, 8)] * 2))
        fields["channels"] = draw(st.none() | st.lists(st.integers(0, 31), min_size=1, unique=True).map(tuple))
        fields["window"] = draw(st.none() | st.tuples(st.integers(0, 5), st.integers(6, 9)))
    return GenerationRecipe(**fields), layer_record(draw(st.sampled_from(LAYERS)), draw(st.sampled_from([0.5, 2.0])))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(recipes())
def test_all_names_of_a_run_agree(drawn):
    recipe, layer = drawn
    layer_map = on_map(layer)
    # As the job logs it, from the sample set and the model, and as the dashboard shows it, from the map.
    subject = Subject.of(
        recipe, layer=layer.layer, sigma=layer.sigma, samples=SAMPLES, class_names=dict(enumerate(NAMES))
    )
    run = described(recipe, layer, subject)
    entry = GalleryEntry.on_map(SimpleNamespace(recipe=recipe, run_id="g", result=None), layer_map)
    reported = ReportedGeneration(entry.title, entry.detail, (), command=recipe.command())
    page = report_html(Report("", "", b"", "", {}, generations=[reported])).decode()
    tags, note = run.tags.as_tags("generation"), run.note.text("g" * 32)

    assert entry.title == run.name
    masked = (recipe.layers or (layer.layer,)) if recipe.sample_ids else ()
    assert tags.get("diffviews.layer", "") == run.params["layers"] == ",".join(masked)
    assert tags["diffviews.map_layer"] == run.params["map_layer"] == layer.layer
    assert tags["diffviews.source_run"] == layer.run_id
    assert ("diffviews.layer_index" in tags) is (masked == (layer.layer,))
    assert all(code(masked_layer) in note for masked_layer in masked)
    assert subject.averaged in run.name
    assert run.params["averaged"] == subject.averaged
    assert f"path is on the map of {code(layer.layer)}" in note
    assert layer.layer in entry.detail
    assert f"seed={recipe.seed}" in recipe.command() or recipe.seed == 0
    assert run.params["seed"] == recipe.seed
    assert recipe.command() in note
    assert build(GenerationRecipe, parsed(recipe.command())) == recipe
    for text in (entry.title, entry.detail, recipe.command()):
        assert shown(text) in page
    # What the recipe says, read anew: in words it stands in name and description, as values in the params.
    for words in [*mask_words(recipe), noise_words(recipe)]:
        assert words in note
        assert words in run.name or run.name.endswith(" …")
    asked = asked_words(recipe)
    assert run.params["asked_for"] == " ".join(asked.split())
    assert code(asked) in note
    assert f"{recipe.num_samples} image{'s' * (recipe.num_samples > 1)} of {code(recipe.model)}, " in note
    told = {f.name: f for f in (*fields(GenerationRecipe), *fields(Sampling))}.keys() - NOT_PARAMS
    values = {**asdict(recipe), **asdict(recipe.sampling)}
    assert {name: run.params[name] for name in told} == {name: values[name] for name in told}
    assert run.params["num_selected"] == len(recipe.sample_ids)
    assert tags["diffviews.model"] == recipe.model
    at = f" at σ {layer.sigma:g}"
    assert f"the path is on the map of {code(layer.layer)}{at}." in note
    assert entry.detail.endswith(f"; path on the map of {layer.layer}{at}")
    if masked:
        assert "uniform label" not in run.name
        assert layers_of(run.name) == masked
        count = "1 sample" if len(recipe.sample_ids) == 1 else f"average of {len(recipe.sample_ids)} samples"
        assert entry.detail.startswith(f"{count}{at};")
        assert f"{count}, {code(subject.averaged)}{at} (" in note
    else:
        assert entry.detail.startswith("no mask;")
        assert " masked by " not in note


NOT_PARAMS = {"sample_ids", "layers", "sampling", "prompt", "negative_prompt"}
"""Fields of a recipe that are no params under their own name and as they stand."""


def mask_words(recipe):
    """Return how the average acts, each part as names say it."""
    if not recipe.sample_ids:
        return []
    words = [recipe.mode if recipe.mode == "replace" else f"{recipe.mode} {float(recipe.strength)}"]
    words += ["matched"] * (recipe.target == "matched")
    if recipe.region is not None:
        top, left, height, width = recipe.region
        words.append(f"part {height}×{width} at {top},{left}" if top + left else f"part {height}×{width}")
    words += [f"channels {min(recipe.channels)}"] if recipe.channels else []
    first, stop = recipe.steps or (0, 0)
    words += [f"steps {first + 1}–{stop}" if stop > first + 1 else f"step {stop}"] if stop else []
    return words + [f"{recipe.passes} pass"] * (recipe.passes != "both")


def noise_words(recipe):
    """Return which noise is drawn, as names say it."""
    several, last = recipe.num_samples > 1, recipe.num_samples - 1
    if recipe.sampling.noise_mode == "zero":
        return "no noise"
    if several and recipe.seed == 0:
        return f"seeds 0–{last}"
    return f"seed {recipe.seed}, samples 0–{last}" if several else f"seed {recipe.seed}"


def asked_words(recipe):
    """Return what a model of ten named classes is asked for, as names say it."""
    if recipe.prompt is not None:
        words = " ".join(recipe.prompt.split())
        return f"“{words}”" if words else "empty prompt"
    label = recipe.class_label
    return {None: "random classes", -1: "uniform label"}.get(label) or f"{label}: {NAMES[label]}"


def layers_of(name):
    """Return the layers that a name says are masked, with the stems that it leaves out."""
    layers = []
    for part in name.partition(" → ")[2].split(", ")[0].split(" + "):
        layers.append(f"{layers[-1].rpartition('_')[0]}_{part}" if part.isdecimal() else part)
    return tuple(layers)


def parsed(command):
    """Return the options of a command line as the command reads them."""
    program, job, *flags = shlex.split(command)
    assert (program, job) == ("diffviews", "generate")
    given_text = {"prompt", "negative_prompt", "layer_run", "mode", "target", "passes"}
    found = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
    values = {k: v if k in given_text else yaml.safe_load(v) for k, v in found.items()}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def shown(text):
    from markupsafe import escape

    return str(escape(text))


def test_description_has_command_and_link_where_the_dashboard_is_known(monkeypatch):
    note = Note("A sentence.", "diffviews generate --prompt='```'")
    assert note.text("r1") == "A sentence.\n\n````sh\ndiffviews generate --prompt='```'\n````"
    monkeypatch.setenv("DIFFVIEWS_DASHBOARD_URL", "https://views.example/app/")
    assert note.text("r1").endswith("\n\n[Open it in the dashboard](https://views.example/app?run=r1)")
    assert "dashboard" not in Note("A training.", shown=False).text("r1")
    monkeypatch.setenv("DIFFVIEWS_DASHBOARD_URL", "javascript:alert(1)")
    with pytest.raises(ConfigError, match="DIFFVIEWS_DASHBOARD_URL is 'javascript:alert"):
        note.text("r1")


def test_description_fits_whatever_is_averaged():
    ids = tuple(f"sample-{i:06d}" for i in range(5000))
    recipe = GenerationRecipe(layer_run="a" * 32, sample_ids=ids)
    note = described(recipe, layer_record(), Subject.of(recipe, layer="midblock", sigma=2.0)).note.text("r" * 32)
    assert len(note) < 8000
    assert f"`diffviews replay {'r' * 32}`" in note


def test_names_from_a_data_set_are_text_in_the_description():
    assert code("[x](javascript:1) <b>`rm`</b>\n# head") == "`[x](javascript:1) <b>ʼrmʼ</b> # head`"


def test_names_are_made_in_one_place():
    owner = Path("diffviews/recipes/naming.py")
    for path in [*Path("diffviews").rglob("*.py"), *Path("panel_app").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert path == owner or '"uniform label"' not in text, path
