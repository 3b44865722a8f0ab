"""State dicts of guided-diffusion: what names and shapes tell of the network, and the same weights by our names."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from diffviews.errors import ConfigError

BLOCK_NAMES = {
    "in_layers.0": "norm0", "in_layers.2": "conv0", "emb_layers.1": "affine", "out_layers.0": "norm1",
    "out_layers.3": "conv1", "skip_connection": "skip",
}  # fmt: skip
"""Parts of a residual block, theirs to ours."""
ATTENTION_NAMES = {"norm": "norm2", "qkv": "qkv", "proj_out": "proj"}
OUTER_NAMES = {
    "time_embed.0": "map_layer0", "time_embed.2": "map_layer1", "label_emb": "map_label", "out.0": "out_norm",
    "out.2": "out_conv",
}  # fmt: skip


def read_architecture(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what the names and shapes of a state dict tell of its network.

    Raises:
        ConfigError: if it is of another kind of network, saying of which where that can be seen.
    """
    stem, out = tensors.get("input_blocks.0.0.weight"), tensors.get("out.2.weight")
    embedding = tensors.get("time_embed.0.weight")
    if stem is None or embedding is None:
        raise ConfigError("it holds no network of guided-diffusion")
    if out is None or "output_blocks.0.0.in_layers.0.weight" not in tensors:
        raise ConfigError("it holds no denoiser; guided-diffusion's classifiers are not supported")
    if stem.shape[1] not in (1, 3) or out.shape[0] not in (stem.shape[1], 2 * stem.shape[1]):
        raise ConfigError(
            f"it maps {stem.shape[1]} channels to {out.shape[0]}; guided-diffusion's upsamplers and networks over "
            "latents are not supported"
        )
    if any(".op." in name or name.endswith(".conv.weight") for name in tensors):
        raise ConfigError("it changes the resolution by convolutions; only networks with resblock_updown are supported")
    inputs = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("input_blocks."))
    levels = 1 + sum(_is_up(tensors, index) for index in range(inputs))
    blocks, left = divmod(inputs, levels)
    if left or blocks < 2:
        raise ConfigError(f"its {inputs} input blocks are no {levels} levels")
    firsts = [1 + level * blocks for level in range(levels)]
    try:
        widths = [tensors[f"input_blocks.{index}.0.in_layers.2.weight"].shape[0] for index in firsts]
        affine = tensors["input_blocks.1.0.emb_layers.1.weight"].shape[0]
    except KeyError as error:
        raise ConfigError(f"it lacks {error}") from error
    channels = embedding.shape[1]
    return {
        "img_channels": stem.shape[1],
        "out_channels": out.shape[0],
        "label_dim": tensors["label_emb.weight"].shape[0] if "label_emb.weight" in tensors else 0,
        "model_channels": channels,
        "channel_mult": [_factor(width, channels) for width in widths],
        "num_blocks": blocks - 1,
        "attn_levels": [n for n, index in enumerate(firsts) if f"input_blocks.{index}.1.qkv.weight" in tensors],
        "use_scale_shift_norm": affine == 2 * widths[0],
    }


def _factor(width: int, channels: int) -> float:
    return width // channels if width % channels == 0 else width / channels


def _is_up(tensors: Mapping[str, Tensor], index: int) -> bool:
    """Tell whether the resolution is doubled after the decoder's block of this index."""
    return any(f"output_blocks.{index}.{place}.in_layers.0.weight" in tensors for place in (1, 2))


def renamed(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a state dict of guided-diffusion under this project's names, its attention in this project's order.

    What has no place here keeps its name, so that it is found to be unknown.
    """
    names = {f"{theirs}.": f"{ours}." for theirs, ours in places(config)}
    weights = {}
    for name, tensor in tensors.items():
        prefix = next((prefix for prefix in names if name.startswith(prefix)), "")
        own = names[prefix] + name.removeprefix(prefix) if prefix else name
        if own == "map_label.weight":
            tensor = tensor.T.contiguous()
        elif ".qkv." in own:
            tensor = _interleaved(tensor, config)
        weights[own] = tensor[..., None] if own.endswith((".qkv.weight", ".proj.weight")) else tensor
    return weights


def places(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the names of all modules that may have parameters, theirs and ours.

    Args:
        config: `image_size`, and `num_blocks`, `channel_mult` and `attn_levels` as `read_architecture` tells them.
    """
    size, blocks, levels = int(config["image_size"]), config["num_blocks"], len(config["channel_mult"])
    yield from OUTER_NAMES.items()
    yield "input_blocks.0.0", f"enc.{size}x{size}_conv"
    index = 1
    for level in range(levels):
        prefix = f"{size >> level}x{size >> level}"
        if level:
            yield from _block(f"input_blocks.{index}", f"enc.{prefix}_down")
            index += 1
        for number in range(blocks):
            yield from _block(f"input_blocks.{index}", f"enc.{prefix}_block{number}")
            index += 1
    yield from _block("middle_block", f"dec.{prefix}_in0")
    yield from _residual("middle_block.2", f"dec.{prefix}_in1")
    index = 0
    for level in reversed(range(levels)):
        prefix = f"{size >> level}x{size >> level}"
        for number in range(blocks + 1):
            if level and number == blocks:
                place = 2 if level in config["attn_levels"] else 1
                larger = size >> (level - 1)
                yield from _residual(f"output_blocks.{index}.{place}", f"dec.{larger}x{larger}_up")
            yield from _block(f"output_blocks.{index}", f"dec.{prefix}_block{number}")
            index += 1


def _block(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    yield from _residual(f"{theirs}.0", ours)
    for part, own in ATTENTION_NAMES.items():
        yield f"{theirs}.1.{part}", f"{ours}.{own}"


def _residual(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    for part, own in BLOCK_NAMES.items():
        yield f"{theirs}.{part}", f"{ours}.{own}"


def _interleaved(qkv: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Return the rows of query, key and value interleaved channel by channel within each head."""
    width = qkv.shape[0] // 3
    head_channels = int(config.get("num_head_channels", -1))
    heads = width // head_channels if head_channels > 0 else int(config["num_heads"])
    if config["use_new_attention_order"]:
        parted = qkv.reshape(3, heads, -1, *qkv.shape[1:]).movedim(0, 2)
    else:
        parted = qkv.reshape(heads, 3, -1, *qkv.shape[1:]).movedim(1, 2)
    return parted.reshape(qkv.shape)
