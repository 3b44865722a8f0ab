"""The judge `svc`, for small sets: a support vector classifier over pixels.

It knows the classes by grey pixels and the real images by all channels: what is farther from every image that it was
fitted on than 99 % of held-out images are is rejected, so that coloured static is of no class.
"""

from functools import partial

import numpy as np
from sklearn.metrics import pairwise_distances_argmin_min
from sklearn.svm import SVC

from diffviews.data.samples import SampleSet
from diffviews.errors import ConfigError
from diffviews.judges.base import JudgeRequest
from diffviews.judges.calibrated import CalibratedJudge, Decide, Opinion, calibrate

MOST_IMAGES = 4000
"""Images that a judge is fitted on, stratified by class: beyond, a support vector classifier takes hours."""


def svc_judge(request: JudgeRequest) -> CalibratedJudge:
    """Return an RBF support vector classifier fitted on the samples' own images; see `fit_svc`."""
    if request.argument:
        raise ConfigError(f"judge 'svc' takes nothing after its name, but {request.argument!r} is given")
    rows = request.rows_to_fit(MOST_IMAGES)
    return calibrate("svc", _pixels, _fit, request.samples.pictures.pixels(rows), request.labels[rows])


def fit_svc(samples: SampleSet) -> CalibratedJudge:
    """Return a judge fitted on a sample set and measured on held-out images, whatever its accuracy.

    Of more than `MOST_IMAGES` images, or two a class, so many are taken.

    Raises:
        SampleSetError: if there are fewer than two classes or a class has a single image.
    """
    return svc_judge(JudgeRequest(samples))


def _fit(pixels: np.ndarray, labels: np.ndarray) -> Decide:
    classifier = SVC(C=10.0, gamma="scale").fit(_grey(pixels), labels)
    return partial(_decide, classifier, pixels)


def _decide(classifier: SVC, known: np.ndarray, pixels: np.ndarray) -> Opinion:
    sureness = classifier.decision_function(_grey(pixels))  # (N,) of two classes, else (N, K)
    if sureness.ndim == 1:
        labels, scores = classifier.classes_[(sureness > 0).astype(int)], np.abs(sureness)
    else:
        second, first = np.partition(sureness, -2, axis=1)[:, -2:].T
        labels, scores = classifier.predict(_grey(pixels)), first - second
    return Opinion(labels, scores, pairwise_distances_argmin_min(pixels, known)[1])


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / 255


def _grey(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1, 3).mean(axis=2)
