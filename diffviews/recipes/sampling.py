"""How images are sampled: one value inside every recipe that makes some."""

from dataclasses import dataclass, fields
from typing import Any

from diffviews.core.request import SamplingOptions
from diffviews.errors import check_choices
from diffviews.sampling.samplers import Churn


@dataclass(frozen=True, slots=True)
class Sampling(SamplingOptions):
    """The options of a sampler, and its churn, as flags and JSON have them."""

    s_churn: float = 0.0
    """Noise added over all steps of heun and euler, Karras et al. 2022 Alg. 2; 0 adds none."""
    s_min: float = 0.0
    """Least noise level at which churn adds noise."""
    s_max: float | None = None
    """Greatest noise level at which churn adds noise; null: no limit."""
    s_noise: float = 1.0
    """Factor on the noise that churn adds."""

    def __post_init__(self) -> None:
        check_choices(self)

    @property
    def churn(self) -> Churn:
        """Churn as the samplers take it."""
        return Churn.of(self.s_churn, self.s_min, self.s_max, self.s_noise)

    def request_fields(self) -> dict[str, Any]:
        """Return these choices as fields of `GenerationRequest`."""
        shared = {field.name: getattr(self, field.name) for field in fields(SamplingOptions)}
        return {**shared, "churn": self.churn}

    def determining(self) -> dict[str, Any]:
        """Return what decides which images come out, for a fingerprint; see `Recipe.determining`."""
        always = {"sampler", "schedule", "num_steps", "guidance_scale", "churn"}
        default, values = Sampling().request_fields(), self.request_fields()
        told = {name: value for name, value in values.items() if name in always or value != default[name]}
        return {**told, "churn": repr(self.churn)}
