"""Stable Diffusion 1.x and 2.x: a text-conditioned U-Net over the latents of a VAE (Rombach et al. 2022); and SDXL,
with two text encoders and a U-Net told of image sizes (Podell et al. 2023)."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffviews.adapters.condition import Condition
from diffviews.adapters.diffusion_scheduler import scheduler_keys
from diffviews.adapters.latent_diffusion import PUBLISHED_SCHEDULE, LatentDiffusionAdapter, rows_replaced
from diffviews.adapters.pipeline_files import Pipeline
from diffviews.adapters.text_conditioning import DualPromptEncoder, PromptEncoder

_log = logging.getLogger(__name__)

FIXED = {"steps_offset": 1, "clip_sample": False}
"""What diffusers' pipelines of Stable Diffusion set in their scheduler, whatever the folder says."""


class StableDiffusionAdapter(LatentDiffusionAdapter):
    """Stable Diffusion 1.5: latents 4×64×64 of 512×512 images, prompts through CLIP-L."""

    name = "sd-v1.5"
    family = "sd-v1.5"
    published = "hf:stable-diffusion-v1-5/stable-diffusion-v1-5"
    default_guidance = 7.5
    classes = {  # noqa: RUF012 - a constant
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
    }

    @classmethod
    def _read_scheduler(cls, folder: Pipeline) -> dict[str, Any]:
        """Return the scheduler's configuration with what diffusers' pipelines of Stable Diffusion set in it."""
        config = folder.scheduler()
        if "LatentConsistency" in str(folder.index.get("_class_name")):
            return config
        told = {key: value for key, value in FIXED.items() if key not in config or config[key] != value}
        told = {key: value for key, value in told.items() if key in scheduler_keys(config)}
        if told and cls.follows_scheduler:
            settings = ", ".join(f"{key} {value}" for key, value in told.items())
            _log.warning("checkpoint %s: %s is taken, as by diffusers' StableDiffusionPipeline", folder.path, settings)
        return {**config, **told}

    @classmethod
    def get_default_config(cls) -> dict[str, Any]:
        """Return what is special about the published model's configuration."""
        return {
            "unet": {"sample_size": 64, "in_channels": 4, "cross_attention_dim": 768},
            "vae": {"scaling_factor": 0.18215},
            "scheduler": PUBLISHED_SCHEDULE,
        }



class StableDiffusionXLAdapter(LatentDiffusionAdapter):
    """SDXL base: latents 4×128×128 of 1024×1024 images, prompts through CLIP-L and OpenCLIP-G."""

    name = "sdxl"
    family = "sdxl"
    addition = "text_time"
    published = "hf:stabilityai/stable-diffusion-xl-base-1.0"
    default_guidance = 5.0
    classes = {  # noqa: RUF012 - a constant
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "tokenizer": "CLIPTokenizer",
        "tokenizer_2": "CLIPTokenizer",
    }

    def uncondition(self, conditions: Sequence[Condition]) -> dict[str, Tensor]:
        """Return the text of the negative prompts; an empty one is all zeros where the model was trained so."""
        given = super().uncondition(conditions)
        if self._config["force_zeros_for_empty_prompt"]:
            empty = torch.tensor([not condition.negative_prompt for condition in conditions], device=self.device)
            text = {name: value for name, value in given.items() if name != "time_ids"}
            given |= rows_replaced(text, empty, {name: torch.zeros_like(value) for name, value in text.items()})
        return given

    def _text(self, prompts: Sequence[str | None]) -> dict[str, Tensor]:
        """Return both encoders' text, the pooled text, and the time ids of an uncropped image, (B, 6), in pixels:
        original size, top left corner of the crop, target size."""
        size = self.resolution
        ids = torch.tensor([[size, size, 0, 0, size, size]], device=self.device, dtype=torch.float32)
        return {**super()._text(prompts), "time_ids": ids.repeat(len(prompts), 1)}

    def _unet_arguments(self, given: Mapping[str, Tensor]) -> dict[str, Any]:
        added = {"text_embeds": given["pooled_prompt_embeds"], "time_ids": given["time_ids"]}
        return {"encoder_hidden_states": given["prompt_embeds"], "added_cond_kwargs": added}

    def _scaled(self, latents: Tensor) -> Tensor:
        mean, deviation = self._latent_moments()
        return (latents - mean) * self.vae.config.scaling_factor / deviation

    def _unscaled(self, x0: Tensor) -> Tensor:
        mean, deviation = self._latent_moments()
        return x0 * deviation / self.vae.config.scaling_factor + mean

    def _latent_moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, (1, C, 1, 1), by which some relatives of SDXL normalise latents."""
        mean, deviation = self.vae.config.latents_mean, self.vae.config.latents_std
        if mean is None or deviation is None:
            return torch.zeros((), device=self.device), torch.ones((), device=self.device)
        both = torch.tensor([mean, deviation], device=self.device, dtype=torch.float32)
        return both[0].reshape(1, -1, 1, 1), both[1].reshape(1, -1, 1, 1)

    def _shadow_text(self) -> dict[str, Tensor]:
        config = self.unet.config
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        return {
            **super()._shadow_text(),
            "pooled_prompt_embeds": torch.empty(1, pooled, device="meta"),
            "time_ids": torch.empty(1, 6, device="meta"),
        }

    @classmethod
    def _read_prompts(cls, folder: Pipeline, dtype: torch.dtype) -> PromptEncoder:
        return DualPromptEncoder(
            [folder.tokenizer("tokenizer"), folder.tokenizer("tokenizer_2")],
            [folder.load("text_encoder", dtype), folder.load("text_encoder_2", dtype)],
        )

    @classmethod
    def _read_config(cls, folder: Pipeline) -> dict[str, Any]:
        zeros = bool(folder.index.get("force_zeros_for_empty_prompt", True))
        return {**super()._read_config(folder), "force_zeros_for_empty_prompt": zeros}

    @classmethod
    def get_default_config(cls) -> dict[str, Any]:
        """Return what is special about the published model's configuration."""
        return {
            "unet": {"sample_size": 128, "in_channels": 4, "cross_attention_dim": 2048},
            "vae": {"scaling_factor": 0.13025},
            "scheduler": {**PUBLISHED_SCHEDULE, "timestep_spacing": "leading"},
            "force_zeros_for_empty_prompt": True,
        }
