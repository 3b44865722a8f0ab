"""A small classifier of images that says which class a generated image landed in."""

from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.svm import SVC

from diffviews.data.samples import stratified_rows
from diffviews.errors import SampleSetError

MOST_IMAGES = 4000
"""Images that a judge is fitted on, stratified by class: beyond, a support vector classifier takes hours."""


@dataclass(frozen=True, slots=True)
class Judge:
    """An RBF support vector classifier over grey pixels, fitted on a sample set's own images."""

    classifier: SVC
    accuracy: float
    """Share of held-out images classified as labelled, by stratified cross-validation."""

    def classify(self, images: np.ndarray) -> np.ndarray:
        """Return the class of each image, (N,) int64; images: (N, H, W, 3) uint8."""
        return self.classifier.predict(_pixels(images))


def fit_judge(images: np.ndarray, labels: np.ndarray, folds: int = 5) -> Judge:
    """Fit a judge on labelled images and measure it on held-out ones.

    Args:
        images: (N, H, W, 3) uint8; of more than `MOST_IMAGES`, or two a class, so many are taken.
        labels: (N,) int64 classes.
        folds: of the cross-validation; fewer when a class has fewer images.

    Raises:
        SampleSetError: if there are fewer than two classes or a class has a single image.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2 or counts.min() < 2:
        raise SampleSetError(
            f"a judge needs two classes of two images or more, this set has {len(classes)} classes, "
            f"the smallest of {counts.min() if len(counts) else 0}; use a larger labelled sample set"
        )
    most = max(MOST_IMAGES, 2 * len(classes))
    if len(labels) > most:
        rows = np.asarray(stratified_rows(labels.tolist(), most))
        images, labels = images[rows], labels[rows]
        counts = np.unique(labels, return_counts=True)[1]
    pixels = _pixels(images)
    classifier = SVC(C=10.0, gamma="scale")
    splits = StratifiedKFold(min(folds, int(counts.min())), shuffle=True, random_state=0)
    accuracy = float(np.mean(cross_val_predict(classifier, pixels, labels, cv=splits) == labels))
    return Judge(classifier.fit(pixels, labels), accuracy)


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.mean(axis=3, dtype=np.float32).reshape(len(images), -1) / 255
