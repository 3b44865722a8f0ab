"""The judge `diffusion`: the class or prompt by which the model itself denoises an image best.

Li et al. 2023, "Your diffusion model is secretly a zero-shot classifier": the least mean of
λ(σ) ‖x0 − D(x0 + σ ε; σ, c)‖² over draws of (ε, σ) that all candidates c share. As in the authors' adaptive evaluation
the candidates are thinned out in stages, so that most of them cost two forward passes an image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.condition import Condition
from diffviews.data.class_order import in_words, numbered, same_classes
from diffviews.errors import ConfigError
from diffviews.judges.base import JudgeRequest
from diffviews.judges.calibrated import CalibratedJudge, Opinion, measure
from diffviews.noise import sample_noise

LEVELS = (0.25, 5.0)
"""Least and greatest σ of the draws, evenly in log σ: below, classes differ by little; above, all images are alike."""
FIRST_DRAWS, THINNING, LAST = 2, 8, 4
"""Draws of the first stage, each later one has twice as many; of how many candidates one is kept, down to LAST."""
MOST_MEASURED = 200
"""Held-out images that accuracy and limit are measured on, stratified, or one a class: each costs as one judged."""
BATCH = 128
"""Forward passes at once."""
IMAGES = 16
"""Images judged at once, whose inputs fit into memory however many candidates there are."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the evaluation, in which each of the remaining candidates has so many further draws."""

    draws: int
    candidates: int
    kept: int


def stages_of(candidates: int) -> tuple[Stage, ...]:
    """Return the stages for so many candidates, three at least; the last keeps one.

    Ten candidates cost 52 forward passes an image, 1,000 cost 2,756, without stages 140 and 62,000.
    """
    widths = [candidates]
    while len(widths) == 1 or widths[-1] > LAST:
        widths.append(min(widths[-1], max(LAST, math.ceil(widths[-1] / THINNING))))
    widths += [min(2, candidates), 1]
    return tuple(Stage(FIRST_DRAWS * 2**n, *pair) for n, pair in enumerate(pairwise(widths)))


@dataclass(frozen=True, slots=True, eq=False)
class Best:
    """The candidate of least error for each of N images."""

    candidate: np.ndarray
    """Its number, (N,) int64."""
    error: np.ndarray
    """Its mean error over all draws, (N,) float64."""
    runner_up: np.ndarray
    """The mean error of the last one left beside it, (N,) float64; infinite where there is one candidate alone."""


Errors = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Numbers of images, candidates and draws, each (P,) → the error of each pair in that draw, (P,) float64."""


def least_error(errors: Errors, images: int, stages: tuple[Stage, ...]) -> Best:
    """Return the candidate of least mean error of each image, found in stages.

    Args:
        errors: what measures; all candidates of an image are given the same draws, counted from 0 over all stages.
        images: how many.
        stages: of `stages_of`.
    """
    left = np.tile(np.arange(stages[0].candidates), (images, 1))
    sums, second, drawn = np.zeros(left.shape), np.full(images, np.inf), 0
    for stage in stages:
        drawn += stage.draws
        shape = (images, stage.candidates, stage.draws)
        draws = np.arange(drawn - stage.draws, drawn)
        asked = np.arange(images)[:, None, None], left[:, :, None], draws
        sums += errors(*(np.broadcast_to(part, shape).ravel() for part in asked)).reshape(shape).sum(axis=2)
        order = np.argsort(sums, axis=1, kind="stable")
        left, sums = np.take_along_axis(left, order, axis=1), np.take_along_axis(sums, order, axis=1)
        second = sums[:, 1] / drawn if len(order.T) > 1 else second
        left, sums = left[:, : stage.kept], sums[:, : stage.kept]
    return Best(left[:, 0], sums[:, 0] / drawn, second)


def diffusion_judge(request: JudgeRequest) -> CalibratedJudge:
    """Return the model as judge of classes or prompts, measured on samples; the model may have been trained on them.

    Of a model of prompts the candidates are the request's, or else the names of the samples' classes.

    Raises:
        ConfigError: if there is no model, it takes neither, or the samples' classes are not the model's.
    """
    adapter, candidates = request.adapter, request.candidates
    if request.argument:
        raise ConfigError(f"judge 'diffusion' takes nothing after its name, but {request.argument!r} is given")
    if adapter is None:
        raise ConfigError("judge 'diffusion' looks through a model, and none is given")
    if len(candidates) < 2:
        raise ConfigError(f"judge 'diffusion' needs two classes or prompts to choose between, not {len(candidates)}")
    if adapter.takes_prompts:
        conditions = [Condition(prompt=text) for text in candidates.values()]
    else:
        _check_classes(request, adapter)
        conditions = [Condition(class_id=label) for label in candidates]
    look = denoising_errors(adapter, conditions)
    classes = np.array(list(candidates), np.int64)

    def decide(found: np.ndarray) -> Opinion:
        number, error, runner_up = found.T
        return Opinion(classes[number.astype(np.int64)], runner_up / error - 1, error)

    rows = request.labelled_rows(max(MOST_MEASURED, len(candidates)))
    return measure("diffusion", look, decide, request.samples.pictures.pixels(rows), request.labels[rows])


def denoising_errors(adapter: GeneratorAdapter, conditions: list[Condition]) -> Callable[[np.ndarray], np.ndarray]:
    """Return what gives, of images, the number of the best condition, its error and the runner-up's, (N, 3) float64."""
    told = {name: values.to(adapter.device) for name, values in adapter.condition(conditions).items()}
    stages = stages_of(len(conditions))
    sigmas = torch.from_numpy(np.concatenate([_levels(stage.draws, adapter.sigma_range) for stage in stages])).float()
    noise = sample_noise([f"denoising error {draw}" for draw in range(len(sigmas))], adapter.input_shape)

    def look(images: np.ndarray) -> np.ndarray:
        parts = [judged(adapter.encode(images[start : start + IMAGES])) for start in range(0, len(images), IMAGES)]
        return np.concatenate(parts)

    def judged(x0: torch.Tensor) -> np.ndarray:
        def errors(*pairs: np.ndarray) -> np.ndarray:
            parts = [
                error(x0, *(torch.from_numpy(part[start : start + BATCH].copy()) for part in pairs))
                for start in range(0, len(pairs[0]), BATCH)
            ]
            return torch.cat(parts).double().numpy()

        best = least_error(errors, len(x0), stages)
        return np.column_stack([best.candidate, best.error, best.runner_up])

    @torch.inference_mode()
    def error(x0: torch.Tensor, image: torch.Tensor, candidate: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
        clean, sigma = x0[image].cpu(), sigmas[draw]
        noised = clean + sigma.reshape(-1, 1, 1, 1) * noise[draw]
        given = {name: values[candidate.to(values.device)] for name, values in told.items()}
        denoised = adapter.forward(noised.to(adapter.device), sigma.to(adapter.device), **given)
        squared = (denoised.float().cpu() - clean).square().mean(dim=(1, 2, 3))
        return (1 + 1 / sigma**2) * squared  # λ of v-prediction, Salimans and Ho 2022

    return look


def _levels(count: int, allowed: tuple[float, float]) -> np.ndarray:
    """Return noise levels in the middles of equal parts of log σ, (count,), where the model knows them."""
    low, high = (math.log(min(max(level, allowed[0]), allowed[1])) for level in LEVELS)
    return np.exp(low + (high - low) * (np.arange(count) + 0.5) / count)


def _check_classes(request: JudgeRequest, adapter: GeneratorAdapter) -> None:
    if request.prompts or not adapter.num_classes:
        took = "no prompts" if request.prompts else "neither classes nor prompts"
        raise ConfigError(f"judge 'diffusion': model {adapter.model_type!r} takes {took}; take another judge")
    samples, names = request.samples, adapter.class_names or ()
    fits = not samples.classes or same_classes(samples, names) or numbered(samples)
    if not fits or max(request.candidates) >= adapter.num_classes:
        raise ConfigError(
            f"judge 'diffusion' needs samples whose classes are the model's, but theirs are "
            f"{in_words(samples.classes)} and those of {adapter.model_type!r} {in_words(dict(enumerate(names)))}; "
            "give a class_map, or take another judge"
        )
