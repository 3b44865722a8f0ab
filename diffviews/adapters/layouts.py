"""What a file of weights holds, told by the names in it, and the way for those that a model does not take."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from diffviews.adapters.low_rank import split_name
from diffviews.errors import CheckpointError

Layout = Literal[
    "diffusers U-Net", "Stable Diffusion", "latent diffusion", "guided-diffusion", "lucidrains", "k-diffusion",
    "EDM", "LoRA", "ControlNet", "VAE", "textual inversion", "transformer", "Stable Diffusion's average alone",
    "unknown",
]  # fmt: skip

_SIGNS: tuple[tuple[Layout, str], ...] = (
    ("ControlNet", r"^(control_model\.|input_hint_block\.|controlnet_)"),
    ("Stable Diffusion", r"^((model\.)?diffusion_model\.)?(input_blocks|middle_block)\..*transformer_blocks\."),
    ("latent diffusion", r"^((model\.)?diffusion_model\.)input_blocks\."),
    ("guided-diffusion", r"^(module\.)?input_blocks\.\d+\.\d+\."),
    ("lucidrains", r"(^|\.)(downs\.\d+\.\d+\.(block1|mlp|fn|norm|to_qkv)|init_conv\.weight$)"),
    ("k-diffusion", r"^(inner_model\.)?(u_net\.[du]_blocks|patch_in|down_levels|mapping)\."),
    ("EDM", r"(^|\.)(enc\.\d+x\d+_|map_noise\.|map_layer0\.|emb_noise\.)"),
    ("Stable Diffusion's average alone", r"^model_ema\.diffusion_model"),
    ("VAE", r"^(first_stage_model\.|vae\.)?(encoder|decoder)\.(conv_in|down|mid)"),
    ("diffusers U-Net", r"(^|\.)(down_blocks|up_blocks)\.\d+\.(resnets|attentions)\."),
    ("transformer", r"(^|\.)(double_blocks|joint_blocks|(single_)?transformer_blocks|single_blocks|x_embedder|head)\."
     r"|(^|\.)blocks\.\d+\.\w*attn\b|adaLN_modulation|cap_embedder|patchify_proj"),
    ("textual inversion", r"^(emb_params|string_to_param|clip_[lg]$|<.*>$)"),
)
"""Names of each layout, tried in turn: one name decides."""

WRAPPED = re.compile(r"^(?:module\.|_orig_mod\.)+")
"""What torch's wrappers for several devices and for compiling put before a name."""

_OWN = "write an adapter for it (docs/adapters.md; half a page around its own network)"
_WAYS: dict[Layout, str] = {
    "diffusers U-Net": "give it by unet= with a diffusers folder as the checkpoint, or a folder with model_index.json",
    "Stable Diffusion": "load it as model sd-v1.5 (Stable Diffusion 1 and 2) or sdxl",
    "latent diffusion": "it has no text; its published folders in diffusers' layout name the pipeline that reads them, "
    f"otherwise {_OWN}",
    "guided-diffusion": "load it as model adm-imagenet-64, -128, -256 or -512 (docs/adapters.md)",
    "lucidrains": f"{_OWN}, with Unet and GaussianDiffusion of denoising-diffusion-pytorch as the network",
    "k-diffusion": f"{_OWN}, with make_denoiser_wrapper of k-diffusion as the network: it denoises at sigma as it is",
    "EDM": "load it as model edm, edm-imagenet-64 or another of EDM's",
    "LoRA": "give it by lora= with the model it was trained for as the checkpoint",
    "ControlNet": "it steers another network and makes no images by itself; give the model it belongs to",
    "VAE": "it is a part of a latent diffusion model; give the whole model",
    "textual inversion": "it is an embedding of words; give the model it belongs to",
    "Stable Diffusion's average alone": "their names have lost their dots, so that no converter reads them; give the "
    "file that holds the plain weights too, or a folder of diffusers",
    "transformer": f"networks of that kind are not read yet; {_OWN}",
    "unknown": _OWN,
}


def layout_of(names: Iterable[str]) -> Layout:
    """Return what layout the names of a file's tensors are of."""
    known = [WRAPPED.sub("", name) for name in names]
    if any(split[1] != "alpha" for name in known if (split := split_name(name))):
        return "LoRA"
    for layout, sign in _SIGNS:
        pattern = re.compile(sign)
        if any(pattern.search(name) for name in known):
            return layout
    return "unknown"


def other_layout(path: str | Path, layout: Layout, wanted: str) -> CheckpointError:
    """Return the error for a file of another layout than is wanted, which names the way.

    Args:
        path: the file.
        layout: what it holds.
        wanted: what the model takes, such as 'the weights of EDM'.
    """
    held = "weights of a layout that is not known here" if layout == "unknown" else f"weights of {layout}"
    return CheckpointError(f"checkpoint {path} holds {held}, not {wanted}; {_WAYS[layout]}")
