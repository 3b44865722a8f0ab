"""Request bodies: bytes from anyone become checked, typed arguments, or a sentence that says what is wrong."""

import functools
import inspect
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, create_model
from pydantic_core import from_json, to_json

from diffviews.errors import ConfigError, unknown_name
from diffviews.pipelines.extract import extract
from diffviews.pipelines.recipe import RECIPE_VERSION, GenerationRecipe
from diffviews.processing.map_parameters import MapParameters
from diffviews.serving.errors import VersionMismatchError
from diffviews.serving.limits import check_values

Arguments = dict[str, Any]
"""Of `extract`, those that the caller may choose."""
_OF_THE_WORKER = ("device", "devices", "profile", "experiment")
"""Arguments of `extract` that are not the caller's to choose."""


def read_recipe(body: bytes) -> GenerationRecipe:
    """Return the recipe that a body holds, as `GenerationRecipe.to_json` writes it.

    Raises:
        ConfigError: if it is no recipe, or asks for too much. VersionMismatchError: if its schema is another.
        SelectionError: for duplicate sample ids.
    """
    values = _object(body)
    schema = values.pop("schema", None)
    if schema != RECIPE_VERSION:
        raise VersionMismatchError(
            f"the recipe has schema {str(schema)[:50]!r}, this worker reads {RECIPE_VERSION}; install the same "
            "version of diffviews on both sides"
        )
    _check_names("recipe field", values, [field.name for field in fields(GenerationRecipe)])
    check_values(values)
    recipe: GenerationRecipe = _validated(TypeAdapter(GenerationRecipe), values)
    return recipe


def read_extraction(body: bytes) -> Arguments:
    """Return the arguments of `extract` that a body holds; those left out keep their defaults.

    Raises:
        ConfigError: if one is unknown, of another type, impossible or too large.
    """
    values = _object(body)
    _check_names("argument", values, _extract_hints())
    if isinstance(values.get("maps"), dict):
        _check_names("map parameter", values["maps"], [field.name for field in fields(MapParameters)])
    check_values(values)
    given = _validated(_extract_arguments(), values)
    return {name: getattr(given, name) for name in values}


def _object(body: bytes) -> dict[str, Any]:
    try:
        values = from_json(body or b"{}")
    except ValueError as error:
        raise ConfigError(f"the body is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError("the body must be a JSON object of names and values")
    return values


def _check_names(kind: str, values: Mapping[str, Any], known: Collection[str]) -> None:
    for name in values:
        if name not in known:
            raise ConfigError(unknown_name(kind, name[:100], known))


@functools.cache
def _extract_hints() -> dict[str, Any]:
    hints = get_type_hints(extract)
    return {name: hints[name] for name in inspect.signature(extract).parameters if name not in _OF_THE_WORKER}


@functools.cache
def _extract_arguments() -> TypeAdapter[Any]:
    defaults = inspect.signature(extract).parameters
    arguments: dict[str, Any] = {name: (hint, defaults[name].default) for name, hint in _extract_hints().items()}
    return TypeAdapter(create_model("ExtractArguments", __config__=ConfigDict(extra="forbid"), **arguments))


def _validated(adapter: TypeAdapter[Any], values: Mapping[str, Any]) -> Any:
    """Return what strictly typed values make: no text for a number, no number for a text."""
    try:
        return adapter.validate_json(to_json(values, inf_nan_mode="constants"), strict=True)
    except ValidationError as error:
        raise ConfigError(fault_in_words(error.errors(include_url=False)[0])) from error


def fault_in_words(fault: Mapping[str, Any]) -> str:
    """Return one fault of pydantic's as a sentence."""
    reason = str(fault.get("ctx", {}).get("error") or fault["msg"])
    place = ".".join(map(str, fault["loc"]))
    if fault["type"] == "value_error" or not place:  # a check of our own, which names the value itself
        return reason
    shown = str(fault["input"])[:100]
    return f"{place} {shown!r}: {reason[:1].lower()}{reason[1:]}"
