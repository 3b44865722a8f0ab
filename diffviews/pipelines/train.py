"""The `train` job: a small class-conditional denoiser, such as the shipped edm-digits, as an MLflow run."""

import json
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from diffviews.adapters.edm import EDMAdapter
from diffviews.adapters.registry import get_adapter, list_adapters, load_adapter
from diffviews.core.generator import GenerationRequest, generate
from diffviews.data.class_order import named_classes
from diffviews.data.samples import SampleSet
from diffviews.data.sources import open_source
from diffviews.errors import ConfigError
from diffviews.judges.svc import MOST_IMAGES, fit_svc
from diffviews.lightning.process_group import joined_process_group, run_processes
from diffviews.lightning.text_training_config import TextTrainingConfig
from diffviews.lightning.training import train_denoiser
from diffviews.lightning.training_config import TrainingConfig
from diffviews.pipelines.train_text import TEXT_ADAPTER, TextJob
from diffviews.pipelines.training_job import TrainingJob, TrainingResult
from diffviews.pipelines.workspace import open_workspace
from diffviews.tracking.active_run import ActiveRun

STATE = "training.safetensors"
"""File, in the folder of a run while it is written, that an interrupted training goes on from."""


def train(
    training: TrainingConfig = TrainingConfig(),
    dataset: str = "digits",
    output: str = "edm-digits.safetensors",
    *,
    text: TextTrainingConfig = TextTrainingConfig(),
    adapter: str = "edm-digits",
    eval_samples: int = 500,
    device: str = "auto",
    devices: int = 1,
    resume: bool = False,
    profile: str | None = None,
    experiment: str | None = None,
) -> TrainingResult:
    """Train a denoiser on a labelled sample set, or with adapter sd-v1.5 a pipeline on a captioned one.

    At the end it is measured how well it follows the class, or the factors of `shapes`, that it is asked for.

    Args:
        training: network, loss and optimiser of a denoiser.
        dataset: sample source with a class for every sample, or with a prompt.
        output: where the averaged weights go: a .safetensors file, or for a pipeline a folder of diffusers; the record
            lies beside it as .json.
        text: networks, losses and optimiser of a pipeline.
        adapter: name of the adapter that the weights are for, one that reads EDM's networks, or sd-v1.5.
        eval_samples: samples that a judge looks at in the end.
        device: auto, cpu, cuda or mps.
        devices: number of devices, whose processes share each batch; under torchrun leave it out.
        resume: go on with a training of the same that was interrupted.
        profile: tracking profile of mlruns_config.
        experiment: MLflow experiment name.

    Raises:
        ConfigError: if samples lack classes or prompts, or the output is no .safetensors file, or for a pipeline one.
    """
    with_text = adapter == TEXT_ADAPTER
    if output.endswith(".safetensors") == with_text:
        raise ConfigError(f"output {output!r} must {'be a folder' if with_text else 'end in .safetensors'}")
    if eval_samples < 1:
        raise ConfigError(f"eval_samples is {eval_samples}; judge 1 or more")
    if not (with_text or _reads_trained(adapter)):
        known = [*(name for name in list_adapters() if _reads_trained(name)), TEXT_ADAPTER]
        raise ConfigError(f"adapter {adapter!r} does not read the networks that train makes; take {', '.join(known)}")
    if devices > 1:
        options = {"eval_samples": eval_samples, "device": device, "profile": profile, "experiment": experiment}
        options |= {"adapter": adapter, "resume": resume, "text": text}
        return run_processes(devices, train, training, dataset, output, **options)
    with joined_process_group() as group, ExitStack() as ending:
        samples = open_source(dataset, resolution=(text if with_text else training).img_resolution)
        given = (dataset, samples, group, group.own_device(device), adapter)
        job: TrainingJob[Any, Any] = TextJob(text, *given) if with_text else DenoiserJob(training, *given)
        opened = job.start(open_workspace(profile, experiment), resume=resume) if group.leads else None
        run = ending.enter_context(opened) if opened is not None else None
        weights = job.weights(run, group.from_first(lambda: run.work.absolute() if run is not None else None))
        return group.from_first(lambda: job.finish(run, weights, Path(output), eval_samples))


def _reads_trained(adapter: str) -> bool:
    kind = get_adapter(adapter)
    return issubclass(kind, EDMAdapter) and kind.reads_trained


class DenoiserJob(TrainingJob[TrainingConfig, dict[str, torch.Tensor]]):
    """Trains a class-conditional denoiser.

    Raises:
        ConfigError: if samples lack the classes that it is to be trained with.
    """

    __slots__ = ()
    noun = "A denoiser"

    def __post_init__(self) -> None:
        if self.config.label_dim and (self.samples.class_labels < 0).any():
            raise ConfigError(
                f"dataset {self.dataset!r} has samples without a class; training needs one for each, or label_dim 0"
            )

    def weights(self, run: ActiveRun | None, folder: Path | None) -> dict[str, torch.Tensor]:
        return train_denoiser(
            self.samples.images,
            self.samples.class_labels if self.config.label_dim else None,
            self.config,
            device=self.device,
            state=None if folder is None else folder / STATE,
            progress=True,
            group=self.group,
            **self.reports(run),
        )

    def finish(
        self, run: ActiveRun | None, weights: dict[str, torch.Tensor], path: Path, eval_samples: int
    ) -> TrainingResult:
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
            **self.record(),
            "parameters": sum(t.numel() for name, t in weights.items() if not name.endswith("resample_filter")),
            "threads": torch.get_num_threads(),
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
    judge = fit_svc(samples)
    classes = adapter.num_classes
    sampling = {"num_samples": num_samples, "seed": 0, "sampler": "heun", "num_steps": 18}

    def landed(labels: int | tuple[int, ...], guidance: float) -> np.ndarray:
        request = GenerationRequest(
            class_labels=labels,
            guidance_scale=guidance,
            batch_size=128,
            **sampling,  # type: ignore[arg-type]
        )
        return judge.classify(generate(adapter, request).images).labels

    def shares(guidance: float) -> list[float]:
        return (np.bincount(landed(-1, guidance) + 1, minlength=classes + 1)[1:] / num_samples).round(4).tolist()

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
