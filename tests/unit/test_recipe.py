"""Generation recipes: they travel as JSON and refuse contradictions."""

import json

import pytest

from diffviews.errors import ConfigError, SchemaVersionError, SelectionError
from diffviews.recipes import (
    DatasetRecipe,
    EmbeddingRecipe,
    Execution,
    ExtractionRecipe,
    GenerationRecipe,
    Sampling,
)
from diffviews.recipes.options import build, options_of


def test_recipe_round_trips_through_json():
    recipe = GenerationRecipe(
        layer_run="a" * 32, sample_ids=("digits-0001", "digits-0002"), layers=("midblock",), window=(2, 5),
        class_label=None, seed=None, mode="interpolate", strength=0.25, num_samples=3,
    )
    assert GenerationRecipe.from_json(recipe.to_json()) == recipe


def test_recipe_keeps_class_zero_and_uniform_apart():
    assert GenerationRecipe.from_json(GenerationRecipe(class_label=0).to_json()).class_label == 0
    assert GenerationRecipe.from_json(GenerationRecipe(class_label=-1).to_json()).class_label == -1


def test_recipe_with_an_unknown_field_offers_the_nearest():
    text = json.dumps({"schema": 1, "num_sample": 3})
    with pytest.raises(ConfigError, match="did you mean 'num_samples'"):
        GenerationRecipe.from_json(text)


def test_recipe_of_another_schema_is_refused():
    with pytest.raises(SchemaVersionError, match="99"):
        GenerationRecipe.from_json(json.dumps({"schema": 99}))


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"sample_ids": ("a", "a"), "layer_run": "x"}, SelectionError, "twice"),
        ({"sample_ids": ("a",)}, ConfigError, "layer_run"),
        ({"layers": ("midblock",)}, ConfigError, "sample_ids"),
        ({"window": (0, 2), "mask_steps": 2}, ConfigError, "either"),
        ({"mask_steps": 0}, ConfigError, "hold no step"),
        ({"window": (3, 3)}, ConfigError, "hold no step"),
        ({"window": (-1, 3)}, ConfigError, "hold no step"),
        ({"mode": "interpolate", "strength": 1.5}, ConfigError, "strength 1.5"),
        ({"mode": "add", "target": "matched"}, ConfigError, "fixed"),
        ({"num_samples": 0}, ConfigError, "num_samples is 0"),
    ],
)
def test_recipe_refuses_contradictions(fields, error, words):
    with pytest.raises(error, match=words):
        GenerationRecipe(**fields)


def test_mask_steps_are_the_first_steps():
    assert GenerationRecipe(mask_steps=3).steps == (0, 3)
    assert GenerationRecipe(window=(2, 5)).steps == (2, 5)
    assert GenerationRecipe().steps is None


VERSION_1 = {"schema": 1, "model": "edm-digits", "num_steps": 7, "s_churn": 3.0, "window": [1, 3], "noise_mode": "zero"}


def test_recipe_of_version_1_had_no_nested_values_and_is_read():
    recipe = GenerationRecipe.from_json(json.dumps(VERSION_1))
    assert recipe.sampling == Sampling(num_steps=7, s_churn=3.0, noise_mode="zero")
    assert recipe.window == (1, 3)


def test_nested_and_flat_names_are_the_same():
    nested = {"schema": 2, "sampling": {"num_steps": 7}, "rho": 5.0}
    assert GenerationRecipe.from_json(json.dumps(nested)).sampling == Sampling(num_steps=7, rho=5.0)


@pytest.mark.parametrize("kind", [ExtractionRecipe, GenerationRecipe, DatasetRecipe])
def test_command_of_a_recipe_says_the_changed_options_alone(kind):
    recipe = build(kind, {"model": "sdxl", "precision": "float16"})
    assert recipe.command() == f"diffviews {kind.COMMAND} --model=sdxl --precision=float16"


def test_what_a_stranger_writes_has_its_type():
    with pytest.raises(ConfigError, match=r"num_samples '3'"):
        GenerationRecipe.from_json(json.dumps({"schema": 2, "num_samples": "3"}), strict=True)
    assert GenerationRecipe.from_json(json.dumps({"schema": 2, "num_samples": "3"})).num_samples == 3


@pytest.mark.parametrize("text", ["[]", "{", "3", "", '{"schema": [1]}', "[" * 100_000])
def test_what_is_no_recipe_is_a_sentence(text):
    with pytest.raises((ConfigError, SchemaVersionError)):
        GenerationRecipe.from_json(text)


def test_what_determines_an_extraction_is_what_it_was_in_version_1():
    maps = {
        "n_neighbors": 15, "min_dist": 0.1, "n_components": 2, "metric": "euclidean", "pca_components": 50,
        "normalize": True, "random_state": 42,
    }  # fmt: skip
    common = {"dtype": "float16", "batch_size": 128, "conditioning": "none", "precision": "float32", "maps": maps}
    assert ExtractionRecipe(conditioning="none", precision="float32").determining() == common


def test_what_determines_a_sample_set_is_what_it_was_in_version_1():
    churn = "Churn(amount=0.0, sigma_min=0.0, sigma_max=inf, noise=1.0)"
    sampling = {"sampler": None, "schedule": "auto", "num_steps": None, "guidance_scale": None, "churn": churn}
    told = DatasetRecipe(precision="float32").determining()
    assert told == {"precision": "float32", "layers": (), "seed": 0, **sampling}


def test_later_fields_determine_once_they_are_not_their_defaults():
    assert "rho" not in DatasetRecipe().determining()
    assert DatasetRecipe(sampling=Sampling(rho=3.0)).determining()["rho"] == 3.0


@pytest.mark.parametrize("kind", [DatasetRecipe, EmbeddingRecipe, Execution, ExtractionRecipe, GenerationRecipe])
def test_every_option_has_a_text_and_a_name_of_its_own(kind):
    options = options_of(kind)
    assert all(option.text for option in options)
    assert len({option.name for option in options}) == len(options)


def test_choice_that_is_none_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'float16'"):
        ExtractionRecipe(precision="float61")
