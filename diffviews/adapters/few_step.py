"""Few-step students: models distilled to predict x0 at once and to repeat after adding noise again."""

from typing import ClassVar

import torch
from torch import Tensor

from diffviews.adapters.diffusers_unet import DiffusersUNetAdapter
from diffviews.errors import ConfigError
from diffviews.sampling.samplers import SamplerName


class FewStepStudent(DiffusersUNetAdapter):
    """A U-Net distilled by DMD2 (Yin et al. 2024), to be mixed in before the adapter of its teacher.

    It predicts x0 at `first_timestep`; further steps add the noise of a lower timestep and predict again,
    S steps at (first + 1) · (1 - i / S) - 1: 999, 749, 499, 249 for four. It was trained without guidance.
    """

    first_timestep: ClassVar[int] = 999
    """Timestep that the network is given first."""
    most_steps: ClassVar[int] = 4
    """How many steps are of any use."""
    steps: ClassVar[int] = 1
    guidance: ClassVar[float] = 1.0
    caption_dropout: ClassVar[float] = 0.0

    @property
    def sigma_range(self) -> tuple[float, float]:
        lowest, _ = self.schedule.sigma_range
        return lowest, float(self.schedule.sigma_at(self.first_timestep))

    @property
    def default_sampler(self) -> SamplerName:
        return "renoise"

    def model_sigmas(self, num_steps: int, sigma_max: float | None = None, sigma_min: float | None = None) -> Tensor:
        """Return the student's levels, (S,) float64 descending; given ends are joined evenly in timestep.

        Raises:
            ConfigError: if there are more steps than the student is of use for.
        """
        if not 1 <= num_steps <= self.most_steps:
            raise ConfigError(
                f"num_steps {num_steps} is not 1 … {self.most_steps}: model {self.name!r} was distilled for "
                f"{self.steps}; take fewer steps, or schedule karras, which allows any number"
            )
        share = 1 - torch.arange(num_steps, dtype=torch.float64) / num_steps
        own = ((self.first_timestep + 1) * share).round() - 1
        if sigma_max is None and sigma_min is None:
            return self.schedule.sigma_at(own)
        return self.schedule.levels_between(own, sigma_max, sigma_min)
