"""The `train` job: a small class-conditional denoiser, such as the shipped edm-digits, as an MLflow run."""

import json
import logging
import math
import shlex
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from diffviews.adapters.edm import EDMAdapter
from diffviews.adapters.registry import get_adapter, list_adapters, load_adapter
from diffviews.core.generator import GenerationRequest, generate
from diffviews.data.class_order import named_classes
from diffviews.data.pictures import encode_png
from diffviews.data.samples import SampleSet
from diffviews.data.sources import open_source
from diffviews.device import resolve_device
from diffviews.errors import ConfigError
from diffviews.lightning.process_group import ProcessGroup, joined_process_group, run_processes
from diffviews.lightning.training import train_denoiser
from diffviews.lightning.training_config import TrainingConfig
from diffviews.pipelines.workspace import Workspace, open_workspace
from diffviews.processing.judge import MOST_IMAGES, fit_judge
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.notes import Note, code
from diffviews.tracking.schema import RunTags, fingerprint

logger = logging.getLogger(__name__)

STATE = "training.safetensors"
"""File, in the folder of a run while it is written, that an interrupted training goes on from."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A trained denoiser and its run."""

    run_id: str
    checkpoint: Path
    class_accuracy: float
    """Share of class-conditional samples that the judge puts into the class asked for; NaN without classes."""

    def __str__(self) -> str:
        return f"training {self.run_id}: {self.checkpoint}, class accuracy {self.class_accuracy:.3f}"


def train(
    training: TrainingConfig = TrainingConfig(),
    dataset: str = "digits",
    output: str = "edm-digits.safetensors",
    *,
    adapter: str = "edm-digits",
    eval_samples: int = 500,
    device: str = "auto",
    devices: int = 1,
    resume: bool = False,
    profile: str | None = None,
    experiment: str | None = None,
) -> TrainingResult:
    """Train a denoiser on a labelled sample set and measure how well it follows the class it is asked for.

    Args:
        training: network, loss and optimiser.
        dataset: sample source with a class for every sample.
        output: where the averaged weights go, a .safetensors file; its record lies beside it as .json.
        adapter: name of the adapter that the weights are for, one that reads EDM's networks.
        eval_samples: class-conditional samples that a classifier judges at the end.
        device: auto, cpu, cuda or mps.
        devices: number of devices, whose processes share each batch; under torchrun leave it out.
        resume: go on with a training of the same that was interrupted.
        profile: tracking profile of mlruns_config.
        experiment: MLflow experiment name.

    Raises:
        ConfigError: if samples lack classes or the output is no .safetensors file.
    """
    if not output.endswith(".safetensors"):
        raise ConfigError(f"output {output!r} must end in .safetensors")
    if eval_samples < 1:
        raise ConfigError(f"eval_samples is {eval_samples}; judge 1 or more")
    if not _reads_trained(adapter):
        known = [name for name in list_adapters() if _reads_trained(name)]
        raise ConfigError(f"adapter {adapter!r} does not read the networks that train makes; take {', '.join(known)}")
    if devices > 1:
        options = {"eval_samples": eval_samples, "device": device, "profile": profile, "experiment": experiment}
        options |= {"adapter": adapter, "resume": resume}
        return run_processes(devices, train, training, dataset, output, **options)
    with joined_process_group() as group, ExitStack() as ending:
        samples = open_source(dataset, resolution=training.img_resolution)
        if training.label_dim and (samples.class_labels < 0).any():
            raise ConfigError(
                f"dataset {dataset!r} has samples without a class; training needs one for each, or label_dim 0"
            )
        job = _Training(training, dataset, samples, group, group.own_device(device), adapter)
        opened = job.start(open_workspace(profile, experiment), resume=resume) if group.leads else None
        run = ending.enter_context(opened) if opened is not None else None
        weights = job.weights(run, group.from_first(lambda: run.work.absolute() / STATE if run is not None else None))
        return group.from_first(lambda: job.finish(run, weights, Path(output), eval_samples))


def _reads_trained(adapter: str) -> bool:
    kind = get_adapter(adapter)
    return issubclass(kind, EDMAdapter) and kind.reads_trained


@dataclass(frozen=True, slots=True)
class _Training:
    """A training in one of the processes that do it together; the first alone has its run."""

    config: TrainingConfig
    dataset: str
    samples: SampleSet
    group: ProcessGroup
    device: str
    adapter: str = "edm-digits"

    def command(self) -> str:
        """Return the command of this training, with every option that is not its default."""
        plain = {**asdict(TrainingConfig()), "dataset": "digits", "adapter": "edm-digits"}
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
        told = f"A denoiser trained on {len(self.samples):,} samples of {code(self.dataset)}"
        note = Note(f"{told}, {self.config.steps:,} steps.", self.command(), shown=False)
        run = workspace.tracker.start(
            "train", f"train on {self.dataset}", tags, params=asdict(self.config), note=note, system_metrics=True
        )
        run.log_input(self.samples, name=self.dataset, source=self.dataset, context="training")
        return run

    def weights(self, run: ActiveRun | None, state: Path | None) -> dict[str, torch.Tensor]:
        """Train; what is kept at `state` is gone on from."""
        return train_denoiser(
            self.samples.images,
            self.samples.class_labels if self.config.label_dim else None,
            self.config,
            device=self.device,
            on_metrics=None if run is None else lambda step, values: run.log_metrics(values, step),
            on_grid=None if run is None else lambda step, images: run.log_image("samples", grid_png(images), step=step),
            state=state,
            progress=True,
            group=self.group,
        )

    def finish(
        self, run: ActiveRun | None, weights: dict[str, torch.Tensor], path: Path, eval_samples: int
    ) -> TrainingResult:
        """Write the weights, measure them and log both."""
        assert run is not None  # in the first process
        path.parent.mkdir(parents=True, exist_ok=True)
        network = {**self.config.network_options(), "sigma_data": self.config.sigma_data}
        known = named_classes(self.samples)
        names = [known.get(label, f"class {label}") for label in range(self.config.label_dim)]
        save_file(weights, path, metadata={"config": json.dumps({**network, "class_names": names})})
        measured: dict[str, Any] = {}
        if self.config.label_dim:
            measured = measure_classes(path, self.samples, eval_samples, self.device, self.adapter)
        record = {
            "network": network,
            "training": asdict(self.config),
            "parameters": sum(t.numel() for name, t in weights.items() if not name.endswith("resample_filter")),
            "threads": torch.get_num_threads(),
            **({"processes": self.group.size} if self.group.size > 1 else {}),
            "dataset": {"source": self.dataset, "digest": self.samples.digest, "num_samples": len(self.samples)},
            **measured,
        }
        accuracy = measured["class_accuracy"]["value"] if measured else math.nan
        path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
        if measured:
            run.log_metrics({"class_accuracy": accuracy})
        run.log_artifact_file(path, "weights.safetensors")
        run.log_artifact_file(path.with_suffix(".json"), "weights.json")
        return TrainingResult(run.run_id, path, accuracy)


def measure_classes(
    checkpoint: Path, samples: SampleSet, num_samples: int, device: str = "auto", model: str = "edm-digits"
) -> dict[str, Any]:
    """Measure how a trained model follows classes, by a judge fitted on `samples`.

    Returns:
        class_accuracy: the share of class-conditional samples that land in the class asked for; and
        class_shares: which classes samples land in whose label is uniform, or withheld.
    """
    adapter = load_adapter(model, checkpoint=checkpoint, device=device)
    judge = fit_judge(samples.images, samples.class_labels)
    classes = adapter.num_classes
    sampling = {"num_samples": num_samples, "seed": 0, "sampler": "heun", "num_steps": 18}

    def landed(labels: int | tuple[int, ...], guidance: float) -> np.ndarray:
        request = GenerationRequest(
            class_labels=labels,
            guidance_scale=guidance,
            batch_size=128,
            **sampling,  # type: ignore[arg-type]
        )
        return judge.classify(generate(adapter, request).images)

    def shares(guidance: float) -> list[float]:
        return (np.bincount(landed(-1, guidance), minlength=classes) / num_samples).round(4).tolist()

    wanted = np.arange(num_samples) % classes
    return {
        "class_accuracy": {
            "value": float(np.mean(landed(tuple(map(int, wanted)), 1.0) == wanted)),
            **sampling,
            "judge_accuracy": judge.accuracy,
            "measured": "share of class-conditional samples that an RBF support vector classifier, fitted on the "
            f"grey pixels of {min(len(samples), MOST_IMAGES):,} images, stratified, puts into the class asked for; "
            "judge_accuracy is its own share on held-out ones, stratified 5-fold cross-validation",
        },
        "class_shares": {"uniform": shares(1.0), "unconditional": shares(0.0), **sampling},
    }


def grid_png(images: np.ndarray, columns: int = 10) -> bytes:
    """Return a PNG of images (N, H, W, C) uint8 in rows of `columns`."""
    rows = [np.concatenate(list(images[i : i + columns]), axis=1) for i in range(0, len(images), columns)]
    return encode_png(np.concatenate([row for row in rows if row.shape == rows[0].shape]))
