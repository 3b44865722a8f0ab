"""The U-Nets of Song et al. 2021, "Score-Based Generative Modeling through SDEs", as EDM trains them: DDPM++, NCSN++.

Parameter names are those of the published EDM checkpoints (Karras et al. 2022, SongUNet), so their weights load key
by key, but for the mapping of augmentations, which acts in training only.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffviews.errors import ConfigError, unknown_name
from diffviews.models.blocks import (
    BlockStyle,
    FourierEmbedding,
    PositionalEmbedding,
    ResampledConv,
    UNetBlock,
    group_norm,
)
from diffviews.models.unet import HookedUNet, check_probability, check_sizes

EMBEDDINGS = ("positional", "fourier")
ENCODERS = ("standard", "skip", "residual")
DECODERS = ("standard", "skip")
_ADDED = ("_aux_skip", "_aux_residual")
"""Endings of what is added to the encoder's blocks."""


class SongUNet(HookedUNet):
    """U-Net that predicts from a noised image, its noise level and optionally its class.

    Beside the blocks runs the image itself: with the encoder 'residual' or 'skip' it is made smaller level by level
    and added after each block that halves the resolution; with the decoder 'skip' each level adds its own image to
    the result. A layer named after such an encoder block is the sum, which the next block and the skips read.

    Args:
        img_resolution: height and width of the images, pixels; divisible by 2^(levels - 1).
        img_channels: channels of the images.
        label_dim: number of classes K; 0 makes an unconditional network.
        model_channels: base number of channels.
        channel_mult: one factor on `model_channels` a level; each level halves the resolution.
        channel_mult_emb: factor on `model_channels` for the width of the embedding.
        num_blocks: residual blocks a level (the decoder has one more).
        attn_resolutions: resolutions, pixels, with self-attention.
        dropout: probability of zeroing a feature inside a block, in training mode only.
        label_dropout: share of labels withheld in training; the network only remembers it.
        embedding_type: of the noise level: 'positional' (DDPM++) or 'fourier' (NCSN++).
        channel_mult_noise: factor on `model_channels` for its width: 1 (DDPM++) or 2 (NCSN++).
        encoder_type: 'standard' (DDPM++), 'residual' (NCSN++) or 'skip'.
        decoder_type: 'standard' or 'skip'.
        resample_filter: taps that change the resolution: 1, 1 (DDPM++) or 1, 3, 3, 1 (NCSN++).
        out_channels: channels of the output; None: those of the images.

    Raises:
        ConfigError: if an argument is out of its range or contradicts another.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int = 3,
        label_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[float] = (1, 2, 2, 2),
        *,
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        label_dropout: float = 0.0,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        resample_filter: Sequence[float] = (1, 1),
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        check_sizes(img_resolution, model_channels, channel_mult, num_blocks)
        check_probability("dropout", dropout)
        check_probability("label_dropout", label_dropout)
        _check_choice("embedding_type", embedding_type, EMBEDDINGS)
        _check_choice("encoder_type", encoder_type, ENCODERS)
        _check_choice("decoder_type", decoder_type, DECODERS)
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.label_dim, self.label_dropout = label_dim, label_dropout
        self._taps = tuple(float(tap) for tap in resample_filter)
        self._attn_resolutions = frozenset(attn_resolutions)
        width, noise_width = model_channels * channel_mult_emb, model_channels * channel_mult_noise
        style = BlockStyle(
            num_heads=1,
            eps=1e-6,
            skip_scale=math.sqrt(0.5),
            scale_shift=False,
            resample_filter=self._taps,
            project_skip=True,
        )
        self._new_block = partial(UNetBlock, emb_channels=width, dropout=dropout, style=style)

        self.map_noise: nn.Module = (
            PositionalEmbedding(noise_width, endpoint=True)
            if embedding_type == "positional"
            else FourierEmbedding(noise_width)
        )
        self.map_label = nn.Linear(label_dim, noise_width) if label_dim else None
        self.map_layer0 = nn.Linear(noise_width, width)
        self.map_layer1 = nn.Linear(width, width)
        channels = [int(model_channels * mult) for mult in channel_mult]
        self._encoder_type, self._decoder_type = encoder_type, decoder_type
        self._aside = img_channels  # channels of the image beside the encoder
        self._out_channels = out_channels or img_channels
        stem = nn.Conv2d(img_channels, model_channels, 3, padding=1)
        self._make_blocks(stem, model_channels, channels, num_blocks)
        self.enc_sum = nn.ModuleDict({_summed(key): nn.Identity() for key in self.enc if key.endswith(_ADDED)})

    def _block(self, part: str, in_channels: int, out_channels: int, **options: Any) -> UNetBlock:
        return self._new_block(in_channels, out_channels, **options)

    def _attends(self, resolution: int, *, decoder: bool = False, last: bool = False) -> bool:
        return resolution in self._attn_resolutions and (last or not decoder)

    def _beside_encoder(self, prefix: str, width: int) -> dict[str, nn.Module]:
        aside = self._aside
        if self._encoder_type == "skip":
            return {
                f"{prefix}_aux_down": ResampledConv(aside, "down", kernel=0, taps=self._taps),
                f"{prefix}_aux_skip": nn.Conv2d(aside, width, 1),
            }
        if self._encoder_type == "standard":
            return {}
        self._aside = width
        smaller = ResampledConv(aside, "down", kernel=3, taps=self._taps, out_channels=width, filter_last=True)
        return {f"{prefix}_aux_residual": smaller}

    def _beside_decoder(self, prefix: str, width: int, *, lowest: bool) -> dict[str, nn.Module]:
        blocks: dict[str, nn.Module] = {}
        if self._decoder_type == "skip" and not lowest:
            blocks[f"{prefix}_aux_up"] = ResampledConv(self._out_channels, "up", kernel=0, taps=self._taps)
        if self._decoder_type == "skip" or prefix == f"{self.img_resolution}x{self.img_resolution}":
            blocks[f"{prefix}_aux_norm"] = group_norm(width, eps=1e-6)
            blocks[f"{prefix}_aux_conv"] = nn.Conv2d(width, self._out_channels, 3, padding=1)
        return blocks

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Return the network's raw output, (B, out_channels, H, W), in the dtype of `x`.

        Args:
            x: scaled noised images, (B, img_channels, H, W).
            noise_labels: c_noise of each image, (B,).
            class_labels: one-hot or mixed classes, (B, label_dim); None or zeros: unconditional.

        Raises:
            ShapeError: if an input does not fit the network.
        """
        self._check_inputs(x, class_labels)
        emb = self._embed(noise_labels, class_labels).to(x.dtype)
        x, skips = self._encode(x, emb)
        image: Tensor | None = None
        for name, block in self.dec.items():
            if "_aux_up" in name:
                image = block(image)
            elif "_aux_norm" in name:
                normalised = block(x)
            elif "_aux_conv" in name:
                own = block(F.silu(normalised))
                image = own if image is None else image + own
            else:
                x = block(torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, emb)
        assert image is not None, "the last level always makes an image"
        return image

    def _encode(self, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the encoder's last output, and the skip connections."""
        skips: list[Tensor] = []
        aside = x
        for name, block in self.enc.items():
            if "_aux_down" in name:
                aside = block(aside)
            elif "_aux_skip" in name:
                x = skips[-1] = self.enc_sum[_summed(name)](x + block(aside))
            elif "_aux_residual" in name:
                x = skips[-1] = aside = self.enc_sum[_summed(name)]((x + block(aside)) / math.sqrt(2))
            else:
                x = block(x) if name.endswith("_conv") else block(x, emb)
                skips.append(x)
        return x, skips

    def _embed(self, noise_labels: Tensor, class_labels: Tensor | None) -> Tensor:
        dtype = self.map_layer0.weight.dtype
        # The published weights were trained with sines before cosines.
        cosines, sines = self.map_noise(noise_labels.to(torch.float32)).chunk(2, dim=1)
        emb = torch.cat([sines, cosines], dim=1).to(dtype)
        if self.map_label is not None:
            given = emb.new_zeros(len(emb), self.label_dim) if class_labels is None else class_labels.to(dtype)
            emb = emb + self.map_label(given * math.sqrt(self.label_dim))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def _blocks(self, part: nn.ModuleDict) -> list[str]:
        return [key for key in part if "_aux_" not in key]

    def _output_path(self, path: str) -> str:
        part, _, key = path.partition(".")
        return f"enc_sum.{key}" if part == "enc" and key in self.enc_sum else path


def _summed(name: str) -> str:
    """Return the encoder's block to which the image beside is added under this name."""
    return f"{name.split('_')[0]}_down"


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(unknown_name(name, value, choices))
