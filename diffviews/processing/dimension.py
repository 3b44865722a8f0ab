"""How large a layer's own space is: effective rank and intrinsic dimension, at one number of samples for all layers."""

import numpy as np

from diffviews.processing.neighbors import DIRECTIONS

SPACE_ROWS = 1000
"""Samples that both are measured at: both grow with their number, so values at different numbers do not compare."""

_SAME = 1e-5
"""Two samples whose squared distance is less, relative to their lengths, are copies: float32 products tell no more."""


def space_measures(gram: np.ndarray, metric: str = "euclidean") -> dict[str, float]:
    """Return effective rank and intrinsic dimension of a layer's own space at SPACE_ROWS samples, and their number.

    Args:
        gram: (n, n) of standardised samples; of more than SPACE_ROWS some are drawn, always the same.
        metric: 'cosine' and 'correlation' compare directions, all others lengths, of which every norm has the same
            dimension.
    """
    chosen = np.sort(np.random.default_rng(0).permutation(len(gram))[:SPACE_ROWS])
    part = gram[chosen[:, None], chosen]
    mean = part.mean(axis=0)
    part -= mean + mean[:, None] - mean.mean()
    spectrum = np.linalg.eigvalsh(part)
    # Centred products span one direction fewer than there are samples; what float32 cannot tell from 0 is none.
    spectrum = np.where(spectrum > spectrum[-1] * np.finfo(np.float32).eps, spectrum, 0.0)
    squares = np.diag(part).copy()
    if metric in DIRECTIONS:
        part /= np.sqrt(np.maximum(np.outer(squares, squares), np.finfo(np.float64).tiny))
        squares = np.ones(len(part))
    apart = squares[:, None] + squares - 2 * part
    apart[apart < _SAME * (squares[:, None] + squares)] = 0.0
    np.fill_diagonal(apart, np.inf)
    two = np.sqrt(np.partition(apart, 1, axis=1)[:, :2])
    return {
        "sampled_effective_rank": effective_rank(spectrum),
        "sampled_intrinsic_dimension": intrinsic_dimension(*two.T),
        "space_samples": float(len(chosen)),
    }


def effective_rank(eigenvalues: np.ndarray) -> float:
    """Return exp of the entropy of the normalised singular values (Roy & Vetterli 2007).

    p = s / Σ s with s the square roots of the covariance's eigenvalues: the number of equally strong
    directions that would spread as evenly.
    """
    strengths = np.sqrt(np.maximum(eigenvalues, 0.0))
    shares = strengths[strengths > 0] / strengths.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def intrinsic_dimension(nearest: np.ndarray, second: np.ndarray, discard: float = 0.1) -> float:
    """Return the TwoNN estimate of the data's dimension (Facco et al. 2017).

    The ratio µ = r₂ / r₁ has the distribution F(µ) = 1 − µ^(−d): d is the slope of −log(1 − F) over
    log µ, a line through the origin fitted without the `discard` largest ratios.

    Args:
        nearest, second: (N,) distances of each point to its two nearest others. Copies (r₁ = 0) are left
            out.

    Returns:
        The dimension; NaN where fewer than 3 different points are left.
    """
    apart = nearest > 0
    ratios = np.sort(second[apart] / nearest[apart])
    kept = int(len(ratios) * (1 - discard))
    if kept < 2:
        return float("nan")
    share = np.arange(1, kept + 1) / len(ratios)
    x, y = np.log(ratios[:kept]), -np.log1p(-share)
    spread = float(x @ x)
    return float(x @ y) / spread if spread > 0 else float("nan")
