"""What is in a scene: factors that are drawn by index from a seed.

scenes = draw_scenes(range(100, 110), seed=0)
scenes.table()   # sample-wise names: shape, colour, size, place, ground, and of a second object where there is one

Every block of 3,888 successive indices holds each combination of one object's factors and the ground once, in an
order of its own; so a scene depends on seed and index alone, and whatever is counted from 0 is balanced.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from diffviews.errors import SelectionError

FACTORS: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "cross", "ring", "hourglass"),
    "colour": ("red", "green", "blue", "yellow", "purple", "cyan"),
    "size": ("small", "medium", "large"),
    "place": (
        "top left", "top", "top right",
        "left", "centre", "right",
        "bottom left", "bottom", "bottom right",
    ),
    "ground": ("black", "white", "grey", "brown"),
}  # fmt: skip
"""Names of the values of each factor; values are numbers in this order."""

OBJECT_FACTORS = ("shape", "colour", "size", "place")
"""Factors that each object has; the ground is that of the scene."""

RADII = (3.8 / 32, 5.1 / 32, 6.8 / 32)
"""Half the height of an object of each size, as a share of the image's side."""
SPACING = 1 / 4
"""Distance of neighbouring places, as a share of the image's side."""
JITTER = 1.2 / 32
"""How far a centre is from its place at most, along either axis."""
SECOND = 0.25
"""Share of the scenes with a second object; it stands two rows or columns away, so that no object hides another."""

BLOCK = math.prod(len(names) for names in FACTORS.values())
"""Scenes in which each combination of factors comes once."""
_CENTRE = 4
_COLUMNS = 1 + 4 + 1 + 4
"""What is drawn for a scene: its combination, jitter of both centres, whether there is a second object, and it."""
_OUTER = SECOND * 9 / 8  # the centre has no place two rows or columns away


@dataclass(frozen=True, slots=True, eq=False)
class Scenes:
    """N scenes of one or two objects, as arrays; what a missing second object would have is -1, or NaN."""

    index: np.ndarray
    """Number of each scene, (N,) int64."""
    seed: int
    """Of all scenes."""
    ground: np.ndarray
    """(N,) int64."""
    shape: np.ndarray
    """(N, 2) int64, as are colour, size and place."""
    colour: np.ndarray
    size: np.ndarray
    place: np.ndarray
    centre: np.ndarray
    """x and y of each object's centre, (N, 2, 2) float64, in shares of the image's side from its top left corner."""

    def __len__(self) -> int:
        return len(self.index)

    @property
    def two(self) -> np.ndarray:
        """Whether there is a second object, (N,) bool."""
        return self.shape[:, 1] >= 0

    def factors(self, row: int, number: int = 0) -> dict[str, str]:
        """Return the names of one object's factors, and of the ground."""
        values = {name: int(getattr(self, name)[row, number]) for name in OBJECT_FACTORS}
        values["ground"] = int(self.ground[row])
        return {name: FACTORS[name][value] for name, value in values.items()}

    def table(self) -> pd.DataFrame:
        """Return a column of names for each factor, the second object's as `second_shape` and so on, '' for none."""
        columns = {name: _names(name, getattr(self, name)[:, 0]) for name in OBJECT_FACTORS}
        columns["ground"] = _names("ground", self.ground)
        columns |= {f"second_{name}": _names(name, getattr(self, name)[:, 1]) for name in OBJECT_FACTORS}
        return pd.DataFrame(columns)


def draw_scenes(indices: Sequence[int] | np.ndarray, seed: int = 0) -> Scenes:
    """Return the scenes of these indices; each depends on its index and the seed alone.

    Raises:
        SelectionError: if an index or the seed is negative.
    """
    index = np.asarray(indices, dtype=np.int64).reshape(-1)
    if seed < 0 or (index < 0).any():
        raise SelectionError(f"scenes and seeds count from 0; index {index.min()} of seed {seed} is not possible")
    blocks, within = np.divmod(index, BLOCK)
    parts = np.empty((len(index), _COLUMNS))
    for block in np.unique(blocks):
        rows = blocks == block
        parts[rows] = _block(seed, int(block))[within[rows]]
    return _scenes(index, seed, parts[:, 0].astype(np.int64), parts[:, 1:])


@lru_cache(4)
def _block(seed: int, block: int) -> np.ndarray:
    """Return what is drawn for the scenes of one block, (BLOCK, _COLUMNS)."""
    draws = keyed_draws("scenes", seed, block)
    return np.column_stack([draws.permutation(BLOCK), draws.random((BLOCK, _COLUMNS - 1))])


def keyed_draws(stream: str, seed: int, number: int) -> np.random.Generator:
    """Return a generator whose draws depend on these three alone."""
    words = np.frombuffer(stream.encode(), np.uint8).tolist()
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, number, *words))))


def _scenes(index: np.ndarray, seed: int, combination: np.ndarray, uniform: np.ndarray) -> Scenes:
    first = dict(zip(FACTORS, np.unravel_index(combination, [len(names) for names in FACTORS.values()]), strict=True))
    two = (uniform[:, 4] < _OUTER) & (first["place"] != _CENTRE)
    second = {
        name: (uniform[:, 5 + number] * len(FACTORS[name])).astype(np.int64)
        for number, name in enumerate(("shape", "colour", "size"))
    }
    far = [np.flatnonzero(_distance(place, np.arange(9)) == 2) for place in range(9)]
    second["place"] = np.full(len(index), -1)
    for place in np.unique(first["place"][two]):
        rows = two & (first["place"] == place)
        second["place"][rows] = far[place][(uniform[rows, 8] * len(far[place])).astype(np.int64)]
    both = {name: np.column_stack([first[name], np.where(two, second[name], -1)]) for name in OBJECT_FACTORS}
    row, column = np.divmod(both["place"], 3)
    jitter = (2 * uniform[:, :4].reshape(-1, 2, 2) - 1) * JITTER
    centre = (np.stack([column, row], axis=-1) + 1) * SPACING + jitter
    centre[~two, 1] = np.nan
    return Scenes(index, seed, first["ground"].astype(np.int64), centre=centre, **both)


def _distance(place: int, others: np.ndarray) -> np.ndarray:
    """Return the larger of the distances in rows and in columns."""
    return np.maximum(abs(place // 3 - others // 3), abs(place % 3 - others % 3))


def _names(factor: str, values: np.ndarray) -> list[str]:
    return [FACTORS[factor][value] if value >= 0 else "" for value in values]
