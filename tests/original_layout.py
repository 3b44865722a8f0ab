"""Pipelines of diffusers written as the original Stable Diffusion and SDXL were published: one file of all tensors."""

import re
from typing import Any

import torch
from torch import Tensor

from diffviews.adapters.module_names import ldm_names

_VAE_PARTS = (
    (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2"),
    (r"down_blocks\.(\d)\.downsamplers\.0\.conv", r"down.\1.downsample.conv"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
)
_OPENCLIP = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip


def unet_tensors(pipeline: Any, prefix: str = "model.diffusion_model.") -> dict[str, Tensor]:
    names = {path: other for other, path in ldm_names(pipeline.unet).items()}
    stored = {}
    for name, tensor in pipeline.unet.state_dict().items():
        path, _, kind = name.rpartition(".")
        stored[f"{prefix}{names[path]}.{kind}"] = tensor
    return stored


def vae_tensors(pipeline: Any) -> dict[str, Tensor]:
    depth = len(pipeline.vae.config.block_out_channels)
    stored = {}
    for name, tensor in pipeline.vae.state_dict().items():
        for pattern, written in _VAE_PARTS:
            name = re.sub(pattern, written, name)
        name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{depth - 1 - int(m[1])}.block.{m[2]}", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{depth - 1 - int(m[1])}.upsample", name)
        as_convolution = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name)
        stored[f"first_stage_model.{name}"] = tensor[:, :, None, None] if as_convolution else tensor
    return stored


def clip_tensors(encoder: Any, prefix: str) -> dict[str, Tensor]:
    """Spell a text encoder as OpenAI's: the names of transformers, and numbers of places that nothing needs."""
    stored = {f"{prefix}text_model.{name.removeprefix('text_model.')}": t for name, t in encoder.state_dict().items()}
    length = encoder.config.max_position_embeddings
    return {**stored, f"{prefix}text_model.embeddings.position_ids": torch.arange(length)[None]}


def openclip_tensors(encoder: Any, prefix: str, *, another_layer: bool = False) -> dict[str, Tensor]:
    """Spell a text encoder as OpenCLIP's, with query, key and value in one; Stable Diffusion 2 has a layer more."""
    given = {name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()}
    layers, width = encoder.config.num_hidden_layers, encoder.config.hidden_size
    stored = {
        "positional_embedding": given["embeddings.position_embedding.weight"],
        "token_embedding.weight": given["embeddings.token_embedding.weight"],
        "ln_final.weight": given["final_layer_norm.weight"],
        "ln_final.bias": given["final_layer_norm.bias"],
        "text_projection": given["text_projection.weight"].T if "text_projection.weight" in given else torch.eye(width),
        "logit_scale": torch.ones(()),
    }
    for number in range(layers + another_layer):
        of, to = f"encoder.layers.{min(number, layers - 1)}", f"transformer.resblocks.{number}"
        for kind in ("weight", "bias"):
            stored |= {f"{to}.{other}.{kind}": given[f"{of}.{own}.{kind}"] for own, other in _OPENCLIP.items()}
            parts = [given[f"{of}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            stored[f"{to}.attn.in_proj_{kind}"] = torch.cat(parts)
    return {prefix + name: tensor for name, tensor in stored.items()}


def original(pipeline: Any, *, openclip: bool = False) -> dict[str, Tensor]:
    """Return all tensors of a pipeline in the original layout: that of SDXL, Stable Diffusion 1 or, by openclip, 2."""
    stored = {**unet_tensors(pipeline), **vae_tensors(pipeline)}
    if hasattr(pipeline, "text_encoder_2"):
        stored |= clip_tensors(pipeline.text_encoder, "conditioner.embedders.0.transformer.")
        stored |= openclip_tensors(pipeline.text_encoder_2, "conditioner.embedders.1.model.")
    elif openclip:
        stored |= openclip_tensors(pipeline.text_encoder, "cond_stage_model.model.", another_layer=True)
    else:
        stored |= clip_tensors(pipeline.text_encoder, "cond_stage_model.transformer.")
    return {name: tensor.clone().contiguous() for name, tensor in stored.items()}
