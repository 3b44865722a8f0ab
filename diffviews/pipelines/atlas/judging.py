"""What a judge says of images, as numbers that can be compared: by class, or by each of several factors."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffviews.errors import ConfigError, unknown_name
from diffviews.judges.base import Judge

CLASS = "class"
"""Name of the one way in which a judge of classes sees images."""


@dataclass(frozen=True, slots=True)
class Ways:
    """In which ways images are judged."""

    judge: Judge
    factors: Sequence[str] = ()
    """Factors; none: the class."""

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each."""
        return tuple(self.factors) or (CLASS,)

    def of(self, images: np.ndarray) -> np.ndarray:
        """Return what each image, (n, H, W, 3) uint8, is in each way, (n, F) int64; -1: rejected.

        Values of a factor are told apart and not counted, so that a checksum of its name stands for each.

        Raises:
            ConfigError: if the judge does not know a factor.
        """
        said = self.judge.classify(images)
        if not self.factors:
            return said.labels[:, None].astype(np.int64)
        if said.factors is None:
            raise ConfigError(f"judge {self.judge.name!r} knows no factors; take judge factors, or leave factors out")
        for factor in self.factors:
            if factor not in said.factors:
                raise ConfigError(unknown_name("factor", factor, said.factors.columns))
        columns = [[_number(str(value)) for value in said.factors[factor]] for factor in self.factors]
        return np.where(said.rejects[:, None], -1, np.array(columns, dtype=np.int64).T)


def _number(value: str) -> int:
    return zlib.crc32(value.encode()) if value else -1
