"""Every error DiffViews raises on purpose, each also a standard exception."""

from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin, get_type_hints


class DiffViewsError(Exception):
    """Base of all errors whose message is meant for the user as it stands."""


class ConfigError(DiffViewsError, ValueError):
    """An option has an impossible value or contradicts another option."""


class AdapterNotFoundError(DiffViewsError, LookupError):
    """No adapter is registered under this name."""


class LayerNotFoundError(DiffViewsError, LookupError, ValueError):
    """The adapter, layout or file has no layer of this name; older scripts catch it as a ValueError."""


class ShapeError(DiffViewsError, ValueError):
    """A tensor or array has the wrong shape or dtype."""


class SelectionError(DiffViewsError, ValueError):
    """A selection of samples is empty, too large, duplicated or of mixed sigmas."""


class SampleSetError(DiffViewsError, ValueError):
    """A sample set or its source is malformed."""


class JudgeError(DiffViewsError, ValueError):
    """A judge of images is less accurate than it must be to be believed."""


class CorruptDataError(DiffViewsError, ValueError):
    """A file failed its checksum, is truncated or is not of its format; the file is named."""


class SchemaVersionError(DiffViewsError, ValueError):
    """Data was written by a version whose schema this version does not read."""


class CheckpointError(DiffViewsError, ValueError):
    """A checkpoint is missing, truncated, hostile or does not fit the model."""


class DiskSpaceError(DiffViewsError, OSError):
    """The disk is too small for what a job is about to write."""


class TrackingError(DiffViewsError, RuntimeError):
    """The tracking server or artifact store could not be used."""


class RunNotFoundError(DiffViewsError, LookupError):
    """No logged run answers to this id or description."""


class WorkerError(DiffViewsError, RuntimeError):
    """One of the processes of a job failed or is gone."""


class CancelledError(DiffViewsError):
    """The user cancelled a job between two steps."""


def unknown_name(kind: str, name: str, options: Iterable[str]) -> str:
    """Return the sentence that says `name` is unknown and offers the nearest of `options`."""
    known = list(options)
    shown = ", ".join(known) if len(known) <= 24 else f"{known[0]} … {known[-1]} ({len(known)})"
    sentence = f"{kind} {name!r} is not one of: {shown or 'none'}"
    near = get_close_matches(str(name), known, n=3, cutoff=0.5)
    return f"{sentence}; did you mean {' or '.join(map(repr, near))}?" if near else sentence


def check_choices(value: Any) -> None:
    """Refuse a dataclass's own fields that are none of the choices their types name.

    Raises:
        ConfigError: with the choices; the nearest is offered.
    """
    hints = get_type_hints(type(value))
    for field in fields(value):
        own, kind = getattr(value, field.name), hints[field.name]
        parts = (kind,) if get_origin(kind) is Literal else get_args(kind)
        choices = [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
        other = [part for part in parts if get_origin(part) is not Literal and part is not str]
        if choices and own not in choices and not any(isinstance(own, part) for part in other):
            raise ConfigError(unknown_name(field.name, str(own), choices))
