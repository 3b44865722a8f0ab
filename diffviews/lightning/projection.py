"""Projecting a layer's batches on a fitted sketch, on the device they come from."""

import torch
from torch import Tensor

from diffviews.processing.sketch import Sketch


class Projection:
    """Makes each output of a layer the few numbers a sketch keeps of it, and sums up the outputs of a block.

    Args:
        sketch: fitted scaler and principal axes, D features.
        device: where the layer's outputs lie.
    """

    def __init__(self, sketch: Sketch, device: torch.device) -> None:
        self._mean = torch.from_numpy(sketch.mean).to(device)
        self._axes = torch.from_numpy(sketch.components / sketch.scale).to(device).T.contiguous()
        self._centred = torch.empty(0, device=device)
        self._sum, self._total = torch.zeros_like(self._mean), torch.zeros_like(self._mean)

    def __call__(self, own: Tensor) -> Tensor:
        """Return the vectors (n, d) float32 of a layer's output (n, *layer_shape)."""
        rows = own.detach().reshape(len(own), -1).to(torch.float32)
        self._sum = rows.sum(dim=0)
        if self._centred.shape != rows.shape:  # used again by the next batch, since fresh memory costs more
            self._centred = torch.empty_like(rows)
        return torch.sub(rows, self._mean, out=self._centred) @ self._axes

    def add(self) -> None:
        """Count the last batch in."""
        self._total += self._sum
        self._sum = torch.zeros_like(self._sum)

    def take_sum(self) -> Tensor:
        """Return the sum of the outputs counted in since the last call, (D,) float32 on the device."""
        total, self._total = self._total, torch.zeros_like(self._total)
        return total
