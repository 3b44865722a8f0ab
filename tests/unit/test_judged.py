"""Judged generations: what is as asked, what is as without the mask, and who may ask for which judge."""

from types import SimpleNamespace

import numpy as np
import pytest

from diffviews.data.shapes import draw_scenes, render
from diffviews.data.shapes.captions import caption
from diffviews.errors import ConfigError
from diffviews.judges.base import Verdicts
from diffviews.judges.factors import FactorJudge
from diffviews.pipelines.judged import judge_of, judged
from diffviews.recipes.generation import GenerationRecipe

SCENES = draw_scenes(np.arange(300), 3)
SINGLE = np.flatnonzero(SCENES.shape[:, 1] < 0)[:6]
IMAGES = render(SCENES).images


class Counts:
    """The class is the grey level of the first pixel."""

    name, accuracy, held_out = "counts", None, None

    def classify(self, images):
        return Verdicts(images[:, 0, 0, 0].astype(np.int64) - 1, np.ones(len(images)))


def result(images, baseline=None, labels=None):
    return SimpleNamespace(images=images, baseline_images=baseline, labels=labels)


def grey(*levels):
    return np.stack([np.full((4, 4, 3), level, np.uint8) for level in levels])


def test_factors_are_compared_with_the_prompt_and_with_the_baseline():
    asked = int(SINGLE[0])
    prompt, names = caption(SCENES, asked), SCENES.table()
    recipe = GenerationRecipe(prompt=prompt, judge="factors")
    found = judged(FactorJudge(), recipe, result(IMAGES[SINGLE], IMAGES[np.repeat(asked, 6)]))
    own = names.iloc[SINGLE]
    for factor in ("shape", "colour", "size", "place", "ground"):
        assert found.measures[f"{factor}_unchanged"] == np.mean(own[factor] == names[factor][asked])
        if f"{factor}_as_asked" in found.measures:
            assert found.measures[f"{factor}_as_asked"] == np.mean(own[factor] == names[factor][asked])
            assert found.measures[f"baseline_{factor}_as_asked"] == 1
    assert {"shape_as_asked", "colour_as_asked"} <= found.measures.keys()
    assert list(found.table["kind"]) == ["images"] * 6 + ["baseline"] * 6
    assert list(found.table["shape"][:6]) == list(own["shape"])
    assert "shape unchanged: " in found.in_words()


def test_classes_are_compared_with_the_label_and_rejects_are_none():
    recipe = GenerationRecipe(class_label=2, judge="svc")
    found = judged(Counts(), recipe, result(grey(3, 3, 1, 0), grey(3, 2, 1, 0), np.full(4, 2)))
    assert found.measures == {
        "rejects": 0.25, "class_as_asked": 0.5, "baseline_rejects": 0.25, "baseline_class_as_asked": 0.25,
        "class_unchanged": 0.75,
    }  # fmt: skip
    uniform = judged(Counts(), GenerationRecipe(class_label=-1, judge="svc"), result(grey(3, 0), None, np.zeros(2)))
    assert uniform.measures == {"rejects": 0.5}


def test_judges_that_are_fitted_need_a_layer_run():
    assert judge_of(GenerationRecipe(), None, None, None) is None
    assert judge_of(GenerationRecipe(judge="factors"), None, None, None).name == "factors"
    with pytest.raises(ConfigError, match="judge 'svc' is fitted on the samples of a layer run; give layer_run"):
        judge_of(GenerationRecipe(judge="svc"), None, None, None)
