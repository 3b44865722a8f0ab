"""Generating images: `generate`, and the older functions over it, which notebooks rely on.

result = generate(adapter, GenerationRequest(class_labels=3, interventions=(mask,)))
result.images, result.baseline_images
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.condition import Condition
from diffviews.core.activation_files import flatten_activations
from diffviews.core.activation_files import save_generated_sample as save_generated_sample
from diffviews.core.extractor import capture
from diffviews.core.interventions import FixedTarget, Intervention
from diffviews.core.masking import ActivationMasker
from diffviews.core.plan import GenerationPlan
from diffviews.core.request import (
    ClassLabel,
    GenerationRequest,
    GenerationResult,
    NoiseMode,
    Progress,
    ProgressCallback,
)
from diffviews.core.session import InterventionSession
from diffviews.core.walk import PassInputs, start, walk
from diffviews.errors import ShapeError
from diffviews.sampling.schedules import karras_sigmas

_log = logging.getLogger(__name__)

@torch.no_grad()
def generate(
    adapter: GeneratorAdapter,
    request: GenerationRequest,
    *,
    callback: ProgressCallback | None = None,
    notices: bool = True,
) -> GenerationResult:
    """Generate images, with interventions if there are any, and then also without.

    Sample i depends on the seed, its own index and its class alone: neither on the batch size nor
    on anything random outside. No hook stays on the adapter, whatever happens.

    Args:
        adapter: the model.
        request: what to generate.
        callback: told after each step; it may raise `CancelledError`.
        notices: whether to log what of the request has no effect; false for the later parts of a job.

    Raises:
        ConfigError: if the request does not fit the model.
        LayerNotFoundError: if the model lacks a layer of the request.
        ShapeError: if an intervention does not fit its layer.
        CancelledError: if the callback raised it.
    """
    plan = GenerationPlan.of(adapter, request)
    if notices:
        plan.warn_of_untrained(adapter)
        plan.warn_of_no_effect(adapter)
    plans = [plan]
    if request.interventions and request.baseline:
        plans.append(plan.without_interventions())
    total, steps = len(plan.sigmas) * len(plan.batches) * len(plans), count(1)

    def tell(denoised: Tensor) -> None:
        if callback is not None:
            callback(Progress(next(steps), total, denoised))

    runs: list[list[_Batch]] = [[] for _ in plans]
    for rows in plan.batches:
        for batches, of_run in zip(runs, plans, strict=True):
            batches.append(_sample(adapter, of_run, rows, tell))
    return _result(plan, *map(_joined, runs))


@dataclass(frozen=True, slots=True)
class _Batch:
    """What was generated for some samples, or for all."""

    images: np.ndarray
    """(B, H, W, 3) uint8."""
    steps: dict[tuple[str, str], np.ndarray]
    """{(field of the result, layer or nothing): (S, B, …)} of what was kept at each step."""

    def layers(self, name: str) -> dict[str, np.ndarray]:
        return {layer: kept for (field, layer), kept in sorted(self.steps.items()) if field == name}


def _joined(batches: Sequence[_Batch]) -> _Batch:
    steps = {key: np.concatenate([batch.steps[key] for batch in batches], axis=1) for key in batches[0].steps}
    return _Batch(np.concatenate([batch.images for batch in batches]), steps)


def _sample(
    adapter: GeneratorAdapter, plan: GenerationPlan, rows: range, tell: Callable[[Tensor], None]
) -> _Batch:
    request, noise, conditions = plan.request, plan.noise(rows), plan.conditions(rows)
    kept: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    with InterventionSession(adapter, request.interventions, request.record_layers) as session:
        inputs = PassInputs.of(adapter, plan, conditions)
        x = start(adapter, plan, noise)
        for step in walk(adapter, plan, session, inputs, x, noise):
            for name, values in (("trajectory", session.natural), ("replaced", session.replaced)):
                for layer, value in values.items():
                    kept[name, layer].append(value.to(torch.float32).cpu().numpy())
            if request.record_steps:
                kept["intermediates", ""].append(adapter.decode(step.denoised))
                kept["noised_inputs", ""].append(adapter.decode(step.x / (1 + step.sigma**2) ** 0.5))
            tell(step.denoised)
            x = step.x_next
    bad = x.numel() - int(torch.isfinite(x).sum())
    if bad:
        _log.warning("%d of %d values of the generated images are NaN or infinite", bad, x.numel())
    return _Batch(adapter.decode(x * plan.ending.scale), {key: np.stack(values) for key, values in kept.items()})


def _result(plan: GenerationPlan, changed: _Batch, baseline: _Batch | None = None) -> GenerationResult:
    plain = None if baseline is None else baseline.images
    difference = None if plain is None else np.abs(changed.images.astype(np.int16) - plain).astype(np.uint8)
    return GenerationResult(
        images=changed.images,
        labels=np.asarray(plan.classes, dtype=np.int64),
        seed=plan.seed,
        sigmas=plan.sigmas.numpy(),
        baseline_images=plain,
        difference_images=difference,
        intermediates=changed.steps.get(("intermediates", "")),
        noised_inputs=changed.steps.get(("noised_inputs", "")),
        trajectory=changed.layers("trajectory"),
        replaced=changed.layers("replaced"),
        baseline_trajectory={} if baseline is None else baseline.layers("trajectory"),
    )


def generate_with_mask(
    adapter: GeneratorAdapter,
    masker: ActivationMasker | None,
    class_label: ClassLabel = None,
    conditioning_sigma: float = 0.1,
    num_samples: int = 1,
    device: Any = "cuda",
    seed: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Generate in one step: D(noise · sigma; sigma), with the masker's masks in place.

    Args:
        adapter: the model.
        masker: its masks; None: none.
        class_label: class; -1: uniform label; None: random.
        conditioning_sigma: noise level of the step.
        num_samples: how many images.
        device: accepted for older callers; the model stays where it is.
        seed: seed of noise and random classes; None: fresh.

    Returns:
        Images (N, H, W, 3) uint8 and class ids (N,) int64, on the CPU.
    """
    return generate_with_mask_multistep(
        adapter,
        masker,
        class_label,
        num_steps=1,
        sigma_max=conditioning_sigma,
        sigma_min=conditioning_sigma,
        num_samples=num_samples,
        device=device,
        seed=seed,
    )


def generate_with_mask_multistep(
    adapter: GeneratorAdapter,
    masker: ActivationMasker | None = None,
    class_label: ClassLabel = None,
    num_steps: int = 4,
    mask_steps: int | None = None,
    sigma_max: float = 80.0,
    sigma_min: float = 0.002,
    rho: float = 7.0,
    guidance_scale: float = 1.0,
    stochastic: bool = True,
    noise_mode: NoiseMode = "stochastic",
    num_samples: int = 1,
    device: Any = "cuda",
    seed: int | None = None,
    extract_layers: Sequence[str] | None = None,
    return_trajectory: bool = False,
    return_intermediates: bool = False,
    return_noised_inputs: bool = False,
) -> tuple[Any, ...]:
    """Generate by predicting x0 and re-noising, with the masker's masks in place for the first steps.

    Whether the masker's own hooks are registered makes no difference; they are off meanwhile.

    Args:
        adapter: the model.
        masker: its masks; None: none.
        class_label: class; -1: uniform label; None: random.
        num_steps: sampler steps.
        mask_steps: how many of the first steps are masked; None: all.
        sigma_max: first noise level.
        sigma_min: last noise level.
        rho: curvature of the schedule.
        guidance_scale: 0 unconditional, 1 conditional, above 1 amplified.
        stochastic: accepted for older callers, without effect.
        noise_mode: 'stochastic', 'fixed' (seed 42 if none is given) or 'zero' (no noise at all).
        num_samples: how many images.
        device: accepted for older callers; the model stays where it is.
        seed: seed of noise and random classes; None: fresh.
        extract_layers: layers of the trajectory.
        return_trajectory: also return, for each step, (N, D) float32: the layers' own values,
            before any mask, in sorted order.
        return_intermediates: also return each step's estimate of x0, (N, H, W, 3) uint8.
        return_noised_inputs: also return each step's noised input, alike.

    Returns:
        (images, labels[, trajectory][, intermediates][, noised_inputs]): images (N, H, W, 3)
        uint8 and class ids (N,) int64 on the CPU, the others as lists over the steps.
    """
    masked = mask_steps is None or mask_steps > 0
    masks = dict(masker.masks) if masker is not None and masked else {}
    steps = None if mask_steps is None else (0, mask_steps)
    # A mask with a row for each sample must meet all samples in one batch.
    whole = any(len(mask) > 1 for mask in masks.values())
    request = GenerationRequest(
        class_labels=class_label,
        num_samples=num_samples,
        seed=seed,
        sampler="renoise",
        schedule="karras",
        num_steps=num_steps,
        sigma_max=sigma_max,
        sigma_min=sigma_min,
        rho=rho,
        guidance_scale=guidance_scale,
        noise_mode=noise_mode,
        interventions=tuple(Intervention(name, FixedTarget(m), steps=steps) for name, m in masks.items()),
        baseline=False,
        record_layers=tuple(extract_layers or ()) if return_trajectory else (),
        record_steps=return_intermediates or return_noised_inputs,
        batch_size=num_samples if whole else 64,
    )
    with nullcontext() if masker is None else masker.suspended():
        result = generate(adapter, request)
    answer: list[Any] = [torch.from_numpy(result.images), torch.from_numpy(result.labels)]
    if return_trajectory:
        answer.append(_trajectory(result))
    if return_intermediates:
        answer.append(_frames(result.intermediates))
    if return_noised_inputs:
        answer.append(_frames(result.noised_inputs))
    return tuple(answer)


def _trajectory(result: GenerationResult) -> list[np.ndarray]:
    if not result.trajectory:
        return []
    steps = range(len(result.sigmas))
    return [flatten_activations({name: kept[s] for name, kept in result.trajectory.items()}) for s in steps]


def _frames(steps: np.ndarray | None) -> list[Tensor]:
    return [] if steps is None else [torch.from_numpy(images) for images in steps]


def get_denoising_sigmas(num_steps: int, sigma_max: float, sigma_min: float, rho: float = 7.0) -> Tensor:
    """Return `karras_sigmas` in float32: (num_steps,), descending, no final zero."""
    return karras_sigmas(num_steps, sigma_max, sigma_min, rho).to(torch.float32)


def tensor_to_uint8_image(tensor: Tensor) -> Tensor:
    """Return (B, H, W, C) uint8 on the CPU for (B, C, H, W) in [-1, 1], rounded and clipped."""
    if tensor.ndim != 4:
        raise ShapeError(f"a batch of images has shape (B, C, H, W), not {tuple(tensor.shape)}")
    grey_levels = (tensor.detach().to(torch.float32) * 127.5 + 128.0).clamp(0, 255)
    return grey_levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


def infer_layer_shape(adapter: GeneratorAdapter, layer_name: str, device: Any = "cuda") -> tuple[int, ...]:
    """Return a layer's shape for one sample, from the adapter or, failing that, from a forward pass.

    Args:
        adapter: the model.
        layer_name: the layer.
        device: accepted for older callers; the model stays where it is.

    Raises:
        LayerNotFoundError: if the adapter has no such layer.
    """
    shapes = adapter.get_layer_shapes()
    if layer_name in shapes:
        return tuple(shapes[layer_name])
    x0 = torch.zeros(1, *adapter.input_shape)
    captured = capture(adapter, x0, ["shape"], adapter.condition([Condition(0)]), adapter.sigma_range[1], [layer_name])
    return tuple(captured[layer_name].shape[1:])
