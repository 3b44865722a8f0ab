"""Latent diffusion models of diffusers: what Stable Diffusion and SDXL share."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from diffviews.adapters.base import Precision
from diffviews.adapters.condition import Condition
from diffviews.adapters.diffusers_unet import DiffusersUNetAdapter, network_dtype
from diffviews.adapters.diffusion_folder import model_config
from diffviews.adapters.diffusion_schedule import DiffusionSchedule
from diffviews.adapters.layouts import layout_of, other_layout
from diffviews.adapters.lora import Loras, both_loras, is_lora, merge_loras, with_strengths
from diffviews.adapters.pipeline_files import Pipeline, is_pipeline, open_pipeline, weights_config, with_weights
from diffviews.adapters.text_conditioning import PromptEncoder
from diffviews.data.checkpoints import tensor_names
from diffviews.device import device_or_best
from diffviews.errors import CheckpointError, ConfigError, unknown_name

StrPath = str | Path

OPTIONS = ("base", "unet", "lora", "lora_scale", "adapter_partial", "prediction_type", "precision", "vae_slicing")
"""Keyword options of `from_checkpoint`."""

PUBLISHED_SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "epsilon",
    "steps_offset": 1,
}
"""Noise schedule that Stable Diffusion and SDXL were trained with."""

PROMPT_LENGTH = 77
"""Tokens of a prompt when shapes are measured; no layer's shape depends on it."""


class LatentDiffusionAdapter(DiffusersUNetAdapter):
    """Base of the adapters over diffusers' U-Net, VAE and text encoders; a subclass names the model.

    x and x0 are latents times the VAE's scaling factor; those of an image are the posterior's mode.

    Args:
        unet: UNet2DConditionModel in the precision of the forward pass.
        vae: AutoencoderKL in float32: in half precision SDXL's overflows, and SD's moves grey levels.
        prompts: tokenizers and text encoders, in the precision of the forward pass.
        schedule: noise levels of the training timesteps.
        config: configurations of all parts, as JSON has them.
    """

    classes: ClassVar[Mapping[str, str]]
    """Components a folder must have, and their classes."""
    published: ClassVar[str]
    """Address of the public folder that the model, or the base of a student, is in."""
    addition: ClassVar[str | None] = None
    """The U-Net's `addition_embed_type`."""
    caption_dropout: ClassVar[float] = 0.1
    """Share of captions withheld in training; 0 for a student that never saw the empty prompt."""
    takes_prompts = True

    def __init__(
        self, unet: Any, vae: Any, prompts: PromptEncoder, schedule: DiffusionSchedule, config: Mapping[str, Any]
    ) -> None:
        super().__init__(unet, schedule, config)
        self.vae: Any = vae
        self.prompts = prompts
        self.embeds_guidance = unet.config.time_cond_proj_dim is not None
        for option, expected in (("addition_embed_type", self.addition), ("encoder_hid_dim_type", None)):
            if unet.config[option] != expected:
                raise CheckpointError(
                    f"the U-Net's {option} is {unet.config[option]!r}, but in model {self.family!r} it is {expected!r}"
                )
        if unet.config.num_class_embeds is not None or unet.config.out_channels != unet.config.in_channels:
            raise CheckpointError("the U-Net has classes or a learned variance, which text models here do not have")
        channels = vae.config.latent_channels
        if channels != unet.config.in_channels:
            raise CheckpointError(
                f"the U-Net takes {unet.config.in_channels} channels and the VAE has {channels}; "
                "models for inpainting and the like are not supported"
            )

    @property
    def resolution(self) -> int:
        return int(self._size * 2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def label_dropout(self) -> float:
        return self.caption_dropout

    def _networks(self) -> list[nn.Module]:
        return [self.unet, self.vae, *self.prompts.encoders]

    def to(self, device: Any) -> Self:
        self.prompts.forget()
        return super().to(device)

    def unlimited(
        self,
        x: Tensor,
        sigma: Tensor | float,
        class_labels: Tensor | None = None,
        *,
        prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
        guidance: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Return the denoised latents before clipping, (B, C, H, W) float32.

        Args:
            x: noised latents x0 + sigma n, (B, C, H, W).
            sigma: noise level > 0 of each, (B,), or of all.
            class_labels: not used; these models have no classes.
            prompt_embeds: text, (B, T, D); without it the text of the unconditional pass is taken.
            pooled_prompt_embeds: pooled text of SDXL, (B, D).
            time_ids: sizes and crop of SDXL, (B, 6).
            guidance: scale that a latent consistency model is told, (B,); None: the default one.
            kwargs: not used.
        """
        if prompt_embeds is None:
            given = self.uncondition([Condition()] * len(x))
        else:
            named = {"pooled_prompt_embeds": pooled_prompt_embeds, "time_ids": time_ids}
            given = {"prompt_embeds": prompt_embeds, **{k: v for k, v in named.items() if v is not None}}
        typed = {name: value.to(x.device, self.unet.dtype) for name, value in given.items()}
        arguments = self._unet_arguments(typed)
        if self.embeds_guidance:
            scale = torch.full((len(x),), self.defaults.default_guidance) if guidance is None else guidance
            embedded = guidance_embedding(scale, self.unet.config.time_cond_proj_dim)
            arguments["timestep_cond"] = embedded.to(x.device, self.unet.dtype)
        return self._denoised(x, sigma, **arguments)

    def _unet_arguments(self, given: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the U-Net's own keyword arguments for what conditions a batch."""
        return {"encoder_hidden_states": given["prompt_embeds"]}

    def condition(self, conditions: Sequence[Condition]) -> dict[str, Tensor]:
        """Return the text of the prompts, {} if there are none; a sample without one is given its unconditional text.

        Classes play no part.
        """
        prompts = [condition.prompt for condition in conditions]
        if all(prompt is None for prompt in prompts):
            return {}
        given = self._text(prompts)
        if None in prompts:
            missing = torch.tensor([prompt is None for prompt in prompts], device=self.device)
            given = rows_replaced(given, missing, self.uncondition(conditions))
        return given

    def uncondition(self, conditions: Sequence[Condition]) -> dict[str, Tensor]:
        """Return the text of the negative prompts."""
        return self._text([condition.negative_prompt for condition in conditions])

    def _text(self, prompts: Sequence[str | None]) -> dict[str, Tensor]:
        """Return what the network is given for prompts, None being the empty one, each (B, …)."""
        return self.prompts.encode([prompt or "" for prompt in prompts])

    def _shadow_arguments(self) -> dict[str, Any]:
        arguments = self._unet_arguments(self._shadow_text())
        if self.embeds_guidance:
            arguments["timestep_cond"] = torch.empty(1, self.unet.config.time_cond_proj_dim, device="meta")
        return arguments

    def _shadow_text(self) -> dict[str, Tensor]:
        """Return text of one sample on the meta device."""
        width = self.unet.config.cross_attention_dim
        return {"prompt_embeds": torch.empty(1, PROMPT_LENGTH, width, device="meta")}

    @torch.no_grad()
    def encode(self, images: np.ndarray) -> Tensor:
        """Return the latents of images, the posterior's mode: uint8 (N, H, W, 3) → (N, C, h, w) float32 on the CPU.

        Raises:
            ShapeError: if the images are not uint8 or not of the model's resolution.
        """
        pixels = super().encode(images).to(self.device)
        mode = self.vae.encode(pixels).latent_dist.mode()
        return self._scaled(mode).to("cpu", torch.float32)

    @torch.no_grad()
    def decode(self, x0: Tensor) -> np.ndarray:
        """Return the images of latents: (N, C, h, w) → uint8 (N, H, W, 3), rounded and clipped as by diffusers."""
        latents = self._unscaled(x0.detach().to(torch.float32).to(self.device))
        pixels = self.vae.decode(latents, return_dict=False)[0]
        grey_levels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round()
        return grey_levels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    def _scaled(self, latents: Tensor) -> Tensor:
        return latents * self.vae.config.scaling_factor

    def _unscaled(self, x0: Tensor) -> Tensor:
        return x0 / self.vae.config.scaling_factor

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint_path: StrPath | None,
        device: Any = "cuda",
        *,
        base: StrPath | None = None,
        unet: StrPath | None = None,
        lora: Loras | None = None,
        lora_scale: float | Sequence[float] = 1.0,
        adapter_partial: bool = False,
        prediction_type: str | None = None,
        precision: Precision | str = "auto",
        vae_slicing: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Load a diffusers folder or a single file, and into it other weights if given.

        Args:
            checkpoint_path: folder with model_index.json; a file in the original layout, or its shards; or weights of
                a U-Net or a LoRA for the folder `base`.
            device: where to put it; 'cuda' on a machine without CUDA falls back with a warning.
            base: folder with model_index.json, when the checkpoint is weights alone, or a file of unpublished sizes.
            unet: U-Net weights instead of the folder's: a file of plain tensors, or a folder of one U-Net.
            lora: LoRA to merge into U-Net and text encoders: a file, several, or several with a strength each.
            lora_scale: its strength, or one each.
            adapter_partial: leave out modules of a LoRA that the model does not have, instead of refusing it.
            prediction_type: epsilon, v_prediction or sample, instead of what the scheduler's configuration says.
            precision: float32, float16, bfloat16; auto is float16 on CUDA and float32 elsewhere.
            vae_slicing: decode one image after the other, to save memory.
            kwargs: none is known.

        Raises:
            CheckpointError: if a file is missing, damaged, hostile or of another model.
            ConfigError: if an option is unknown or a package is missing.
        """
        for option in kwargs:
            raise ConfigError(unknown_name("option", option, OPTIONS))
        target = device_or_best(device)
        dtype = network_dtype(precision, target)
        folder, unet, lora = cls._sorted_out(checkpoint_path, base, unet, lora, prediction_type)
        loras = with_strengths(lora, lora_scale)
        network, prompts = with_weights(folder, unet, dtype), cls._read_prompts(folder, dtype)
        encoders = zip(("text_encoder", "text_encoder_2"), prompts.encoders, strict=False)
        left = merge_loras({"unet": network, **dict(encoders)}, loras, partial=adapter_partial)
        vae: Any = folder.load("vae", torch.float32)
        if vae_slicing:
            vae.enable_slicing()
        given = {} if prediction_type is None else {"prediction_type": prediction_type}
        schedule = DiffusionSchedule.from_config({**cls._read_scheduler(folder), **given})
        if cls.follows_scheduler:
            schedule.tell_not_followed(folder.path)
        config = {**cls._read_config(folder), "unet": model_config(weights_config(folder, unet))}
        config["scheduler"] |= given
        if left:
            config["adapter_partial"] = [str(file) for file in left]
        return cls(network, vae, prompts, schedule, config).to(target).eval()

    @classmethod
    def _sorted_out(
        cls,
        checkpoint: StrPath | None,
        base: StrPath | None,
        unet: StrPath | None,
        lora: Loras | None,
        prediction_type: str | None,
    ) -> tuple[Pipeline, StrPath | None, Loras | None]:
        """Return pipeline, U-Net weights and LoRA, when the checkpoint may be any of them.

        Raises:
            CheckpointError: if a file is damaged, hostile, of another model or of a layout that is not read.
            ConfigError: if the checkpoint is a file of weights and the folder it belongs to is not given.
        """
        if checkpoint is None or not Path(checkpoint).exists() or is_pipeline(checkpoint):
            own = base if checkpoint is not None else None
            return open_pipeline(checkpoint or base, cls.classes, cls.family, own, prediction_type), unet, lora
        if base is None:
            if (layout := layout_of(tensor_names(checkpoint))) not in ("LoRA", "diffusers U-Net"):
                raise other_layout(checkpoint, layout, "a model with text")
            raise ConfigError(
                f"checkpoint {checkpoint} is a file of weights; give the diffusers folder it belongs to, "
                f"such as a copy of {cls.published}, by base= or in a model folder (docs/checkpoints.md)"
            )
        pipeline = open_pipeline(base, cls.classes, cls.family, None, prediction_type)
        if is_lora(checkpoint):
            return pipeline, unet, both_loras(checkpoint, lora)
        return pipeline, checkpoint, lora

    @classmethod
    def _read_prompts(cls, folder: Pipeline, dtype: torch.dtype) -> PromptEncoder:
        return PromptEncoder([folder.tokenizer("tokenizer")], [folder.load("text_encoder", dtype)])

    @classmethod
    def _read_config(cls, folder: Pipeline) -> dict[str, Any]:
        parts = [name for name in cls.classes if not name.startswith("tokenizer") and name != "unet"]
        configs = {name: model_config(folder.config(name)) for name in parts}
        return {**configs, "scheduler": model_config(folder.scheduler())}

    @classmethod
    def _read_scheduler(cls, folder: Pipeline) -> dict[str, Any]:
        """Return the scheduler's configuration as the folder's pipeline uses it."""
        return folder.scheduler()


def guidance_embedding(scale: Tensor, width: int) -> Tensor:
    """Return the embedding of guidance scales, (B, width): of w = scale - 1 in thousandths, as diffusers has it.

    Luo et al. 2023, "Latent Consistency Models", sec. 4.2; frequencies as of a timestep (Vaswani et al. 2017).
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(10000.0) / (half - 1)))
    angles = 1000.0 * (scale.to("cpu", torch.float32) - 1)[:, None] * frequencies
    return nn.functional.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))


def rows_replaced(given: Mapping[str, Tensor], rows: Tensor, other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return conditioning in which the rows that `rows`, (B,) bool, tells are those of `other`."""
    return {
        name: torch.where(rows.reshape(-1, *[1] * (value.ndim - 1)), other[name], value)
        for name, value in given.items()
    }
