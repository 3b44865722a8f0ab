"""How alike two layers are: linear CKA from Gram matrices of the same samples."""

from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

import numpy as np

from diffviews.errors import ShapeError
from diffviews.processing.blocks import ActivationSource

Name = TypeVar("Name", bound=Hashable)


def centered_gram(activations: Any) -> np.ndarray:
    """Return x xᵀ of activations (N, *shape) with each feature's mean taken off, (N, N) float32."""
    source = ActivationSource(activations)
    gram = np.zeros((source.num_rows, source.num_rows))
    for span in source.column_spans():
        block = source.columns(span)
        block -= block.mean(axis=0, dtype=np.float64).astype(np.float32)
        gram += block @ block.T
    return gram.astype(np.float32)


def cka_from_grams(grams: Mapping[Name, np.ndarray]) -> tuple[list[Name], np.ndarray]:
    """Return the names and the linear CKA of every pair of centred Gram matrices, (L, L) float64.

    CKA = ‖YᵀX‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F) with centred features (Kornblith et al. 2019, eq. 4): 1 for
    representations that differ by a rotation and a scale, 0 for linearly independent ones; NaN where one of
    them does not vary.

    Raises:
        ShapeError: if the matrices are not of the same samples.
    """
    sizes = {gram.shape for gram in grams.values()}
    if len(sizes) > 1:
        raise ShapeError(f"layers are compared on the same samples, but their Gram matrices are {sorted(sizes)}")
    names, units = list(grams), [_unit(gram) for gram in grams.values()]
    matrix = np.full((len(units), len(units)), np.nan)
    for row, first in enumerate(units):
        for column, second in enumerate(units[: row + 1]):
            matrix[row, column] = matrix[column, row] = np.einsum("ij,ij->", first, second, dtype=np.float64)
    return names, np.clip(matrix, 0.0, 1.0)


def _unit(gram: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(gram.astype(np.float64))
    return gram / norm if norm > 0 else np.full_like(gram, np.nan)
