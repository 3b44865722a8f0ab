"""How images are sampled: one value inside every recipe that makes some."""

from dataclasses import dataclass
from typing import Any

from diffviews.core.request import NoiseMode, ScheduleName
from diffviews.recipes.options import check_choices
from diffviews.sampling.samplers import Churn, SamplerName


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampler, noise levels, guidance and noise. None stands for the adapter's default."""

    sampler: SamplerName | None = None
    """heun, euler or renoise; null takes the model's default, and so do steps, noise levels and guidance below."""
    schedule: ScheduleName = "auto"
    """karras: eq. 5 of Karras et al. 2022; model: the model's own discrete levels; auto: its own if it has any."""
    num_steps: int | None = None
    """Sampler steps."""
    sigma_max: float | None = None
    """First noise level."""
    sigma_min: float | None = None
    """Last noise level above 0."""
    rho: float = 7.0
    """Curvature of the schedule, Karras et al. 2022 eq. 5."""
    guidance_scale: float | None = None
    """Classifier-free guidance: 0 unconditional, 1 conditional, above 1 amplified."""
    s_churn: float = 0.0
    """Noise added over all steps of heun and euler, Karras et al. 2022 Alg. 2; 0 adds none."""
    s_min: float = 0.0
    """Least noise level at which churn adds noise."""
    s_max: float | None = None
    """Greatest noise level at which churn adds noise; null: no limit."""
    s_noise: float = 1.0
    """Factor on the noise that churn adds."""
    noise_mode: NoiseMode = "stochastic"
    """stochastic: noise by seed; fixed: the same, with seed 42 if none is given; zero: no noise at all."""

    def __post_init__(self) -> None:
        check_choices(self)

    @property
    def churn(self) -> Churn:
        """Churn as the samplers take it."""
        return Churn.of(self.s_churn, self.s_min, self.s_max, self.s_noise)

    def request_fields(self) -> dict[str, Any]:
        """Return these choices as fields of `GenerationRequest`."""
        return {
            "sampler": self.sampler,
            "schedule": self.schedule,
            "num_steps": self.num_steps,
            "sigma_max": self.sigma_max,
            "sigma_min": self.sigma_min,
            "rho": self.rho,
            "guidance_scale": self.guidance_scale,
            "churn": self.churn,
            "noise_mode": self.noise_mode,
        }

    def determining(self) -> dict[str, Any]:
        """Return what decides which images come out, for a fingerprint; see `Recipe.determining`."""
        always = {"sampler", "schedule", "num_steps", "guidance_scale", "churn"}
        default, values = Sampling().request_fields(), self.request_fields()
        told = {name: value for name, value in values.items() if name in always or value != default[name]}
        return {**told, "churn": repr(self.churn)}
