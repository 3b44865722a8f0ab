"""Laying two maps of the same samples over each other."""

from dataclasses import dataclass

import numpy as np

from diffviews.errors import ShapeError


@dataclass(frozen=True, slots=True, eq=False)
class Overlay:
    """Two maps of the same samples, centred, brought to one size, and the second turned onto the first."""

    first: np.ndarray
    """(N, n) float64, mean 0 and Frobenius norm √N."""
    second: np.ndarray
    """(N, n) float64, the same, rotated or mirrored."""
    agreement: float
    """Procrustes correlation, 0 to 1: 1 where the maps differ by place, size, rotation and mirroring only."""


def overlay(first: np.ndarray, second: np.ndarray) -> Overlay:
    """Turn one map onto another by orthogonal Procrustes analysis (Gower & Dijksterhuis 2004, sec. 4.1).

    With both centred and of equal norm, Q = U Vᵀ from the singular values of secondᵀ first = U S Vᵀ
    minimises ‖first − second Q‖_F; the agreement is tr S.

    Args:
        first: (N, n) float, coordinates on one map.
        second: (N, n) float, the same samples in the same order on another.

    Raises:
        ShapeError: if the maps are not of the same samples and dimensions, or of fewer than 2 samples.
    """
    if first.shape != second.shape or first.ndim != 2 or len(first) < 2:
        raise ShapeError(
            f"maps laid over each other hold the same 2 or more samples, but these are {first.shape} and {second.shape}"
        )
    ours, theirs = _unit(first), _unit(second)
    left, singular, right = np.linalg.svd(theirs.T @ ours)
    size = np.sqrt(len(first))
    return Overlay(ours * size, theirs @ left @ right * size, float(np.clip(singular.sum(), 0, 1)))


def _unit(points: np.ndarray) -> np.ndarray:
    """Return points centred, of Frobenius norm 1; points that are all one stay 0."""
    centred = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
    norm = np.linalg.norm(centred)
    return centred / norm if norm > 0 else centred
