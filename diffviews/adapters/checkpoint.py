"""Reading an EDM network's weights from safetensors, with every fault told before use."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffviews.data.checkpoints import read_safetensors
from diffviews.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class NetworkCheckpoint:
    """Weights and the configuration found with them."""

    path: Path
    """File they came from, for messages."""
    tensors: dict[str, Tensor]
    """Parameters and buffers by name, without the preconditioning's leading 'model.'."""
    config: dict[str, Any] = field(default_factory=dict)
    """Network configuration; empty when the checkpoint brings none."""


def read_checkpoint(path: str | Path) -> NetworkCheckpoint:
    """Read a safetensors file; its configuration is in the file's metadata or in `<name>.json` beside it.

    Raises:
        CheckpointError: if the file is missing, truncated, pickled, not safetensors or holds NaN.
    """
    file = Path(path)
    stored, metadata = read_safetensors(file)
    tensors = {name.removeprefix("model."): tensor for name, tensor in stored.items()}
    _check_finite(file, tensors)
    return NetworkCheckpoint(file, tensors, _config(file, metadata))


def _check_finite(file: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"checkpoint {file}: tensor {name!r} holds NaN or infinite values")


def _config(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    beside = file.with_suffix(".json")
    try:
        if "config" in metadata:
            return _mapping(json.loads(metadata["config"]))
        if beside.is_file():
            record = _mapping(json.loads(beside.read_text(encoding="utf-8")))
            return _mapping(record.get("network", record.get("config", {})))
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise CheckpointError(f"the configuration of checkpoint {file} cannot be read: {error}") from error
    return {}


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"it is a {type(value).__name__}, not a mapping")
    return value


def check_names_and_shapes(checkpoint: NetworkCheckpoint, expected: Mapping[str, Tensor]) -> None:
    """Refuse weights that do not fit a network's `state_dict()`.

    Raises:
        CheckpointError: naming the first tensors that are missing, unknown or of another shape.
    """
    missing = sorted(expected.keys() - checkpoint.tensors.keys())
    unknown = sorted(checkpoint.tensors.keys() - expected.keys())
    misfits = [
        f"{name} is {tuple(checkpoint.tensors[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in checkpoint.tensors and checkpoint.tensors[name].shape != tensor.shape
    ]
    faults = {"missing": missing, "unknown": unknown, "of another shape": misfits}
    told = [f"{len(names)} {what} ({', '.join(names[:3])})" for what, names in faults.items() if names]
    if told:
        raise CheckpointError(f"checkpoint {checkpoint.path} does not fit the network: {'; '.join(told)}")
