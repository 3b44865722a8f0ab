"""What other programs call the modules of diffusers' U-Nets and of CLIP's text encoders: the original latent diffusion
code (Rombach et al. 2022), and those that train LoRA."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
"""Parts of a residual block: diffusers' name → the original one."""

STEM = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
"""Modules outside the blocks."""


PREFIXES = {
    "lora_unet_": "unet",
    "unet_": "unet",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te_": "text_encoder",
    "text_encoder_2_": "text_encoder_2",
    "text_encoder_": "text_encoder",
}
"""What stands before a module's name, dots written as underscores, and the network it belongs to."""
_WRAPPERS = ("base_model_model_", "lycoris_", "model_diffusion_model_", "diffusion_model_")


def ldm_names(unet: nn.Module) -> dict[str, str]:
    """Return {original name: diffusers' name} of every module of a U-Net that the original code has as well."""
    places = dict(_places(unet))
    names = {}
    for name, _ in unet.named_modules():
        parts = name.split(".")
        # The longest place that the module lies in; what follows keeps its name, except within a residual block.
        place = next((p for k in range(len(parts), 0, -1) if (p := ".".join(parts[:k])) in places), None)
        if place is None:
            continue
        rest = name[len(place) + 1 :]
        inner = RESNET.get(rest, rest) if ".resnets." in f".{place}." else rest
        names[".".join(filter(None, (places[place], inner)))] = name
    return names


def _places(unet: Any) -> Iterator[tuple[str, str]]:
    """Yield (diffusers' name, original name) of residual blocks, attentions, samplers and the stem.

    The original counts the resnets of all levels, and a level's down-sampling as one of them; an up-sampling
    stands behind the last resnet of its level.
    """
    yield from STEM.items()
    count = 1
    for level, block in enumerate(unet.down_blocks):
        for number, _ in enumerate(block.resnets):
            yield f"down_blocks.{level}.resnets.{number}", f"input_blocks.{count}.0"
            yield f"down_blocks.{level}.attentions.{number}", f"input_blocks.{count}.1"
            count += 1
        if getattr(block, "downsamplers", None) is not None:
            yield f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{count}.0.op"
            count += 1
    for number in (0, 1):
        yield f"mid_block.resnets.{number}", f"middle_block.{2 * number}"
    yield "mid_block.attentions.0", "middle_block.1"
    count = 0
    for level, block in enumerate(unet.up_blocks):
        attended = hasattr(block, "attentions")
        for number, _ in enumerate(block.resnets):
            yield f"up_blocks.{level}.resnets.{number}", f"output_blocks.{count}.0"
            yield f"up_blocks.{level}.attentions.{number}", f"output_blocks.{count}.1"
            count += 1
        if getattr(block, "upsamplers", None) is not None:
            yield f"up_blocks.{level}.upsamplers.0.conv", f"output_blocks.{count - 1}.{2 if attended else 1}.conv"


def find_module(name: str, tables: Mapping[str, Mapping[str, str]]) -> tuple[str, str] | None:
    """Return network and path of a module by its name in a file of LoRA, None where no network has it.

    Args:
        name: as the file has it, with whatever that program puts before a path.
        tables: network → `spellings` of its modules.
    """
    flat = name.replace(".", "_")
    for wrapper in _WRAPPERS:
        flat = flat.removeprefix(wrapper)
    for prefix, network in PREFIXES.items():
        if flat.startswith(prefix) and network in tables:
            bare = flat.removeprefix(prefix)
            for wrapper in _WRAPPERS:
                bare = bare.removeprefix(wrapper)
            return (network, tables[network][bare]) if bare in tables[network] else None
    # A bare path; one that two text encoders have says nothing of which is meant.
    found = [(network, table[flat]) for network, table in tables.items() if flat in table]
    return found[0] if len(found) == 1 else None


def spellings(name: str, network: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield (spelling with underscores, path) of every module with weights, in all spellings."""
    paths = [path for path, module in network.named_modules() if isinstance(getattr(module, "weight", None), Tensor)]
    original = {path: other for other, path in ldm_names(network).items()} if name == "unet" else {}
    for path in paths:
        for spelling in _variants(path, original.get(path)):
            yield spelling.replace(".", "_"), path


def _variants(path: str, original: str | None) -> Iterator[str]:
    yield path
    if original is not None:
        yield original
    head, _, tail = path.rpartition(".")
    if path.endswith(".to_out.0"):
        head, tail = path.removesuffix(".to_out.0"), "to_out"
        yield f"{head}.{tail}"
    if tail in ("to_q", "to_k", "to_v", "to_out"):  # attention processors of older versions of diffusers
        yield f"{head}.processor.{tail}"
    inner = path.removeprefix("text_model.")
    for spelling in (inner, inner.replace("self_attn.q_proj", "self_attn.to_q"),
                     inner.replace("self_attn.k_proj", "self_attn.to_k"),
                     inner.replace("self_attn.v_proj", "self_attn.to_v"),
                     inner.replace("self_attn.out_proj", "self_attn.to_out")):  # fmt: skip
        yield spelling
        yield f"text_model.{spelling}"
