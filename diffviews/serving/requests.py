"""Request bodies: bytes from anyone become checked, typed recipes, or a sentence that says what is wrong; and how much
a worker takes: of one request, of its numbers, and of jobs at once."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from pydantic_core import from_json

from diffviews.data.disk import format_bytes
from diffviews.errors import ConfigError
from diffviews.recipes import Execution, ExtractionRecipe, GenerationRecipe
from diffviews.recipes.base import RECIPE_VERSION, Recipe
from diffviews.serving.protocol import VersionMismatchError

GREATEST: Mapping[str, int] = {
    "num_samples": 256,
    "num_steps": 1000,
    "sample_ids": 10_000,
    "layers": 1000,
    "channels": 100_000,
    "sigmas": 64,
    "max_samples": 1_000_000,
    "batch_size": 1024,
    "devices": 16,
    "control_seeds": 100,
    "knows_draws": 100,
    "knows_samples": 10_000,
    "control_null_seeds": 100,
    "control_layers": 1000,
    "n_neighbors": 1000,
    "pca_components": 4096,
}
"""Greatest value of a number, or greatest length of a list, by its name."""
LONGEST_TEXT = 10_000
LONGEST_LIST = 10_000
GREATEST_NUMBER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker holds and reads at most."""

    body_bytes: int = 1 << 20
    """Length of a request's body."""
    body_seconds: float = 30.0
    """Time in which a body must have arrived."""
    waiting_jobs: int = 16
    """Jobs in the queue."""
    kept_jobs: int = 100
    """Jobs that are over and can still be asked about."""
    kept_seconds: float = 3600.0
    """How long those are kept."""
    result_bytes: int = 4 << 30
    """Images of all steps that a generation holds in memory."""

    def check_result(self, num_samples: int, num_steps: int, resolution: int) -> None:
        """Refuse a generation whose images of all steps would not fit in memory.

        Raises:
            ConfigError: with the numbers.
        """
        size = 2 * num_samples * num_steps * resolution**2 * 3
        if size > self.result_bytes:
            raise ConfigError(
                f"{num_samples} images of {resolution}×{resolution} in {num_steps} steps take {format_bytes(size)}, "
                f"this worker holds {format_bytes(self.result_bytes)}; ask for fewer images or steps"
            )


def check_values(values: Mapping[str, Any]) -> None:
    """Refuse numbers, texts and lists beyond what a worker takes, and numbers that are not finite.

    Raises:
        ConfigError: naming the value and the limit.
    """
    for name, value in values.items():
        _check(name, value)


def _check(name: str, value: Any) -> None:
    if isinstance(value, Mapping):
        check_values(value)
    elif isinstance(value, str):
        _check_length(name, len(value), LONGEST_TEXT, "characters")
        if "\0" in value:
            raise ConfigError(f"{name} holds a null character; leave it out")
    elif isinstance(value, list | tuple):
        _check_length(name, len(value), GREATEST.get(name, LONGEST_LIST), "entries")
        for entry in value:
            _check(f"{name} entry", entry)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        greatest = GREATEST.get(name, GREATEST_NUMBER)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name} {value} must be a finite number")
        if abs(value) > greatest:
            raise ConfigError(f"{name} {str(value)[:40]} is beyond what a worker takes, {greatest:,}; take less")
        if value < 0 and name in GREATEST:
            raise ConfigError(f"{name} {value} must not be negative")


def _check_length(name: str, length: int, greatest: int, what: str) -> None:
    if length > greatest:
        raise ConfigError(f"{name} has {length:,} {what}, a worker takes {greatest:,}; take fewer")


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
