"""Whether images lie where real ones do: nearer to a real image than 99 % of real images are to another."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from diffviews.data.samples import stratified_rows
from diffviews.errors import SampleSetError, ShapeError
from diffviews.processing.neighbors import exact_neighbors
from diffviews.processing.statistics import wilson_interval

REAL_SHARE = 0.99
"""Share of real images that lie within the distance."""
LEAST_SHARE = 0.95
"""Share of images of which less is off the manifold: five times as many outside as of real ones. The interval of the
share must lie below, so that few images are not called so by chance."""
MOST_IMAGES = 4000
"""Real images that distances are taken to, stratified by class."""


@dataclass(frozen=True, slots=True, eq=False)
class Manifold:
    """Real images in pixels, and how near a real image has its nearest other one in 99 % of cases."""

    points: np.ndarray
    """(N, D) float32, 0 to 1."""
    distance: float
    """Euclidean."""

    @classmethod
    def of(cls, images: np.ndarray, labels: np.ndarray | None = None) -> Self:
        """Measure real images, (N, H, W, 3) uint8; each is held out in its turn.

        Raises:
            SampleSetError: if there are fewer than two.
        """
        if len(images) < 2:
            raise SampleSetError(f"distances between real images need two of them, this set has {len(images)}")
        if len(images) > MOST_IMAGES:
            classes = [0] * len(images) if labels is None else labels.tolist()
            images = images[np.asarray(stratified_rows(classes, MOST_IMAGES))]
        points = _pixels(images)
        nearest = exact_neighbors(points, 1)[1][:, 0]
        return cls(points, float(np.quantile(nearest, REAL_SHARE)))

    def holds(self, images: np.ndarray) -> np.ndarray:
        """Return which images have a real one within the distance, (M,) bool; images: (M, H, W, 3) uint8.

        Raises:
            ShapeError: if they are not of the real images' size.
        """
        points = _pixels(images)
        if points.shape[1:] != self.points.shape[1:]:
            raise ShapeError(
                f"images of shape {images.shape[1:]} cannot be compared with real ones of {self.points.shape[1]} values"
            )
        if not len(points):
            return np.zeros(0, dtype=bool)
        return exact_neighbors(self.points, 1, points)[1][:, 0] <= self.distance


def off_manifold(within: int, count: int) -> bool:
    """Say whether images of which `within` of `count` are on the manifold are too rarely so."""
    return bool(count and wilson_interval(within, count).high < LEAST_SHARE)


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), math.prod(images.shape[1:])).astype(np.float32) / 255
