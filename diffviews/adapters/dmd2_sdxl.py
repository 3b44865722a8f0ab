"""DMD2's students of SDXL: four steps, as a whole U-Net or a LoRA, and one step."""

from diffviews.adapters.few_step import FewStepStudent
from diffviews.adapters.stable_diffusion_xl import StableDiffusionXLAdapter


class DMD2FourStepAdapter(FewStepStudent, StableDiffusionXLAdapter):
    """Timesteps 999, 749, 499, 249; give SDXL's folder and the student's weights by `unet` or `lora`."""

    name = "dmd2-sdxl-4step"
    steps = 4


class DMD2OneStepAdapter(FewStepStudent, StableDiffusionXLAdapter):
    """One step, from pure noise at timestep 399; give SDXL's folder and the student's weights by `unet`."""

    name = "dmd2-sdxl-1step"
    first_timestep = 399
