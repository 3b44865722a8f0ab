"""The judge `diffusion`: where the best denoiser is known, it is the nearest class; stages find what no stages find."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from diffviews.adapters.condition import Condition
from diffviews.adapters.registry import load_adapter
from diffviews.data.samples import SampleSet
from diffviews.data.sources import open_source
from diffviews.errors import ConfigError, ShapeError
from diffviews.judges import diffusion
from diffviews.judges.diffusion import denoising_errors, least_error, stages_of
from diffviews.judges.registry import make_judge
from diffviews.noise import sample_noise
from tests.fakes import SPREAD, GaussianAdapter, TextAdapter

MEANS = (np.arange(4) - 1.5) / 4


def images_around(means: np.ndarray, seed: int, spread: float = 0.2) -> np.ndarray:
    x0 = means[:, None, None, None] + spread * np.random.default_rng(seed).normal(size=(len(means), 8, 8, 3))
    return np.clip(np.rint(127.5 * (x0 + 1)), 0, 255).astype(np.uint8)


def samples_around(count: int, seed: int) -> SampleSet:
    labels = np.arange(count) % 4
    return SampleSet.from_images(
        images_around(MEANS[labels], seed), [f"g-{row}" for row in range(count)], class_labels=labels
    )


@pytest.mark.parametrize("seed", range(3))
def test_exact_denoiser_gives_the_nearest_mean(seed: int) -> None:
    adapter = GaussianAdapter()
    judge = make_judge("diffusion", samples_around(60, seed), adapter)
    images = images_around(np.random.default_rng(seed).uniform(-0.5, 0.5, 40), seed + 9)
    means = adapter.encode(images).mean(dim=(1, 2, 3)).numpy()
    distances = np.abs(means[:, None] - MEANS)
    clear = np.abs(np.diff(np.sort(distances, axis=1)[:, :2])[:, 0]) > 0.03  # beyond what the shared noise shifts
    opinion = judge.decide(judge.look(images))
    np.testing.assert_array_equal(opinion.labels[clear], distances.argmin(axis=1)[clear])
    assert clear.sum() > 25
    assert (opinion.scores >= 0).all()
    assert judge.accuracy >= 0.97


def test_error_of_the_exact_denoiser_is_its_closed_form() -> None:
    """x0 − D = (1 − w)(x0 − m) − w σ ε with w = s² / (s² + σ²), weighted by 1 + 1 / σ²."""
    adapter, images = GaussianAdapter(), images_around(MEANS[[0, 3]], seed=3)
    conditions = [Condition(class_id=label) for label in range(4)]
    found = denoising_errors(adapter, conditions)(images)
    x0 = adapter.encode(images).double().numpy()
    sigmas = np.concatenate([np.geomspace(0.25, 5, 2 * n + 1)[1::2] for n in (2, 4, 8)])
    noise = sample_noise([f"denoising error {draw}" for draw in range(14)], (3, 8, 8)).double().numpy()
    for row, mean in enumerate(MEANS[[0, 3]]):
        expected = []
        for sigma, eps in zip(sigmas, noise, strict=True):
            w = SPREAD**2 / (SPREAD**2 + sigma**2)
            expected.append((1 + 1 / sigma**2) * np.mean(((1 - w) * (x0[row] - mean) - w * sigma * eps) ** 2))
        assert found[row, 0] == [0, 3][row]
        assert found[row, 1] == pytest.approx(np.mean(expected), rel=1e-4)


def test_image_is_judged_the_same_in_any_batch() -> None:
    images = images_around(np.linspace(-0.5, 0.5, 37), seed=4)
    look = denoising_errors(GaussianAdapter(), [Condition(class_id=label) for label in range(4)])
    np.testing.assert_allclose(look(images)[30:], look(images[30:]), rtol=1e-5)


@pytest.mark.parametrize(("candidates", "passes"), [(2, 28), (3, 34), (10, 52), (100, 316), (1000, 2756)])
def test_stages_end_with_one_and_cost_what_is_written(candidates: int, passes: int) -> None:
    stages = stages_of(candidates)
    assert stages[0].candidates == candidates
    assert stages[-1].kept == 1
    assert all(first.kept == then.candidates for first, then in pairwise(stages))
    assert sum(stage.draws * stage.candidates for stage in stages) == passes


@pytest.mark.parametrize("seed", range(5))
def test_stages_find_the_least_of_many_candidates_in_noise(seed: int) -> None:
    """Planted errors: the best candidate is better by more than the noise that candidates do not share."""
    rng = np.random.default_rng(seed)
    candidates, images = 300, 20
    level = rng.uniform(1.0, 2.0, (images, candidates))
    best = rng.integers(candidates, size=images)
    level[np.arange(images), best] = 0.85
    stages = stages_of(candidates)
    shared = rng.normal(size=(images, sum(stage.draws for stage in stages))) ** 2
    asked: list[np.ndarray] = []

    def errors(image, candidate, draw):
        asked.append(np.column_stack([image, candidate, draw]))
        own = np.random.default_rng(seed + 1).normal(0, 0.02, (images, candidates))[image, candidate]
        return level[image, candidate] + 10 * shared[image, draw] + own

    found = least_error(errors, images, stages)
    np.testing.assert_array_equal(found.candidate, best)
    assert (found.runner_up > found.error).all()
    np.testing.assert_allclose(found.error, 0.85 + 10 * shared.mean(axis=1), atol=0.1)
    pairs = np.concatenate(asked)
    assert len(np.unique(pairs, axis=0)) == len(pairs), "no candidate is given a draw twice"
    assert len(pairs) == images * sum(stage.draws * stage.candidates for stage in stages)


def test_prompts_are_told_apart_by_the_model_that_follows_them() -> None:
    """The mean of a prompt is its number of letters / 10."""
    prompts = ("a", "abc", "abcde")
    wanted = np.arange(24) % 3
    means = np.array([0.1, 0.3, 0.5])[wanted]
    samples = SampleSet.from_images(
        images_around(means, 1), [f"p-{row}" for row in range(24)], prompts=[prompts[w] for w in wanted]
    )
    judge = make_judge("diffusion", samples, TextAdapter(), prompts=prompts)
    fresh = judge.classify(images_around(means, 2))
    assert judge.accuracy >= 0.95
    assert np.mean(fresh.labels == wanted) > 0.9


def test_classes_of_a_model_of_prompts_are_told_apart_by_their_names() -> None:
    labels = np.arange(16) % 2
    samples = SampleSet.from_images(
        images_around(np.where(labels, 0.5, 0.1), 1), [f"p-{row}" for row in range(16)],
        class_labels=labels + 3, class_names=["abcde" if label else "a" for label in labels],
    )  # fmt: skip
    judge = make_judge("diffusion", samples, TextAdapter())
    assert list(judge.classify(samples.images[:4]).labels) == [3, 4, 3, 4]


def test_digits_are_told_apart_and_static_is_rejected(monkeypatch) -> None:
    monkeypatch.setattr(diffusion, "MOST_MEASURED", 10)
    judge = make_judge("diffusion", open_source("digits"), load_adapter("edm-digits", device="cpu"))
    assert judge.accuracy >= 0.9
    static = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    grey = np.repeat(static[..., :1], 3, axis=3)
    assert judge.classify(np.concatenate([static, grey])).rejects.all()
    with pytest.raises(ShapeError, match="resize"):
        judge.classify(static[:, :8, :8])


def test_latent_pipelines_are_judges_of_prompts_by_diffusion_and_by_neighbours(tmp_path) -> None:
    """The error is that of one pass for each draw, through the pipeline's own latents and prompts."""
    pytest.importorskip("diffusers")
    from tests.diffusion_folders import draw_sd_pipeline, saved

    adapter = load_adapter("sd-v1.5", saved(draw_sd_pipeline(4), tmp_path / "sd"), device="cpu")
    random, side = np.random.default_rng(0), adapter.resolution
    prompts, wanted = ("a red cat", "dog", "a cat"), np.arange(12) % 3
    images = (random.integers(0, 256, (3, side, side, 3))[wanted] * 0.8).astype(np.uint8)
    samples = SampleSet.from_images(images, [*map(str, range(12))], prompts=[prompts[w] for w in wanted])
    judge = make_judge("diffusion", samples, adapter, prompts=prompts, floor=0.0)
    number, error, _ = judge.look(images[:2]).T
    told = adapter.condition([Condition(prompt=text) for text in prompts])
    x0, means = adapter.encode(images[:2]).cpu(), np.zeros((2, 3))
    sigmas = np.concatenate([np.geomspace(0.25, 5, 2 * n + 1)[1::2] for n in (2, 4, 8)])
    for sigma, eps in zip(sigmas, sample_noise([f"denoising error {d}" for d in range(14)], x0.shape[1:]), strict=True):
        for candidate in range(3):
            given = {name: values[[candidate, candidate]] for name, values in told.items()}
            with torch.no_grad():
                off = adapter.forward(x0 + sigma * eps, torch.full((2,), sigma), **given) - x0
            means[:, candidate] += (1 + 1 / sigma**2) * off.square().mean(dim=(1, 2, 3)).numpy() / 14
    np.testing.assert_allclose(error, means[[0, 1], number.astype(int)], rtol=1e-3)
    assert np.ptp(means, axis=1).min() > 1e-3 * means.max(), "prompts make a difference that this can show"
    layer = adapter.hookable_layers[1]
    neighbours = make_judge(f"knn:{layer}@1", samples, adapter, prompts=prompts)
    assert list(neighbours.classify(images[:3]).labels) == [0, 1, 2]


def test_random_state_is_left_alone_and_no_gradients_are_kept() -> None:
    before = torch.get_rng_state()
    make_judge("diffusion", samples_around(12, 0), GaussianAdapter(), floor=0.0).classify(samples_around(4, 1).images)
    assert torch.equal(before, torch.get_rng_state())


def named(*names: str) -> SampleSet:
    labels = np.arange(len(names))
    return SampleSet.from_images(
        images_around(MEANS[labels % 4], 0), [*map(str, labels)], class_labels=labels, class_names=names
    )


@pytest.mark.parametrize(
    ("samples", "options", "words"),
    [
        (named("cat", "dog"), {"adapter": GaussianAdapter()}, r"whose classes are the model's, .*0 cat, 1 dog"),
        (samples_around(8, 0), {}, "looks through a model"),
        (samples_around(8, 0), {"adapter": GaussianAdapter(), "prompts": ("a", "b")}, "takes no prompts"),
        (samples_around(1, 0), {"adapter": GaussianAdapter()}, "two classes or prompts"),
        (named("", "", "", "", ""), {"adapter": GaussianAdapter()}, "whose classes are the model's"),
    ],
)
def test_what_cannot_be_judged_is_refused(samples: SampleSet, options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_judge("diffusion", samples, **options)
