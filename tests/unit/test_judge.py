"""The judge classifies what it was fitted on, and says how well on held-out images."""

import numpy as np
import pytest

from diffviews.data.sources import open_source
from diffviews.errors import SampleSetError
from diffviews.processing import judge
from diffviews.processing.judge import MOST_IMAGES, fit_judge


def test_judge_of_real_digits_is_right_on_held_out_images():
    digits = open_source("digits")
    images, labels = digits.images, digits.class_labels
    made = fit_judge(images[:1200], labels[:1200])
    assert np.mean(made.classify(images[1200:]) == labels[1200:]) > 0.95
    assert made.accuracy > 0.97


def test_judge_of_a_real_set_is_fitted_on_a_bounded_stratified_part(monkeypatch):
    fitted = []

    class Watched(judge.SVC):
        def fit(self, pixels, labels):
            fitted.append(np.bincount(labels, minlength=10))
            return super().fit(pixels, labels)

    monkeypatch.setattr(judge, "SVC", Watched)
    digits = open_source("digits", max_samples=300)
    images = np.tile(digits.images, (300, 1, 1, 1))  # 90,000
    made = fit_judge(images, np.tile(digits.class_labels, 300))
    assert len(fitted) == 6
    assert fitted[-1].sum() == MOST_IMAGES
    assert np.ptp(fitted[-1]) <= 1
    assert max(counts.sum() for counts in fitted) == MOST_IMAGES
    assert made.accuracy > 0.95


def test_judge_of_many_classes_has_two_images_of_each():
    labels = np.repeat(np.arange(6), 9)
    images = np.random.default_rng(0).integers(0, 255, (54, 4, 4, 3), dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "MOST_IMAGES", 5)
        made = fit_judge(images, labels)
    assert np.array_equal(made.classifier.classes_, np.arange(6))
    assert made.classifier.shape_fit_[0] == 12


def test_judge_of_random_labels_says_that_it_knows_nothing():
    digits = open_source("digits", max_samples=200)
    labels = np.random.default_rng(0).integers(10, size=200)
    assert fit_judge(digits.images, labels).accuracy < 0.25


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 0, 0, 1]])
def test_judge_refuses_too_few_classes_or_images(labels):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(SampleSetError, match="two classes of two images"):
        fit_judge(images, np.array(labels))
