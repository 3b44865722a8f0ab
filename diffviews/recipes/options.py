"""Options: the fields of a dataclass, those of nested ones in their place, as flat names with type, default and text.

Flags of the command line, parameters of `MLproject`, keys of a YAML file and parameters of a run all are these.
"""

import functools
import inspect
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from diffviews.errors import ConfigError, unknown_name

T = TypeVar("T")

REQUIRED = inspect.Parameter.empty
"""Default of an option that must be given."""


@dataclass(frozen=True, slots=True)
class Option:
    """One value that somebody may choose."""

    name: str
    """Flat name, unique within its dataclass and those inside it."""
    kind: Any
    """Type, such as `int | None`."""
    default: Any
    """`REQUIRED` where there is none."""
    text: str
    """What it means."""


def options_of(cls: Any) -> tuple[Option, ...]:
    """Return the options of a dataclass in the order of its fields; a nested dataclass is spread."""
    return _options(cls)


@functools.cache
def _options(cls: Any) -> tuple[Option, ...]:
    hints, texts, found = get_type_hints(cls), field_texts(cls), list[Option]()
    for field in fields(cls):
        kind = hints[field.name]
        if is_dataclass(kind):
            found += options_of(kind)
            continue
        found.append(Option(field.name, kind, _default(field), texts.get(field.name, "")))
    return tuple(found)


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return REQUIRED if field.default_factory is MISSING else field.default_factory()


@functools.cache
def field_texts(cls: Any) -> Mapping[str, str]:
    """Return the docstring under each field of a dataclass, one line each."""
    from docstring_parser import parse_from_object

    described: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if is_dataclass(base):
            found = parse_from_object(base).params
            described |= {item.arg_name: " ".join((item.description or "").split()) for item in found}
    return described


def flatten(value: Any) -> dict[str, Any]:
    """Return the values of a dataclass's options by name."""
    flat: dict[str, Any] = {}
    for field in fields(value):
        own = getattr(value, field.name)
        flat |= flatten(own) if is_dataclass(own) else {field.name: own}
    return flat


def nested(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as the fields of a dataclass: flat names of nested ones are moved to their place.

    Raises:
        ConfigError: if a name is unknown; the nearest is offered.
    """
    inner: dict[str, Any] = {name: kind for name, kind in get_type_hints(cls).items() if is_dataclass(kind)}
    own = {field.name for field in fields(cls)}
    placed: dict[str, Any] = {}
    for name, value in values.items():
        home = next((key for key, kind in inner.items() if name in {o.name for o in options_of(kind)}), None)
        if name in inner and isinstance(value, Mapping):
            placed[name] = {**placed.get(name, {}), **nested(inner[name], value)}
        elif name in own:
            placed[name] = value
        elif home is not None:
            placed[home] = {**placed.get(home, {}), **nested(inner[home], {name: value})}
        else:
            known = [option.name for option in options_of(cls)]
            raise ConfigError(unknown_name("recipe field", str(name)[:100], known))
    return placed


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """Return the dataclass that typed values make, flat or nested; those left out keep their defaults.

    Raises:
        ConfigError: if a name is unknown, or the values contradict each other.
    """
    hints = get_type_hints(cls)
    placed = nested(cls, values)
    inner = {name for name, value in placed.items() if isinstance(value, Mapping) and is_dataclass(hints[name])}
    made = {name: build(hints[name], value) if name in inner else value for name, value in placed.items()}
    return cls(**made)
