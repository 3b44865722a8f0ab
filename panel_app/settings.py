"""How the dashboard was started: flags after `--args`, then the environment."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from diffviews.core.request import GenerationRequest
from diffviews.errors import ConfigError
from panel_app.generation.sampling_section import FirstValues

_OWN_NAMES = {"tracking_uri": "MLFLOW_TRACKING_URI", "worker": "DIFFVIEWS_WORKER_URL"}
"""Variables that are not called like their setting."""
_NUMBERS: dict[str, Callable[[str], Any]] = {"num_steps": int, "guidance_scale": float}


@dataclass(frozen=True, slots=True)
class Settings:
    """What a dashboard process serves."""

    profile: str | None = None
    """Tracking profile: a name in `mlruns_config` or the path of a TOML file."""
    tracking_uri: str | None = None
    """Tracking address; wins over the profile's."""
    experiment: str | None = None
    """Experiment that generations are logged to; None takes the profile's."""
    model: str | None = None
    """Model whose newest extraction a first visit opens."""
    device: str = "auto"
    """Where generations run: auto, cpu, cuda, cuda:N or mps."""
    mlflow_ui: str | None = None
    """Address of the MLflow UI for links; None shows none."""
    checkpoint: str | None = None
    """Weights for models whose extraction names none."""
    worker: str | None = None
    """Address of a worker that generates in this host's place; DIFFVIEWS_WORKER_TOKEN holds its token."""
    adapter: str | None = None
    """Model that the checkpoint is of; None: any whose extraction names none."""
    run: str | None = None
    """Extraction, layer, map or generation that a visit opens whose address names none."""
    num_steps: int | None = None
    """The generation form's first number of steps; None takes the model's own."""
    guidance_scale: float | None = None
    """The generation form's first guidance; None takes the model's own."""

    def __post_init__(self) -> None:
        GenerationRequest(num_steps=self.num_steps, guidance_scale=self.guidance_scale)  # refuses impossible ones
        if self.mlflow_ui and not self.mlflow_ui.startswith(("http://", "https://")):
            raise ConfigError(f"the MLflow UI address {self.mlflow_ui!r} must start with http:// or https://")

    @classmethod
    def read(cls, arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Self:
        """Read the flags of the same names, such as `--tracking-uri`, else variables such as `DIFFVIEWS_PROFILE`."""
        parser = argparse.ArgumentParser(prog="panel serve panel_app/app.py --args", allow_abbrev=False)
        for name in (setting.name for setting in fields(cls)):
            variable = _OWN_NAMES.get(name, f"DIFFVIEWS_{name.upper()}")
            parser.add_argument("--" + name.replace("_", "-"), default=environment.get(variable) or None)
        values = vars(parser.parse_args(list(arguments)))
        return cls(**{name: _typed(name, value) for name, value in values.items() if value is not None})

    @property
    def first_values(self) -> FirstValues:
        """What the generation form says first."""
        return FirstValues(self.num_steps, self.guidance_scale)


def _typed(name: str, text: str) -> Any:
    try:
        return _NUMBERS.get(name, str)(text)
    except ValueError as error:
        raise ConfigError(f"{name} is {text!r}, which is no number; write one such as 18") from error
