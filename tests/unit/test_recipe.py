"""Generation recipes: they travel as JSON and refuse contradictions."""

import json

import pytest

from diffviews.errors import ConfigError, SchemaVersionError, SelectionError
from diffviews.recipes.generation import GenerationRecipe


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
