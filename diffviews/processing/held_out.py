"""What a layer's principal axes are worth on samples they were not fitted to, from one Gram matrix of all.

Leaving samples out of a principal component analysis changes which rows and columns of the matrix are looked at; the
activations are not read again.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diffviews.processing.blocks import ActivationSource
from diffviews.processing.dimension import space_measures
from diffviews.processing.neighbors import exact_neighbors
from diffviews.processing.reduction import Reduction

HELD_OUT_ROWS = 2048
"""Of more samples, evenly spaced ones are held out of one another; then distances are left to leaving one out."""

FOLDS = 5
"""A fifth of the samples is held out at a time: once, or more often until there are `ENOUGH`."""

ENOUGH = 300
"""Held-out samples whose percentiles are near those of any number: 95 ± 1.3."""


def with_held_out(
    reduction: Reduction, activations: Any, *, k: int, metric: str, sample_ids: Sequence[str] | None = None
) -> Reduction:
    """Return a fitted reduction with what it is worth on held-out samples, and the size of the layer's own space.

    Args:
        reduction: scaler and principal axes of the activations.
        activations: (N, *shape) that it was fitted to.
        k: neighbours that a sample's distance to the data is the mean over.
        metric: distance in PCA space.
        sample_ids: (N,) of the rows, where a sample has several: all of these are held out together.
    """
    rows = np.linspace(0, len(reduction.points) - 1, min(len(reduction.points), HELD_OUT_ROWS)).astype(np.int64)
    gram = _standardised_gram(reduction, activations, rows)
    members = np.arange(len(rows))
    if sample_ids is not None:
        members = np.unique([sample_ids[row] for row in rows.tolist()], return_inverse=True)[1]
    found: dict[str, Any] = {"gram": None, "space": space_measures(gram, metric)}
    if reduction.components is not None and members.max() >= FOLDS:
        parts = [
            _held_out_fold(gram, members, fold, width=len(reduction.components), k=k, metric=metric)
            for fold in range(min(FOLDS, -(-ENOUGH * FOLDS // len(rows))))
        ]
        distances, residuals, captured, total = (list(part) for part in zip(*parts, strict=True))
        if len(rows) == len(reduction.points):
            found["held_out_distances"] = np.sort(np.concatenate(distances)).astype(np.float32)
        found["held_out_residuals"] = np.sort(np.concatenate(residuals)).astype(np.float32)
        found["held_out_variance"] = np.cumsum(sum(captured)) / sum(total)
    return replace(reduction, **found)


def _held_out_fold(
    gram: np.ndarray, members: np.ndarray, fold: int, *, width: int, k: int, metric: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Fit principal axes without one fold, and return of its samples the distances to the others and the residuals.

    With K the others' centred Gram matrix, K = U Λ Uᵀ: their coordinates are U √Λ, a held-out sample's c U / √Λ, c its
    centred products with them; what is left of its length is off the axes (Schölkopf et al. 1998).

    Returns:
        distances (h,), residuals (h,), squared lengths along each axis (width,), and the squared lengths' sum.
    """
    from sklearn.utils.extmath import randomized_svd

    deal = np.random.default_rng(0).permutation(members.max() + 1) % FOLDS
    held, kept = np.flatnonzero(deal[members] == fold), np.flatnonzero(deal[members] != fold)
    own = gram[kept[:, None], kept]
    mean = own.mean(axis=0)
    own -= mean + mean[:, None] - mean.mean()
    across = gram[held[:, None], kept]
    means = across.mean(axis=1)
    across -= mean + means[:, None] - mean.mean()
    squares = gram[held, held] - 2 * means + mean.mean()
    vectors, values, _ = randomized_svd(own, min(width, len(kept) - 1), random_state=0)
    strong = values >= values[0] * 1e-6
    vectors, lengths = vectors[:, strong], np.sqrt(np.maximum(values[strong], np.finfo(np.float64).tiny))
    points, placed = (vectors * lengths).astype(np.float32), (across @ vectors / lengths).astype(np.float32)
    distances = exact_neighbors(points, min(k, len(kept)), placed, metric=metric)[1].mean(axis=1)
    along = np.square(placed, dtype=np.float64)
    residuals = np.sqrt(np.maximum(squares - along.sum(axis=1), 0.0))
    captured = np.zeros(width)
    captured[: along.shape[1]] = along.sum(axis=0)
    return distances, residuals, captured, float(squares.sum())


def _standardised_gram(reduction: Reduction, activations: Any, rows: np.ndarray) -> np.ndarray:
    if reduction.gram is not None:
        return reduction.gram[rows[:, None], rows]
    source = ActivationSource(activations)
    if len(rows) < source.num_rows:
        source = ActivationSource(source.selected(rows))
    gram = np.zeros((len(rows), len(rows)))
    for span in source.column_spans():
        block = source.columns(span)
        block -= reduction.mean[span]
        block /= reduction.scale[span]
        gram += block @ block.T
    return gram
