"""Colours of classes and of magnitudes that the colour-blind can tell apart, in figures and on the dashboard alike."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.colors import LinearSegmentedColormap

CLASS_COLOURS = (
    "#970de3", "#f3b305", "#2c7854", "#f87683", "#43d9cf", "#c4419f", "#828c00", "#365062", "#bb96ff", "#644800",
)  # fmt: skip
"""Ten colours, any two of them at least 15 apart in CIEDE2000 to normal eyes and under simulated deuteranopia, and far
apart in Oklab under protanopia and tritanopia too (Machado et al. 2009); all are seen on light and dark pages."""

UNLABELLED = "#9aa1ab"
"""What has no class, or not the number that colours the others."""

RAMP = ("#f7f9fc", "#c9dcf0", "#83b5de", "#3b82c4", "#24559b", "#1c2f63")


def class_colours(count: int) -> list[str]:
    """Return a colour for each of `count` classes.

    Up to ten are CLASS_COLOURS; up to twenty the second ten are darker; more run once through the hues.
    """
    if count <= len(CLASS_COLOURS):
        return list(CLASS_COLOURS[:count])
    if count <= 2 * len(CLASS_COLOURS):
        return [*CLASS_COLOURS, *(_darker(colour) for colour in CLASS_COLOURS)][:count]
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in colormaps["turbo"](np.linspace(0.03, 0.97, count))]


def ramp() -> "LinearSegmentedColormap":
    """Return the colour map of magnitudes from 0, light, to 1, dark."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("magnitude", RAMP)


def _darker(colour: str) -> str:
    parts = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(part * 0.6):02x}" for part in parts)
