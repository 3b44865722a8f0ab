"""How layers lie in memory and on disk: order and offsets of joined layers, chunk sizes, bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Self

import numpy as np

from diffviews.errors import ConfigError, LayerNotFoundError, ShapeError, unknown_name

LayerKey = tuple[str, float]
"""(layer name, sigma): what one array of activations belongs to."""

MAX_CHUNK_ROWS = 1024
CHECKSUM_BYTES = 4
CHUNK_BYTES = 4 * 2**20
"""Upper bound of a chunk: 2–4 MB are one cheap request to an object store, yet little waste for one row."""


@dataclass(frozen=True, slots=True)
class LayerLayout:
    """Where several layers lie that are joined into one vector a sample, in sorted order of their names."""

    names: tuple[str, ...]
    """Layer names, sorted and unique."""
    shapes: tuple[tuple[int, ...], ...]
    """Shape of each layer's output for one sample, (C, H, W) or (T, C)."""

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.shapes):
            raise ConfigError(f"a layout of {len(self.names)} layers cannot have {len(self.shapes)} shapes")
        if list(self.names) != sorted(set(self.names)):
            raise ConfigError(f"layers of a layout must be sorted and unique, not {', '.join(self.names)}")
        for name, shape in zip(self.names, self.shapes, strict=True):
            if any(side < 1 for side in shape):
                raise ShapeError(f"layer {name!r} has the impossible shape {shape}")

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Sequence[int]]) -> Self:
        """Return the layout of `shapes` (layer name → shape), whatever the order of the mapping."""
        names = tuple(sorted(shapes))
        return cls(names, tuple(tuple(int(side) for side in shapes[name]) for name in names))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each layer for one sample."""
        return tuple(prod(shape) for shape in self.shapes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each layer starts in the joined vector."""
        return tuple(accumulate(self.sizes, initial=0))[:-1]

    @property
    def size(self) -> int:
        """Length D of the joined vector."""
        return sum(self.sizes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of layer `name` for one sample."""
        return self.shapes[self._position(name)]

    def span(self, name: str) -> slice:
        """Return where layer `name` lies in the joined vector."""
        position = self._position(name)
        return slice(self.offsets[position], self.offsets[position] + self.sizes[position])

    def _position(self, name: str) -> int:
        if name not in self.names:
            raise LayerNotFoundError(unknown_name("layer", name, self.names))
        return self.names.index(name)


def chunk_rows(shape: Sequence[int], dtype: np.dtype | str, num_samples: int | None = None) -> int:
    """Return how many samples one chunk holds: the largest power of two that stays within 4 MiB.

    Rows of 4 KiB to 4 MiB thus give chunks of 2 to 4 MiB; smaller rows stop at 1024 a chunk, and
    a larger row is a chunk by itself. A set of fewer samples than that has one chunk, since the
    last chunk of an array is padded to its full size on disk.
    """
    rows = max(1, CHUNK_BYTES // max(1, prod(shape) * np.dtype(dtype).itemsize))
    rows = min(MAX_CHUNK_ROWS, 1 << (rows.bit_length() - 1))
    return rows if num_samples is None else min(rows, 1 << max(0, num_samples - 1).bit_length())


def estimate_bytes(num_samples: int, shapes: Mapping[str, Sequence[int]], dtype: np.dtype | str = "float16") -> int:
    """Return the bytes that the chunks of `num_samples` samples at one sigma take on disk."""
    if num_samples < 0:
        raise ConfigError(f"the number of samples cannot be {num_samples}")
    total = 0
    for shape in shapes.values():
        rows = chunk_rows(shape, dtype, num_samples)
        total += -(-num_samples // rows) * (rows * prod(shape) * np.dtype(dtype).itemsize + CHECKSUM_BYTES)
    return total
