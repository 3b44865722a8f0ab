"""The `train` job: a small class-conditional denoiser, such as the shipped edm-digits, as an MLflow run."""

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import save_file

from diffviews.adapters.registry import load_adapter
from diffviews.core.generator import GenerationRequest, generate
from diffviews.data.samples import SampleSet
from diffviews.data.sources import open_source
from diffviews.device import resolve_device
from diffviews.errors import ConfigError
from diffviews.lightning.training import train_denoiser
from diffviews.lightning.training_config import TrainingConfig
from diffviews.pipelines.layer_run import class_array
from diffviews.pipelines.workspace import open_workspace
from diffviews.processing.judge import fit_judge
from diffviews.tracking.schema import RunTags, fingerprint


@dataclass(frozen=True, slots=True)
class TrainOutcome:
    """A trained denoiser and its run."""

    run_id: str
    checkpoint: Path
    class_accuracy: float
    """Share of class-conditional samples that the judge puts into the class asked for."""

    def __str__(self) -> str:
        return f"training {self.run_id}: {self.checkpoint}, class accuracy {self.class_accuracy:.3f}"


def train(
    training: TrainingConfig = TrainingConfig(),
    dataset: str = "digits",
    output: str = "edm-digits.safetensors",
    *,
    eval_samples: int = 500,
    device: str = "auto",
    profile: str | None = None,
    experiment: str | None = None,
) -> TrainOutcome:
    """Train a denoiser on a labelled sample set and measure how well it follows the class it is asked for.

    Args:
        training: network, loss and optimiser.
        dataset: sample source with a class for every sample.
        output: where the averaged weights go, a .safetensors file; its record lies beside it as .json.
        eval_samples: class-conditional samples that a classifier judges at the end.
        device: auto, cpu, cuda or mps.
        profile: tracking profile of mlruns_config.
        experiment: MLflow experiment name.

    Raises:
        ConfigError: if samples lack classes or the output is no .safetensors file.
    """
    if not output.endswith(".safetensors"):
        raise ConfigError(f"output {output!r} must end in .safetensors")
    samples = open_source(dataset, resolution=training.img_resolution)
    labels = class_array(samples)
    if labels is None:
        raise ConfigError(f"dataset {dataset!r} has samples without a class; training needs one for each")
    workspace = open_workspace(profile, experiment)
    tags = RunTags(
        model="edm-digits",
        dataset=dataset,
        fingerprint=fingerprint(
            kind="train", config=training, dataset=samples.digest, device=resolve_device(device).type
        ),
    )
    with workspace.tracker.start(
        "train", f"train on {dataset}", tags, params=asdict(training), system_metrics=True
    ) as run:
        run.log_input(samples, name=dataset, source=dataset, context="training")
        weights = train_denoiser(
            samples.images,
            labels,
            training,
            device=device,
            on_metrics=lambda step, values: run.log_metrics(values, step),
            on_grid=lambda step, images: run.log_image("samples", grid_png(images), step=step),
            progress=True,
        )
        path = Path(output)
        save_file(weights, path, metadata={"config": json.dumps(training.network_options())})
        accuracy = class_accuracy(path, samples, eval_samples, device)
        record = {
            "network": training.network_options(),
            "training": asdict(training),
            "dataset": {"source": dataset, "digest": samples.digest},
            "class_accuracy": {"value": accuracy, "num_samples": eval_samples, "sampler": "heun", "num_steps": 18},
        }
        path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
        run.log_metrics({"class_accuracy": accuracy})
        run.log_artifact_file(path, "weights.safetensors")
        run.log_artifact_file(path.with_suffix(".json"), "weights.json")
    return TrainOutcome(run.run_id, path, accuracy)


def class_accuracy(checkpoint: Path, samples: SampleSet, num_samples: int, device: str = "auto") -> float:
    """Return the share of class-conditional samples that a judge fitted on `samples` puts where they were asked."""
    adapter = load_adapter("edm-digits", checkpoint=checkpoint, device=device)
    wanted = np.arange(num_samples) % adapter.num_classes
    request = GenerationRequest(
        class_labels=tuple(map(int, wanted)), num_samples=num_samples, seed=0, num_steps=18, batch_size=128
    )
    judge = fit_judge(samples.images, samples.class_labels)
    return float(np.mean(judge.classify(generate(adapter, request).images) == wanted))


def grid_png(images: np.ndarray, columns: int = 10) -> bytes:
    """Return a PNG of images (N, H, W, C) uint8 in rows of `columns`."""
    rows = [np.concatenate(list(images[i : i + columns]), axis=1) for i in range(0, len(images), columns)]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate([row for row in rows if row.shape == rows[0].shape])).save(buffer, format="PNG")
    return buffer.getvalue()
