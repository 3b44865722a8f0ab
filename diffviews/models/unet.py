"""What the U-Nets of this project share: the order of their blocks, named layers, checked inputs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from diffviews.errors import ConfigError, ShapeError


@dataclass(frozen=True, slots=True)
class HookPoint:
    """One layer whose output may be read or replaced."""

    name: str
    """Public layer name, such as 'encoder_block_3'."""
    path: str
    """Module path inside the network, such as 'enc.8x8_block0'."""
    shape: tuple[int, int, int]
    """Shape (C, H, W) of its output for one sample."""


class HookedUNet(nn.Module):
    """Base of the U-Nets; a subclass says in `_block` what one block is.

    Called as `network(x, noise_labels, class_labels)`. A block's output goes both to the next block and to
    the skip connections, so that what a forward hook returns in its place reaches the decoder as well.
    """

    img_resolution: int
    """Height and width of the images, pixels."""
    img_channels: int
    """Channels of the images."""
    label_dim: int
    """Number of classes K; 0: unconditional."""
    label_dropout: float
    """Share of labels withheld in training."""
    enc: nn.ModuleDict
    """Blocks of the encoder by name; each name begins with the resolution."""
    dec: nn.ModuleDict
    """Blocks of the decoder by name; those named 'block' read a skip connection."""
    _attn_resolutions: frozenset[int]

    def _make_blocks(self, stem: nn.Module, width: int, channels: Sequence[int], num_blocks: int) -> None:
        """Make encoder and decoder.

        Args:
            stem: the input convolution.
            width: its output's channels.
            channels: those of each level, the highest resolution first.
            num_blocks: blocks of a level in the encoder; the decoder has one more.
        """
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        levels = [(self.img_resolution >> level, out_channels) for level, out_channels in enumerate(channels)]
        skips: list[int] = []
        for resolution, out_channels in levels:
            prefix = f"{resolution}x{resolution}"
            if resolution == self.img_resolution:
                self.enc[f"{prefix}_conv"] = stem
            else:
                self.enc[f"{prefix}_down"] = self._block("enc", width, width, resample="down")
                self.enc.update(self._beside_encoder(prefix, width))
            skips.append(width)
            for index in range(num_blocks):
                attention = self._attends(resolution)
                self.enc[f"{prefix}_block{index}"] = self._block("enc", width, out_channels, attention=attention)
                width = out_channels
                skips.append(width)
        for resolution, out_channels in reversed(levels):
            prefix = f"{resolution}x{resolution}"
            if resolution == levels[-1][0]:
                self.dec[f"{prefix}_in0"] = self._block("dec", width, width, attention=True)
                self.dec[f"{prefix}_in1"] = self._block("dec", width, width)
            else:
                self.dec[f"{prefix}_up"] = self._block("dec", width, width, resample="up")
            for index in range(num_blocks + 1):
                attention = self._attends(resolution, decoder=True, last=index == num_blocks)
                joined = width + skips.pop()
                self.dec[f"{prefix}_block{index}"] = self._block("dec", joined, out_channels, attention=attention)
                width = out_channels
            self.dec.update(self._beside_decoder(prefix, width, lowest=resolution == levels[-1][0]))

    def _block(
        self,
        part: Literal["enc", "dec"],
        in_channels: int,
        out_channels: int,
        *,
        resample: Literal["down", "up"] | None = None,
        attention: bool = False,
    ) -> nn.Module:
        """Return a block, called as `block(x, emb)`, with the attribute `out_channels`."""
        raise NotImplementedError

    def _attends(self, resolution: int, *, decoder: bool = False, last: bool = False) -> bool:
        """Tell whether a block of a level has self-attention."""
        return resolution in self._attn_resolutions

    def _beside_encoder(self, prefix: str, width: int) -> Mapping[str, nn.Module]:
        """Return what follows a block that halves the resolution and is no layer of its own."""
        return {}

    def _beside_decoder(self, prefix: str, width: int, *, lowest: bool) -> Mapping[str, nn.Module]:
        """Return what follows the decoder's blocks of a level and is no layer of its own."""
        return {}

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
        encoder = [(f"encoder_block_{i}", f"enc.{key}") for i, key in enumerate(self._blocks(self.enc))]
        encoder[-1] = ("encoder_bottleneck", encoder[-1][1])
        decoder = [(f"decoder_block_{i}", f"dec.{key}") for i, key in enumerate(self._blocks(self.dec))]
        decoder[0] = ("midblock", decoder[0][1])
        return tuple(
            HookPoint(name, self._output_path(path), self._output_shape(path)) for name, path in encoder + decoder
        )

    def _blocks(self, part: nn.ModuleDict) -> list[str]:
        """Return the names of the blocks of encoder or decoder whose outputs are layers."""
        return list(part)

    def _output_path(self, path: str) -> str:
        """Return the path of the module that puts out what the layers after a block read."""
        return path

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


def check_sizes(resolution: int, model_channels: int, channel_mult: Sequence[float], num_blocks: int) -> None:
    """Refuse sizes of which no U-Net can be made.

    Raises:
        ConfigError: naming the size and what would do.
    """
    if not channel_mult or min(channel_mult) <= 0 or num_blocks < 1:
        raise ConfigError(
            f"channel_mult {tuple(channel_mult)} and num_blocks {num_blocks} must name at least one level "
            "and one block, all factors above 0"
        )
    step = 2 ** (len(channel_mult) - 1)
    if resolution < step or resolution % step:
        raise ConfigError(
            f"img_resolution {resolution} cannot be halved {len(channel_mult) - 1} times; "
            f"use a multiple of {step} or fewer levels in channel_mult"
        )
    if model_channels < 4 or model_channels % 4:
        raise ConfigError(f"model_channels {model_channels} must be a positive multiple of 4")


def check_probability(name: str, value: float) -> None:
    """Refuse a probability that is not 0 … below 1.

    Raises:
        ConfigError: naming it.
    """
    if not (math.isfinite(value) and 0.0 <= value < 1.0):
        raise ConfigError(f"{name} {value} must be at least 0 and below 1")
