"""Distances in pixels to real images."""

import numpy as np
import pytest

from diffviews.data.pictures import PixelPictures
from diffviews.errors import SampleSetError
from diffviews.processing import realism
from diffviews.processing.realism import RealImages, mean_spread


def drawn(count: int, seed: int, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    random, labels = np.random.default_rng(seed), np.arange(count) % 4
    images = 40 + 40 * labels[:, None, None, None] + random.integers(0, 30, (count, size, size, 3))
    return images.astype(np.uint8), labels


def test_new_images_of_the_same_kind_are_near_and_static_is_not():
    images, labels = drawn(800, 0)
    real = RealImages.of(PixelPictures(images), labels)
    assert np.mean(real.distances(drawn(400, 1)[0]) <= real.limit) == pytest.approx(0.99, abs=0.015)
    static = np.random.default_rng(2).integers(0, 256, (50, 8, 8, 3)).astype(np.uint8)
    assert (real.distances(static) > real.limit).all()
    assert (real.distances(images[:5]) == 0).all()


def test_limit_is_a_quantile_of_the_distances_between_real_ones():
    images, labels = drawn(60, 0)
    flat = images.reshape(60, -1) / 255
    apart = np.linalg.norm(flat[:, None] - flat[None], axis=2) + 1e9 * np.eye(60)
    real = RealImages.of(PixelPictures(images), labels)
    assert real.limit == pytest.approx(np.quantile(apart.min(axis=1), 0.99), rel=1e-5)
    within = [apart[np.ix_(labels == c, labels == c)][np.triu_indices(15, 1)].mean() for c in range(4)]
    assert real.spread == pytest.approx(np.mean(within), rel=1e-5)


def test_diversity_is_one_for_real_images_and_none_for_copies():
    images, labels = drawn(400, 0)
    real, (new, of_new) = RealImages.of(PixelPictures(images), labels), drawn(200, 5)
    assert real.diversity(new, of_new) == pytest.approx(1, abs=0.02)
    assert real.diversity(images[labels.argsort()[::100]].repeat(5, axis=0), np.arange(4).repeat(5)) == 0
    assert np.isnan(real.diversity(new[:4], of_new[:4]))
    assert np.isnan(mean_spread(np.zeros((0, 3)), np.zeros(0)))


def test_large_images_keep_their_distances_within_a_few_hundredths(monkeypatch):
    images, labels = drawn(30, 0, size=72)
    new = np.random.default_rng(3).integers(0, 256, (20, 72, 72, 3)).astype(np.uint8)
    projected = RealImages.of(PixelPictures(images), labels)
    assert projected.points.shape == (30, realism.PROJECTED)
    monkeypatch.setattr(realism, "EXACT_PIXELS", 10**9)
    exact = RealImages.of(PixelPictures(images), labels)
    np.testing.assert_allclose(projected.distances(new), exact.distances(new), rtol=0.08)


def test_many_images_are_compared_with_some_of_each_class(monkeypatch):
    monkeypatch.setattr(realism, "MOST_REAL", 40)
    images, labels = drawn(400, 0)
    assert np.bincount(RealImages.of(PixelPictures(images), labels).labels).tolist() == [10] * 4


def test_a_single_image_is_refused():
    images, labels = drawn(1, 0)
    with pytest.raises(SampleSetError, match="two are needed"):
        RealImages.of(PixelPictures(images), labels)
