"""A training as an MLflow run: what its kinds, of a denoiser and of a pipeline with text, have in common."""

import json
import logging
import shlex
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from diffviews.data.pictures import encode_png
from diffviews.data.samples import SampleSet
from diffviews.device import resolve_device
from diffviews.lightning.process_group import ProcessGroup
from diffviews.lightning.training_config import OptimiserConfig
from diffviews.pipelines.workspace import Workspace
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.notes import Note, code
from diffviews.tracking.schema import RunTags, fingerprint

logger = logging.getLogger(__name__)

C = TypeVar("C", bound=OptimiserConfig)
W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Trained weights and their run."""

    run_id: str
    checkpoint: Path
    class_accuracy: float
    """Share of samples that a judge puts into the class, or the factors on average, asked for; NaN without."""

    def __str__(self) -> str:
        return f"training {self.run_id}: {self.checkpoint}, class accuracy {self.class_accuracy:.3f}"


@dataclass(frozen=True, slots=True)
class TrainingJob(ABC, Generic[C, W]):
    """A training in one of the processes that do it together; the first alone has its run."""

    config: C
    dataset: str
    samples: SampleSet
    group: ProcessGroup
    device: str
    adapter: str = "edm-digits"

    noun: ClassVar[str]
    """What is trained."""

    @abstractmethod
    def __post_init__(self) -> None:
        """Refuse samples that lack what the training needs."""

    @abstractmethod
    def weights(self, run: ActiveRun | None, folder: Path | None) -> W:
        """Train; what is kept in `folder`, that of the run, is gone on from."""

    @abstractmethod
    def finish(self, run: ActiveRun | None, weights: W, path: Path, eval_samples: int) -> TrainingResult:
        """Write the weights, measure them and log both; in the first process."""

    def command(self) -> str:
        """Return the command of this training, with every option that is not its default."""
        plain = {**asdict(type(self.config)()), "dataset": "digits", "adapter": "edm-digits"}
        chosen = {**asdict(self.config), "dataset": self.dataset, "adapter": self.adapter}
        changed = {name: value for name, value in chosen.items() if value != plain[name]}
        flags = [f"--{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in changed.items()]
        return shlex.join(["diffviews", "train", *flags])

    def start(self, workspace: Workspace, *, resume: bool) -> ActiveRun:
        """Open the run of the training, or go on with one that was interrupted."""
        other = {} if self.adapter == "edm-digits" else {"adapter": self.adapter}
        device = resolve_device(self.device).type
        determined = fingerprint(
            kind="train", config=self.config, dataset=self.samples.digest, device=device, **other
        )
        unfinished = workspace.tracker.find_unfinished(determined) if resume else None
        if unfinished is not None:
            logger.info("going on with run %s", unfinished)
            return workspace.tracker.resume(unfinished)
        tags = RunTags(model=self.adapter, dataset=self.dataset, fingerprint=determined)
        told = f"{self.noun} trained on {len(self.samples):,} samples of {code(self.dataset)}"
        note = Note(f"{told}, {self.config.steps:,} steps.", self.command(), shown=False)
        run = workspace.tracker.start(
            "train", f"train on {self.dataset}", tags, params=asdict(self.config), note=note, system_metrics=True
        )
        run.log_input(self.samples, name=self.dataset, source=self.dataset, context="training")
        return run

    def reports(self, run: ActiveRun | None) -> dict[str, Any]:
        """Return the options of a training by which it tells a run how far it is."""
        if run is None:
            return {}
        return {
            "on_metrics": lambda step, values: run.log_metrics(values, step),
            "on_grid": lambda step, images: run.log_image("samples", grid_png(images), step=step),
        }

    def record(self) -> dict[str, Any]:
        """Return what the file beside the weights says of their training."""
        return {
            "training": asdict(self.config),
            **({"processes": self.group.size} if self.group.size > 1 else {}),
            "dataset": {"source": self.dataset, "digest": self.samples.digest, "num_samples": len(self.samples)},
        }


def grid_png(images: np.ndarray, columns: int = 10) -> bytes:
    """Return a PNG of images (N, H, W, C) uint8 in rows of `columns`."""
    rows = [np.concatenate(list(images[i : i + columns]), axis=1) for i in range(0, len(images), columns)]
    return encode_png(np.concatenate([row for row in rows if row.shape == rows[0].shape]))
