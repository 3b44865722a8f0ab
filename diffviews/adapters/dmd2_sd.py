"""DMD2's one-step student of Stable Diffusion 1.5."""

from diffviews.adapters.few_step import FewStepStudent
from diffviews.adapters.stable_diffusion import StableDiffusionAdapter


class DMD2StableDiffusionAdapter(FewStepStudent, StableDiffusionAdapter):
    """One step at timestep 999; give the folder of Stable Diffusion 1.5 and the student's weights by `unet`."""

    name = "dmd2-sd-v1.5"
