"""Stable Diffusion 1.x and 2.x: a text-conditioned U-Net over the latents of a VAE (Rombach et al. 2022)."""

from typing import Any

from diffviews.adapters.latent_diffusion import PUBLISHED_SCHEDULE, LatentDiffusionAdapter


class StableDiffusionAdapter(LatentDiffusionAdapter):
    """Stable Diffusion 1.5: latents 4×64×64 of 512×512 images, prompts through CLIP-L."""

    name = "sd-v1.5"
    published = "hf:stable-diffusion-v1-5/stable-diffusion-v1-5"
    guidance = 7.5
    classes = {  # noqa: RUF012 - a constant
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
    }

    @classmethod
    def get_default_config(cls) -> dict[str, Any]:
        """Return what is special about the published model's configuration."""
        return {
            "unet": {"sample_size": 64, "in_channels": 4, "cross_attention_dim": 768},
            "vae": {"scaling_factor": 0.18215},
            "scheduler": PUBLISHED_SCHEDULE,
        }
