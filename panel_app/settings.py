"""How the dashboard was started: flags after `--args`, then the environment."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from diffviews.errors import ConfigError

_VARIABLES = {
    "profile": "DIFFVIEWS_PROFILE",
    "tracking_uri": "MLFLOW_TRACKING_URI",
    "experiment": "DIFFVIEWS_EXPERIMENT",
    "model": "DIFFVIEWS_MODEL",
    "device": "DIFFVIEWS_DEVICE",
    "mlflow_ui": "DIFFVIEWS_MLFLOW_UI",
    "checkpoint": "DIFFVIEWS_CHECKPOINT",
    "worker": "DIFFVIEWS_WORKER_URL",
}


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

    def __post_init__(self) -> None:
        if self.mlflow_ui and not self.mlflow_ui.startswith(("http://", "https://")):
            raise ConfigError(f"the MLflow UI address {self.mlflow_ui!r} must start with http:// or https://")

    @classmethod
    def read(cls, arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Self:
        """Read the flags of the same names, such as `--tracking-uri`, else the environment's variables."""
        parser = argparse.ArgumentParser(prog="panel serve panel_app/app.py --args", allow_abbrev=False)
        for name, variable in _VARIABLES.items():
            parser.add_argument("--" + name.replace("_", "-"), default=environment.get(variable) or None)
        values = vars(parser.parse_args(list(arguments)))
        return cls(**{name: value for name, value in values.items() if value is not None})
