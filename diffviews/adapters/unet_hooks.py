"""Hook points of diffusers' U-Nets: whole blocks, and below them single resnets and attentions."""

from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

import torch
from torch import nn

from diffviews.adapters.hooks import primary_tensor

H_SPACE = {"h_space": "mid_block"}
"""The name that the literature gives to the bottleneck's output (Kwon et al. 2023)."""


def unet_hook_points(unet: nn.Module) -> dict[str, str]:
    """Return {layer: path of its module}, in the order in which the forward pass makes the outputs.

    A block follows its parts, since its output is made last: `down_block_0_resnet_0,
    down_block_0_attention_0, …, down_block_0, …, mid_block, …, up_block_3`.
    """
    points: dict[str, str] = {}
    for number, block in enumerate(unet.get_submodule("down_blocks").children()):
        points.update(_block_points(block, f"down_block_{number}", f"down_blocks.{number}"))
    middle = getattr(unet, "mid_block", None)
    if middle is not None:
        points.update(_block_points(middle, "mid_block", "mid_block"))
    for number, block in enumerate(unet.get_submodule("up_blocks").children()):
        points.update(_block_points(block, f"up_block_{number}", f"up_blocks.{number}"))
    return points


def _block_points(block: nn.Module, layer: str, path: str) -> Iterator[tuple[str, str]]:
    # Down and up blocks run resnet i, then attention i; the middle has one resnet more, which runs last.
    resnets = list(getattr(block, "resnets", ()))
    attentions = list(getattr(block, "attentions", ()))
    for number, (resnet, attention) in enumerate(zip_longest(resnets, attentions)):
        if resnet is not None:
            yield f"{layer}_resnet_{number}", f"{path}.resnets.{number}"
        if attention is not None:
            yield f"{layer}_attention_{number}", f"{path}.attentions.{number}"
    yield layer, path


def measured_shapes(
    unet: nn.Module, points: Mapping[str, str], run: Callable[[nn.Module], Any]
) -> dict[str, tuple[int, ...]]:
    """Return each hook point's output shape for one sample, (C, H, W), without any memory for weights.

    Args:
        unet: a diffusers network; only its configuration is used.
        points: {layer: path of its module}.
        run: makes one forward pass of a network on the meta device with a batch of 1.
    """
    with torch.device("meta"):
        shadow = type(unet).from_config(dict(unet.config))  # type: ignore[attr-defined, arg-type]
    shapes: dict[str, tuple[int, ...]] = {}

    def note(layer: str) -> Callable[[Any, Any, Any], None]:
        return lambda module, inputs, output: shapes.__setitem__(layer, tuple(primary_tensor(output).shape[1:]))

    for layer, path in points.items():
        shadow.get_submodule(path).register_forward_hook(note(layer))
    with torch.no_grad():
        run(shadow)
    return {layer: shapes[layer] for layer in points}
