"""Small changes of a weight: LoRA (Hu et al. 2022), DoRA (Liu et al. 2024), LoHa (Hyeon-Woo et al. 2022), LoKr
(Yeh et al. 2024), IA3 (Liu et al. 2022) and plain differences, each merged in float32.

Merged here and not by diffusers, which leaves out DoRA's magnitudes, text encoders and whatever it has no name for.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from diffviews.errors import CheckpointError

Parts = Mapping[str, Tensor]
"""Tensors of one module's change, by kind."""

_NAMED = r"(?:\.(?!bias$)\w+?)?(?:\.weight)?$"  # peft's name of the adapter, 'default' unless it was given one
_KINDS = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("down", r"(?:[._]lora(?:_linear_layer)?[._]down|[._]lora_A)" + _NAMED),
        ("up", r"(?:[._]lora(?:_linear_layer)?[._]up|[._]lora_B)" + _NAMED),
        ("up_bias", r"[._]lora_B(?:\.default)?\.bias$"),
        ("mid", r"[._]lora_mid" + _NAMED),
        ("magnitude", r"[._]lora_magnitude_vector" + _NAMED),
        ("dora_scale", r"[._]dora_scale" + _NAMED),
        ("alpha", r"\.alpha$"),
        ("difference", r"\.(?:diff|w_norm)$"),
        ("bias_difference", r"\.(?:diff_b|b_norm)$"),
        ("ia3", r"\.ia3_l(?:\.default)?$"),
    )
)
_FACTORS = re.compile(r"\.((?:hada_(?:w[12]_[ab]|t[12]))|(?:lokr_(?:w[12](?:_[ab])?|t2)))(?:\.default)?$")
"""Factors of LoHa and LoKr, whose kinds have the names they are stored by."""


def split_name(name: str) -> tuple[str, str] | None:
    """Return module and kind of a stored tensor, None when no kind is known by such a name."""
    found = _FACTORS.search(name)
    if found:
        return name[: found.start()], found.group(1)
    for kind, pattern in _KINDS:
        found = pattern.search(name)
        if found and found.start():
            return name[: found.start()], kind
    return None


def rank_of(parts: Parts) -> int | None:
    """Return the rank of a change, None where its factors are whole matrices."""
    for kind in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
        if kind in parts:
            return len(parts[kind])
    return None


def merged(weight: Tensor, parts: Parts, scale: float) -> Tensor:
    """Return a weight with a change merged into it: W + s ΔW; for DoRA m (W + s ΔW) / |W + s ΔW|.

    Args:
        weight: that of a linear layer, (out, in), or of a convolution, (out, in, kH, kW).
        parts: the change.
        scale: strength times alpha / rank.

    Returns:
        The same shape, float32.

    Raises:
        CheckpointError: if the factors are incomplete or of other shapes, without the module's name.
    """
    weight = weight.to(torch.float32)
    parts = {kind: tensor.to(torch.float32) for kind, tensor in parts.items()}
    try:
        changed = weight + scale * _difference(parts, weight.shape)
    except KeyError as error:
        raise CheckpointError(f"lacks its factor {error.args[0]!r}") from error
    except RuntimeError as error:
        shapes = ", ".join(f"{kind} {tuple(tensor.shape)}" for kind, tensor in parts.items())
        raise CheckpointError(f"has factors ({shapes}) that do not make {tuple(weight.shape)}") from error
    if "magnitude" in parts:
        return _of_magnitude(changed, parts["magnitude"], 0)
    if "dora_scale" in parts:  # LyCORIS keeps one an input channel as (1, in, …), and one an output as (out, 1, …)
        stored = tuple(parts["dora_scale"].shape[:2])
        return _of_magnitude(changed, parts["dora_scale"], 1 if stored == (1, weight.shape[1]) else 0)
    return changed


def scaled_by_ia3(
    weight: Tensor, bias: Tensor | None, ia3: Tensor, scale: float, *, on_input: bool
) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of a layer whose input or output channels IA3 multiplies, in float32.

    Args:
        weight: (out, in) or (out, in, kH, kW).
        bias: (out,) or None.
        ia3: one factor a channel, in any shape.
        scale: strength: 0 is no change.
        on_input: whether the input is multiplied.

    Raises:
        CheckpointError: if there are not as many factors as channels, without the module's name.
    """
    channels = weight.shape[1 if on_input else 0]
    if ia3.numel() != channels:
        raise CheckpointError(f"has {ia3.numel()} factors for {channels} channels")
    factors = 1 + scale * (ia3.to(torch.float32).flatten() - 1)
    shape = (1, -1) if on_input else (-1, 1)
    changed = weight.to(torch.float32) * factors.reshape(*shape, *[1] * (weight.ndim - 2))
    return changed, bias if on_input or bias is None else bias.to(torch.float32) * factors


def _difference(parts: Parts, shape: torch.Size) -> Tensor:
    if "difference" in parts:
        return parts["difference"].reshape(shape)
    if any(kind.startswith("hada_") for kind in parts):
        return (_hadamard(parts, 1) * _hadamard(parts, 2)).reshape(shape)
    if any(kind.startswith("lokr_") for kind in parts):
        return torch.kron(_kronecker(parts, "w1"), _kronecker(parts, "w2").flatten(1)).reshape(shape)
    up, down = parts["up"].flatten(1), parts["down"]
    if "mid" in parts:
        return torch.einsum("ijkl,pi,jr->prkl", parts["mid"], up, down.flatten(1)).reshape(shape)
    if (len(up), down.shape[1]) != (shape[0], shape[1]):
        raise RuntimeError
    return (up @ down.flatten(1)).reshape(shape)


def _hadamard(parts: Parts, number: int) -> Tensor:
    a, b = parts[f"hada_w{number}_a"], parts[f"hada_w{number}_b"]
    if f"hada_t{number}" in parts:
        return torch.einsum("ijkl,ip,jr->prkl", parts[f"hada_t{number}"], a, b)
    return a @ b


def _kronecker(parts: Parts, name: str) -> Tensor:
    if f"lokr_{name}" in parts:
        return parts[f"lokr_{name}"]
    a, b = parts[f"lokr_{name}_a"], parts[f"lokr_{name}_b"]
    if f"lokr_t{name[1:]}" in parts:
        return torch.einsum("ijkl,ip,jr->prkl", parts[f"lokr_t{name[1:]}"], a, b)
    return a @ b


def _of_magnitude(weight: Tensor, magnitude: Tensor, axis: int) -> Tensor:
    """Return a weight whose norms along an axis of channels are given."""
    if magnitude.numel() != weight.shape[axis]:
        raise CheckpointError(f"has {magnitude.numel()} magnitudes for {weight.shape[axis]} channels")
    shape = [-1 if number == axis else 1 for number in range(weight.ndim)]
    others = [number for number in range(weight.ndim) if number != axis]
    return weight * (magnitude.reshape(shape) / torch.linalg.vector_norm(weight, dim=others, keepdim=True))
