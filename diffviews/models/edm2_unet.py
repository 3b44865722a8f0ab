"""The magnitude-preserving U-Net of Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion
Models" (EDM2, configuration G), for inference.

Parameter names are those of the published checkpoints, so their weights load key by key; the head that estimates the
uncertainty, which is used in training only, is left out. Equation numbers are those of the paper.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffviews.errors import ConfigError
from diffviews.models.blocks import ResampledConv
from diffviews.models.unet import HookedUNet, check_probability, check_sizes

SILU_SCALE = 0.596
"""Deviation of silu of a standard normal."""


def normalize(x: Tensor, dim: Sequence[int] | int, eps: float = 1e-4) -> Tensor:
    """Return `x` scaled to a root mean square of 1 along some dimensions (eq. 66); the norm is taken in float32."""
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float32)
    scale = eps + norm * math.sqrt(norm.numel() / x.numel())
    return x / scale.to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """Return silu that keeps the magnitude (eq. 81)."""
    return F.silu(x) / SILU_SCALE


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Return a · (1 - t) + b · t, scaled to keep the magnitude (eq. 88)."""
    return a.lerp(b, t) / math.hypot(1 - t, t)


def mp_cat(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Return the channels of both, weighted so that b contributes the share t and the magnitude stays (eq. 103)."""
    first, second = a.shape[1], b.shape[1]
    scale = math.sqrt((first + second) / ((1 - t) ** 2 + t**2))
    return torch.cat([a * (scale / math.sqrt(first) * (1 - t)), b * (scale / math.sqrt(second) * t)], dim=1)


class MPFourier(nn.Module):
    """Cosines of the noise label at random frequencies and phases, drawn once and kept (eq. 75)."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(num_channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(num_channels))

    def forward(self, noise_labels: Tensor) -> Tensor:
        """Return (B, num_channels) float32 of `noise_labels` (B,)."""
        angles = torch.outer(noise_labels.to(torch.float32), self.freqs.to(torch.float32))
        return (angles + self.phases.to(torch.float32)).cos() * math.sqrt(2)


class MPConv(nn.Module):
    """Convolution, or linear layer for an empty `kernel`, whose weights are normalised on every use (eq. 47)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *kernel))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """Return the layer's output, (B, out_channels) or (B, out_channels, H, W)."""
        weight = self.weight.to(torch.float32)
        weight = normalize(weight, dim=list(range(1, weight.ndim)))
        weight = (weight * (gain / math.sqrt(weight[0].numel()))).to(x.dtype)
        return F.linear(x, weight) if weight.ndim == 2 else F.conv2d(x, weight, padding=weight.shape[-1] // 2)


class MPBlock(nn.Module):
    """Residual block of encoder or decoder with optional self-attention (figure 21).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        emb_channels: width of the embedding of noise level and class.
        flavor: 'enc' projects and normalises its input first; 'dec' projects it beside the residual branch.
        resample: halve ('down') or double ('up') the resolution; None keeps it.
        resample_filter: taps that do so.
        attention: whether self-attention follows, where there are channels for a head.
        channels_per_head: channels of one head.
        dropout: probability of zeroing a feature, in training mode only.
        res_balance: share of the residual branch.
        attn_balance: share of the self-attention.
        clip_act: bound on the output; None: none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        flavor: Literal["enc", "dec"],
        resample: Literal["down", "up"] | None = None,
        resample_filter: Sequence[float] = (1, 1),
        attention: bool = False,
        channels_per_head: int = 64,
        dropout: float = 0.0,
        res_balance: float = 0.3,
        attn_balance: float = 0.3,
        clip_act: float | None = 256,
    ) -> None:
        super().__init__()
        self.out_channels, self.flavor, self.dropout = out_channels, flavor, dropout
        self.num_heads = out_channels // channels_per_head if attention else 0
        self.res_balance, self.attn_balance, self.clip_act = res_balance, attn_balance, clip_act
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = MPConv(out_channels if flavor == "enc" else in_channels, out_channels, (3, 3))
        self.emb_linear = MPConv(emb_channels, out_channels, ())
        self.conv_res1 = MPConv(out_channels, out_channels, (3, 3))
        self.conv_skip = MPConv(in_channels, out_channels, (1, 1)) if in_channels != out_channels else None
        self.attn_qkv = MPConv(out_channels, 3 * out_channels, (1, 1)) if self.num_heads else None
        self.attn_proj = MPConv(out_channels, out_channels, (1, 1)) if self.num_heads else None
        self.resample: nn.Module = nn.Identity()
        if resample is not None:
            taps = tuple(float(tap) for tap in resample_filter)
            self.resample = ResampledConv(in_channels, resample, kernel=0, taps=taps, stored=False)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Return (B, out_channels, H', W') from `x` (B, in_channels, H, W) and `emb` (B, E)."""
        x = self.resample(x)
        if self.flavor == "enc":
            x = normalize(x if self.conv_skip is None else self.conv_skip(x), dim=1)
        scale = self.emb_linear(emb, gain=self.emb_gain) + 1
        y = mp_silu(self.conv_res0(mp_silu(x)) * scale[:, :, None, None].to(x.dtype))
        y = self.conv_res1(F.dropout(y, self.dropout, self.training))
        if self.flavor == "dec" and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, y, self.res_balance)
        if self.attn_qkv is not None and self.attn_proj is not None:
            x = mp_sum(x, self.attn_proj(self._attend(self.attn_qkv(x))), self.attn_balance)
        return x if self.clip_act is None else x.clamp(-self.clip_act, self.clip_act)

    def _attend(self, qkv: Tensor) -> Tensor:
        batch, channels, height, width = qkv.shape
        # Within a head the checkpoints interleave query, key and value channel by channel.
        heads = qkv.reshape(batch, self.num_heads, -1, 3, height * width)
        q, k, v = (part.transpose(-1, -2) for part in normalize(heads, dim=2).unbind(dim=3))
        attended = F.scaled_dot_product_attention(q, k, v)
        return attended.transpose(-1, -2).reshape(batch, channels // 3, height, width)


class EDM2UNet(HookedUNet):
    """U-Net that predicts from a noised image, its noise level and optionally its class, all magnitudes kept.

    Args:
        img_resolution: height and width of the images, pixels; divisible by 2^(levels - 1).
        img_channels: channels of the images; a further one of ones is added inside.
        label_dim: number of classes K; 0 makes an unconditional network.
        model_channels: base number of channels.
        channel_mult: one factor on `model_channels` a level; each level halves the resolution.
        channel_mult_noise: factor for the width of the noise embedding; None: the first level's.
        channel_mult_emb: factor for the width of the whole embedding; None: the widest level's.
        num_blocks: residual blocks a level (the decoder has one more).
        attn_resolutions: resolutions, pixels, whose blocks have self-attention.
        dropout: probability of zeroing a feature inside a block, in training mode only.
        label_dropout: share of labels withheld in training; the network only remembers it.
        label_balance: share of the class in the embedding.
        concat_balance: share of the skip connections where they join.
        resample_filter: taps that change the resolution.
        channels_per_head: channels of one head of self-attention; levels with fewer have none.
        res_balance: share of the residual branch in a block.
        attn_balance: share of its self-attention.
        clip_act: bound on a block's output; None: none.

    Raises:
        ConfigError: if an argument is out of its range or contradicts another.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int = 3,
        label_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[float] = (1, 2, 3, 4),
        *,
        channel_mult_noise: int | None = None,
        channel_mult_emb: int | None = None,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        dropout: float = 0.0,
        label_dropout: float = 0.0,
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        resample_filter: Sequence[float] = (1, 1),
        channels_per_head: int = 64,
        res_balance: float = 0.3,
        attn_balance: float = 0.3,
        clip_act: float | None = 256,
    ) -> None:
        super().__init__()
        check_sizes(img_resolution, model_channels, channel_mult, num_blocks)
        for name, share in {
            "dropout": dropout, "label_dropout": label_dropout,
            "label_balance": label_balance, "concat_balance": concat_balance,
        }.items():  # fmt: skip
            check_probability(name, share)
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.label_dim, self.label_dropout = label_dim, label_dropout
        self.label_balance, self.concat_balance = label_balance, concat_balance
        self._attn_resolutions = frozenset(attn_resolutions)
        channels = [int(model_channels * mult) for mult in channel_mult]
        noise_width = channels[0] if channel_mult_noise is None else model_channels * channel_mult_noise
        width = max(channels) if channel_mult_emb is None else model_channels * channel_mult_emb
        if min(channels) < 1 or min(noise_width, width) < 1:
            factors = tuple(channel_mult)
            raise ConfigError(f"model_channels {model_channels} and channel_mult {factors} leave a level no channel")
        self._new_block = partial(
            MPBlock,
            emb_channels=width,
            dropout=dropout,
            resample_filter=resample_filter,
            channels_per_head=channels_per_head,
            res_balance=res_balance,
            attn_balance=attn_balance,
            clip_act=clip_act,
        )

        self.out_gain = nn.Parameter(torch.zeros([]))
        self.emb_fourier = MPFourier(noise_width)
        self.emb_noise = MPConv(noise_width, width, ())
        self.emb_label = MPConv(label_dim, width, ()) if label_dim else None
        self._make_blocks(MPConv(img_channels + 1, channels[0], (3, 3)), channels[0], channels, num_blocks)
        self.out_conv = MPConv(channels[0], img_channels, (3, 3))

    def _block(self, part: Literal["enc", "dec"], in_channels: int, out_channels: int, **options: Any) -> MPBlock:
        return self._new_block(in_channels, out_channels, flavor=part, **options)

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
        emb = self._embed(noise_labels, class_labels)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        skips: list[Tensor] = []
        for name, block in self.enc.items():
            x = block(x) if name.endswith("_conv") else block(x, emb)
            skips.append(x)
        for name, block in self.dec.items():
            if "_block" in name:
                x = mp_cat(x, skips.pop(), self.concat_balance)
            x = block(x, emb)
        return self.out_conv(x, gain=self.out_gain)

    def _embed(self, noise_labels: Tensor, class_labels: Tensor | None) -> Tensor:
        emb = self.emb_noise(self.emb_fourier(noise_labels))
        if self.emb_label is not None:
            given = emb.new_zeros(len(emb), self.label_dim) if class_labels is None else class_labels.to(emb.dtype)
            emb = mp_sum(emb, self.emb_label(given * math.sqrt(self.label_dim)), self.label_balance)
        return mp_silu(emb)
