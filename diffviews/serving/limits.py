"""How much a worker takes: of one request, of its numbers, and of jobs at once. The one place for all of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffviews.data.disk import format_bytes
from diffviews.errors import ConfigError

GREATEST: Mapping[str, int] = {
    "num_samples": 256,
    "num_steps": 1000,
    "sample_ids": 10_000,
    "layers": 1000,
    "channels": 100_000,
    "sigmas": 64,
    "max_samples": 1_000_000,
    "batch_size": 1024,
    "devices": 16,
    "control_seeds": 100,
    "n_neighbors": 1000,
    "pca_components": 4096,
}
"""Greatest value of a number, or greatest length of a list, by its name."""
LONGEST_TEXT = 10_000
LONGEST_LIST = 10_000
GREATEST_NUMBER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker holds and reads at most."""

    body_bytes: int = 1 << 20
    """Length of a request's body."""
    body_seconds: float = 30.0
    """Time in which a body must have arrived."""
    waiting_jobs: int = 16
    """Jobs in the queue."""
    kept_jobs: int = 100
    """Jobs that are over and can still be asked about."""
    kept_seconds: float = 3600.0
    """How long those are kept."""
    result_bytes: int = 4 << 30
    """Images of all steps that a generation holds in memory."""

    def check_result(self, num_samples: int, num_steps: int, resolution: int) -> None:
        """Refuse a generation whose images of all steps would not fit in memory.

        Raises:
            ConfigError: with the numbers.
        """
        size = 2 * num_samples * num_steps * resolution**2 * 3
        if size > self.result_bytes:
            raise ConfigError(
                f"{num_samples} images of {resolution}×{resolution} in {num_steps} steps take {format_bytes(size)}, "
                f"this worker holds {format_bytes(self.result_bytes)}; ask for fewer images or steps"
            )


def check_values(values: Mapping[str, Any]) -> None:
    """Refuse numbers, texts and lists beyond what a worker takes, and numbers that are not finite.

    Raises:
        ConfigError: naming the value and the limit.
    """
    for name, value in values.items():
        _check(name, value)


def _check(name: str, value: Any) -> None:
    if isinstance(value, Mapping):
        check_values(value)
    elif isinstance(value, str):
        _check_length(name, len(value), LONGEST_TEXT, "characters")
        if "\0" in value:
            raise ConfigError(f"{name} holds a null character; leave it out")
    elif isinstance(value, list | tuple):
        _check_length(name, len(value), GREATEST.get(name, LONGEST_LIST), "entries")
        for entry in value:
            _check(f"{name} entry", entry)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        greatest = GREATEST.get(name, GREATEST_NUMBER)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name} {value} must be a finite number")
        if abs(value) > greatest:
            raise ConfigError(f"{name} {str(value)[:40]} is beyond what a worker takes, {greatest:,}; take less")
        if value < 0 and name in GREATEST:
            raise ConfigError(f"{name} {value} must not be negative")


def _check_length(name: str, length: int, greatest: int, what: str) -> None:
    if length > greatest:
        raise ConfigError(f"{name} has {length:,} {what}, a worker takes {greatest:,}; take fewer")
