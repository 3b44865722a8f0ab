"""Copying rows of a batch between samples inside one forward pass: the change that interchange is made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffviews.core.session import GuidancePass
from diffviews.errors import ConfigError, ShapeError


@dataclass(frozen=True, slots=True, eq=False)
class RowCopy:
    """Gives some rows of a layer's output what other rows of the same batch have there, as they are computed.

    Nothing is recorded, so donor and recipient are matched at every evaluation: of whichever sampler, at whichever
    noise level, in either pass of guidance.
    """

    layer: str
    """Layer whose output it changes."""
    sources: Tensor
    """Rows that give, (K,) int64."""
    targets: Tensor
    """Rows that take, (K,) int64, each named once."""

    def __post_init__(self) -> None:
        if self.sources.shape != self.targets.shape or self.sources.ndim != 1:
            raise ShapeError(
                f"{tuple(self.sources.shape)} rows that give and {tuple(self.targets.shape)} that take do not go "
                "together; name one of each, (K,)"
            )
        if len(self.targets.unique()) < len(self.targets):
            raise ConfigError("a row can take one value at a layer, but some are named twice; name each once")

    def acts(self, step: int, guidance_pass: GuidancePass) -> bool:
        """Whether it acts: in every pass of its session."""
        return True

    def check(self, shape: Sequence[int]) -> None:
        """Accept a layer of any shape."""

    def value_at(self, sigma: float) -> Tensor:
        """Return nothing: what is copied is computed in the pass itself."""
        return self.sources

    def apply(self, own: Tensor, target: Tensor) -> Tensor:
        """Return the layer's output (B, …) with the rows copied, a new tensor."""
        given = own.index_select(0, self.sources.to(own.device))
        return own.index_copy(0, self.targets.to(own.device), given)


def blocks(size: int, count: int) -> list[Tensor]:
    """Return the rows of each of `count` blocks of `size` samples that follow one another in a batch."""
    return list(torch.arange(size * count).split(size))
