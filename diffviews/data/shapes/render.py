"""Scenes as pixels: anti-aliased by the share of each pixel that an object covers.

Every shape is mirror symmetric: at height v it reaches from -outer(v) to outer(v), less what lies between -inner(v)
and inner(v). So the covered part of a pixel's row is exact along x, and averaged over STRIPS heights along y.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from diffviews.data.shapes.scene import FACTORS, RADII, Scenes
from diffviews.errors import SelectionError

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (226, 40, 40),
    "green": (40, 170, 60),
    "blue": (45, 85, 230),
    "yellow": (245, 215, 40),
    "purple": (165, 50, 205),
    "cyan": (60, 215, 225),
}
"""sRGB of each colour of an object."""
GROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (18, 18, 18),
    "white": (242, 242, 242),
    "grey": (128, 128, 128),
    "brown": (112, 68, 36),
}
"""sRGB of each ground."""
STRIPS = 16
"""Heights within a pixel at which coverage is measured."""
SIZES = (16, 256)
"""Least and greatest side of an image, pixels."""
_BLOCK = 1024

HalfWidths = tuple[np.ndarray, np.ndarray]
"""Outer and inner half width at each height v in (-1, 1), v = -1 at the top, in units of half the height."""


def _circle(v: np.ndarray) -> HalfWidths:
    return np.sqrt(np.clip(1 - v * v, 0, None)), np.zeros_like(v)


def _ring(v: np.ndarray) -> HalfWidths:
    return _circle(v)[0], np.sqrt(np.clip(HOLE**2 - v * v, 0, None))


def _square(v: np.ndarray) -> HalfWidths:
    return np.ones_like(v), np.zeros_like(v)


def _triangle(v: np.ndarray) -> HalfWidths:
    return (v + 1) / 2, np.zeros_like(v)


def _cross(v: np.ndarray) -> HalfWidths:
    return np.where(abs(v) <= BAR, 1.0, BAR), np.zeros_like(v)


def _hourglass(v: np.ndarray) -> HalfWidths:
    return WAIST + (1 - WAIST) * abs(v), np.zeros_like(v)


HOLE = 0.5
"""Radius of a ring's hole."""
BAR = 0.34
"""Half the width of a cross's bars."""
WAIST = 0.1
"""Half the width of an hourglass at its middle."""
PROFILES: dict[str, Callable[[np.ndarray], HalfWidths]] = {
    "circle": _circle, "square": _square, "triangle": _triangle,
    "cross": _cross, "ring": _ring, "hourglass": _hourglass,
}  # fmt: skip
"""Half widths of each shape; all are 2 high and at most 2 wide."""


@dataclass(frozen=True, slots=True, eq=False)
class Rendering:
    """N scenes as pixels."""

    images: np.ndarray
    """(N, S, S, 3) uint8 sRGB."""
    coverage: np.ndarray
    """Share of each pixel that each object covers, (N, 2, S, S) uint8, 255 being all of it; 0 for no second object."""

    @property
    def masks(self) -> np.ndarray:
        """Pixels of which an object covers at least half, (N, 2, S, S) bool."""
        return self.coverage >= 128

    @property
    def boxes(self) -> np.ndarray:
        """Left, top, right and bottom of the pixels that an object touches, (N, 2, 4) int64, right and bottom
        exclusive; zeros for no second object."""
        touched = self.coverage > 0
        columns, rows, side = np.any(touched, axis=2), np.any(touched, axis=3), touched.shape[-1]
        first = (columns.argmax(-1), rows.argmax(-1))
        last = (side - np.flip(columns, -1).argmax(-1), side - np.flip(rows, -1).argmax(-1))
        return np.where(np.any(rows, axis=-1)[..., None], np.stack([*first, *last], axis=-1), 0)


def render(scenes: Scenes, side: int = 32) -> Rendering:
    """Return the pixels of scenes.

    Args:
        scenes: what is in them.
        side: height and width, pixels.

    Raises:
        SelectionError: if there are no such images.
    """
    if not SIZES[0] <= side <= SIZES[1]:
        raise SelectionError(f"scenes have between {SIZES[0]} and {SIZES[1]} pixels a side, not {side}")
    coverage = np.zeros((len(scenes), 2, side, side), np.uint8)
    for number in range(2):
        for shape in range(len(PROFILES)):
            for start in range(0, len(scenes), _BLOCK):
                rows = start + np.flatnonzero(scenes.shape[start : start + _BLOCK, number] == shape)
                coverage[rows, number] = _coverage(scenes, rows, number, side)
    colours, grounds = (np.array(list(values.values()), np.float32) for values in (COLOURS, GROUNDS))
    images = np.empty((len(scenes), side, side, 3), np.uint8)
    for start in range(0, len(scenes), _BLOCK):
        part = slice(start, start + _BLOCK)
        image = np.broadcast_to(grounds[scenes.ground[part], None, None], images[part].shape).copy()
        for number in range(2):
            share = coverage[part, number, :, :, None] / np.float32(255)
            image += share * (colours[scenes.colour[part, number], None, None] - image)
        images[part] = np.rint(image)
    return Rendering(images, coverage)


def _coverage(scenes: Scenes, rows: np.ndarray, number: int, side: int) -> np.ndarray:
    """Return the coverage of the objects `number` of `rows`, all of one shape, (n, S, S) uint8."""
    whole = np.zeros((len(rows), side, side), np.uint8)
    if not len(rows):
        return whole
    profile = PROFILES[FACTORS["shape"][int(scenes.shape[rows[0], number])]]
    radius = np.array(RADII)[scenes.size[rows, number]] * side
    window = min(side, 2 * math.ceil(radius.max()) + 1)  # pixels around an object, all that it may touch
    corner = np.floor(scenes.centre[rows, number] * side - radius[:, None])
    corner = corner.clip(0, side - window).astype(np.int64)
    x, y = (scenes.centre[rows, number] * side - corner).T[..., None]
    v = ((np.arange(window * STRIPS) + 0.5) / STRIPS - y) / radius[:, None]
    outer, inner = (np.where(abs(v) < 1, width, 0) * radius[:, None] for width in profile(v.clip(-1, 1)))
    left = np.arange(window, dtype=np.float32)

    def between(half: np.ndarray) -> np.ndarray:  # the share of each pixel, exact along x
        ends = [(x + sign * half).astype(np.float32)[..., None] - left for sign in (1, -1)]
        return ends[0].clip(0, 1, out=ends[0]) - ends[1].clip(0, 1, out=ends[1])

    share = between(outer) - between(inner) if inner.any() else between(outer)
    within = np.rint(share.reshape(len(rows), window, STRIPS, window).mean(axis=2) * 255)
    place = corner[:, :, None] + np.arange(window)
    whole[np.arange(len(rows))[:, None, None], place[:, 1, :, None], place[:, 0, None, :]] = within
    return whole
