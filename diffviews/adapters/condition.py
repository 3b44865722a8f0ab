"""What one sample of a generation or extraction is conditioned on."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Condition:
    """A class, a prompt, or neither."""

    class_id: int | None = None
    """Class; -1: the uniform label; None: a model without classes, or no class meant."""
    prompt: str | None = None
    """Text of the conditional pass."""
    negative_prompt: str = ""
    """Text of the unconditional pass."""


Conditioning = Mapping[str, Tensor]
"""Keyword arguments of an adapter's `forward` that condition a batch, each (B, …); empty: none."""


def conditioning_rows(conditioning: Conditioning, rows: slice) -> dict[str, Tensor]:
    """Return the conditioning of some samples of a batch."""
    return {name: values[rows] for name, values in conditioning.items()}
