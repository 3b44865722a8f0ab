"""What determines a training: the network, the loss, the optimiser and the seed."""

import math
from dataclasses import dataclass
from typing import Any

from diffviews.errors import ConfigError

NETWORK_FIELDS = (
    "img_resolution", "img_channels", "label_dim", "model_channels", "channel_mult",
    "channel_mult_emb", "num_blocks", "attn_resolutions", "dropout", "label_dropout",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class OptimiserConfig:
    """What every training has: steps of Adam, its learning rate, and the average of the weights that is kept."""

    learning_rate: float = 2e-3
    """Adam's learning rate after the warm-up; it falls to 0 along a half cosine."""
    warmup_steps: int = 100
    """Steps in which the learning rate rises from 0."""
    max_gradient_norm: float = 1.0
    """Norm to which gradients are clipped; 0 does not clip."""
    ema_halflife: float = 20_000.0
    """Half-life of the averaged weights, images."""
    ema_rampup: float = 0.05
    """Upper limit of the half-life while the training is young, as a share of the images seen."""
    batch_size: int = 128
    """Images a step."""
    steps: int = 1_500
    """Optimiser steps."""
    seed: int = 0
    """Fixes initial weights, order of images, noise and withheld labels."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("learning_rate", "ema_rampup"):
            self._require(name, 0 < getattr(self, name) < math.inf, "above 0")
        for name in ("ema_halflife", "max_gradient_norm"):
            self._require(name, 0 <= getattr(self, name) < math.inf, "at least 0")
        self._require("warmup_steps", 0 <= self.warmup_steps < self.steps, f"at least 0 and below steps {self.steps}")

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise ConfigError(f"{name} {getattr(self, name)} must be {what}")

    def learning_rate_factor(self, step: int) -> float:
        """Return the factor on the learning rate at a step: linear warm-up, then half a cosine down to 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        return 0.5 + 0.5 * math.cos(math.pi * min(progress, 1.0))

    def ema_decay(self, updates: int) -> float:
        """Return what share of the average stays at the update that follows `updates` others."""
        halflife = min(self.ema_halflife, self.ema_rampup * updates * self.batch_size)
        return 0.5 ** (self.batch_size / halflife) if halflife > 0 else 0.0


@dataclass(frozen=True, slots=True)
class TrainingConfig(OptimiserConfig):
    """All that decides the weights of a training, apart from the images; same config, same weights."""

    img_resolution: int = 16
    """Height and width of the images, pixels."""
    img_channels: int = 3
    """Channels of the images."""
    label_dim: int = 10
    """Number of classes; 0 trains without labels."""
    model_channels: int = 32
    """Base number of channels."""
    channel_mult: tuple[int, ...] = (1, 2, 2)
    """Factor on `model_channels` for each level; each level halves the resolution."""
    channel_mult_emb: int = 4
    """Factor on `model_channels` for the width of the embedding."""
    num_blocks: int = 1
    """Residual blocks a level."""
    attn_resolutions: tuple[int, ...] = (8, 4)
    """Resolutions with self-attention, pixels."""
    dropout: float = 0.0
    """Probability of zeroing a feature inside a block."""
    label_dropout: float = 0.1
    """Share of the images whose label is withheld."""
    uniform_share: float = 0.5
    """Share of the withheld labels given as uniform (1/K for each class); the others are zeros."""
    sigma_data: float = 0.5
    """Standard deviation of the data, in units of the [-1, 1] range."""
    p_mean: float = -0.8
    """Mean of ln(sigma) in training."""
    p_std: float = 1.3
    """Standard deviation of ln(sigma) in training."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "channel_mult", tuple(self.channel_mult))
        object.__setattr__(self, "attn_resolutions", tuple(self.attn_resolutions))
        OptimiserConfig.__post_init__(self)
        for name in ("label_dropout", "uniform_share"):
            self._require(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        for name in ("p_std", "sigma_data"):
            self._require(name, 0 < getattr(self, name) < math.inf, "above 0")
        self._require("p_mean", math.isfinite(self.p_mean), "finite")

    def network_options(self) -> dict[str, Any]:
        """Return the arguments of `ADMUNet`."""
        return {name: getattr(self, name) for name in NETWORK_FIELDS}
