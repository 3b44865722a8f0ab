"""What every recipe can do: become JSON and a command, and be read back, whatever version wrote it; how jobs run."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Self

from diffviews.errors import ConfigError, SchemaVersionError, check_choices
from diffviews.recipes.options import flatten, nested, options_of

RECIPE_VERSION = 2
"""Version 1 had no nested values; its flat names are read as they were."""

Precision = Literal["auto", "float32", "float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Base of all recipes: frozen dataclasses of names, numbers and ids, with a docstring under each field."""

    COMMAND: ClassVar[str]
    """Command that runs it."""
    ALWAYS_DETERMINING: ClassVar[tuple[str, ...]] = ()
    """Fields that have always been part of the fingerprint; any other is, once it is not its default."""
    NOT_DETERMINING: ClassVar[frozenset[str]] = frozenset()
    """Fields that a digest stands for, or that do not change the result."""

    def __post_init__(self) -> None:
        check_choices(self)

    def to_json(self) -> str:
        """Return the recipe as a JSON document."""
        return json.dumps({"schema": RECIPE_VERSION, **asdict(self)}, indent=2)

    @classmethod
    def from_json(cls, text: str | bytes, *, strict: bool = False) -> Self:
        """Read a recipe; unknown fields and other schemas are refused.

        Args:
            text: what `to_json` wrote, by this version or an earlier one.
            strict: refuse a text for a number and a number for a text, where strangers write.

        Raises:
            SchemaVersionError: if a later version wrote it.
            ConfigError: if it is no JSON object, a field is unknown or a value impossible.
            SelectionError: for duplicate sample ids.
        """
        try:
            values = json.loads(text or b"{}")
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"the recipe is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise ConfigError("the recipe must be a JSON object of names and values")
        version = values.pop("schema", None)
        if version not in range(1, RECIPE_VERSION + 1):
            raise SchemaVersionError(
                f"the recipe has schema {str(version)[:50]!r}, this version reads 1 to {RECIPE_VERSION}; install the "
                "same version of diffviews on both sides"
            )
        return cls.from_values(values, strict=strict)

    @classmethod
    def from_values(cls, values: dict[str, Any], *, strict: bool = False) -> Self:
        """Return the recipe that JSON values make, flat or nested; raises as `from_json`."""
        from pydantic import TypeAdapter, ValidationError
        from pydantic_core import to_json

        placed = nested(cls, values)
        try:
            made: Self = TypeAdapter(cls).validate_json(to_json(placed, inf_nan_mode="constants"), strict=strict)
        except ValidationError as error:
            raise _cause(error) from error
        return made

    def determining(self) -> dict[str, Any]:
        """Return the fields that decide what comes out, for a fingerprint.

        A field that joined the recipe later is left out at its default, so that earlier runs are found.
        """
        defaults = {option.name: option.default for option in options_of(type(self))}
        told: dict[str, Any] = {}
        for name, value in asdict(self).items():
            if name in self.NOT_DETERMINING:
                continue
            if name in self.ALWAYS_DETERMINING:
                told[name] = value
            elif isinstance(value, dict):
                told |= {key: v for key, v in value.items() if v != defaults[key]}
            elif value != defaults[name]:
                told[name] = value
        return told

    def command(self) -> str:
        """Return `diffviews generate …`, or the recipe's own command, with every option that is not its default."""
        defaults = {option.name: option.default for option in options_of(type(self))}
        changed = {name: value for name, value in flatten(self).items() if value != defaults[name]}
        # As the command line reads values: YAML, and a text as it is.
        written = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in changed.items()}
        return shlex.join(["diffviews", self.COMMAND, *(f"--{name}={text}" for name, text in written.items())])


@dataclass(frozen=True, slots=True)
class ModelRecipe(Recipe):
    """Which model, with which weights, in which floating-point format."""

    model: str = "edm-digits"
    """Adapter name."""
    checkpoint: str | None = None
    """Weights: a file, a folder, an address or a name of the catalogue; null takes the adapter's own."""
    precision: Precision = "auto"
    """Floating-point format of the forward pass: auto (the adapter's choice), float32, float16 or bfloat16."""
    adapter_partial: bool = False
    """Leave out modules of a LoRA that the model does not have, instead of refusing it; the run is tagged."""


@dataclass(frozen=True, slots=True)
class Execution:
    """Device, processes, and what is done with earlier runs."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    devices: int = 1
    """Number of devices, a process each; under torchrun leave it out."""
    workers: Literal["auto"] | int = "auto"
    """Processes on this machine that make maps side by side; auto: as many as its cores allow."""
    resume: bool = False
    """Go on with a job that was killed."""
    force: bool = False
    """Run again even if a finished run has the same fingerprint."""

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise ConfigError(f"devices is {self.devices}; take 1 or more")
        if self.workers != "auto" and self.workers < 1:
            raise ConfigError(f"workers is {self.workers}; take 1 or more, or auto")


def _cause(error: Any) -> Exception:
    """Return the first fault in words: a check of ours by itself, any other with the name of its field."""
    fault = error.errors(include_url=False)[0]
    own = fault.get("ctx", {}).get("error")
    if isinstance(own, Exception):
        return own
    return ConfigError(fault_in_words(fault))


def fault_in_words(fault: Mapping[str, Any]) -> str:
    """Return one fault of pydantic's as a sentence; a check of our own names its value itself."""
    reason, place = str(fault.get("ctx", {}).get("error") or fault["msg"]), ".".join(map(str, fault["loc"]))
    if fault["type"] == "value_error" or not place:
        return reason
    return f"{place} {str(fault['input'])[:100]!r}: {reason[:1].lower()}{reason[1:]}"
