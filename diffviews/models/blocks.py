"""The parts that ADM, DDPM++ and NCSN++ are built of: noise embeddings, residual block, self-attention."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffviews.errors import ConfigError


@dataclass(frozen=True, slots=True)
class BlockStyle:
    """What the networks do differently in a residual block; the defaults are ADM's."""

    num_heads: int | None = None
    """Heads of self-attention; None: one for every `head_channels` channels, at least one."""
    head_channels: int = 64
    """Channels of one head where their number is not given."""
    narrow_attention: bool = True
    """Whether layers of fewer channels have self-attention; EDM's own have none."""
    eps: float = 1e-5
    """Added to the variance in normalisations."""
    skip_scale: float = 1.0
    """Factor on the sum of a block's two branches."""
    scale_shift: bool = True
    """Whether the embedding scales and shifts the normalised features, or is added before."""
    resample_filter: tuple[float, ...] = (1.0, 1.0)
    """Taps of the separable filter that changes the resolution."""
    project_skip: bool = False
    """Whether the skip of a block that changes the resolution has a 1×1 convolution."""
    group_channels: int = 4
    """Least number of channels of a normalisation group."""


ADM_STYLE = BlockStyle()


def group_norm(channels: int, group_channels: int = 4, eps: float = 1e-5) -> nn.GroupNorm:
    """Return a group normalisation with at most 32 groups of at least `group_channels` channels each.

    Raises:
        ConfigError: if the channels do not divide into that many groups.
    """
    groups = min(32, channels // group_channels)
    if groups < 1 or channels % groups:
        raise ConfigError(
            f"a layer with {channels} channels cannot be normalised in {max(groups, 1)} groups; "
            "choose model_channels and channel_mult so that every level, and the sum of any two that a skip "
            "connection joins, has a multiple of 4 channels, and of 32 above 128"
        )
    return nn.GroupNorm(groups, channels, eps=eps)


class PositionalEmbedding(nn.Module):
    """Sinusoids of the noise label at geometrically spaced frequencies from 1 to 1/10,000.

    Args:
        num_channels: width of the embedding.
        endpoint: whether the last frequency is 1/10,000 itself, as in DDPM++, or the next one would be, as in ADM.
    """

    def __init__(self, num_channels: int, max_period: float = 10_000.0, *, endpoint: bool = False) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.max_period = max_period
        self.endpoint = endpoint

    def forward(self, noise_labels: Tensor) -> Tensor:
        """Return (B, num_channels) float32, cosines before sines, of `noise_labels` (B,)."""
        half = self.num_channels // 2
        exponents = torch.arange(half, dtype=torch.float32, device=noise_labels.device) / (half - self.endpoint)
        angles = torch.outer(noise_labels, (1.0 / self.max_period) ** exponents)
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class FourierEmbedding(nn.Module):
    """Sinusoids of the noise label at random frequencies, drawn once and kept (Song et al. 2021, NCSN++)."""

    freqs: Tensor

    def __init__(self, num_channels: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(num_channels // 2) * scale)

    def forward(self, noise_labels: Tensor) -> Tensor:
        """Return (B, num_channels) float32, cosines before sines, of `noise_labels` (B,)."""
        angles = torch.outer(noise_labels, 2 * math.pi * self.freqs.to(torch.float32))
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResampledConv(nn.Module):
    """Change of resolution by a separable filter, followed by a convolution if it has one.

    With the box [1, 1] down-sampling is the mean of 2×2 pixels and up-sampling their repetition. The
    checkpoints carry the filter as a buffer, which is kept here so that their keys match.

    Args:
        channels: of the input.
        resample: halve ('down') or double ('up') the resolution.
        kernel: size of the convolution; 0: none.
        taps: of the filter, an even number of them.
        out_channels: of the convolution; None: as many as the input has.
        filter_last: filter a downward convolution's output instead of its input.
        stored: whether the checkpoints carry the filter.
    """

    resample_filter: Tensor

    def __init__(
        self,
        channels: int,
        resample: Literal["down", "up"],
        *,
        kernel: int,
        taps: tuple[float, ...] = (1.0, 1.0),
        out_channels: int | None = None,
        filter_last: bool = False,
        stored: bool = True,
    ) -> None:
        super().__init__()
        self.resample, self.filter_last = resample, filter_last
        self.out_channels = out_channels or channels
        self._box = tuple(taps) == (1.0, 1.0)
        self.register_buffer("resample_filter", _separable(taps), persistent=stored)
        self.weight = self.bias = None
        if kernel:
            like = nn.Conv2d(channels, self.out_channels, kernel)
            self.weight, self.bias = like.weight, like.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (B, C, H, W) at half or twice its resolution, convolved."""
        margin = (self.resample_filter.shape[-1] - 1) // 2
        if self.weight is None:
            return self._resampled(x, margin)
        around = self.weight.shape[-1] // 2
        if self.filter_last:
            # The margin that the filter needs is convolved too, which differs from filtering first at the edge.
            return self._resampled(F.conv2d(x, self.weight, self.bias, padding=around + margin), 0)
        return F.conv2d(self._resampled(x, margin), self.weight, self.bias, padding=around)

    def _resampled(self, x: Tensor, padding: int) -> Tensor:
        down = self.resample == "down"
        if self._box:
            return F.avg_pool2d(x, 2) if down else F.interpolate(x, scale_factor=2.0)
        taps = self.resample_filter.to(x.dtype).expand(x.shape[1], -1, -1, -1)
        if down:
            return F.conv2d(x, taps, stride=2, padding=padding, groups=x.shape[1])
        return F.conv_transpose2d(x, 4 * taps, stride=2, padding=padding, groups=x.shape[1])


def _separable(taps: tuple[float, ...]) -> Tensor:
    """Return the filter (1, 1, T, T) of one-dimensional taps, whose sum is 1.

    Raises:
        ConfigError: if their number is not even or their sum not above 0.
    """
    if len(taps) < 2 or len(taps) % 2 or not 0 < sum(taps) < math.inf:
        raise ConfigError(f"resample_filter {tuple(taps)} must be an even number of taps whose sum is above 0")
    line = torch.tensor(taps, dtype=torch.float32, device="cpu")  # also where a network is built on the meta device
    return (torch.outer(line, line) / line.sum().square())[None, None]


class UNetBlock(nn.Module):
    """Residual block with adaptive group normalisation and optional self-attention.

    h = conv0(silu(norm0(x))); (scale, shift) = affine(emb);
    h = conv1(silu(norm1(h) · (1 + scale) + shift)); x = skip(x) + h; x = x + attention(x).
    Without scale and shift, h = conv1(silu(norm1(h + affine(emb)))); both sums are times `skip_scale`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        emb_channels: width of the embedding of noise level and class.
        resample: halve ('down') or double ('up') the resolution; None keeps it.
        attention: whether self-attention follows.
        dropout: probability of zeroing a feature before the second convolution, in training.
        style: what the networks do differently.
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
        style: BlockStyle = ADM_STYLE,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.dropout, self.style = in_channels, out_channels, dropout, style
        attention = attention and (style.narrow_attention or out_channels >= style.head_channels)
        self.num_heads = (style.num_heads or max(1, out_channels // style.head_channels)) if attention else 0
        if self.num_heads and out_channels % self.num_heads:
            raise ConfigError(f"a layer of {out_channels} channels has no {self.num_heads} heads of attention")
        norm = partial(group_norm, group_channels=style.group_channels, eps=style.eps)
        taps = style.resample_filter
        self.norm0 = norm(in_channels)
        self.conv0 = (
            nn.Conv2d(in_channels, out_channels, 3, padding=1)
            if resample is None
            else ResampledConv(in_channels, resample, kernel=3, taps=taps)
        )
        # Made here and registered below: initial weights follow the order in which parts are made (the
        # recorded training started from this one), checkpoints that in which they are registered.
        skip: nn.Module | None = None
        if resample is not None:
            skip = ResampledConv(in_channels, resample, kernel=int(style.project_skip), taps=taps)
        elif in_channels != out_channels:
            skip = nn.Conv2d(in_channels, out_channels, 1)
        self.affine = nn.Linear(emb_channels, (2 if style.scale_shift else 1) * out_channels)
        self.norm1 = norm(out_channels)
        self.conv1 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        _zero(self.conv1)
        self.skip = skip
        if self.num_heads:
            self.norm2 = norm(out_channels)
            self.qkv = nn.Conv2d(out_channels, 3 * out_channels, 1)
            self.proj = nn.Conv2d(out_channels, out_channels, 1)
            _zero(self.proj)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Return (B, out_channels, H', W') from `x` (B, in_channels, H, W) and `emb` (B, E)."""
        h = self.conv0(F.silu(self.norm0(x)))
        told = self.affine(emb)[:, :, None, None]
        if self.style.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm1(h), scale + 1)
        else:
            h = self.norm1(h + told)
        h = self.conv1(F.dropout(F.silu(h), self.dropout, self.training))
        x = self._scaled(h + (x if self.skip is None else self.skip(x)))
        return self._scaled(x + self._attend(x)) if self.num_heads else x

    def _scaled(self, x: Tensor) -> Tensor:
        return x if self.style.skip_scale == 1 else x * self.style.skip_scale

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
