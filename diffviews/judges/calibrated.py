"""Judges that are measured on held-out images, and reject what is stranger than 99 % of those.

A kind of judge is two steps: what it looks at in an image (features, which may be costly), and what it decides by
them, which may be fitted. Each fold of the labelled images is decided by what was fitted on the others: that gives the
accuracy, the confusion of classes and the limit of strangeness at once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedKFold

from diffviews.judges.base import REJECTED, HeldOut, Verdicts, check_images

FOLDS = 5
USUAL = 0.99
"""Share of held-out real images that are not rejected."""


@dataclass(frozen=True, slots=True, eq=False)
class Opinion:
    """What is thought of N images before any is rejected."""

    labels: np.ndarray
    """Class, (N,) int64."""
    scores: np.ndarray
    """How sure, (N,) float64; more is surer."""
    strangeness: np.ndarray
    """How unlike the real images each is, (N,) float64."""


Look = Callable[[np.ndarray], np.ndarray]
"""Images (N, H, W, 3) uint8 → features (N, D)."""
Decide = Callable[[np.ndarray], Opinion]
"""Features (N, D) → what is thought of them."""
Fit = Callable[[np.ndarray, np.ndarray], Decide]
"""Features (N, D) and their classes (N,) → what decides."""


@dataclass(frozen=True, slots=True, eq=False)
class CalibratedJudge:
    """Looks, decides, and rejects what is strange."""

    name: str
    look: Look
    decide: Decide
    limit: float
    """Strangeness above which an image is rejected; infinite: none is."""
    size: tuple[int, int] | None = None
    """Height and width that it knows, pixels; None: any."""
    held_out: HeldOut | None = None

    @property
    def accuracy(self) -> float | None:
        """Share of held-out images given their own class; None: it was given none."""
        return self.held_out.accuracy if self.held_out else None

    def classify(self, images: np.ndarray) -> Verdicts:
        """Judge images, (N, H, W, 3) uint8.

        Raises:
            ShapeError: if they are not such, or not of the size that it knows.
        """
        check_images(images, self.size)
        if not len(images):
            return Verdicts(np.empty(0, np.int64), np.empty(0))
        opinion = self.decide(self.look(images))
        kept = opinion.strangeness <= self.limit  # what is no number is rejected
        return Verdicts(np.where(kept, opinion.labels, REJECTED), opinion.scores)


def calibrate(name: str, look: Look, fit: Fit, images: np.ndarray, labels: np.ndarray) -> CalibratedJudge:
    """Return a judge fitted on all images and measured by stratified folds of them.

    Args:
        name: of the judge.
        look: what it looks at.
        fit: fits what decides.
        images: (N, H, W, 3) uint8, two a class at least.
        labels: (N,) int64 classes.
    """
    check_images(images)
    features = look(images)
    fewest = int(np.unique(labels, return_counts=True)[1].min())
    folds = StratifiedKFold(min(FOLDS, fewest), shuffle=True, random_state=0)
    said, strangeness = np.empty(len(labels), np.int64), np.empty(len(labels))
    for others, own in folds.split(features, labels):
        opinion = fit(features[others], labels[others])(features[own])
        said[own], strangeness[own] = opinion.labels, opinion.strangeness
    limit = float(np.quantile(strangeness, USUAL, method="higher"))
    held_out = HeldOut(labels, np.where(strangeness <= limit, said, REJECTED))
    return CalibratedJudge(name, look, fit(features, labels), limit, images.shape[1:3], held_out)


def measure(name: str, look: Look, decide: Decide, images: np.ndarray, labels: np.ndarray) -> CalibratedJudge:
    """Return a judge that needs no fitting, measured on labelled images; without any it rejects nothing.

    Args:
        name: of the judge.
        look: what it looks at.
        decide: what decides.
        images: (N, H, W, 3) uint8.
        labels: (N,) int64 classes.
    """
    if not len(images):
        return CalibratedJudge(name, look, decide, np.inf)
    check_images(images)
    opinion = decide(look(images))
    limit = float(np.quantile(opinion.strangeness, USUAL, method="higher"))
    held_out = HeldOut(labels, np.where(opinion.strangeness <= limit, opinion.labels, REJECTED))
    return CalibratedJudge(name, look, decide, limit, None, held_out)
