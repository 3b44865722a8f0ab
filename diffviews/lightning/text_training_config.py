"""What determines the training of a Stable Diffusion pipeline in small."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from diffviews.lightning.training_config import OptimiserConfig

PredictionType = Literal["v_prediction", "epsilon"]


@dataclass(frozen=True, slots=True)
class TextTrainingConfig(OptimiserConfig):
    """All that decides the weights of a pipeline with text, apart from images and captions; steps and learning rate
    are those of text encoder and U-Net."""

    img_resolution: int = 16
    """Height and width of the images, pixels."""
    vae_channels: tuple[int, ...] = (16, 32, 32)
    """Channels of the VAE's levels; each but the last halves the resolution."""
    latent_channels: int = 4
    """Channels of the latents."""
    kl_weight: float = 1e-5
    """Weight of the divergence of the latents from unit Gaussians, beside the absolute error of the pixels."""
    square_weight: float = 4.0
    """Weight of the squared error of the pixels, which small objects need, beside the absolute one."""
    vae_steps: int = 2_000
    """Optimiser steps of the VAE."""
    vae_batch_size: int = 32
    """Images a step of the VAE."""
    vae_learning_rate: float = 2e-3
    """Adam's learning rate for the VAE."""
    text_width: int = 128
    """Width of the text encoder and of cross attention."""
    text_layers: int = 2
    """Layers of the text encoder."""
    text_length: int = 32
    """Tokens that a caption is padded or cut to."""
    unet_channels: tuple[int, ...] = (80, 96)
    """Channels of the U-Net's levels; each but the last halves the resolution of the latents."""
    unet_blocks: int = 1
    """Residual blocks, each with a transformer block, a level."""
    head_width: int = 16
    """Channels of an attention head, in text encoder and U-Net."""
    prediction_type: PredictionType = "v_prediction"
    """What the U-Net returns."""
    caption_dropout: float = 0.1
    """Share of the captions that are withheld."""

    def __post_init__(self) -> None:
        for name in ("vae_channels", "unet_channels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            self._require(name, len(getattr(self, name)) > 0, "one number a level")
        OptimiserConfig.__post_init__(self)
        self._require("caption_dropout", 0 <= self.caption_dropout <= 1, "between 0 and 1")
        for name in ("vae_learning_rate", "kl_weight"):
            self._require(name, 0 < getattr(self, name) < math.inf, "above 0")
        self._require("square_weight", 0 <= self.square_weight < math.inf, "at least 0")
        self._require("vae_batch_size", self.vae_batch_size >= 1, "at least 1")
        self._require("vae_steps", self.warmup_steps < self.vae_steps, f"above warmup_steps {self.warmup_steps}")
        for name, channels in (("unet_channels", self.unet_channels), ("text_width", (self.text_width,))):
            whole = all(number % self.head_width == 0 for number in channels)
            self._require(name, whole, f"multiples of head_width {self.head_width}")
        least = 2 ** (len(self.vae_channels) + len(self.unet_channels) - 2)
        self._require("img_resolution", self.img_resolution % least == 0, f"a multiple of {least}, as levels halve it")

    @property
    def latent_resolution(self) -> int:
        """Height and width of the latents."""
        return self.img_resolution // 2 ** (len(self.vae_channels) - 1)

    def vae_options(self) -> dict[str, Any]:
        """Return the arguments of `AutoencoderKL`."""
        levels = len(self.vae_channels)
        return {
            "down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels,
            "block_out_channels": self.vae_channels, "layers_per_block": 1, "norm_num_groups": 8,
            "latent_channels": self.latent_channels, "sample_size": self.img_resolution,
        }  # fmt: skip

    def text_options(self) -> dict[str, Any]:
        """Return the arguments of `CLIPTextConfig`, but those of the tokens."""
        return {
            "hidden_size": self.text_width, "intermediate_size": 2 * self.text_width,
            "projection_dim": self.text_width, "num_hidden_layers": self.text_layers,
            "num_attention_heads": self.text_width // self.head_width, "max_position_embeddings": self.text_length,
        }  # fmt: skip

    def unet_options(self) -> dict[str, Any]:
        """Return the arguments of `UNet2DConditionModel`."""
        levels = len(self.unet_channels)
        return {
            "down_block_types": ("CrossAttnDownBlock2D",) * levels, "up_block_types": ("CrossAttnUpBlock2D",) * levels,
            "block_out_channels": self.unet_channels, "layers_per_block": self.unet_blocks, "norm_num_groups": 16,
            # diffusers calls the number of heads so
            "attention_head_dim": tuple(channels // self.head_width for channels in self.unet_channels),
            "in_channels": self.latent_channels, "out_channels": self.latent_channels,
            "cross_attention_dim": self.text_width, "sample_size": self.latent_resolution,
        }  # fmt: skip
