"""Training of a Stable Diffusion pipeline in small: first the VAE, then text encoder and U-Net on its latents.

    parts = train_pipeline(images, captions, TextTrainingConfig(steps=16_000), state=Path("state"))
    parts.save(Path("sd-shapes"))     # a folder of diffusers, in float16

Rombach et al. 2022; the loss is that of v or of epsilon over uniform timesteps (Ho et al. 2020; Salimans and Ho 2022).
"""

import tempfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from diffviews.adapters.diffusion_folder import diffusion_package
from diffviews.adapters.registry import load_adapter
from diffviews.adapters.stable_diffusion import PUBLISHED_SCHEDULE
from diffviews.core.generator import GenerationRequest, generate
from diffviews.device import resolve_device
from diffviews.errors import ConfigError, ShapeError
from diffviews.lightning.averaged_training import (
    AveragedTraining,
    OnMetrics,
    forked_random_state,
    train_averaged,
)
from diffviews.lightning.process_group import ALONE, ProcessGroup
from diffviews.lightning.text_training_config import TextTrainingConfig
from diffviews.lightning.training_data import Batch, shuffled_batches
from diffviews.lightning.word_tokenizer import word_tokenizer, write_plain_tokenizer
from diffviews.noise import keyed_generator

GRID = 10
"""Captions of a grid, each drawn four times."""
GRID_GUIDANCE = 3.0


@dataclass(eq=False)
class PipelineParts:
    """What a pipeline of Stable Diffusion is made of."""

    vae: Any
    """AutoencoderKL; its scaling factor is known once it is trained."""
    tokenizer: Any
    """CLIPTokenizer of the captions' words."""
    text_encoder: Any
    """CLIPTextModel."""
    unet: Any
    """UNet2DConditionModel."""
    scheduler: Any
    """DDIMScheduler, whose levels the training uses."""

    def save(self, folder: Path, dtype: torch.dtype = torch.float16) -> None:
        """Write them as a folder of diffusers that the adapter `sd-v1.5` opens."""
        diffusers = diffusion_package("diffusers")
        halves = {name: deepcopy(getattr(self, name)).to("cpu", dtype) for name in ("vae", "text_encoder", "unet")}
        pipeline = diffusers.StableDiffusionPipeline(
            **halves, tokenizer=self.tokenizer, scheduler=self.scheduler,
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        pipeline.save_pretrained(str(folder), safe_serialization=True)
        write_plain_tokenizer(self.tokenizer, folder / "tokenizer")


def build_parts(captions: Sequence[str], config: TextTrainingConfig) -> PipelineParts:
    """Return untrained parts whose weights depend on the config and its seed, whose tokens on the captions' words."""
    diffusers, transformers = diffusion_package("diffusers"), diffusion_package("transformers")
    tokenizer = word_tokenizer(captions, config.text_length)
    with forked_random_state("text training weights", config.seed):
        vae = diffusers.AutoencoderKL(**config.vae_options())
        text = transformers.CLIPTextModel(transformers.CLIPTextConfig(
            vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id, **config.text_options(),
        ))  # fmt: skip
        unet = diffusers.UNet2DConditionModel(**config.unet_options())
    schedule = {**PUBLISHED_SCHEDULE, "prediction_type": config.prediction_type}
    scheduler = diffusers.DDIMScheduler(**schedule, clip_sample=False, set_alpha_to_one=False)
    return PipelineParts(vae, tokenizer, text, unet, scheduler)


class VAETraining(AveragedTraining):
    """Trains the VAE: absolute and squared error of the pixels, and a little of the divergence from unit Gaussians."""

    config: TextTrainingConfig

    def __init__(self, vae: Any, config: TextTrainingConfig, group: ProcessGroup = ALONE) -> None:
        super().__init__(config, group)
        self.vae = vae
        self.ema = self.averaged(vae)

    @property
    def trained(self) -> nn.Module:
        return self.vae

    def step_loss(self, batch: Batch, step: int) -> Tensor:
        factor, (x0,) = self.own_share(batch[0])
        posterior = self.vae.encode(x0).latent_dist
        generator = keyed_generator("vae training", self.config.seed, step, self.group.rank)
        noise = torch.randn(posterior.mean.shape, generator=generator).to(x0.device)
        decoded = self.vae.decode(posterior.mean + posterior.std * noise).sample
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        error = F.l1_loss(decoded, x0) + self.config.square_weight * F.mse_loss(decoded, x0)
        return factor * (error + self.config.kl_weight * divergence)

    def sample_grid(self) -> np.ndarray:
        raise NotImplementedError  # a VAE alone makes no images


class TextTraining(AveragedTraining):
    """Trains text encoder and U-Net together, on the latents of a finished VAE."""

    config: TextTrainingConfig

    def __init__(
        self, parts: PipelineParts, captions: Sequence[str], config: TextTrainingConfig, group: ProcessGroup = ALONE
    ) -> None:
        super().__init__(config, group)
        self.networks = nn.ModuleDict({"text_encoder": parts.text_encoder, "unet": parts.unet})
        self.ema = self.averaged(self.networks)
        self._parts, self._captions = parts, tuple(captions[:GRID])
        self._empty = token_ids(parts.tokenizer, [""])
        self._levels = parts.scheduler.alphas_cumprod

    @property
    def trained(self) -> nn.Module:
        return self.networks

    def step_loss(self, batch: Batch, step: int) -> Tensor:
        latents, tokens = batch
        assert tokens is not None  # of every caption
        generator = keyed_generator("text training", self.config.seed, step)
        timesteps = torch.randint(len(self._levels), (len(latents),), generator=generator)
        withheld = torch.rand(len(latents), generator=generator) < self.config.caption_dropout
        noise = torch.randn(latents.shape, generator=generator)
        tokens = torch.where(withheld[:, None].to(tokens.device), self._empty.to(tokens.device), tokens)
        factor, (latents, tokens, timesteps, noise) = self.own_share(latents, tokens, timesteps, noise)
        timesteps, noise = timesteps.to(latents.device), noise.to(latents.device)
        noised = self._parts.scheduler.add_noise(latents, noise, timesteps)
        target = noise
        if self.config.prediction_type == "v_prediction":
            target = self._parts.scheduler.get_velocity(latents, noise, timesteps)
        text = self.networks["text_encoder"](tokens.long())[0]
        predicted = self.networks["unet"](noised, timesteps, text).sample
        return factor * F.mse_loss(predicted, target)

    def result(self) -> PipelineParts:
        """Return the parts with the averaged weights."""
        averaged: Any = self.ema.module
        return replace(self._parts, text_encoder=averaged["text_encoder"], unet=averaged["unet"])

    def sample_grid(self) -> np.ndarray:
        """Return four images of each of the first captions, (40, H, W, 3) uint8; captions take turns."""
        with tempfile.TemporaryDirectory() as folder:
            self.result().save(Path(folder), torch.float32)
            adapter = load_adapter("sd-v1.5", checkpoint=folder, device=str(self.device))
        prompts = self._captions * 4
        request = GenerationRequest(
            prompts=prompts, num_samples=len(prompts), seed=0, num_steps=20, guidance_scale=GRID_GUIDANCE
        )
        return generate(adapter, request, notices=False).images


def token_ids(tokenizer: Any, captions: Sequence[str]) -> Tensor:
    """Return the tokens of captions, padded and cut to the tokenizer's length, (N, T) int32."""
    length = tokenizer.model_max_length
    given = tokenizer(list(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return given.input_ids.to(torch.int32)


def train_pipeline(
    images: np.ndarray,
    captions: Sequence[str],
    config: TextTrainingConfig,
    *,
    device: str | torch.device = "auto",
    on_metrics: OnMetrics | None = None,
    state: Path | None = None,
    group: ProcessGroup = ALONE,
    **options: Any,
) -> PipelineParts:
    """Train a pipeline of Stable Diffusion from nothing and return its parts with averaged weights.

    As with `train_denoiser`, the result is a function of images, captions and config in one environment.

    Args:
        images: (N, H, W, 3) uint8, H = W = config.img_resolution.
        captions: one an image.
        config: everything else that decides the result.
        device: 'auto', 'cpu', 'cuda' or 'mps'.
        on_metrics: told step and values; those of the VAE begin with `vae_`.
        state: folder that both trainings are kept in while they run, and go on from.
        group: processes that train together.
        options: of `train_averaged`, but `on_metrics` and `state`.

    Raises:
        ConfigError: if the device is not there, a batch too small for the group, or the captions have too many words.
        ShapeError: if the images do not fit the config.
        CorruptDataError: if the loss ceases to be finite.
        WorkerError: if another process failed.
    """
    chosen, side = resolve_device(device), config.img_resolution
    if images.shape != (len(captions), side, side, 3) or images.dtype != np.uint8:
        raise ShapeError(f"images are {images.shape} {images.dtype}; give ({len(captions)}, {side}, {side}, 3) uint8")
    if min(config.batch_size, config.vae_batch_size) < group.size:
        raise ConfigError(f"batch_size {config.batch_size} gives {group.size} processes no image each; raise it")
    parts = build_parts(captions, config)
    pixels, tokens = torch.from_numpy(images).permute(0, 3, 1, 2), token_ids(parts.tokenizer, captions)

    def train(module: AveragedTraining, x: Tensor, tell: OnMetrics | None, name: str, **more: Any) -> None:
        def batches(first: int) -> DataLoader[Batch]:
            own = module.config
            return shuffled_batches(x, tokens, batch_size=own.batch_size, steps=own.steps, seed=own.seed, first=first)

        kept = None if state is None else state / f"{name}.safetensors"
        train_averaged(module, batches, chosen, on_metrics=tell, state=kept, **more)

    def tell_vae(step: int, values: dict[str, float]) -> None:
        if on_metrics is not None:
            on_metrics(step, {f"vae_{name}": value for name, value in values.items()})

    own = replace(
        config, steps=config.vae_steps, learning_rate=config.vae_learning_rate, batch_size=config.vae_batch_size
    )
    vae = VAETraining(parts.vae, own, group)
    train(vae, pixels, tell_vae, "vae", **{**options, "on_grid": None})
    trained: Any = vae.ema.module.cpu().requires_grad_(False).eval()
    scale = round(1 / float(_latents(trained, pixels[:1024]).square().mean().sqrt()), 5)
    trained.register_to_config(scaling_factor=scale)
    text = TextTraining(replace(parts, vae=trained), captions, config, group)
    train(text, scale * _latents(trained, pixels), on_metrics, "text", **options)  # encoded once, not at each step
    return text.result()


@torch.no_grad()
def _latents(vae: Any, x: Tensor) -> Tensor:
    """Return the modes of a VAE's posterior, (N, C, h, w) float32, of images (N, 3, H, W) uint8."""
    return torch.cat([vae.encode(part.float() / 127.5 - 1).latent_dist.mode() for part in x.split(64)])
