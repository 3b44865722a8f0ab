"""The judge classifies what it was fitted on, and says how well on held-out images."""

import numpy as np
import pytest

from diffviews.data.sources import open_source
from diffviews.errors import SampleSetError
from diffviews.processing.judge import fit_judge


def test_judge_of_real_digits_is_right_on_held_out_images():
    digits = open_source("digits")
    images, labels = digits.images, digits.class_labels
    judge = fit_judge(images[:1200], labels[:1200])
    assert np.mean(judge.classify(images[1200:]) == labels[1200:]) > 0.95
    assert judge.accuracy > 0.97


def test_judge_of_random_labels_says_that_it_knows_nothing():
    digits = open_source("digits", max_samples=200)
    labels = np.random.default_rng(0).integers(10, size=200)
    assert fit_judge(digits.images, labels).accuracy < 0.25


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 0, 0, 1]])
def test_judge_refuses_too_few_classes_or_images(labels):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(SampleSetError, match="two classes of two images"):
        fit_judge(images, np.array(labels))
