"""Places of new points among those of a map: the geometric median of their neighbours, and how usual they are."""

from dataclasses import dataclass

import numpy as np

from diffviews.processing.blocks import in_order

USUAL = 95.0
"""Percentile of held-out samples beyond which a place means little."""

ROUNDS, STEP = 200, 1e-6
"""Of Weiszfeld's iteration: at most so many, until none moves a place by more than this share of its neighbours'
spread."""

MOST_HELD = 1000
"""Held-out values that a map keeps."""

_ROWS = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where new activations lie on a map."""

    coordinates: np.ndarray
    """(M, n) float32, on the map."""
    distance: np.ndarray
    """(M,) float32 mean distance in PCA space to the nearest samples (itself left out): how far from the data."""
    residual: np.ndarray
    """(M,) float32 length of the standardised activation off the map's principal axes, 0 without PCA."""
    distance_percentile: np.ndarray
    """(M,) float32 share of held-out samples, in percent, that are nearer; NaN where a map does not tell."""
    residual_percentile: np.ndarray
    """(M,) float32 the same of the residual."""
    neighbors: np.ndarray
    """(M, k) int64 rows of those samples, nearest first."""
    match: np.ndarray
    """(M,) int64 row of the sample that it is, −1 if it is none."""

    @property
    def is_unusual(self) -> np.ndarray:
        """(M,) bool: farther from the data or from its axes than 95 % of held-out samples; the place means little."""
        return (self.distance_percentile > USUAL) | (self.residual_percentile > USUAL)


def percentiles(values: np.ndarray, held_out: np.ndarray | None) -> np.ndarray:
    """Return the share of held-out values (h,), ascending, that are below each of (M,), in percent; NaN without any."""
    if held_out is None or not len(held_out):
        return np.full(len(values), np.nan, np.float32)
    return (100.0 * np.searchsorted(held_out, values, side="left") / len(held_out)).astype(np.float32)


def quantiles_of(held_out: np.ndarray) -> np.ndarray:
    """Return what `percentiles` needs of held-out values (h,): at most MOST_HELD of them, ascending, float32."""
    ranks = np.linspace(0, len(held_out) - 1, min(len(held_out), MOST_HELD)).round().astype(np.int64)
    return np.sort(held_out)[ranks].astype(np.float32)


def geometric_median(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return, for each row of points, the place that minimises the weighted sum of distances to them.

    Weiszfeld's iteration from the weighted mean; where a point itself is the minimum, which is when the others' pull
    on it is less than its weight, the answer is that point (Vardi & Zhang 2000). Unlike a mean it lies with the
    majority and not between clusters. A row's answer has the same bits in any batch.

    Args:
        points: (M, k, n) float.
        weights: (M, k) float > 0.

    Returns:
        (M, n) float64.
    """
    result = np.empty((len(points), points.shape[2]))

    def of_rows(start: int) -> tuple[int, np.ndarray]:
        part = slice(start, start + _ROWS)
        return start, _medians(points[part].astype(np.float64), weights[part].astype(np.float64))

    for start, found in in_order(of_rows, range(0, len(points), _ROWS)):
        result[start : start + len(found)] = found
    return result


def _medians(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    places = np.einsum("mk,mkn->mn", weights, points) / weights.sum(axis=1)[:, None]
    spread = np.linalg.norm(points - places[:, None], axis=2).max(axis=1)
    own = _own_minimum(points, weights)
    at_point = own >= 0
    places[at_point] = points[at_point, own[at_point]]
    moving = np.flatnonzero(~at_point & (spread > 0))
    for _ in range(ROUNDS):
        if not len(moving):
            break
        gaps = np.linalg.norm(points[moving] - places[moving][:, None], axis=2)
        pulls = weights[moving] / np.maximum(gaps, 1e-12 * spread[moving][:, None])
        following = np.einsum("mk,mkn->mn", pulls, points[moving]) / pulls.sum(axis=1)[:, None]
        steps = np.linalg.norm(following - places[moving], axis=1)
        places[moving] = following
        moving = moving[steps > STEP * spread[moving]]
    return places


def _own_minimum(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return which of its points each row's minimum is, (M,) int64, −1 where it is none of them."""
    gaps = points[:, None, :, :] - points[:, :, None, :]
    lengths = np.linalg.norm(gaps, axis=3)
    apart = lengths > 0
    pulls = np.einsum("mij,mijn->min", np.where(apart, weights[:, None] / np.where(apart, lengths, 1), 0.0), gaps)
    together = np.einsum("mij,mj->mi", ~apart, weights)
    held = np.linalg.norm(pulls, axis=2) <= together
    return np.where(held.any(axis=1), held.argmax(axis=1), -1)
