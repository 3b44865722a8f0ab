"""How alike two layers are: linear CKA from Gram matrices of the same samples."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from diffviews.errors import SelectionError, ShapeError
from diffviews.processing.blocks import ActivationSource

MAX_SAMPLES = 1000
"""Samples that CKA is computed from, evenly spaced among those all layers have."""

Name = TypeVar("Name", bound=Hashable)


def linear_cka(first: Any, second: Any) -> float:
    """Return the linear centred kernel alignment of two representations of the same samples.

    CKA = ‖YᵀX‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F) with centred features (Kornblith et al. 2019, eq. 4): 1 for
    representations that differ by a rotation and a scale, 0 for linearly independent ones.

    Args:
        first: (N, *shape) activations.
        second: (N, *other shape), the same samples in the same order.

    Returns:
        0 to 1; NaN where one of them does not vary.

    Raises:
        ShapeError: if they have different numbers of samples.
    """
    return float(cka_from_grams({"first": centered_gram(first), "second": centered_gram(second)})[1][0, 1])


def cka_matrix(
    layers: Mapping[Name, Any],
    sample_ids: Mapping[Name, Sequence[str]] | None = None,
    *,
    max_samples: int = MAX_SAMPLES,
) -> tuple[list[Name], np.ndarray]:
    """Return the names and the linear CKA of every pair of layers, (L, L) float64.

    One layer is read at a time; only its Gram matrix, at most max_samples², is kept.

    Args:
        layers: activations (N, *shape) by name.
        sample_ids: of each layer's rows; rows are then paired by id and only common samples used. None:
            row i is the same sample in all layers.
        max_samples: evenly spaced samples used, at most.

    Raises:
        ShapeError: if numbers of rows differ and no ids say which is which.
        SelectionError: if fewer than 2 samples are common.
    """
    rows = _common_rows(layers, sample_ids, max_samples)
    return cka_from_grams({
        name: centered_gram(ActivationSource(values).selected(rows[name])) for name, values in layers.items()
    })


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


def _common_rows(
    layers: Mapping[Name, Any], sample_ids: Mapping[Name, Sequence[str]] | None, max_samples: int
) -> dict[Name, np.ndarray]:
    if sample_ids is None:
        counts = {len(values) for values in layers.values()}
        if len(counts) > 1:
            raise ShapeError(f"layers have {sorted(counts)} rows; give sample_ids to pair them")
        places = {name: {row: row for row in range(max(counts, default=0))} for name in layers}
    else:
        places = {name: {key: row for row, key in enumerate(sample_ids[name])} for name in layers}  # type: ignore[misc]
    shared = [key for key in next(iter(places.values()), {}) if all(key in known for known in places.values())]
    if len(shared) < 2:
        raise SelectionError(f"layers have {len(shared)} samples in common; CKA needs 2 or more")
    picked = np.unique(np.linspace(0, len(shared) - 1, min(len(shared), max_samples)).astype(np.int64))
    return {name: np.array([known[shared[place]] for place in picked]) for name, known in places.items()}
