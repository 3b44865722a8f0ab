"""Interventions: what takes the place of a layer's output, where, when and in which pass.

target = FixedTarget(average)                                    # as captured at one sigma
target = MatchedTarget(adapter, "midblock", x0, sample_ids)      # captured anew at each sigma
request = GenerationRequest(interventions=(Intervention("midblock", target, steps=(0, 4)),))
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol, Self

import torch
from torch import Tensor

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.condition import Conditioning
from diffviews.adapters.hooks import check_finite, fit_batch
from diffviews.core.extractor import mean_activations
from diffviews.core.session import GuidancePass
from diffviews.errors import ConfigError, SelectionError, ShapeError, check_choices

Mode = Literal["replace", "add", "interpolate"]
Passes = Literal["both", "conditional", "unconditional"]


class Target(Protocol):
    """A value for a layer's output that may depend on the noise level."""

    def at(self, sigma: float) -> Tensor:
        """Return the value at a noise level, (1, *layer_shape)."""


@dataclass(frozen=True, slots=True, eq=False)
class FixedTarget:
    """The same value at every noise level."""

    tensor: Tensor
    """(1, *layer_shape), or (B, *layer_shape) for a batch of exactly B; floating point, finite."""

    def __post_init__(self) -> None:
        if self.tensor.ndim < 2 or not self.tensor.is_floating_point():
            raise ShapeError(
                f"a target of shape {tuple(self.tensor.shape)} and dtype {self.tensor.dtype} is not "
                "floating point of shape (1, *layer_shape)"
            )
        check_finite(self.tensor, "of a fixed target")

    def at(self, sigma: float) -> Tensor:
        """Return the value, whatever the noise level."""
        return self.tensor


class MatchedTarget:
    """The mean activation of chosen samples at the very noise level the sampler is at.

    Each sample is noised with its own noise, fixed by its id, so the value at an extraction's
    sigma is the mean of what that extraction stored.

    Args:
        adapter: model that captures; it may be the one being sampled.
        layer: layer to capture.
        x0: the samples, (N, C, H, W).
        sample_ids: their ids.
        conditioning: what `adapter.condition` gave for them; None or empty captures unconditionally.

    Raises:
        SelectionError: if there is no sample or not one id for each.
    """

    def __init__(
        self,
        adapter: GeneratorAdapter,
        layer: str,
        x0: Tensor,
        sample_ids: Sequence[str],
        conditioning: Conditioning | None = None,
    ) -> None:
        self._layer = layer
        self._means = _matched_means(adapter, (layer,), x0, tuple(sample_ids), conditioning or {})

    @classmethod
    def for_layers(
        cls,
        adapter: GeneratorAdapter,
        layers: Sequence[str],
        x0: Tensor,
        sample_ids: Sequence[str],
        conditioning: Conditioning | None = None,
    ) -> dict[str, Self]:
        """Return one target a layer; all of them share one capture at each noise level."""
        means = _matched_means(adapter, tuple(layers), x0, tuple(sample_ids), conditioning or {})
        targets: dict[str, Self] = {}
        for layer in layers:
            targets[layer] = target = cls.__new__(cls)
            target._layer, target._means = layer, means
        return targets

    def at(self, sigma: float) -> Tensor:
        """Return the mean at a noise level, (1, *layer_shape) float32."""
        return self._means(float(sigma))[self._layer]


def _matched_means(
    adapter: GeneratorAdapter, layers: tuple[str, ...], x0: Tensor, sample_ids: tuple[str, ...], given: Conditioning
) -> Callable[[float], dict[str, Tensor]]:
    """Return what gives the layers' mean activations of samples, captured once for each noise level asked for."""
    if not sample_ids or len(sample_ids) != len(x0):
        raise SelectionError(
            f"a matched target got {len(sample_ids)} sample ids for {len(x0)} samples; "
            "give one id for each of at least one sample"
        )
    return cache(lambda sigma: mean_activations(adapter, x0, sample_ids, given, sigma, layers))


@dataclass(frozen=True, slots=True)
class DirectionTarget:
    """A steering direction for mode `add`: what the selected samples have over a reference."""

    selected: Target
    """Mean of the selected samples."""
    reference: Target
    """Mean of all samples."""

    def at(self, sigma: float) -> Tensor:
        """Return selected - reference at a noise level, (1, *layer_shape)."""
        selected = self.selected.at(sigma)
        return selected - self.reference.at(sigma).to(selected.device, selected.dtype)


@dataclass(frozen=True, slots=True)
class Intervention:
    """One change of one layer's output h, of shape (B, C, H, W) or (B, T, C)."""

    layer: str
    """Public layer name."""
    target: Target
    """What h is changed with; its value at a noise level is (1, *layer_shape)."""
    mode: Mode = "replace"
    """replace: target; add: h + strength · target; interpolate: (1 - strength) · h + strength · target."""
    strength: float = 1.0
    """Factor of `add` or share of `interpolate`; `replace` has no use for it."""
    steps: tuple[int, int] | None = None
    """Sampler steps [first, stop) it acts on; None: all."""
    channels: tuple[int, ...] | None = None
    """Channels it acts on; None: all."""
    region: tuple[int, int, int, int] | None = None
    """Part (top, left, height, width) of the layer's own grid it acts on; None: all of it."""
    passes: Passes = "both"
    """Passes of classifier-free guidance it acts on."""

    def __post_init__(self) -> None:
        check_choices(self)
        if not math.isfinite(self.strength):
            raise ConfigError(f"strength {self.strength} must be a finite number")
        if self.steps is not None and not 0 <= self.steps[0] < self.steps[1]:
            raise ConfigError(f"steps {self.steps} must be [first, stop) with 0 <= first < stop")
        if self.channels is not None and (not self.channels or len(set(self.channels)) < len(self.channels)):
            raise ConfigError(f"channels {self.channels} must name at least one channel, each once")
        if self.region is not None and (min(self.region[:2]) < 0 or min(self.region[2:]) < 1):
            raise ConfigError(f"region {self.region} must be (top, left, height, width) with sides above 0")

    def acts(self, step: int, guidance_pass: GuidancePass) -> bool:
        """Whether it acts in this step and pass."""
        in_steps = self.steps is None or self.steps[0] <= step < self.steps[1]
        return in_steps and self.passes in ("both", guidance_pass)

    def check(self, shape: Sequence[int]) -> None:
        """Refuse channels, a region or a fixed target that do not fit a layer of this shape.

        Raises:
            ShapeError: naming the layer's shape and what does not fit it.
        """
        shape = tuple(shape)
        if isinstance(self.target, FixedTarget) and tuple(self.target.tensor.shape[1:]) != shape:
            raise ShapeError(
                f"the target for layer {self.layer!r} has shape {tuple(self.target.tensor.shape)}, but the "
                f"layer's output has shape {shape}; give (1, {', '.join(map(str, shape))})"
            )
        channels = shape[0] if len(shape) == 3 else shape[-1]
        if self.channels is not None and not all(0 <= c < channels for c in self.channels):
            raise ShapeError(f"layer {self.layer!r} has channels 0 … {channels - 1}, not all of {self.channels}")
        if self.region is None:
            return
        if len(shape) != 3:
            raise ShapeError(f"layer {self.layer!r} of shape {shape} has no image plane; take no region")
        top, left, height, width = self.region
        if top + height > shape[1] or left + width > shape[2]:
            raise ShapeError(f"region {self.region} does not lie in layer {self.layer!r} of shape {shape}")

    def value_at(self, sigma: float) -> Tensor:
        """Return the target's value at a noise level, refusing one with NaN.

        Raises:
            ConfigError: with the count of NaN or infinite values.
        """
        value = self.target.at(sigma)
        if not isinstance(self.target, FixedTarget):  # a fixed one was checked when it was made
            check_finite(value, self.layer)
        return value

    def apply(self, own: Tensor, target: Tensor) -> Tensor:
        """Return the layer's output after the intervention, a new tensor of the shape of `own`."""
        value = fit_batch(target, own, self.layer)
        if self.mode == "add":
            changed = own + self.strength * value
        elif self.mode == "interpolate":
            changed = torch.lerp(own, value, self.strength)
        else:
            # A copy of its own: later layers may work in place, and the target must survive that.
            changed = value.clone(memory_format=torch.contiguous_format)
        if self.channels is None and self.region is None:
            return changed
        return torch.where(self._where(own), changed, own)

    def _where(self, own: Tensor) -> Tensor:
        """Return where it acts, boolean, broadcastable to `own`."""
        if own.ndim != 4:
            return self._channel_mask(own.shape[-1], own.device)
        where = own.new_ones((1, 1, *own.shape[2:]), dtype=torch.bool)
        if self.region is not None:
            top, left, height, width = self.region
            where = torch.zeros_like(where)
            where[:, :, top : top + height, left : left + width] = True
        return where & self._channel_mask(own.shape[1], own.device).view(1, -1, 1, 1)

    def _channel_mask(self, channels: int, device: torch.device) -> Tensor:
        if self.channels is None:
            return torch.ones(channels, dtype=torch.bool, device=device)
        mask = torch.zeros(channels, dtype=torch.bool, device=device)
        mask[list(self.channels)] = True
        return mask
