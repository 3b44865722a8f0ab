"""The judge of factors: right on scenes it is not told of, sharp, blurred and noisy; other images it rejects."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from diffviews.data.shapes import FACTORS, OBJECT_FACTORS, caption, draw_scenes, render
from diffviews.data.sources import open_source
from diffviews.errors import ShapeError
from diffviews.judges.base import Verdicts
from diffviews.judges.factors import FactorJudge, as_asked


@pytest.mark.parametrize(("blur", "noise"), [(0.0, 0.0), (0.9, 6.0), (0.0, 12.0)])
def test_every_factor_is_told(blur: float, noise: float) -> None:
    seed = int(10 * blur + noise)
    scenes = draw_scenes(range(500, 570), seed=seed)
    pixels = gaussian_filter(render(scenes).images.astype(float), (0, blur, blur, 0)) if blur else render(scenes).images
    pixels = pixels + np.random.default_rng(seed).normal(0, noise, pixels.shape)
    verdicts = FactorJudge().classify(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    captions = [caption(scenes, row) for row in range(len(scenes))]
    asked = as_asked(captions, verdicts)
    assert asked.notna().all(axis=None)
    assert (asked == 1).all(axis=None), asked[(asked < 1).any(axis=1)]
    single = ~scenes.two
    np.testing.assert_array_equal(verdicts.labels[single], scenes.shape[single, 0])
    table = scenes.table()
    for name in (*OBJECT_FACTORS, "ground", "second_shape"):
        assert list(verdicts.factors[name][single]) == list(table[name][single])


def test_images_that_are_no_scenes_are_rejected() -> None:
    rng = np.random.default_rng(5)
    scenes = render(draw_scenes(range(400), seed=2)).images
    clouds = gaussian_filter(rng.normal(size=(20, 32, 32, 3)), (0, 3, 3, 0))
    pictures = {
        "digits": open_source("digits", max_samples=30, resolution=32).images,
        "noise": rng.integers(0, 256, (20, 32, 32, 3)).astype(np.uint8),
        "no object": np.full((2, 32, 32, 3), 128, np.uint8),
        "clouds": np.clip(128 + 600 * clouds, 0, 255).astype(np.uint8),
        "means": scenes.reshape(40, 10, 32, 32, 3).mean(axis=1).astype(np.uint8),
    }
    for name, images in pictures.items():
        verdicts = FactorJudge().classify(images)
        assert verdicts.rejects.all(), name
        assert (verdicts.factors[list(OBJECT_FACTORS)] == "").all(axis=None)
        asked = as_asked(["a red circle on white"] * len(images), verdicts)
        assert not asked[["shape", "colour", "ground", "count"]].any(axis=None)


def test_a_third_object_is_no_scene() -> None:
    scenes = draw_scenes(range(600), seed=3)
    rows = np.flatnonzero(scenes.two & (scenes.ground == 0))
    one, other = (render(draw_scenes(rows[first::2][:3], seed=3)) for first in range(2))
    share = other.coverage.max(axis=1)[..., None] / 255
    images = np.rint(one.images * (1 - share) + other.images * share).astype(np.uint8)
    assert FactorJudge().classify(images).rejects.sum() >= 2


def test_each_factor_is_scored_by_itself() -> None:
    """A caption that differs in one factor is as asked in all the others."""
    scenes = draw_scenes(np.flatnonzero(~draw_scenes(range(200), seed=4).two)[:40], seed=4)
    verdicts = FactorJudge().classify(render(scenes).images)
    for factor in FACTORS:
        captions = []
        for row in range(len(scenes)):
            said = scenes.factors(row)
            names = FACTORS[factor]
            said[factor] = names[(names.index(said[factor]) + 1) % len(names)]
            captions.append("a {size} {colour} {shape} at the {place} on {ground}".format(**said))
        asked = as_asked(captions, verdicts)
        assert (asked[factor] == 0).all()
        assert (asked.drop(columns=factor) == 1).all(axis=None)


def test_objects_are_matched_in_the_order_that_suits_best() -> None:
    scenes = draw_scenes(np.flatnonzero(draw_scenes(range(200), seed=4).two)[:20], seed=4)
    verdicts = FactorJudge().classify(render(scenes, 64).images)
    captions = [caption(scenes, row) for row in range(len(scenes))]
    assert (as_asked(captions, verdicts) == 1).all(axis=None)
    one = as_asked([text.partition(" and ")[0] for text in captions], verdicts)
    assert (one["count"] == 0).all()
    assert (one["shape"] == 1).all()


def test_what_the_judge_does_not_know_is_refused() -> None:
    for shape, dtype in (((2, 30, 30, 3), np.uint8), ((2, 32, 32, 3), np.float32), ((2, 32, 64, 3), np.uint8)):
        with pytest.raises(ShapeError):
            FactorJudge().classify(np.zeros(shape, dtype))
    with pytest.raises(ShapeError, match="2 labels, 3 scores"):
        Verdicts(np.zeros(2, np.int64), np.zeros(3))
