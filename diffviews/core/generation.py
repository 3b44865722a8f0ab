"""The one way images are made: `generate(adapter, request)`."""

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.condition import Condition
from diffviews.adapters.defaults import SamplerName
from diffviews.core.guidance import GuidedDenoiser
from diffviews.core.request import (
    FIXED_SEED,
    ClassLabel,
    GenerationRequest,
    GenerationResult,
    Progress,
    ProgressCallback,
)
from diffviews.core.samplers import Noise, SamplerStep, euler, heun, renoise
from diffviews.core.schedules import karras_sigmas
from diffviews.core.session import InterventionSession
from diffviews.errors import ConfigError
from diffviews.noise import NoiseSource

_log = logging.getLogger(__name__)

SAMPLERS = {"heun": heun, "euler": euler, "renoise": renoise}


@torch.no_grad()
def generate(
    adapter: GeneratorAdapter, request: GenerationRequest, *, callback: ProgressCallback | None = None
) -> GenerationResult:
    """Generate images, with interventions if there are any, and then also without.

    Sample i depends on the seed, its own index and its class alone: neither on the batch size nor
    on anything random outside. No hook stays on the adapter, whatever happens.

    Args:
        adapter: the model.
        request: what to generate.
        callback: told after each step; it may raise `CancelledError`.

    Raises:
        ConfigError: if the request does not fit the model.
        LayerNotFoundError: if the model lacks a layer of the request.
        ShapeError: if an intervention does not fit its layer.
        CancelledError: if the callback raised it.
    """
    plan = _Plan.of(adapter, request)
    _warn_of_untrained(adapter, plan)
    paired = bool(request.interventions) and request.baseline
    counter = _Counter(callback, total=len(plan.sigmas) * plan.num_batches * (1 + paired))
    changed, baseline = _Run(), _Run()
    for start in range(0, request.num_samples, request.batch_size):
        rows = range(start, min(start + request.batch_size, request.num_samples))
        changed.batches.append(_sample(adapter, plan, rows, counter))
        if paired:
            baseline.batches.append(_sample(adapter, plan.without_interventions(), rows, counter))
    return _result(plan, changed, baseline if paired else None)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A request with every default filled in."""

    request: GenerationRequest
    seed: int
    sigmas: Tensor
    guidance_scale: float
    sampler: SamplerName
    classes: tuple[int, ...]

    @classmethod
    def of(cls, adapter: GeneratorAdapter, request: GenerationRequest) -> "_Plan":
        defaults = adapter.defaults
        scale = defaults.default_guidance if request.guidance_scale is None else request.guidance_scale
        seed = _seed(request)
        return cls(
            request,
            seed,
            noise_levels(adapter, request),
            float(scale),
            request.sampler or defaults.default_sampler,
            _classes(adapter.num_classes, request, seed),
        )

    @property
    def num_batches(self) -> int:
        return -(-self.request.num_samples // self.request.batch_size)

    def conditions(self, rows: range) -> list[Condition]:
        """Return what each of some samples is conditioned on."""
        prompts, negative = self.request.prompts, self.request.negative_prompt
        return [
            Condition(
                class_id=self.classes[row],
                prompt=prompts[row] if isinstance(prompts, tuple) else prompts,
                negative_prompt=negative[row] if isinstance(negative, tuple) else negative,
            )
            for row in rows
        ]

    def without_interventions(self) -> "_Plan":
        return replace(self, request=replace(self.request, interventions=(), record_steps=False))


def noise_levels(adapter: GeneratorAdapter, request: GenerationRequest) -> Tensor:
    """Return the noise levels above 0, (S,) float64 descending."""
    defaults = adapter.defaults
    num_steps = defaults.default_steps if request.num_steps is None else request.num_steps
    if request.schedule != "karras":
        # The model's schedule has ends of its own, which only a number that somebody gave replaces.
        given = {name: getattr(request, name) or adapter.overrides.get(name) for name in ("sigma_max", "sigma_min")}
        own = adapter.model_sigmas(num_steps, **given)
        if own is not None:
            return own[own > 0].to("cpu", torch.float64)
        if request.schedule == "model":
            raise ConfigError(f"model {adapter.model_type!r} has no schedule of its own; take schedule karras")
    sigma_max = defaults.sigma_max if request.sigma_max is None else request.sigma_max
    # A shorter range than the model's own ends where it starts, not above.
    sigma_min = min(defaults.sigma_min, sigma_max) if request.sigma_min is None else request.sigma_min
    return karras_sigmas(num_steps, sigma_max, sigma_min, request.rho)


def _seed(request: GenerationRequest) -> int:
    if request.seed is not None:
        return request.seed
    return FIXED_SEED if request.noise_mode == "fixed" else secrets.randbits(31)


def _classes(num_classes: int, request: GenerationRequest, seed: int) -> tuple[int, ...]:
    """Return each sample's class; random ones come from a stream of their own, so noise stays the same."""
    given = request.class_labels
    wanted: Sequence[ClassLabel] = given if isinstance(given, tuple) else (given,) * request.num_samples
    if num_classes == 0:
        if any(label not in (None, -1) for label in wanted):
            raise ConfigError(f"class labels {given} were asked of a model without classes; leave them out")
        return (-1,) * len(wanted)
    indices = range(request.first_index, request.first_index + request.num_samples)
    drawn = NoiseSource(seed, indices, stream="label").integers(num_classes).tolist()
    return tuple(random if label is None else int(label) for label, random in zip(wanted, drawn, strict=True))


def _warn_of_untrained(adapter: GeneratorAdapter, plan: _Plan) -> None:
    interventions = plan.request.interventions
    if plan.guidance_scale == 1 and any(item.passes == "unconditional" for item in interventions):
        _log.warning("interventions on the unconditional pass have no effect at guidance 1")
    if adapter.label_dropout or (adapter.num_classes == 0 and plan.request.prompts is None):
        return
    if plan.guidance_scale != 1:
        _log.warning(
            "guidance %g needs unconditional passes, for which model %r was not trained",
            plan.guidance_scale,
            adapter.model_type,
        )
    if adapter.num_classes and -1 in plan.classes:
        _log.warning("model %r, trained without label dropout, never saw the uniform label", adapter.model_type)


@dataclass(slots=True)
class _Counter:
    """Counts steps over all batches and runs for the callback."""

    callback: ProgressCallback | None
    total: int
    done: int = 0

    def step(self, denoised: Tensor) -> None:
        self.done += 1
        if self.callback is not None:
            self.callback(Progress(self.done, self.total, denoised))


@dataclass(slots=True)
class _Batch:
    """What one batch gave, step by step."""

    images: np.ndarray | None = None
    intermediates: list[np.ndarray] = field(default_factory=list)
    noised_inputs: list[np.ndarray] = field(default_factory=list)
    natural: dict[str, list[np.ndarray]] = field(default_factory=dict)
    replaced: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def record(self, session: InterventionSession) -> None:
        for values, kept in ((session.natural, self.natural), (session.replaced, self.replaced)):
            for layer, value in values.items():
                kept.setdefault(layer, []).append(value.to(torch.float32).cpu().numpy())


@dataclass(slots=True)
class _Run:
    """All batches of one run, joined along the samples."""

    batches: list[_Batch] = field(default_factory=list)

    def images(self) -> np.ndarray:
        return np.concatenate([batch.images for batch in self.batches if batch.images is not None])

    def steps(self, name: str) -> np.ndarray | None:
        parts = [np.stack(frames) for batch in self.batches if (frames := getattr(batch, name))]
        return np.concatenate(parts, axis=1) if parts else None

    def layers(self, name: str) -> dict[str, np.ndarray]:
        kept: list[dict[str, list[np.ndarray]]] = [getattr(batch, name) for batch in self.batches]
        joined = {}
        for layer in sorted(kept[0]):
            joined[layer] = np.concatenate([np.stack(part[layer]) for part in kept], axis=1)
        return joined


def _sample(adapter: GeneratorAdapter, plan: _Plan, rows: range, counter: _Counter) -> _Batch:
    request, batch = plan.request, _Batch()
    noise = _noise(plan, rows)
    with InterventionSession(adapter, request.interventions, request.record_layers) as session:
        conditions = plan.conditions(rows)
        denoiser = GuidedDenoiser(
            adapter, adapter.condition(conditions), adapter.uncondition(conditions), plan.guidance_scale, session
        )
        denoiser.on_recorded = lambda: batch.record(session)

        def after_evaluation(step: SamplerStep) -> None:
            if request.record_steps:
                batch.intermediates.append(adapter.decode(step.denoised))
                batch.noised_inputs.append(adapter.decode(step.x / (1 + step.sigma**2) ** 0.5))
            counter.step(step.denoised)

        x = noise(adapter.input_shape).to(adapter.device) * adapter.start_scale(float(plan.sigmas[0]))
        sampler = SAMPLERS[plan.sampler]
        x0 = sampler(
            denoiser, x, plan.sigmas, noise,
            churn=request.churn, callback=after_evaluation, on_start=denoiser.start_step,
        )  # fmt: skip
    bad = x0.numel() - int(torch.isfinite(x0).sum())
    if bad:
        _log.warning("%d of %d values of the generated images are NaN or infinite", bad, x0.numel())
    batch.images = adapter.decode(x0)
    return batch


def _noise(plan: _Plan, rows: range) -> Noise:
    if plan.request.noise_mode == "zero":
        return lambda shape: torch.zeros(len(rows), *shape)
    return NoiseSource(plan.seed, [plan.request.first_index + row for row in rows]).normal


def _result(plan: _Plan, changed: _Run, baseline: _Run | None) -> GenerationResult:
    images = changed.images()
    plain = None if baseline is None else baseline.images()
    difference = None if plain is None else np.abs(images.astype(np.int16) - plain).astype(np.uint8)
    return GenerationResult(
        images=images,
        labels=np.asarray(plan.classes, dtype=np.int64),
        seed=plan.seed,
        sigmas=plan.sigmas.numpy(),
        baseline_images=plain,
        difference_images=difference,
        intermediates=changed.steps("intermediates"),
        noised_inputs=changed.steps("noised_inputs"),
        trajectory=changed.layers("natural"),
        replaced=changed.layers("replaced"),
        baseline_trajectory={} if baseline is None else baseline.layers("natural"),
    )
