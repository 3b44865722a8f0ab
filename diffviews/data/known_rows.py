"""Rows of an array that an earlier array of the same layer holds already, whatever their order there."""

from dataclasses import dataclass

import numpy as np

from diffviews.data.activation_reader import ActivationReader


@dataclass(frozen=True, slots=True)
class KnownRows:
    """Where the rows of an array that is being written are found."""

    reader: ActivationReader
    """The earlier array."""
    source: np.ndarray
    """Row of the earlier array that each row is the same as, (N,) int64, -1 where there is none."""

    def fits(self, dtype: np.dtype) -> bool:
        """Say whether its values are those that a forward pass would give in `dtype`; float16 has lost too much."""
        return self.reader.dtype == dtype or self.reader.dtype == np.float32

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the activations of known rows, (n, *layer_shape); raises as `ActivationReader.rows`."""
        return self.reader.rows(self.source[rows])
