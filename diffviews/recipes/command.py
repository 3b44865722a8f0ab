"""A recipe as text to take along: the command line that repeats it."""

import json
import shlex
from typing import Any

from diffviews.recipes.base import Recipe
from diffviews.recipes.dataset import DatasetRecipe
from diffviews.recipes.embedding import EmbeddingRecipe
from diffviews.recipes.extraction import ExtractionRecipe
from diffviews.recipes.generation import GenerationRecipe

_COMMANDS: dict[type[Recipe], str] = {
    ExtractionRecipe: "extract",
    EmbeddingRecipe: "embed",
    GenerationRecipe: "generate",
    DatasetRecipe: "generate-dataset",
}


def command_of(recipe: Recipe) -> str:
    """Return `diffviews generate …`, or the recipe's own command, with every option that is not its default."""
    flags = [f"--{name}={_written(value)}" for name, value in recipe.changed().items()]
    return shlex.join(["diffviews", _COMMANDS[type(recipe)], *flags])


def _written(value: Any) -> str:
    """Return a value as the command line reads it: YAML, and a text as it is."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
