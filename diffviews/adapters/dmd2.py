"""DMD2's few-step students of Stable Diffusion and SDXL (Yin et al. 2024): they predict x0 at once, and repeat after
adding noise again."""

from typing import ClassVar

import torch
from torch import Tensor

from diffviews.adapters.base import Ending
from diffviews.adapters.diffusers_unet import DiffusersUNetAdapter
from diffviews.adapters.edm_imagenet import EDMImageNetAdapter
from diffviews.adapters.stable_diffusion import StableDiffusionAdapter, StableDiffusionXLAdapter
from diffviews.errors import ConfigError


class FewStepStudent(DiffusersUNetAdapter):
    """A U-Net distilled by DMD2 (Yin et al. 2024), to be mixed in before the adapter of its teacher.

    It predicts x0 at `first_timestep`; further steps add the noise of a lower timestep and predict again,
    S steps at (first + 1) · (1 - i / S) - 1: 999, 749, 499, 249 for four. It was trained without guidance.
    """

    follows_scheduler = False
    first_timestep: ClassVar[int] = 999
    """Timestep that the network is given first."""
    most_steps: ClassVar[int] = 4
    """How many steps are of any use."""
    default_steps = 1
    default_guidance = 1.0
    default_sampler = "renoise"
    caption_dropout: ClassVar[float] = 0.0

    @property
    def sigma_range(self) -> tuple[float, float]:
        lowest, _ = self.schedule.sigma_range
        return lowest, float(self.schedule.sigma_at(self.first_timestep))

    def model_ending(self, num_steps: int) -> Ending:
        return Ending()

    def model_sigmas(self, num_steps: int, sigma_max: float | None = None, sigma_min: float | None = None) -> Tensor:
        """Return the student's levels, (S,) float64 descending; given ends are joined evenly in timestep.

        Raises:
            ConfigError: if there are more steps than the student is of use for.
        """
        if not 1 <= num_steps <= self.most_steps:
            raise ConfigError(
                f"num_steps {num_steps} is not 1 … {self.most_steps}: model {self.name!r} was distilled for "
                f"{self.default_steps}; take fewer steps, or schedule karras, which allows any number"
            )
        share = 1 - torch.arange(num_steps, dtype=torch.float64) / num_steps
        own = ((self.first_timestep + 1) * share).round() - 1
        if sigma_max is None and sigma_min is None:
            return self.schedule.sigma_at(own)
        return self.schedule.levels_between(own, sigma_max, sigma_min)



class DMD2StableDiffusionAdapter(FewStepStudent, StableDiffusionAdapter):
    """One step at timestep 999; give the folder of Stable Diffusion 1.5 and the student's weights by `unet`."""

    name = "dmd2-sd-v1.5"



class DMD2FourStepAdapter(FewStepStudent, StableDiffusionXLAdapter):
    """Timesteps 999, 749, 499, 249; give SDXL's folder and the student's weights by `unet` or `lora`."""

    name = "dmd2-sdxl-4step"
    default_steps = 4


class DMD2OneStepAdapter(FewStepStudent, StableDiffusionXLAdapter):
    """One step, from pure noise at timestep 399; give SDXL's folder and the student's weights by `unet`."""

    name = "dmd2-sdxl-1step"
    first_timestep = 399


MOST_STEPS = 10
"""How many steps by re-noising are of any use."""


class DMD2ImageNetAdapter(EDMImageNetAdapter):
    """The same network as EDM ImageNet-64, which predicts an image in one step at sigma 80."""

    name = "dmd2-imagenet-64"
    default_steps = 1
    default_sampler = "renoise"

    def model_sigmas(
        self, num_steps: int, sigma_max: float | None = None, sigma_min: float | None = None
    ) -> Tensor | None:
        """Return None, since the levels are those of Karras et al. 2022, eq. 5: [80] for one step.

        Raises:
            ConfigError: if there are more steps than the student is of use for.
        """
        if num_steps > MOST_STEPS:
            raise ConfigError(
                f"num_steps {num_steps} is more than {MOST_STEPS}: model {self.name!r} was distilled for one; "
                "take fewer steps, or schedule karras, which allows any number"
            )
        return None
