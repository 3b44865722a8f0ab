"""Training of a Stable Diffusion pipeline in small, such as the shipped sd-shapes."""

import json
import math
from pathlib import Path

import torch

from diffviews.errors import ConfigError
from diffviews.lightning.text_training import PipelineParts, train_pipeline
from diffviews.lightning.text_training_config import TextTrainingConfig
from diffviews.pipelines.training_job import TrainingJob, TrainingResult
from diffviews.tracking.active_run import ActiveRun

TEXT_ADAPTER = "sd-v1.5"
"""The adapter that reads the pipelines that are trained here."""


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
        beside = path.with_name(f"{path.name}.json")
        beside.write_text(json.dumps(record, indent=1) + "\n")
        for file in sorted(path.rglob("*.*")):
            run.log_artifact_file(file, f"model/{file.relative_to(path).as_posix()}")
        run.log_artifact_file(beside, "model.json")
        return TrainingResult(run.run_id, path, math.nan)
