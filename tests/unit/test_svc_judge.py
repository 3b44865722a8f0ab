"""The judge `svc`: right on held-out images, which it says itself; fitted on a bounded part."""

import numpy as np
import pytest

from diffviews.data.samples import SampleSet
from diffviews.data.sources import open_source
from diffviews.errors import SampleSetError
from diffviews.judges import svc
from diffviews.judges.svc import MOST_IMAGES, fit_svc


def set_of(images: np.ndarray, labels: np.ndarray) -> SampleSet:
    return SampleSet.from_images(images, [f"image-{row}" for row in range(len(images))], class_labels=labels)


def test_judge_of_real_digits_is_right_on_held_out_images():
    digits = open_source("digits")
    rows = np.arange(len(digits))
    made = fit_svc(digits.take(rows[:1200]))
    rest = digits.take(rows[1200:])
    verdicts = made.classify(rest.images)
    assert np.mean(verdicts.labels == rest.class_labels) > 0.94
    assert np.mean(verdicts.rejects) < 0.05
    assert made.accuracy > 0.97
    assert made.held_out.rejects == pytest.approx(0.01, abs=1e-3)


def test_judge_of_a_real_set_is_fitted_on_a_bounded_stratified_part(monkeypatch):
    fitted = []

    class Watched(svc.SVC):
        def fit(self, pixels, labels):
            fitted.append(np.bincount(labels, minlength=10))
            return super().fit(pixels, labels)

    monkeypatch.setattr(svc, "SVC", Watched)
    digits = open_source("digits", max_samples=300)
    images = np.tile(digits.images, (300, 1, 1, 1))  # 90,000
    made = fit_svc(set_of(images, np.tile(digits.class_labels, 300)))
    assert len(fitted) == 6
    assert fitted[-1].sum() == MOST_IMAGES
    assert np.ptp(fitted[-1]) <= 1
    assert max(counts.sum() for counts in fitted) == MOST_IMAGES
    assert made.accuracy > 0.95


def test_judge_of_many_classes_has_two_images_of_each(monkeypatch):
    monkeypatch.setattr(svc, "MOST_IMAGES", 5)
    images = np.random.default_rng(0).integers(0, 255, (54, 4, 4, 3), dtype=np.uint8)
    made = fit_svc(set_of(images, np.repeat(np.arange(6), 9)))
    assert list(made.held_out.classes) == list(range(6))
    assert len(made.held_out.truth) == 12


def test_judge_of_random_labels_says_that_it_knows_nothing():
    digits = open_source("digits", max_samples=200)
    labels = np.random.default_rng(0).integers(10, size=200)
    assert fit_svc(set_of(digits.images, labels)).accuracy < 0.25


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 0, 0, 1], [-1, -1, 0, 0]])
def test_judge_refuses_too_few_classes_or_images(labels):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(SampleSetError, match="two classes of two images"):
        fit_svc(set_of(images, np.array(labels)))


def test_samples_without_a_class_are_not_fitted_on():
    digits = open_source("digits", max_samples=60)
    labels = np.where(np.arange(60) % 5, digits.class_labels, -1)
    made = fit_svc(set_of(digits.images, labels))
    assert len(made.held_out.truth) == (labels >= 0).sum()


def test_colours_that_no_image_has_are_rejected_whatever_their_grey():
    digits = open_source("digits", max_samples=200)
    made = fit_svc(digits)
    noise = np.random.default_rng(1).normal(0, 100, digits.images.shape)
    grey_kept = digits.images + noise - noise.mean(axis=3, keepdims=True)
    assert made.classify(digits.images).rejects.mean() <= 0.01
    assert made.classify(np.clip(grey_kept, 0, 255).astype(np.uint8)).rejects.all()
