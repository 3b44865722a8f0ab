"""A recipe as text to take along: the command line that repeats it."""

import json
import shlex
from typing import Any

from diffviews.recipes.generation import GenerationRecipe


def command_of(recipe: GenerationRecipe) -> str:
    """Return `diffviews generate …` with every option that is not its default."""
    return shlex.join(
        ["diffviews", "generate", *(f"--{name}={_written(value)}" for name, value in recipe.changed().items())]
    )


def _written(value: Any) -> str:
    """Return a value as the command line reads it: YAML, and a text as it is."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
