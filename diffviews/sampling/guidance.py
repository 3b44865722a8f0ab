"""Classifier-free guidance: one denoiser made of a conditional and an unconditional one."""

from dataclasses import dataclass

from torch import Tensor

from diffviews.sampling.samplers import Denoiser


@dataclass(frozen=True, slots=True)
class GuidedDenoiser:
    """D = D(x; sigma) + g · (D(x; sigma, c) - D(x; sigma)), for a sampler (Ho and Salimans 2022).

    Guidance 1 is the conditional pass alone and 0 the unconditional one alone; each then costs
    one evaluation. The passes run one after the other, the conditional one first.
    """

    conditional: Denoiser | None
    """D(x; sigma, c); None: an unconditional model, which has the other pass only."""
    unconditional: Denoiser
    """D(x; sigma)."""
    guidance_scale: float
    """g."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the guided estimate of x0, (B, C, H, W), in the model's dtype."""
        if self.conditional is None or self.guidance_scale == 0:
            return self.unconditional(x, sigma)
        conditional = self.conditional(x, sigma)
        if self.guidance_scale == 1:
            return conditional
        unconditional = self.unconditional(x, sigma)
        return unconditional + self.guidance_scale * (conditional - unconditional)
