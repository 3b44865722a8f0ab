"""How a job runs: what may differ from one machine to another without changing the result."""

from dataclasses import dataclass
from typing import Literal

from diffviews.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Execution:
    """Device, processes, and what is done with earlier runs."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    devices: int = 1
    """Number of devices, a process each; under torchrun leave it out."""
    workers: Literal["auto"] | int = "auto"
    """Processes on this machine that make maps side by side; auto: as many as its cores allow."""
    resume: bool = False
    """Go on with a job that was killed."""
    force: bool = False
    """Run again even if a finished run has the same fingerprint."""

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise ConfigError(f"devices is {self.devices}; take 1 or more")
        if self.workers != "auto" and self.workers < 1:
            raise ConfigError(f"workers is {self.workers}; take 1 or more, or auto")
