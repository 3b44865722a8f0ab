"""The ADM U-Net of Dhariwal and Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis".

Parameter names, and the order of the channels inside the attention, are those of the published
EDM checkpoints (Karras et al. 2022), so their weights load key by key. A block's output goes both
to the next block and to the skip connections, so whatever a forward hook returns in place of an
encoder block's output also reaches the decoder.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffviews.errors import ConfigError, ShapeError
from diffviews.models.blocks import PositionalEmbedding, UNetBlock, group_norm


@dataclass(frozen=True, slots=True)
class HookPoint:
    """One layer whose output may be read or replaced."""

    name: str
    """Public layer name, such as 'encoder_block_3'."""
    path: str
    """Module path inside the network, such as 'enc.8x8_block0'."""
    shape: tuple[int, int, int]
    """Shape (C, H, W) of its output for one sample."""


class ADMUNet(nn.Module):
    """U-Net that predicts from a noised image, its noise level and optionally its class.

    Args:
        img_resolution: height and width of the images, pixels; divisible by 2^(levels - 1).
        img_channels: channels of the images, 3 for RGB.
        label_dim: number of classes K; 0 makes an unconditional network.
        model_channels: base number of channels.
        channel_mult: one factor on `model_channels` a level; each level halves the resolution.
        channel_mult_emb: factor on `model_channels` for the width of the embedding.
        num_blocks: residual blocks a level (the decoder has one more).
        attn_resolutions: resolutions, pixels, whose blocks have self-attention.
        dropout: probability of zeroing a feature inside a block, in training mode only.
        label_dropout: share of labels withheld in training. The network only remembers it: the
            training draws it from its own generator, and samplers ask whether it is above 0.

    Raises:
        ConfigError: if an argument is out of its range or contradicts another.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int = 3,
        label_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        *,
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.0,
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check_sizes(img_resolution, model_channels, channel_mult, num_blocks)
        _check_probability("dropout", dropout)
        _check_probability("label_dropout", label_dropout)
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.label_dim, self.label_dropout = label_dim, label_dropout
        width = model_channels * channel_mult_emb
        self._new_block = partial(UNetBlock, emb_channels=width, dropout=dropout)
        self._attn_resolutions = frozenset(attn_resolutions)

        self.map_noise = PositionalEmbedding(model_channels)
        self.map_layer0 = nn.Linear(model_channels, width)
        self.map_layer1 = nn.Linear(width, width)
        self.map_label = nn.Linear(label_dim, width, bias=False) if label_dim else None
        if self.map_label is not None:
            nn.init.normal_(self.map_label.weight)  # one-hot input: unit variance in, unit variance out

        channels = [model_channels * mult for mult in channel_mult]
        self.enc, skips = self._encoder(channels, num_blocks)
        self.dec = self._decoder(channels, num_blocks, skips)
        self.out_norm = group_norm(channels[0])
        self.out_conv = nn.Conv2d(channels[0], img_channels, 3, padding=1)
        for parameter in self.out_conv.parameters():
            nn.init.zeros_(parameter)  # an untrained network predicts zero

    def _block(self, in_channels: int, out_channels: int, resolution: int) -> UNetBlock:
        attention = resolution in self._attn_resolutions
        return self._new_block(in_channels, out_channels, attention=attention)

    def _encoder(self, channels: Sequence[int], num_blocks: int) -> tuple[nn.ModuleDict, list[int]]:
        """Return the encoder and the number of channels of each of its outputs, in order."""
        blocks = nn.ModuleDict()
        width = channels[0]
        skips: list[int] = []
        for level, out_channels in enumerate(channels):
            resolution = self.img_resolution >> level
            prefix = f"{resolution}x{resolution}"
            if level == 0:
                blocks[f"{prefix}_conv"] = nn.Conv2d(self.img_channels, width, 3, padding=1)
            else:
                blocks[f"{prefix}_down"] = self._new_block(width, width, resample="down")
            skips.append(width)
            for index in range(num_blocks):
                blocks[f"{prefix}_block{index}"] = self._block(width, out_channels, resolution)
                width = out_channels
                skips.append(width)
        return blocks, skips

    def _decoder(self, channels: Sequence[int], num_blocks: int, skips: Sequence[int]) -> nn.ModuleDict:
        blocks = nn.ModuleDict()
        width = channels[-1]
        waiting = list(skips)
        for level, out_channels in reversed(list(enumerate(channels))):
            resolution = self.img_resolution >> level
            prefix = f"{resolution}x{resolution}"
            if level == len(channels) - 1:
                blocks[f"{prefix}_in0"] = self._new_block(width, width, attention=True)
                blocks[f"{prefix}_in1"] = self._new_block(width, width)
            else:
                blocks[f"{prefix}_up"] = self._new_block(width, width, resample="up")
            for index in range(num_blocks + 1):
                blocks[f"{prefix}_block{index}"] = self._block(width + waiting.pop(), out_channels, resolution)
                width = out_channels
        return blocks

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Return the network's raw output, (B, img_channels, H, W), in the dtype of `x`.

        Args:
            x: scaled noised images, (B, img_channels, H, W).
            noise_labels: c_noise of each image, (B,).
            class_labels: one-hot or mixed classes, (B, label_dim); None or zeros: unconditional.

        Raises:
            ShapeError: if an input does not fit the network.
        """
        self._check_inputs(x, class_labels)
        emb = self._embed(noise_labels, class_labels).to(x.dtype)
        skips: list[Tensor] = []
        for name, block in self.enc.items():
            x = block(x) if name.endswith("_conv") else block(x, emb)
            skips.append(x)
        for name, block in self.dec.items():
            if "_block" in name:
                x = torch.cat([x, skips.pop()], dim=1)
            x = block(x, emb)
        return self.out_conv(F.silu(self.out_norm(x)))

    def _embed(self, noise_labels: Tensor, class_labels: Tensor | None) -> Tensor:
        dtype = self.map_layer0.weight.dtype
        emb = self.map_noise(noise_labels.to(torch.float32)).to(dtype)
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if self.map_label is not None and class_labels is not None:
            emb = emb + self.map_label(class_labels.to(dtype))
        return F.silu(emb)

    def _check_inputs(self, x: Tensor, class_labels: Tensor | None) -> None:
        size = (self.img_channels, self.img_resolution, self.img_resolution)
        if x.ndim != 4 or tuple(x.shape[1:]) != size:
            expected = ", ".join(map(str, size))
            raise ShapeError(f"images have shape {tuple(x.shape)}; this network takes (B, {expected})")
        if class_labels is not None and tuple(class_labels.shape) != (len(x), self.label_dim):
            raise ShapeError(
                f"class labels have shape {tuple(class_labels.shape)}; "
                f"{len(x)} images on this network take ({len(x)}, {self.label_dim})"
            )

    def hook_point_list(self) -> tuple[HookPoint, ...]:
        """Return every layer that may be read or replaced, in the order of the forward pass."""
        encoder = [(f"encoder_block_{i}", f"enc.{key}") for i, key in enumerate(self.enc)]
        encoder[-1] = ("encoder_bottleneck", encoder[-1][1])
        decoder = [(f"decoder_block_{i}", f"dec.{key}") for i, key in enumerate(self.dec)]
        decoder[0] = ("midblock", decoder[0][1])
        return tuple(HookPoint(name, path, self._output_shape(path)) for name, path in encoder + decoder)

    def _output_shape(self, path: str) -> tuple[int, int, int]:
        resolution = int(path.split(".")[1].split("x")[0])
        block = self.get_submodule(path)
        return (int(block.out_channels), resolution, resolution)  # type: ignore[arg-type]

    @property
    def hook_points(self) -> dict[str, str]:
        """Module path inside the network of each public layer name, in the order of the forward pass."""
        return {point.name: point.path for point in self.hook_point_list()}

    def layer_shapes(self) -> dict[str, tuple[int, int, int]]:
        """Return the shape (C, H, W) of each public layer's output, without a forward pass."""
        return {point.name: point.shape for point in self.hook_point_list()}


def _check_sizes(resolution: int, model_channels: int, channel_mult: Sequence[int], num_blocks: int) -> None:
    if not channel_mult or min(channel_mult) < 1 or num_blocks < 1:
        raise ConfigError(
            f"channel_mult {tuple(channel_mult)} and num_blocks {num_blocks} must name at least one level "
            "and one block, all of them at least 1"
        )
    step = 2 ** (len(channel_mult) - 1)
    if resolution < step or resolution % step:
        raise ConfigError(
            f"img_resolution {resolution} cannot be halved {len(channel_mult) - 1} times; "
            f"use a multiple of {step} or fewer levels in channel_mult"
        )
    if model_channels < 4 or model_channels % 4:
        raise ConfigError(f"model_channels {model_channels} must be a positive multiple of 4")


def _check_probability(name: str, value: float) -> None:
    if not (math.isfinite(value) and 0.0 <= value < 1.0):
        raise ConfigError(f"{name} {value} must be at least 0 and below 1")
