"""Reading a network's weights from any checkpoint that holds one, every fault told before use."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffviews.adapters.edm_networks import pickled_config
from diffviews.adapters.layouts import Layout, layout_of, other_layout
from diffviews.data.checkpoints import model_file, read_checkpoint_file
from diffviews.errors import CheckpointError, ConfigError

_WRAPPERS = ("module.", "_orig_mod.", "feedforward_model.", "generator.", "unet.", "ema.")
"""Names that training programs put before a network's own: those of wrappers, and of one network of several."""


@dataclass(frozen=True, slots=True)
class NetworkCheckpoint:
    """Weights and the configuration found with them."""

    path: Path
    """File they came from, for messages."""
    tensors: dict[str, Tensor]
    """Parameters and buffers by name, without the preconditioning's leading 'model.'."""
    config: dict[str, Any] = field(default_factory=dict)
    """Network configuration; empty when the checkpoint brings none."""


def read_checkpoint(path: str | Path, wanted: Layout = "EDM") -> NetworkCheckpoint:
    """Read the weights of a network of EDM, EDM2 or this project, or of guided-diffusion.

    Its configuration is in the metadata of a safetensors file, in `<name>.json` beside it, or in the
    pickled network of EDM itself.

    Args:
        path: a safetensors file, a pickle of EDM, a state dict of torch such as DMD2's
            `pytorch_model.bin`, or a folder with one of them in it.
        wanted: layout of the names in it.

    Raises:
        CheckpointError: if it is missing, truncated, hostile, of another network or holds NaN.
    """
    file = model_file(path)
    stored, metadata = read_checkpoint_file(file)
    layout = layout_of(stored)
    if layout not in (wanted, "unknown"):
        raise other_layout(file, layout, f"a network of {wanted}")
    tensors = network_names(stored)
    check_finite_weights(f"checkpoint {file}", tensors)
    return NetworkCheckpoint(file, tensors, network_config(file, metadata))


def network_names(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the raw network's own names.

    Prefixes of wrappers go; where a file holds several networks of a training, the generator's stay.
    The mapping of augmentations goes too: it acts in training only.
    """
    tensors = dict(stored)
    while prefix := next((wrapper for wrapper in _WRAPPERS if any(name.startswith(wrapper) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    tensors = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("map_augment.")}


def network_config(file: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration that comes with a checkpoint, {} if none does.

    Raises:
        CheckpointError: if it cannot be read or is that of another kind of network.
    """
    if "init_kwargs" in metadata:
        try:
            return pickled_config(str(metadata.get("class_name")), metadata["init_args"], metadata["init_kwargs"])
        except ConfigError as error:
            raise CheckpointError(f"checkpoint {file}: {error}") from error
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


def check_finite_weights(what: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights with NaN or infinite values.

    Args:
        what: what they are of, for the message, such as 'checkpoint a.safetensors'.
        tensors: parameters and buffers by name.

    Raises:
        CheckpointError: naming the first such tensor.
    """
    for name, tensor in tensors.items():
        wide = tensor.to(torch.float16) if tensor.is_floating_point() and tensor.itemsize == 1 else tensor
        if tensor.is_floating_point() and not torch.isfinite(wide).all():
            raise CheckpointError(f"{what}: tensor {name!r} holds NaN or infinite values")


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"it is a {type(value).__name__}, not a mapping")
    return value


def check_names_and_shapes(what: str, given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse weights that do not fit a network's `state_dict()`.

    Args:
        what: what they are of, for the message.
        given: the weights.
        expected: the network's own parameters and buffers.

    Raises:
        CheckpointError: naming the first tensors that are missing, unknown or of another shape.
    """
    faults = {
        "missing": sorted(expected.keys() - given.keys()),
        "unknown": sorted(given.keys() - expected.keys()),
        "of another shape": [
            f"{name} is {tuple(given[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in given and given[name].shape != tensor.shape
        ],
        "of whole numbers, as if it were quantised": [
            f"{name} is {str(given[name].dtype).removeprefix('torch.')}"
            for name, tensor in expected.items()
            if name in given and tensor.is_floating_point() and not given[name].is_floating_point()
        ],
    }
    told = [f"{len(names)} {fault} ({', '.join(names[:3])})" for fault, names in faults.items() if names]
    if told:
        raise CheckpointError(f"{what} does not fit the network: {'; '.join(told)}")


def load_weights(network: nn.Module, path: str | Path, prefixes: Sequence[str] = ("",)) -> None:
    """Put the weights of a checkpoint into a network that somebody else defined, each name and shape checked.

        load_weights(self.net, "model-1.pt", ["ema_model.model.", "model."])

    Args:
        network: what takes them.
        path: a file or folder, as `read_checkpoint_file` takes it.
        prefixes: what may stand before the network's own names; the first that is found counts, and tensors without
            it are left aside.

    Raises:
        CheckpointError: if it is missing, truncated, hostile, of another network or holds NaN.
    """
    stored, _ = read_checkpoint_file(path)
    prefix = next((given for given in prefixes if any(name.startswith(given) for name in stored)), prefixes[0])
    weights = {name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)}
    check_names_and_shapes(f"checkpoint {path}", weights, network.state_dict())
    check_finite_weights(f"checkpoint {path}", weights)
    network.load_state_dict(weights)
