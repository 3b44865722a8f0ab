"""Walking a sampler's steps with a model under a session, which is told the step and pass of every evaluation.

inputs = PassInputs.of(adapter, plan, conditions)
with InterventionSession(adapter, interventions) as session:
    for step in walk(adapter, plan, session, inputs, start(adapter, plan, noise), noise):
        ...
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.condition import Condition, Conditioning
from diffviews.core.plan import GenerationPlan
from diffviews.core.session import GuidancePass, InterventionSession
from diffviews.sampling.samplers import SAMPLERS, Denoiser, GuidedDenoiser, Noise, SamplerStep


@dataclass(frozen=True, slots=True)
class PassInputs:
    """What the passes of classifier-free guidance are given beside x and sigma; each value is (B, …)."""

    conditional: Conditioning
    """Empty: the model has no such pass."""
    unconditional: Conditioning
    guidance: Conditioning
    """The guidance scale itself, for a model that takes it as an input in place of a second pass."""

    @classmethod
    def of(cls, adapter: GeneratorAdapter, plan: GenerationPlan, conditions: Sequence[Condition]) -> Self:
        """Return what samples with these conditions are given."""
        embedded = plan.embedded_guidance(adapter, len(conditions))
        return cls(adapter.condition(conditions), adapter.uncondition(conditions), embedded)

    def rows(self, rows: Tensor) -> Self:
        """Return what some of the samples, in any order and as often as named, are given; rows: (n,) int64."""
        parts = (self.conditional, self.unconditional, self.guidance)
        return type(self)(*({name: v.index_select(0, rows.to(v.device)) for name, v in part.items()} for part in parts))


@dataclass(slots=True)
class _SteppedModel:
    """A model under a session, which is told the sampler step of each pass and records each step's first one."""

    adapter: GeneratorAdapter
    session: InterventionSession
    step: int
    sees: Tensor | None
    _recorded: int = -1

    def denoiser(self, guidance_pass: GuidancePass, conditioning: Conditioning) -> Denoiser:
        """Return the model's D(x; sigma) under some conditioning."""

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            noised = x.to(torch.float32).to(self.adapter.device)
            if self.sees is not None:
                noised = noised.index_select(0, self.sees.to(noised.device))
            levels = torch.full((len(x),), float(sigma), dtype=torch.float32, device=noised.device)
            first, self._recorded = self._recorded < self.step, self.step
            with self.session.evaluation(self.step, float(sigma), guidance_pass, record=first):
                return self.adapter.unlimited(noised, levels, **conditioning)

        return denoise


def start(adapter: GeneratorAdapter, plan: GenerationPlan, noise: Noise) -> Tensor:
    """Return where a sampling begins, (B, C, H, W), from the first draw of its source of noise."""
    return noise(adapter.input_shape).to(adapter.device) * adapter.start_scale(float(plan.sigmas[0]))


def walk(
    adapter: GeneratorAdapter,
    plan: GenerationPlan,
    session: InterventionSession,
    inputs: PassInputs,
    x: Tensor,
    noise: Noise,
    first: int = 0,
    sees: Tensor | None = None,
) -> Iterator[SamplerStep]:
    """Yield the sampler's steps; the session knows of each evaluation which step and pass it belongs to.

    Args:
        adapter: the model.
        plan: sampler, noise levels, guidance and ending.
        session: whose hooks act in the evaluations; it must be entered.
        inputs: what conditions the samples.
        x: the input of step `first`, (B, C, H, W).
        noise: the samples' noise, from which `start` has drawn.
        first: number of the step to begin with.
        sees: (B,) int64, whose x the network is given in a sample's row; None: its own.
    """
    model = _SteppedModel(adapter, session, first, sees)
    conditional = {**inputs.conditional, **inputs.guidance}
    denoiser = GuidedDenoiser(
        model.denoiser("conditional", conditional) if inputs.conditional else None,
        model.denoiser("unconditional", {**inputs.unconditional, **inputs.guidance}),
        1.0 if inputs.guidance else plan.guidance_scale,
    )
    steps = SAMPLERS[plan.sampler](
        denoiser, x, plan.sigmas, noise, churn=plan.request.churn, limit=adapter.x0_limit, end=plan.ending.sigma,
        first=first,
    )
    for step in steps:
        yield step
        model.step = step.index + 1
