"""What a model is sampled with when the user names nothing else."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Self, get_args

from diffviews.errors import ConfigError, unknown_name
from diffviews.sampling.samplers import SamplerName


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """Noise range, steps, guidance and sampler of one model."""

    sigma_min: float
    """Last noise level above 0."""
    sigma_max: float
    """First noise level."""
    default_steps: int
    """Sampler steps."""
    default_guidance: float
    """Guidance scale; 1 is the conditional model alone."""
    default_sampler: SamplerName
    """Sampler."""

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min <= self.sigma_max < math.inf:
            raise ConfigError(f"sigma_min {self.sigma_min} and sigma_max {self.sigma_max} are not 0 < min <= max")
        if self.default_steps < 1 or not 0 <= self.default_guidance < math.inf:
            raise ConfigError(
                f"default_steps {self.default_steps} must be at least 1 and default_guidance "
                f"{self.default_guidance} at least 0"
            )
        if self.default_sampler not in get_args(SamplerName):
            raise ConfigError(unknown_name("default_sampler", self.default_sampler, get_args(SamplerName)))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the fields."""
        return tuple(field.name for field in fields(cls))

    def changed(self, **values: Any) -> Self:
        """Return them with some values changed, each read as the number it must be.

        Raises:
            ConfigError: if a name is unknown or a value impossible.
        """
        for name in values:
            if name not in self.names():
                raise ConfigError(unknown_name("sampling default", name, self.names()))
        try:
            read: dict[str, Any] = {
                name: value if name == "default_sampler" else float(value) for name, value in values.items()
            }
        except (TypeError, ValueError) as error:
            raise ConfigError(f"sampling defaults {values} must be numbers: {error}") from error
        if "default_steps" in read:
            read["default_steps"] = int(values["default_steps"])
        return replace(self, **read)
