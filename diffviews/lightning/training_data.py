"""Labelled images as batches for training, their order fixed by a seed."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from diffviews.errors import ShapeError
from diffviews.noise import keyed_generator

Batch = tuple[Tensor, Tensor | None]
"""Images (B, C, H, W) float32 in [-1, 1] and one-hot labels (B, K) float32, tokens (B, T), or None without either."""


class ShuffledBatches(IterableDataset[Batch]):
    """`steps` whole batches; every image comes once before any comes again.

    The order of pass n depends on (seed, n) alone. A batch may span two passes, so none is short.
    """

    def __init__(
        self, x: Tensor, labels: Tensor | None, *, batch_size: int, steps: int, seed: int, first: int = 0
    ) -> None:
        self._x, self._labels = x, labels
        self._batch_size, self._steps, self._seed, self._first = batch_size, steps, seed, first

    def __iter__(self) -> Iterator[Batch]:
        for rows in islice(self.batch_rows(), self._first, None):
            yield _scaled(self._x[rows]), None if self._labels is None else self._labels[rows]

    def batch_rows(self) -> Iterator[Tensor]:
        """Yield the rows of each batch, (B,) int64."""
        waiting, passes = torch.empty(0, dtype=torch.int64), 0
        for _ in range(self._steps):
            while len(waiting) < self._batch_size:
                order = torch.randperm(len(self._x), generator=keyed_generator("training order", self._seed, passes))
                waiting, passes = torch.cat([waiting, order]), passes + 1
            yield waiting[: self._batch_size]
            waiting = waiting[self._batch_size :]


def training_batches(
    images: np.ndarray,
    labels: np.ndarray | None,
    num_classes: int,
    *,
    batch_size: int,
    steps: int,
    seed: int,
    first: int = 0,
) -> DataLoader[Batch]:
    """Return images and labels as batches; the images stay uint8 until their batch comes.

    Args:
        images: (N, H, W, C) uint8.
        labels: (N,) integers in [0, num_classes); None for an unconditional network.
        num_classes: K; 0 for an unconditional network.
        batch_size: images a step.
        steps: how many batches there are.
        seed: fixes their order.
        first: batches that are left out, as a training has seen them before it was interrupted.

    Raises:
        ShapeError: if the images or labels have another shape, dtype or range.
    """
    if images.ndim != 4 or images.dtype != np.uint8 or not len(images):
        raise ShapeError(f"training images are {images.shape} {images.dtype}; give (N, H, W, C) uint8, N >= 1")
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    one_hot = _one_hot(labels, num_classes, len(images)) if num_classes else None
    return shuffled_batches(x, one_hot, batch_size=batch_size, steps=steps, seed=seed, first=first)


def shuffled_batches(
    x: Tensor, conditioning: Tensor | None, *, batch_size: int, steps: int, seed: int, first: int = 0
) -> DataLoader[Batch]:
    """Return images (N, C, H, W) and what goes with each, (N, …), as batches; arguments as of `training_batches`."""
    batches = ShuffledBatches(x, conditioning, batch_size=batch_size, steps=steps, seed=seed, first=first)
    # Without a generator of its own a loader draws a base seed from torch's global one.
    return DataLoader(batches, batch_size=None, generator=keyed_generator("training loader", seed))


def _scaled(x: Tensor) -> Tensor:
    """Return images in [-1, 1]; those that are already float stay as they are."""
    return x if x.is_floating_point() else x.to(torch.float32).contiguous() / 127.5 - 1


def _one_hot(labels: np.ndarray | None, num_classes: int, count: int) -> Tensor:
    if labels is None or np.shape(labels) != (count,) or not np.issubdtype(np.asarray(labels).dtype, np.integer):
        given = "none" if labels is None else f"{np.shape(labels)} {np.asarray(labels).dtype}"
        raise ShapeError(f"labels are {given}; {count} images need ({count},) integers")
    low, high = int(np.min(labels)), int(np.max(labels))
    if low < 0 or high >= num_classes:
        raise ShapeError(f"labels run from {low} to {high}; this network has classes 0 to {num_classes - 1}")
    return F.one_hot(torch.from_numpy(np.asarray(labels, dtype=np.int64)), num_classes).to(torch.float32)
