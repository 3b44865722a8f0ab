"""What is typed into the generation form as values of the recipe, and back."""

import math
import re
from typing import Any

from diffviews.errors import ConfigError
from diffviews.noise import format_sigma

_SPAN = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")


def read_number(name: str, text: str, *, whole: bool = False) -> Any:
    """Read a number from a text field of this name, an int where it must be whole; empty is None.

    Raises:
        ConfigError: if it is none.
    """
    if not (text or "").strip():
        return None
    try:
        return int(text) if whole else float(text)
    except ValueError as error:
        raise ConfigError(f"“{name}” is {text!r}; write a number such as 80, or leave it empty") from error


def read_sigma(name: str, text: str) -> float | None:
    """Read a noise level from a text field of this name; empty is None.

    Raises:
        ConfigError: if it is not a positive number.
    """
    sigma: float | None = read_number(name, text)
    if sigma is not None and not (math.isfinite(sigma) and sigma > 0):
        raise ConfigError(f"“{name}” is {text}; a noise level must be a positive number")
    return sigma


def write_sigma(sigma: float | None) -> str:
    """Return a noise level as `read_sigma` reads it."""
    return "" if sigma is None else format_sigma(sigma)


def read_channels(text: str) -> tuple[int, ...] | None:
    """Read channels such as '0-15, 32'; empty or 'all' is None.

    Raises:
        ConfigError: if it is malformed, or names a channel twice.
    """
    if (text or "").strip().lower() in ("", "all"):
        return None
    channels: list[int] = []
    for part in re.split(r"[,;\s]+", re.sub(r"\s*[-–…]\s*", "-", text.strip(" ,;"))):
        found = _SPAN.fullmatch(part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first:
            raise ConfigError(f"“Channels” holds {part!r}; write numbers and ranges such as 0-15, 32, or all")
        channels += range(first, last + 1)
    if len(set(channels)) < len(channels):
        twice = next(c for c in channels if channels.count(c) > 1)
        raise ConfigError(f"“Channels” names channel {twice} twice; name each once")
    return tuple(channels)


def write_channels(channels: tuple[int, ...] | None) -> str:
    """Return channels as `read_channels` reads them, runs of them as ranges."""
    spans: list[list[int]] = []
    for channel in channels or ():
        if spans and channel == spans[-1][1] + 1:
            spans[-1][1] = channel
        else:
            spans.append([channel, channel])
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in spans)
