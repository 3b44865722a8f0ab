"""Whether images lie where real ones do, and whether they are as varied: distances in pixels to real images."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from diffviews.data.pictures import Pictures
from diffviews.data.samples import stratified_rows
from diffviews.errors import SampleSetError
from diffviews.processing.neighbors import exact_neighbors

MOST_REAL = 4000
"""Real images that others are compared with, stratified by class."""

WITHIN = 0.99
"""Share of held-out real images that count as near the others."""

OFF_MANIFOLD = 0.5
"""Where a smaller share of images is near real ones, what is told of them is marked."""

EXACT_PIXELS = 3 * 64 * 64
"""Numbers of an image up to which distances are exact; of larger ones a random projection to as many as
`PROJECTED` keeps them within 3 % (Li et al. 2006)."""

PROJECTED = 4096

PAIRED = 100
"""Images of a label that are compared with each other."""



def is_off_manifold(share: float | None) -> bool:
    """Whether so few of some images are near real ones that what is told of them must be marked; None: not measured."""
    return share is not None and share < OFF_MANIFOLD


@dataclass(frozen=True, eq=False)
class RealImages:
    """Real images as points, to which generated ones have distances.

    A generated image is *on the manifold* when the nearest real one is no farther than 99 % of held-out real images
    are from theirs. Blurred averages are near real images, too: `diversity` is what tells them.
    """

    points: np.ndarray
    """(M, D) float32, pixels from 0 to 1."""
    labels: np.ndarray
    """(M,) int64 classes."""
    projection: "object | None" = None
    """Fitted random projection of large images."""

    @classmethod
    def of(cls, pictures: Pictures, labels: np.ndarray, *, seed: int = 0) -> "RealImages":
        """Take labelled images, at most `MOST_REAL` of them.

        Args:
            pictures: of all samples.
            labels: (N,) int64 classes.
            seed: of the projection of large images.

        Raises:
            SampleSetError: if there are fewer than two.
        """
        if len(labels) < 2:
            raise SampleSetError(f"real images are compared with each other, so two are needed, not {len(labels)}")
        rows = np.asarray(stratified_rows(labels.tolist(), MOST_REAL))
        flat, projection = _flat(pictures.pixels(rows[:1])), None
        if flat.shape[1] > EXACT_PIXELS:
            from sklearn.random_projection import SparseRandomProjection

            projection = SparseRandomProjection(PROJECTED, random_state=seed).fit(flat)
        real = cls(np.empty((0, 0)), labels[rows], projection)
        blocks = [real.embed(pictures.pixels(rows[start : start + 256])) for start in range(0, len(rows), 256)]
        return cls(np.concatenate(blocks), labels[rows], projection)

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Return images (N, H, W, 3) uint8 as points, (N, D) float32."""
        flat = _flat(images)
        return flat if self.projection is None else self.projection.transform(flat).astype(np.float32)  # type: ignore[attr-defined]

    def distances(self, images: np.ndarray) -> np.ndarray:
        """Return how far each image (N, H, W, 3) uint8 is from the nearest real one, (N,) float64."""
        return exact_neighbors(self.points, 1, self.embed(images))[1][:, 0]

    @cached_property
    def limit(self) -> float:
        """Distance within which 99 % of real images have their nearest other one."""
        return float(np.quantile(exact_neighbors(self.points, 1)[1], WITHIN))

    @cached_property
    def spread(self) -> float:
        """Mean distance of two real images of one class; NaN where no class has two."""
        return mean_spread(self.points, self.labels)

    def diversity(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Return how far images of one label are from each other, over the same of real images of one class.

        Args:
            images: (N, H, W, 3) uint8.
            labels: (N,) int64, what each was meant to be.

        Returns:
            About 1 for images as varied as real ones, 0 for equal ones; NaN where no label has two.
        """
        return mean_spread(self.embed(images), labels) / self.spread


def mean_spread(points: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean distance of two points of one label, the mean over labels; NaN where none has two points.

    Args:
        points: (N, D) float.
        labels: (N,) int64.
    """
    from scipy.spatial.distance import pdist

    of_label = (points[labels == label][:PAIRED] for label in np.unique(labels))
    apart = [pdist(own).mean() for own in of_label if len(own) > 1]
    return float(np.mean(apart)) if apart else float("nan")


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / 255
