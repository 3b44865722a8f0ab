"""The one place that chooses a device, and tells this machine from others."""

import ipaddress
import logging

import torch

from diffviews.errors import ConfigError

_log = logging.getLogger(__name__)


def resolve_device(device: str | torch.device | None = "auto") -> torch.device:
    """Return the device to compute on; 'auto' or None takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: if a device is asked for that this machine lacks.
    """
    if device is None or str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device {str(device)!r} is unknown; use auto, cpu, cuda, cuda:N or mps") from error
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(chosen.type, True):
        raise ConfigError(f"device {str(device)!r} is not available on this machine; use auto or cpu")
    return chosen


def device_or_best(device: str | torch.device | None) -> torch.device:
    """Return the device; 'cuda', the default of older interfaces, falls back on a machine that has none.

    Raises:
        ConfigError: if another device is asked for that this machine lacks.
    """
    if str(device) == "cuda" and not torch.cuda.is_available():
        best = resolve_device("auto")
        _log.warning("device 'cuda' is not available on this machine; using %s", best)
        return best
    return resolve_device(device)


def is_this_machine(host: str) -> bool:
    """Tell whether an address to listen on can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
