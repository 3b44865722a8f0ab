"""LoRA of random factors for the networks of a diffusers pipeline, in the spellings of the programs that train them."""

from typing import Any

import torch
from torch import Tensor, nn

Factors = dict[str, dict[str, tuple[Tensor, Tensor]]]
"""Network → path of a module → (up, down)."""

NETWORKS = ("unet", "text_encoder", "text_encoder_2")
CHOSEN = ("to_q", "to_k", "to_out.0", "ff.net.2", "proj_in", "q_proj", "out_proj", "fc1")
CONVOLUTIONS = ("conv1", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "conv_in", "conv_out")


def networks_of(pipeline: Any) -> dict[str, nn.Module]:
    return {name: getattr(pipeline, name) for name in NETWORKS if getattr(pipeline, name, None) is not None}


def draw_factors(pipeline: Any, seed: int, rank: int = 3, endings: tuple[str, ...] = CHOSEN) -> Factors:
    """Return factors for every layer whose path ends so, large enough to be seen."""
    generator = torch.Generator().manual_seed(seed)
    factors: Factors = {}
    for network, module in networks_of(pipeline).items():
        for path, layer in module.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) and path.endswith(endings):
                rows, columns, *kernel = layer.weight.shape
                down = torch.randn(rank, columns, *kernel, generator=generator) * 0.2
                up = torch.randn(rows, rank, *[1] * len(kernel), generator=generator) * 0.2
                factors.setdefault(network, {})[path] = (up, down)
    return factors


def product(up: Tensor, down: Tensor) -> Tensor:
    """Return up @ down in the shape of the layer's weight."""
    return (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])


def kohya(factors: Factors, alpha: float | None, names: dict[str, str] | None = None) -> dict[str, Tensor]:
    """Spell factors as kohya's scripts: `lora_unet_…`, `lora_te_…` or, of two encoders, `lora_te1_…, lora_te2_…`.

    Args:
        factors: what to spell.
        alpha: of every module; None leaves it out.
        names: path → the name to write for modules of the U-Net instead.
    """
    two = "text_encoder_2" in factors
    prefix = {"unet": "lora_unet", "text_encoder": "lora_te1" if two else "lora_te", "text_encoder_2": "lora_te2"}
    tensors = {}
    for network, layers in factors.items():
        for path, (up, down) in layers.items():
            shown = (names or {}).get(path, path) if network == "unet" else _with_text_model(path)
            name = f"{prefix[network]}_{shown.replace('.', '_')}"
            tensors |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
            if alpha is not None:
                tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def diffusers(factors: Factors) -> dict[str, Tensor]:
    """Spell factors as `save_lora_weights` of diffusers does now."""
    return _dotted(factors, {name: f"{name}." for name in NETWORKS}, "lora_A.weight", "lora_B.weight")


def peft(factors: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Spell the factors of one network as a PeftModel saves them."""
    return _dotted({"unet": factors}, {"unet": "base_model.model."}, "lora_A.weight", "lora_B.weight")


def bare(factors: dict[str, tuple[Tensor, Tensor]], down: str, up: str) -> dict[str, Tensor]:
    """Spell the factors of one network by its own paths alone."""
    return _dotted({"unet": factors}, {"unet": ""}, down, up)


def older_diffusers(factors: Factors) -> dict[str, Tensor]:
    """Spell the attention's factors as diffusers did when LoRA were attention processors."""
    tensors = {}
    for network, layers in factors.items():
        for path, (up, down) in layers.items():
            if network == "unet":
                name = f"unet.{path.removesuffix('.0')}_lora".replace("attn1.", "attn1.processor.")
                name = name.replace("attn2.", "attn2.processor.")
            else:
                name = f"{network}.{_with_text_model(path)}.lora_linear_layer"
            tensors |= {f"{name}.up.weight": up, f"{name}.down.weight": down}
    return tensors


def _dotted(factors: Factors, prefixes: dict[str, str], down: str, up: str) -> dict[str, Tensor]:
    return {
        f"{prefixes[network]}{path}.{ending}": tensor
        for network, layers in factors.items()
        for path, pair in layers.items()
        for ending, tensor in ((up, pair[0]), (down, pair[1]))
    }


def _with_text_model(path: str) -> str:
    return path if path.startswith("text_model.") or path == "text_projection" else f"text_model.{path}"
