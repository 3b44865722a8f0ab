"""A training that was interrupted: network, average and optimiser as plain tensors, from which it goes on."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from diffviews.data.files import write_atomically
from diffviews.errors import CorruptDataError
from diffviews.lightning.training_config import OptimiserConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

_NETWORK, _OPTIMISER = "network.", "optimiser."


def save_state(
    path: Path, module: "nn.Module", optimiser: torch.optim.Optimizer, config: OptimiserConfig, step: int
) -> None:
    """Write all that the next step depends on, whole or not at all.

    Args:
        path: a .safetensors file.
        module: the network and its average.
        optimiser: Adam; its moments are kept by the number of their parameter.
        config: of the training.
        step: how many steps are done.
    """
    tensors = {f"{_NETWORK}{name}": value for name, value in module.state_dict().items()}
    for number, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"{_OPTIMISER}{number}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    plain = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    content = save(plain, metadata={"step": str(step), "config": _text(config)})
    write_atomically(path, lambda file: file.write(content))


def load_state(
    path: Path, module: "nn.Module", config: OptimiserConfig
) -> tuple[int, "dict[int, dict[str, Tensor]]"]:
    """Put a network and its average back; return how many steps are done, and Adam's moments by parameter.

    Raises:
        CorruptDataError: if the file cannot be read, or is that of another training.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get("config") != _text(config):
            raise CorruptDataError(f"{path} is the state of another training; start without resume")
        network = {n.removeprefix(_NETWORK): t for n, t in tensors.items() if n.startswith(_NETWORK)}
        module.load_state_dict(network)
        moments: dict[int, dict[str, Tensor]] = {}
        for name in tensors.keys() - {f"{_NETWORK}{name}" for name in network}:
            number, _, moment = name.removeprefix(_OPTIMISER).partition(".")
            moments.setdefault(int(number), {})[moment] = tensors[name]
        return int(metadata["step"]), moments
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise CorruptDataError(f"the state of the training {path} cannot be read: {error}") from error


def _text(config: OptimiserConfig) -> str:
    return json.dumps(asdict(config), sort_keys=True)
