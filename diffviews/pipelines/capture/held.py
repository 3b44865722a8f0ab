"""Activations of some samples in memory, at most so many numbers a sample: wider layers are projected at random."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from torch import Tensor

from diffviews.core.session import Keep

WIDEST = 8192
"""Numbers kept of a sample's activations; of N points they keep all distances within about √(8 ln N / 8192), 9 % for
2,000 (Johnson & Lindenstrauss 1984)."""


class HeldActivations:
    """Fills (N, d) float32 arrays, one a name, from batches of tensors.

    What is wider than `WIDEST` is centred and divided by the standard deviations of its first batch, which should be a
    mixed one, and then projected by a sparse random matrix (Li et al. 2006), the same for all that are equally wide.

    Args:
        rows: how many samples there will be.
        normalize: whether features are divided by their standard deviation before a projection.
    """

    def __init__(self, rows: int, *, normalize: bool = True) -> None:
        self._rows, self._normalize = rows, normalize
        self._projections: dict[str, _Projection] = {}
        self.values: dict[str, np.ndarray] = {}
        """{name: (N, d) float32}."""

    def add(self, name: str, start: int, tensor: Tensor) -> None:
        """Take the batch (B, …) that begins at row `start`."""
        batch = tensor.detach().flatten(1).float().cpu().numpy()
        if batch.shape[1] > WIDEST:
            if name not in self._projections:
                self._projections[name] = _Projection(batch, normalize=self._normalize)
            batch = self._projections[name].of(batch)
        if name not in self.values:
            self.values[name] = np.empty((self._rows, batch.shape[1]), np.float32)
        self.values[name][start : start + len(batch)] = batch

    def keep_from(self, start: int) -> Keep:
        """Return what takes the outputs of layers in a pass over the samples from row `start` on."""
        return lambda layer, own: self.add(layer, start, own)


class _Projection:
    """What is fitted to the first batch of a layer."""

    def __init__(self, batch: np.ndarray, *, normalize: bool) -> None:
        from sklearn.random_projection import SparseRandomProjection

        self._mean = batch.mean(axis=0)
        spread = batch.std(axis=0)
        self._scale = np.where((spread > 0) & normalize, spread, np.float32(1))
        self._directions: Any = SparseRandomProjection(WIDEST, random_state=0).fit(batch[:1])

    def of(self, batch: np.ndarray) -> np.ndarray:
        return np.asarray(self._directions.transform((batch - self._mean) / self._scale), np.float32)


def held_bytes(rows: int, shapes: Sequence[Sequence[int]]) -> int:
    """Return how many bytes layers of these shapes take."""
    return sum(4 * rows * min(prod(shape), WIDEST) for shape in shapes)
