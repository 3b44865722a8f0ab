"""Fields of the generation form: how they look, and how what is typed into them is read."""

import math
import re
from collections.abc import Mapping
from typing import Any

from diffviews.errors import ConfigError

Shapes = Mapping[str, tuple[int, ...]]
"""{layer: shape of its output}, (C, H, W) or (T, C)."""

_SPAN = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")


def field(**params: Any) -> dict[str, Any]:
    """Return what all fields have in common, with what this one has."""
    return {"size": "small", "sizing_mode": "stretch_width", "margin": (5, 0), **params}


def slider(**params: Any) -> dict[str, Any]:
    """Return what all sliders have in common; their knobs need room at the sides."""
    return field(margin=(8, 8), **params)


def read_sigma(name: str, text: str) -> float | None:
    """Read a noise level from a text field of this name; empty is None.

    Raises:
        ConfigError: if it is not a positive number.
    """
    if not (text or "").strip():
        return None
    try:
        sigma = float(text)
    except ValueError as error:
        raise ConfigError(f"“{name}” is {text!r}; write a number such as 80, or leave it empty") from error
    if not (math.isfinite(sigma) and sigma > 0):
        raise ConfigError(f"“{name}” is {text}; a noise level must be a positive number")
    return sigma


def read_channels(text: str, shapes: Shapes) -> tuple[int, ...] | None:
    """Read channels such as '0-15, 32'; empty or 'all' is None.

    Args:
        text: what was typed.
        shapes: of the masked layers, as far as they are known; each must have all of the channels.

    Raises:
        ConfigError: if it is malformed, names a channel twice, or one that a layer lacks.
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
    for layer, shape in shapes.items():
        count = shape[0] if len(shape) == 3 else shape[-1]
        if max(channels) >= count:
            raise ConfigError(f"“Channels” names {max(channels)}, but {layer} has the channels 0 to {count - 1}")
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


def check_region(region: tuple[int, int, int, int], shapes: Shapes) -> tuple[int, int, int, int]:
    """Return a region (top, left, height, width) that lies on the grid of each layer.

    Raises:
        ConfigError: if a layer has no grid, or the region leaves it.
    """
    top, left, height, width = region
    if min(top, left) < 0 or min(height, width) < 1:
        raise ConfigError(f"the region starts at {top}, {left} and is {height} high and {width} wide; it needs a size")
    for layer, shape in shapes.items():
        if len(shape) != 3:
            raise ConfigError(f"{layer} has no grid: its output is {shape[0]} tokens; mask it without a region")
        if top + height > shape[1] or left + width > shape[2]:
            raise ConfigError(
                f"the region ends at row {top + height} and column {left + width}, but the grid of {layer} is "
                f"{shape[1]} high and {shape[2]} wide"
            )
    return region


def grid_text(shapes: Shapes) -> str:
    """Return a sentence on the grids and channels of layers."""
    parts = []
    for layer, shape in shapes.items():
        if len(shape) == 3:
            parts.append(f"{layer}: grid {shape[1]} high, {shape[2]} wide, {shape[0]} channels")
        else:
            parts.append(f"{layer}: {shape[0]} tokens of {shape[1]} channels, no grid")
    return "; ".join(parts) if parts else "The size of this layer's grid was not noted; it is checked when generating."
