"""What every judge gives: a class or factors of each image, how sure it is, and which images it takes for nothing."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from diffviews.errors import ShapeError


@dataclass(frozen=True, slots=True, eq=False)
class Verdicts:
    """What a judge says of N images."""

    labels: np.ndarray
    """Class of each, (N,) int64; -1: rejected."""
    scores: np.ndarray
    """How sure the judge is, (N,) float64, by a measure of its own; more is surer."""
    factors: pd.DataFrame | None = None
    """Names of each factor, a column each, '' where there is none; None from a judge of classes alone."""

    def __post_init__(self) -> None:
        count, rows = len(self.labels), len(self.labels if self.factors is None else self.factors)
        if not count == len(self.scores) == rows:
            raise ShapeError(f"{count} labels, {len(self.scores)} scores and {rows} rows do not go together")

    @property
    def rejects(self) -> np.ndarray:
        """Which images are none of the classes, (N,) bool."""
        return self.labels < 0


class Judge(Protocol):
    """Says what is in images."""

    @property
    def name(self) -> str:
        """As `judge=` has it."""

    def classify(self, images: np.ndarray) -> Verdicts:
        """Judge images, (N, H, W, 3) uint8.

        Raises:
            ShapeError: if it does not know such images.
        """
