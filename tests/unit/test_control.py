"""Control rates on a model whose layers are known: one makes the image, one reaches nothing, one spoils it."""

import re
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn

from diffviews.adapters import get_adapter
from diffviews.core.interventions import FixedTarget, Intervention
from diffviews.data.samples import SampleSet
from diffviews.errors import ConfigError, LayerNotFoundError, SampleSetError
from diffviews.judges.base import Verdicts
from diffviews.noise import sample_noise
from diffviews.pipelines.control import experiment as module
from diffviews.pipelines.control.averages import Averages, Draws
from diffviews.pipelines.control.experiment import ControlExperiment
from diffviews.pipelines.control.measures import (
    control_metrics,
    hits,
    is_marked,
    not_told_from_best,
    of_mask,
    rate_interval,
)
from diffviews.pipelines.control.settings import ControlSettings, other_layer
from diffviews.pipelines.plan import ExtractionPlan
from diffviews.processing.map_parameters import MapParameters
from diffviews.recipes import ExtractionRecipe
from tests.fakes import _Fake

LEVELS = np.array([40, 120, 200])
"""Grey value of the images of each class."""
SIGMA, SIZE = 0.05, 8
IDS = [f"s{number}" for number in range(20)]


class KnownAdapter(_Fake):
    """Sees nothing but how bright its input is, and paints that.

    'decides' is the image; 'knows' holds the same and reaches nothing; 'wild', once it differs from what it would be,
    is the image too, under a chequered pattern.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers.update({name: nn.Identity() for name in ("decides", "knows", "wild")})

    def forward(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        seen = x.to(torch.float32).mean(dim=(1, 2, 3), keepdim=True).expand(-1, 3, SIZE, SIZE)
        self.layers["knows"](seen)
        away = self.layers["wild"](seen) - seen
        chequers = 0.5 * (1 - 2 * ((torch.arange(SIZE)[:, None] + torch.arange(SIZE)) % 2))
        return self.layers["decides"](seen) + away + chequers * (away != 0)

    def get_layer_shapes(self) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(self.layers, (3, SIZE, SIZE))


class GreyJudge:
    """Puts an image into the class of the nearest grey value."""

    name = "grey"

    def classify(self, images: np.ndarray) -> Verdicts:
        away = np.abs(images.reshape(len(images), -1).mean(axis=1)[:, None] - LEVELS)
        return Verdicts(away.argmin(axis=1), -away.min(axis=1))


def samples(count: int = 60) -> SampleSet:
    labels = np.arange(count) % 3
    random = np.random.default_rng(0)
    images = LEVELS[labels][:, None, None, None] + random.integers(-8, 9, (count, SIZE, SIZE, 3))
    ids = [f"s{number}" for number in range(count)]
    return SampleSet.from_images(images.astype(np.uint8), ids, class_labels=labels)


@cache
def plan(**options: Any) -> ExtractionPlan:
    maps = MapParameters(n_neighbors=5)
    return ExtractionPlan.of(ExtractionRecipe(sigmas=(SIGMA,), maps=maps, **options), KnownAdapter(), samples())


SETTINGS = ControlSettings(seeds_per_class=4, null_seeds=2, samples_per_class=5, num_steps=4)


@cache
def control() -> ControlExperiment:
    return ControlExperiment(plan(), GreyJudge(), SETTINGS)


@cache
def measured(layer: str):
    return control().measure(layer, SIGMA, control().captured_anew(layer, SIGMA))


def test_second_judge_is_compared_with_the_first_on_the_unmasked_generations():
    class Moody(GreyJudge):
        def classify(self, images: np.ndarray) -> Verdicts:
            told = super().classify(images)
            return Verdicts(np.where(np.arange(len(images)) % 4 == 0, -1, told.labels), told.scores)

    assert control().agreement is None
    both = ControlExperiment(plan(), GreyJudge(), SETTINGS, Moody())
    assert both.agreement is not None
    assert both.agreement.raw == 0.75
    assert both.agreement.count == len(both.unmasked) == 12


def test_layer_that_makes_the_image_has_rate_one_and_its_controls_that_of_chance():
    found = measured("decides").metrics
    assert found["control_rate"] == found["control_matched"] == found["control_rate_late"] == 1.0
    assert found["control_rate_low"] < 1 == found["control_rate_high"]  # no certainty from 12 generations
    assert found["control_global_mean"] == pytest.approx(1 / 3)
    assert found["control_mixed_means"] <= 0.7
    assert found["control_random_direction"] <= 0.7
    assert found["control_other_layer"] == 1.0  # it holds the same
    assert found["control_n"] == 12
    assert found["control_p"] < 0.02
    assert found["control_on_manifold"] == 1.0
    assert found["control_diversity"] < 0.5  # averages only


def test_layer_that_reaches_nothing_has_the_rate_of_the_baseline():
    found = measured("knows").metrics
    rates = {name: found[name] for name in ("control_rate", "control_matched", "control_rate_early")}
    assert set(rates.values()) == {found["control_baseline"]}
    assert found["control_rate_low"] <= 1 / 3 <= found["control_rate_high"]
    assert found["control_p"] == 1.0
    assert found["control_loss_ratio"] == pytest.approx(1.0)


def test_images_that_no_real_one_resembles_are_told():
    found = measured("wild").metrics
    assert found["control_rate"] == 1.0
    assert found["control_on_manifold"] == 0.0
    assert found["control_loss_ratio"] > 50


def test_loss_ratio_is_that_of_the_squared_errors():
    found = measured("decides").metrics["control_loss_ratio"]
    draws, images = Draws(plan().samples.class_labels, 5, 0), plan().samples.images.astype(np.float32) / 127.5 - 1
    masked = unmasked = 0.0
    ids, seen = plan().samples.sample_ids, images.mean(axis=(1, 2, 3))
    noise = sample_noise(ids, (3, SIZE, SIZE)).mean(dim=(1, 2, 3)).numpy()
    for label in range(3):
        mean = (seen + SIGMA * noise)[draws.of_class((label, 0))].mean()
        for row in draws.held_out((label, 0), 33):
            masked += ((mean - images[row]) ** 2).sum()
            unmasked += ((seen[row] + SIGMA * noise[row] - images[row]) ** 2).sum()
    assert found == pytest.approx(masked / unmasked, rel=1e-3)


def test_averages_come_from_the_layer_that_is_read():
    rows = control().captured_anew("decides", SIGMA)
    shifted = lambda wanted: rows((wanted + 1) % 60)  # noqa: E731
    assert control().measure("decides", SIGMA, shifted).metrics["control_rate"] == 0.0


def test_matched_averages_are_captured_at_each_noise_level(monkeypatch):
    asked: list[tuple[float, Tensor]] = []

    class Listening(Intervention):
        def value_at(self, sigma: float) -> Tensor:
            value = Intervention.value_at(self, sigma)
            if not isinstance(self.target, FixedTarget):
                asked.append((sigma, value))
            return value

    monkeypatch.setattr(module, "Intervention", Listening)
    settings = ControlSettings(2, 0, samples_per_class=5, num_steps=4, windows=False)
    few = ControlExperiment(plan(), GreyJudge(), settings)
    few.measure("decides", SIGMA, few.captured_anew("decides", SIGMA))
    draws = Draws(plan().samples.class_labels, 5, 0)
    groups = [(label, draw) for draw in (0, 1) for label in (0, 1, 2)]
    for sigma, value in asked:
        rows = few.captured_anew("decides", sigma)
        expected = np.stack([rows(draws.of_class(group)).mean(axis=0) for group in groups])
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-4, atol=1e-4 * sigma)
    assert len({sigma for sigma, _ in asked}) == 4


def test_outcomes_hold_every_generation_in_the_noise_that_all_layers_share():
    left, right = (measured(layer).outcomes for layer in ("decides", "wild"))
    assert left["mask"].value_counts().to_dict() == {
        **dict.fromkeys(("own", "early", "late", "matched"), 12),
        **dict.fromkeys(("global_mean", "mixed_means", "random_direction", "other_layer"), 6),
    }
    shared = ["mask", "target_class", "seed", "draw", "unmasked", "unmasked_distance"]
    pd.testing.assert_frame_equal(left[shared], right[shared])
    assert set(left[left["mask"] == "other_layer"]["layer"]) == {"wild"}
    own = of_mask(left, "own")
    assert sorted(set(own["draw"])) == [0, 1, 2]
    assert len(own[["target_class", "seed"]].drop_duplicates()) == 12


def test_result_does_not_depend_on_the_batch_size(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 5)
    monkeypatch.setattr("diffviews.pipelines.control.loss.BATCH", 7)
    small = ControlExperiment(plan(), GreyJudge(), SETTINGS)
    other = small.measure("decides", SIGMA, small.captured_anew("decides", SIGMA))
    exact = ["mask", "target_class", "seed", "draw", "unmasked", "masked"]
    pd.testing.assert_frame_equal(other.outcomes[exact], measured("decides").outcomes[exact])
    assert other.metrics == pytest.approx(measured("decides").metrics, rel=1e-4)


def test_fewer_seeds_are_the_first_of_more():
    few = ControlExperiment(plan(), GreyJudge(), ControlSettings(2, 0, samples_per_class=5, num_steps=4, matched=False))
    found = few.measure("wild", SIGMA, few.captured_anew("wild", SIGMA)).outcomes
    more = of_mask(measured("wild").outcomes, "own")
    pd.testing.assert_frame_equal(
        of_mask(found, "own").reset_index(drop=True), more[more["seed"] < 2].reset_index(drop=True)
    )
    assert set(found["mask"]) == {"own", "early", "late"}


def test_one_class_alone_is_refused():
    alone = SampleSet.from_images(np.zeros((20, SIZE, SIZE, 3), np.uint8), IDS, class_labels=[1] * 20)
    lonely = ExtractionPlan.of(ExtractionRecipe(maps=MapParameters(n_neighbors=5)), KnownAdapter(), alone)
    with pytest.raises(SampleSetError, match="two classes"):
        ControlExperiment(lonely, GreyJudge(), ControlSettings())


LABELS = np.repeat([0, 1, 2, 5], [40, 30, 4, 40])


def test_draws_are_random_repeatable_and_of_their_class():
    draws = Draws(LABELS, 10, seed=3)
    first = draws.of_class((1, 0))
    assert len(set(first)) == 10
    assert set(LABELS[first]) == {1}
    np.testing.assert_array_equal(Draws(LABELS, 10, seed=3).of_class((1, 0)), first)
    others = [Draws(LABELS, 10, seed).of_class((1, draw)) for seed, draw in ((3, 1), (3, 2), (4, 0))]
    assert all(set(other) != set(first) for other in others)
    assert sorted(draws.of_class((2, 0))) == [70, 71, 72, 73]  # a small class gives all it has
    assert not set(draws.held_out((1, 0), 20)) & set(first)
    assert set(draws.held_out((2, 0), 3)) <= {70, 71, 72, 73}


def test_mixed_draws_are_of_all_classes_and_as_many():
    draws = Draws(LABELS, 10, seed=0)
    mixed = [draws.mixed((1, draw)) for draw in range(200)]
    shares = np.bincount(LABELS[np.concatenate(mixed)], minlength=6) / 2000
    assert shares == pytest.approx(np.bincount(LABELS, minlength=6) / len(LABELS), abs=0.04)
    assert len(draws.mixed((2, 0))) == 4


@pytest.mark.parametrize("shape", [(3, 4, 4), (7, 5)])
def test_random_direction_is_as_far_from_the_global_mean_as_the_class(shape):
    values = np.random.default_rng(1).normal(LABELS.reshape(-1, *[1] * len(shape)), 1, (len(LABELS), *shape))
    averages = Averages(Draws(LABELS, 10, seed=0), lambda rows: values[rows], shape)
    groups = [(0, 0), (5, 0), (5, 1), (5, 1)]
    mean, own, moved = averages.global_mean(groups), averages.own(groups), averages.random_direction(groups)
    np.testing.assert_allclose(mean[0], values.mean(axis=0), rtol=1e-5, atol=1e-6)
    away, other = (np.linalg.norm((v - mean).reshape(4, -1), axis=1) for v in (own, moved))
    np.testing.assert_allclose(other, away, rtol=1e-5)
    np.testing.assert_array_equal(moved[2], moved[3])
    directions = ((moved - mean).reshape(4, -1) / other[:, None])[:3]
    assert np.abs(directions @ directions.T - np.eye(3)).max() < 0.6
    np.testing.assert_allclose(own[1], values[averages.draws.of_class((5, 0))].mean(axis=0), rtol=1e-5)


def frame(landed: np.ndarray, by_chance: np.ndarray, classes: np.ndarray, **further: Any) -> pd.DataFrame:
    return pd.DataFrame(
        {"mask": "own", "target_class": classes, "seed": np.arange(len(classes)), "draw": 0,
         "masked": np.where(landed, classes, -1), "unmasked": np.where(by_chance, classes, classes + 1),
         "distance": 1.0, "unmasked_distance": 2.0, **further}
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_p_value_is_the_mid_p_of_the_discordant_pairs(seed):
    random = np.random.default_rng(seed)
    landed, by_chance = random.random(80) < 0.4, random.random(80) < 0.25
    found = control_metrics(frame(landed, by_chance, np.arange(80) % 8), {"own": "control_rate"}, 1.5)
    only, total = int((landed & ~by_chance).sum()), int((landed ^ by_chance).sum())
    tail = min(only, total - only)
    expected = 2 * (binom.cdf(tail, total, 0.5) - binom.pmf(tail, total, 0.5) / 2)
    assert found["control_p"] == pytest.approx(min(1, expected))
    assert found["control_rate"] == pytest.approx(landed.mean())
    assert found["control_rejects"] == pytest.approx(1 - landed.mean())
    assert (found["control_on_manifold"], found["control_on_manifold_baseline"]) == (1.0, 0.0)


@pytest.mark.parametrize("rate", [0.3, 0.7])
def test_intervals_hold_a_planted_rate_though_classes_differ(rate):
    random, classes = np.random.default_rng(7), np.arange(100) % 10
    inside = 0
    for _ in range(150):
        of_class = random.beta(6 * rate, 6 * (1 - rate), 10)
        interval = rate_interval(random.random(100) < of_class[classes], classes)
        inside += interval.low <= rate <= interval.high
    assert 0.88 <= inside / 150 <= 0.995


def test_rate_without_a_miss_is_not_certain():
    interval = rate_interval(np.ones(30, bool), np.arange(30) % 10)
    assert (interval.low, interval.high) == (pytest.approx(0.886, abs=1e-3), 1.0)


def test_hits_are_in_the_class_meant():
    assert hits(pd.DataFrame({"masked": [1, 2, -1], "target_class": [1, 1, 1]})).tolist() == [True, False, False]


def test_layers_not_told_from_the_best_are_one_group():
    random, classes = np.random.default_rng(0), np.arange(120) % 10
    chance, best = random.random(120) < 0.1, random.random(120) < 0.9
    near = best ^ (np.arange(120) < 3)
    of_layer = {"best": best, "near": near, "far": random.random(120) < 0.5, "none": chance}
    found = not_told_from_best({name: frame(landed, chance, classes) for name, landed in of_layer.items()})
    assert found == {"best": True, "near": True, "far": False, "none": False}
    other_noise = frame(best, random.random(120) < 0.1, classes)
    assert set(not_told_from_best({"a": frame(best, chance, classes), "b": other_noise})) == {"a"}
    assert not_told_from_best({}) == {}


def test_rate_is_marked_where_fewer_than_half_of_its_images_are_near_real_ones():
    assert is_marked({"control_on_manifold": 0.49})
    assert not is_marked({"control_on_manifold": 0.5})
    assert not is_marked({"control_rate": 1.0})  # of an earlier version


def test_farthest_layer_of_the_same_shape_is_the_other_one():
    shapes = {"a": (4, 8), "b": (2, 8), "c": (4, 8), "d": (4, 8), "e": (3, 3)}
    order = list(shapes)
    assert [other_layer(name, shapes, order) for name in order] == ["d", None, "a", "a", None]


def test_cost_is_told_in_generations():
    told = ControlSettings(3, 1).cost(14, 10)
    numbers = [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", told)]
    assert numbers == [14, 10 * (3 + 14 * (4 * 3 + 4)), 18, 14 * 10 * 3 * 10 * 18]


def test_layers_left_out_keep_the_fingerprint_they_have_without_a_control_rate():
    none, some, every = plan(), plan(control_seeds=2, control_layers=("decides",)), plan(control_seeds=2)
    prints = [p.layer_fingerprint for p in (none, some, every)]
    assert prints[0]("knows", SIGMA) == prints[1]("knows", SIGMA) != prints[2]("knows", SIGMA)
    assert prints[0]("decides", SIGMA) != prints[1]("decides", SIGMA) == prints[2]("decides", SIGMA)
    assert len({p.fingerprint() for p in (none, some, every)}) == 3


def test_one_layer_of_each_cut_is_the_first_that_is_captured():
    digits = get_adapter("edm-digits").from_checkpoint(None, device="cpu")
    captured = ("encoder_block_1", "midblock", *(f"decoder_block_{number}" for number in (5, 6, 7, 8)))
    options = {"layers": captured, "control_layers": ("cuts",), "maps": MapParameters(n_neighbors=5)}
    found = ExtractionPlan.of(ExtractionRecipe(control_seeds=1, **options), digits, samples())
    assert found.recipe.control_layers == ("encoder_block_1", "decoder_block_6", "decoder_block_5", "midblock")
    assert found.control_of("decoder_block_6") is not None
    assert found.control_of("decoder_block_7") is None
    unmeasured = ExtractionPlan.of(ExtractionRecipe(**options), digits, samples())
    assert unmeasured.fingerprint() == ExtractionPlan.of(
        ExtractionRecipe(layers=captured, maps=options["maps"]), digits, samples()
    ).fingerprint()


def test_unknown_layer_is_refused_with_the_nearest():
    with pytest.raises(LayerNotFoundError, match="decides"):
        plan(control_seeds=1, control_layers=("decide",))


def test_samples_without_a_class_are_refused():
    images = SampleSet.from_images(np.zeros((20, SIZE, SIZE, 3), np.uint8), IDS)
    recipe = ExtractionRecipe(control_seeds=1, maps=MapParameters(n_neighbors=5))
    with pytest.raises(ConfigError, match="class for each sample"):
        ExtractionPlan.of(recipe, KnownAdapter(), images)
