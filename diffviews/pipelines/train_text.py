"""Training of a Stable Diffusion pipeline in small, such as the shipped sd-shapes."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffviews.adapters.registry import load_adapter
from diffviews.core.generator import GenerationRequest, generate
from diffviews.data.shapes import caption, draw_scenes, factor_columns
from diffviews.errors import ConfigError
from diffviews.judges.factors import FactorJudge, as_asked
from diffviews.lightning.text_training import PipelineParts, train_pipeline
from diffviews.lightning.text_training_config import TextTrainingConfig
from diffviews.pipelines.training_job import TrainingJob, TrainingResult
from diffviews.tracking.active_run import ActiveRun

TEXT_ADAPTER = "sd-v1.5"
"""The adapter that reads the pipelines that are trained here."""
ASKED_SEED = 1_000_003
"""Of the scenes whose captions a trained pipeline is asked for; not that of a training."""


class TextJob(TrainingJob[TextTrainingConfig, PipelineParts]):
    """Trains a pipeline on captioned images.

    Raises:
        ConfigError: if samples lack captions.
    """

    __slots__ = ()
    noun = "A pipeline with text"

    def __post_init__(self) -> None:
        lacking = sum(prompt is None for prompt in self.samples.prompts)
        if lacking:
            raise ConfigError(f"{lacking} samples of {self.dataset!r} have no prompt; training needs one for each")

    def weights(self, run: ActiveRun | None, folder: Path | None) -> PipelineParts:
        return train_pipeline(
            self.samples.images,
            [str(prompt) for prompt in self.samples.prompts],
            self.config,
            device=self.device,
            state=folder,
            save_every=100,
            progress=True,
            group=self.group,
            **self.reports(run),
        )

    def finish(self, run: ActiveRun | None, weights: PipelineParts, path: Path, eval_samples: int) -> TrainingResult:
        assert run is not None  # in the first process
        weights.save(path)
        parts = {"vae": weights.vae, "text_encoder": weights.text_encoder, "unet": weights.unet}
        record = {
            **self.record(),
            "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
            "threads": torch.get_num_threads(),
        }
        accuracy = math.nan
        if factor_columns(self.samples) is not None:
            record["as_asked"] = measured = measure_factors(path, eval_samples, self.device)
            accuracy = float(np.mean([measured["one_object"][name] for name in ("shape", "colour", "size", "place")]))
            run.log_metrics({f"as_asked_{name}": value for name, value in measured["one_object"].items()})
        beside = path.with_name(f"{path.name}.json")
        beside.write_text(json.dumps(record, indent=1) + "\n")
        for file in sorted(path.rglob("*.*")):
            run.log_artifact_file(file, f"model/{file.relative_to(path).as_posix()}")
        run.log_artifact_file(beside, "model.json")
        return TrainingResult(run.run_id, path, accuracy)


def measure_factors(
    checkpoint: Path, num_samples: int, device: str = "auto", *, guidance: float = 3.0, num_steps: int = 25
) -> dict[str, Any]:
    """Measure how a pipeline follows captions of `shapes`, by the judge of factors.

    Returns:
        one_object, two_objects: share of the images whose shape, colour, size, place, ground and number of objects are
        as asked; of two objects the mean over both. Rejected images count as not followed.
    """
    adapter = load_adapter(TEXT_ADAPTER, checkpoint=checkpoint, device=device)
    scenes = draw_scenes(range(num_samples), ASKED_SEED)
    captions = tuple(caption(scenes, row) for row in range(num_samples))
    sampling: dict[str, Any] = {"num_samples": num_samples, "num_steps": num_steps, "guidance_scale": guidance}
    images = generate(adapter, GenerationRequest(prompts=captions, seed=0, **sampling)).images
    verdicts = FactorJudge().classify(images)
    followed = as_asked(captions, verdicts)

    def shares(rows: np.ndarray) -> dict[str, float]:
        return {str(name): round(float(value), 4) for name, value in followed[rows].mean().items() if value == value}

    return {
        "one_object": shares(~scenes.two),
        "two_objects": shares(scenes.two),
        "rejected": round(float(verdicts.rejects.mean()), 4),
        **sampling,
        "measured": "share of images of captions by another seed whose factors the judge `factors` finds as asked",
    }
