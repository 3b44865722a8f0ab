"""Classifier-free guidance: one denoiser made of a conditional and an unconditional pass."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.condition import Conditioning
from diffviews.core.session import GuidancePass, InterventionSession


@dataclass(slots=True)
class GuidedDenoiser:
    """D = D(x; sigma) + g · (D(x; sigma, c) - D(x; sigma)), for a sampler (Ho and Salimans 2022).

    Guidance 1 is the conditional pass alone and 0 the unconditional one alone; each then costs
    one evaluation. The passes run one after the other, so a hook always knows which one it is in.
    """

    adapter: GeneratorAdapter
    """The model."""
    conditional: Conditioning
    """What conditions the batch; empty for an unconditional model, which has that pass only."""
    unconditional: Conditioning
    """What the unconditional pass is given."""
    guidance_scale: float
    """g."""
    session: InterventionSession
    """Whose hooks act in the passes."""
    on_recorded: Callable[[], None] | None = None
    """Called after the leading pass of a step's first evaluation, while the session holds its values."""
    _step: int = field(default=0, init=False)
    _first: bool = field(default=False, init=False)

    def start_step(self, index: int) -> None:
        """Tell which sampler step the next evaluations belong to."""
        self._step, self._first = index, True

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the guided estimate of x0, (B, C, H, W), in the model's dtype."""
        first, self._first = self._first, False
        if not self.conditional or self.guidance_scale == 0:
            return self._evaluate(x, float(sigma), "unconditional", first)
        conditional = self._evaluate(x, float(sigma), "conditional", first)
        if self.guidance_scale == 1:
            return conditional
        unconditional = self._evaluate(x, float(sigma), "unconditional", False)
        return unconditional + self.guidance_scale * (conditional - unconditional)

    def _evaluate(self, x: Tensor, sigma: float, guidance_pass: GuidancePass, record: bool) -> Tensor:
        noised = x.to(torch.float32).to(self.adapter.device)
        levels = torch.full((len(x),), sigma, dtype=torch.float32, device=noised.device)
        given = self.conditional if guidance_pass == "conditional" else self.unconditional
        with self.session.evaluation(self._step, sigma, guidance_pass):
            denoised = self.adapter.forward(noised, levels, **given)
        if record and self.on_recorded is not None:
            self.on_recorded()
        return denoised
