"""A recipe as text to take along: the command line that repeats it."""

import json
import shlex
from dataclasses import fields
from typing import Any

from diffviews.pipelines.recipe import GenerationRecipe

_DEFAULT = GenerationRecipe()


def command_of(recipe: GenerationRecipe) -> str:
    """Return `diffviews generate …` with every field that is not its default."""
    words = ["diffviews", "generate"]
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        if value != getattr(_DEFAULT, field.name):
            words += [f"--{field.name}={_written(value)}"]
    return shlex.join(words)


def _written(value: Any) -> str:
    """Return a value as the command line reads it: YAML, and a text as it is."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
