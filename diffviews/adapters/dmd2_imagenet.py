"""DMD2's student of EDM on ImageNet-64 (Yin et al. 2024)."""

from torch import Tensor

from diffviews.adapters.edm_imagenet import EDMImageNetAdapter
from diffviews.errors import ConfigError
from diffviews.sampling.samplers import SamplerName

MOST_STEPS = 10
"""How many steps by re-noising are of any use."""


class DMD2ImageNetAdapter(EDMImageNetAdapter):
    """The same network as EDM ImageNet-64, which predicts an image in one step at sigma 80."""

    name = "dmd2-imagenet-64"

    @property
    def default_steps(self) -> int:
        return 1

    @property
    def default_sampler(self) -> SamplerName:
        return "renoise"

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
