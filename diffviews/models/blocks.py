"""The parts an ADM U-Net is built of: noise embedding, residual block, self-attention."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffviews.errors import ConfigError

HEAD_CHANNELS = 64
"""Channels of one attention head, as in ADM."""


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a group normalisation with at most 32 groups of at least 4 channels each.

    Raises:
        ConfigError: if the channels do not divide into that many groups.
    """
    groups = min(32, channels // 4)
    if groups < 1 or channels % groups:
        raise ConfigError(
            f"a layer with {channels} channels cannot be normalised in {max(groups, 1)} groups; "
            "choose model_channels and channel_mult so that every level, and the sum of any two that a skip "
            "connection joins, has a multiple of 4 channels, and of 32 above 128"
        )
    return nn.GroupNorm(groups, channels, eps=1e-5)


class PositionalEmbedding(nn.Module):
    """Sinusoids of the noise label at geometrically spaced frequencies from 1 to 1/10,000."""

    def __init__(self, num_channels: int, max_period: float = 10_000.0) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.max_period = max_period

    def forward(self, noise_labels: Tensor) -> Tensor:
        """Return (B, num_channels) float32, cosines before sines, of `noise_labels` (B,)."""
        half = self.num_channels // 2
        exponents = torch.arange(half, dtype=torch.float32, device=noise_labels.device) / half
        angles = torch.outer(noise_labels, (1.0 / self.max_period) ** exponents)
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResampledConv(nn.Module):
    """Change of resolution by a 2×2 box, followed by a convolution if it has one.

    The box [1, 1] makes down-sampling the mean of 2×2 pixels and up-sampling their repetition.
    The checkpoints carry it as a buffer, which is kept here so that their keys match.
    """

    resample_filter: Tensor

    def __init__(self, channels: int, resample: Literal["down", "up"], *, kernel: int) -> None:
        super().__init__()
        self.resample = resample
        self.register_buffer("resample_filter", torch.full((1, 1, 2, 2), 0.25))
        self.weight = self.bias = None
        if kernel:
            like = nn.Conv2d(channels, channels, kernel)
            self.weight, self.bias = like.weight, like.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (B, C, H, W) at half or twice its resolution, convolved."""
        x = F.avg_pool2d(x, 2) if self.resample == "down" else F.interpolate(x, scale_factor=2.0)
        if self.weight is None:
            return x
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


class UNetBlock(nn.Module):
    """Residual block with adaptive group normalisation and optional self-attention.

    h = conv0(silu(norm0(x))); (scale, shift) = affine(emb);
    h = conv1(silu(norm1(h) · (1 + scale) + shift)); x = skip(x) + h; x = x + attention(x).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        emb_channels: width of the embedding of noise level and class.
        resample: halve ('down') or double ('up') the resolution; None keeps it.
        attention: whether self-attention follows, in heads of 64 channels.
        dropout: probability of zeroing a feature before the second convolution, in training.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        resample: Literal["down", "up"] | None = None,
        attention: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.dropout = in_channels, out_channels, dropout
        self.num_heads = max(1, out_channels // HEAD_CHANNELS) if attention else 0
        self.norm0 = group_norm(in_channels)
        self.conv0 = (
            nn.Conv2d(in_channels, out_channels, 3, padding=1)
            if resample is None
            else ResampledConv(in_channels, resample, kernel=3)
        )
        # Made here and registered below: initial weights follow the order in which parts are made (the
        # recorded training started from this one), checkpoints that in which they are registered.
        skip: nn.Module | None = None
        if resample is not None:
            skip = ResampledConv(in_channels, resample, kernel=0)
        elif in_channels != out_channels:
            skip = nn.Conv2d(in_channels, out_channels, 1)
        self.affine = nn.Linear(emb_channels, 2 * out_channels)
        self.norm1 = group_norm(out_channels)
        self.conv1 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        _zero(self.conv1)
        self.skip = skip
        if self.num_heads:
            self.norm2 = group_norm(out_channels)
            self.qkv = nn.Conv2d(out_channels, 3 * out_channels, 1)
            self.proj = nn.Conv2d(out_channels, out_channels, 1)
            _zero(self.proj)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Return (B, out_channels, H', W') from `x` (B, in_channels, H, W) and `emb` (B, E)."""
        h = self.conv0(F.silu(self.norm0(x)))
        scale, shift = self.affine(emb)[:, :, None, None].chunk(2, dim=1)
        h = F.silu(torch.addcmul(shift, self.norm1(h), scale + 1))
        h = self.conv1(F.dropout(h, self.dropout, self.training))
        x = h + (x if self.skip is None else self.skip(x))
        return x + self._attend(x) if self.num_heads else x

    def _attend(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        # Within a head the checkpoints interleave query, key and value channel by channel.
        qkv = self.qkv(self.norm2(x)).reshape(batch, self.num_heads, -1, 3, height * width)
        q, k, v = (part.transpose(-1, -2) for part in qkv.unbind(dim=3))
        attended = F.scaled_dot_product_attention(q, k, v, scale=1 / math.sqrt(channels // self.num_heads))
        return self.proj(attended.transpose(-1, -2).reshape(batch, channels, height, width))


def _zero(module: nn.Module) -> None:
    """Zero a residual branch's last layer, so that a fresh block is the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
