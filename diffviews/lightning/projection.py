"""Projecting a layer's batches on a fitted sketch, on the device they come from, and the mean of what was projected."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffviews.data.files import write_atomically
from diffviews.processing.sketch import Sketch


class Projection:
    """Makes each output of a layer the few numbers a sketch keeps of it, and sums the outputs of each chunk.

    Args:
        sketch: fitted scaler and principal axes, D features.
        chunk_rows: samples a chunk of the array that the numbers are stored in.
        device: where the layer's outputs lie.
    """

    def __init__(self, sketch: Sketch, chunk_rows: int, device: torch.device) -> None:
        self._mean = torch.from_numpy(sketch.mean).to(device)
        self._axes = torch.from_numpy(sketch.components / sketch.scale).to(device).T.contiguous()
        self._centred = torch.empty(0, device=device)
        self._chunk_rows = chunk_rows
        self._batch: dict[int, Tensor] = {}
        self._sums: dict[int, Tensor] = {}

    def __call__(self, start: int, own: Tensor) -> Tensor:
        """Return the vectors (n, d) float32 of a layer's output (n, *layer_shape), rows `start` … of the samples."""
        rows = own.detach().reshape(len(own), -1).to(torch.float32)
        self._batch, size = {}, self._chunk_rows  # a layer that ran before in this pass has its last output counted
        for chunk in range(start // size, -(-(start + len(rows)) // size)):
            self._batch[chunk] = rows[max(0, chunk * size - start) : (chunk + 1) * size - start].sum(dim=0)
        if self._centred.shape != rows.shape:  # used again by the next batch, since fresh memory costs more
            self._centred = torch.empty_like(rows)
        return torch.sub(rows, self._mean, out=self._centred) @ self._axes

    def count(self) -> None:
        """Count the last batch in."""
        for chunk, outputs in self._batch.items():
            self._sums[chunk] = self._sums[chunk] + outputs if chunk in self._sums else outputs
        self._batch = {}

    def take_sums(self, stop: int, *, ends_block: bool = False) -> dict[int, Tensor]:
        """Return {chunk: sum of its outputs, (D,) float32} of each chunk that ends at row `stop` or before it, or of
        all at a block's end."""
        whole = [chunk for chunk in self._sums if ends_block or (chunk + 1) * self._chunk_rows <= stop]
        return {chunk: self._sums.pop(chunk) for chunk in whole}


def sums_folder(array: Path) -> Path:
    """Return where lies what the outputs of each chunk sum up to: beside the array of their vectors.

    A chunk's sum is stored before the chunk: it is there whenever the chunk is, and whoever makes a chunk again
    writes the same sum again.
    """
    return array.with_name("sums")


def store_sum(array: Path, chunk: int, outputs: Tensor) -> None:
    """Store what the outputs of a chunk, (D,) float32, sum up to."""
    folder = sums_folder(array)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{chunk}.npy", lambda file: np.save(file, outputs.cpu().numpy()))


def mean_of_sums(array: Path, total: int) -> np.ndarray:
    """Return the mean output of `total` samples, (D,) float32, once all chunks are stored."""
    sums = np.zeros(1)
    for path in sorted(sums_folder(array).glob("*.npy")):
        sums = sums + np.load(path, allow_pickle=False)
    return (sums / total).astype(np.float32)
