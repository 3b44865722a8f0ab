"""Request bodies: bytes from anyone become checked, typed recipes, or a sentence that says what is wrong."""

from dataclasses import fields
from typing import Any, TypeVar

from pydantic_core import from_json

from diffviews.errors import ConfigError
from diffviews.recipes.base import RECIPE_VERSION, Recipe
from diffviews.recipes.execution import Execution
from diffviews.recipes.extraction import ExtractionRecipe
from diffviews.recipes.generation import GenerationRecipe
from diffviews.serving.errors import VersionMismatchError
from diffviews.serving.limits import check_values

R = TypeVar("R", bound=Recipe)

ExtractionOrder = tuple[ExtractionRecipe, Execution]
"""What is extracted, and what the caller may choose of how."""
_OF_THE_CALLER = ("resume", "force")


def read_recipe(body: bytes) -> GenerationRecipe:
    """Return the recipe that a body holds, as `GenerationRecipe.to_json` writes it.

    Raises:
        ConfigError: if it is no recipe, or asks for too much. VersionMismatchError: if its schema is another.
        SelectionError: for duplicate sample ids.
    """
    return _recipe(GenerationRecipe, _object(body))


def read_extraction(body: bytes) -> ExtractionOrder:
    """Return the recipe of an extraction that a body holds, with `resume` and `force` beside its fields.

    Raises:
        ConfigError: if a field is unknown, of another type, impossible or too large.
        VersionMismatchError: if its schema is another.
    """
    values = _object(body)
    chosen = {name: values.pop(name) for name in _OF_THE_CALLER if name in values}
    for name, value in chosen.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{name} {str(value)[:100]!r} is neither true nor false")
    for name in {field.name for field in fields(Execution)} & set(values):
        raise ConfigError(f"{name} is not the caller's to choose; leave it out")
    values.setdefault("schema", 1)  # bodies of version 1 did not name it
    return _recipe(ExtractionRecipe, values), Execution(**chosen)


def _object(body: bytes) -> dict[str, Any]:
    try:
        values = from_json(body or b"{}")
    except ValueError as error:
        raise ConfigError(f"the body is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError("the body must be a JSON object of names and values")
    return values


def _recipe(kind: type[R], values: dict[str, Any]) -> R:
    schema = values.pop("schema", None)
    if schema not in range(1, RECIPE_VERSION + 1):
        raise VersionMismatchError(
            f"the recipe has schema {str(schema)[:50]!r}, this worker reads 1 to {RECIPE_VERSION}; install the same "
            "version of diffviews on both sides"
        )
    check_values(values)
    return kind.from_values(values, strict=True)
