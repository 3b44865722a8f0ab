"""What a request comes to for one model: `GenerationPlan`."""

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from diffviews.adapters.base import Ending, GeneratorAdapter
from diffviews.adapters.condition import Condition
from diffviews.core.request import FIXED_SEED, ClassLabel, GenerationRequest, NoiseMode
from diffviews.errors import ConfigError
from diffviews.noise import NoiseSource
from diffviews.sampling.samplers import Noise, SamplerName
from diffviews.sampling.schedules import karras_sigmas

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """A request with every default filled in by the model it is for."""

    request: GenerationRequest
    """What was asked for."""
    seed: int
    """Seed of all randomness."""
    sigmas: Tensor
    """Noise levels above 0, (S,) float64 descending."""
    guidance_scale: float
    """Classifier-free guidance."""
    sampler: SamplerName
    """Sampler."""
    classes: tuple[int, ...]
    """Class of each sample; -1: uniform, or a model without classes."""
    ending: Ending = field(default_factory=Ending)
    """Where the last step ends."""

    @classmethod
    def of(cls, adapter: GeneratorAdapter, request: GenerationRequest) -> Self:
        """Return the plan of a request.

        Raises:
            ConfigError: if the request does not fit the model.
        """
        defaults = adapter.defaults
        scale = defaults.default_guidance if request.guidance_scale is None else request.guidance_scale
        seed = draw_seed(request.noise_mode) if request.seed is None else request.seed
        sigmas, sampler = noise_levels(adapter, request), request.sampler or defaults.default_sampler
        return cls(
            request,
            seed,
            sigmas,
            float(scale),
            sampler,
            _classes(adapter.num_classes, request, seed),
            _ending(adapter, request, sampler),
        )

    @property
    def batches(self) -> list[range]:
        """The samples of each batch."""
        count, size = self.request.num_samples, self.request.batch_size
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    def conditions(self, rows: Sequence[int]) -> list[Condition]:
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

    def noise(self, rows: Sequence[int]) -> Noise:
        """Return the source of noise of some samples, at its beginning."""
        if self.request.noise_mode == "zero":
            return lambda shape: torch.zeros(len(rows), *shape)
        return NoiseSource(self.seed, [self.request.first_index + row for row in rows]).normal

    def without_interventions(self) -> Self:
        """Return the plan of the paired baseline."""
        return replace(self, request=replace(self.request, interventions=(), record_steps=False))

    def embedded_guidance(self, adapter: GeneratorAdapter, count: int) -> dict[str, Tensor]:
        """Return the guidance of some samples as an input of the network, {} for a model that has a second pass."""
        return {"guidance": torch.full((count,), self.guidance_scale)} if adapter.embeds_guidance else {}

    def passes(self, adapter: GeneratorAdapter) -> set[str]:
        """Return which passes of classifier-free guidance are made."""
        if adapter.num_classes == 0 and self.request.prompts is None:
            return {"unconditional"}
        if adapter.embeds_guidance or self.guidance_scale == 1:
            return {"conditional"}
        return {"unconditional"} if self.guidance_scale == 0 else {"conditional", "unconditional"}

    def warn_of_no_effect(self, adapter: GeneratorAdapter) -> None:
        """Log what of the request has no effect at its guidance."""
        passes, request, scale = self.passes(adapter), self.request, self.guidance_scale
        given = request.class_labels if isinstance(request.class_labels, tuple) else (request.class_labels,)
        what = "prompt" if request.prompts is not None else "class" if any(c not in (None, -1) for c in given) else ""
        if adapter.num_classes == 0 and request.prompts is None:
            if request.guidance_scale not in (None, 1):
                lacks = "a prompt" if adapter.takes_prompts else "a model that takes prompts or classes"
                _log.warning("guidance %g has no effect without %s", scale, lacks)
        elif passes == {"unconditional"} and what:
            _log.warning("at guidance 0 the %s has no effect; take guidance 1 for the %s alone", what, what)
        if "unconditional" not in passes and request.negative_prompt:
            why = f"for model {adapter.model_type!r}" if adapter.embeds_guidance else "at guidance 1"
            _log.warning("the negative prompt has no effect %s: no unconditional pass is made", why)
        for idle in sorted({item.passes for item in request.interventions} - passes - {"both"}):
            why = f"at guidance {scale:g}" if what or adapter.num_classes else "without a prompt"
            _log.warning("interventions on the %s pass have no effect %s: none is made", idle, why)

    def warn_of_untrained(self, adapter: GeneratorAdapter) -> None:
        """Log what the model was not trained for."""
        if adapter.embeds_guidance:
            return
        if adapter.label_dropout or (adapter.num_classes == 0 and self.request.prompts is None):
            return
        if self.guidance_scale != 1:
            _log.warning(
                "guidance %g needs unconditional passes, for which model %r was not trained",
                self.guidance_scale,
                adapter.model_type,
            )
        if adapter.num_classes and -1 in self.classes:
            _log.warning("model %r, trained without label dropout, never saw the uniform label", adapter.model_type)


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


def draw_seed(noise_mode: NoiseMode) -> int:
    """Return the seed of a generation that names none: fresh, or that of noise mode 'fixed'."""
    return FIXED_SEED if noise_mode == "fixed" else secrets.randbits(31)


def _ending(adapter: GeneratorAdapter, request: GenerationRequest, sampler: SamplerName) -> Ending:
    """Return where the model's own schedule ends, 0 where a sampling does not take it to its end."""
    given = request.sigma_min or adapter.overrides.get("sigma_min")
    if request.schedule == "karras" or sampler == "renoise" or given is not None:
        return Ending()
    return adapter.model_ending(request.num_steps or adapter.defaults.default_steps)


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
