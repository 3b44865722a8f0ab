"""The `generate-dataset` job: a sample set made by a model, resumable and growable.

Sample i depends on the seed and i alone, so asking for more keeps the first samples as they are.
Finished spans lie in the run's work folder; a killed job goes on with what is there, and a larger
job begins with the samples of the largest finished one of the same series.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.registry import load_adapter
from diffviews.core.generator import GenerationRequest, GenerationResult
from diffviews.data.samples import SampleSet, concatenate
from diffviews.errors import ConfigError
from diffviews.lightning.generation import GenerationData, GenerationModule, Span
from diffviews.lightning.runner import predict, trainer
from diffviews.pipelines.workspace import Workspace, open_workspace
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.schema import RunTags, fingerprint

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DatasetOutcome:
    """A generated sample set and its run."""

    run_id: str
    num_samples: int
    made: int
    """Samples generated now; the others were taken over from earlier runs."""

    def __str__(self) -> str:
        return f"sample set {self.run_id}: {self.num_samples} samples, {self.made} of them new"


def generate_dataset(
    model: str = "edm-digits",
    checkpoint: str | None = None,
    num_samples: int = 100,
    *,
    samples_per_class: int | None = None,
    seed: int = 0,
    sampler: Literal["heun", "euler", "renoise"] = "heun",
    num_steps: int | None = None,
    guidance_scale: float | None = None,
    batch_size: int = 64,
    device: str = "auto",
    devices: int = 1,
    resume: bool = True,
    force: bool = False,
    profile: str | None = None,
    experiment: str | None = None,
) -> DatasetOutcome:
    """Make a sample set with a model: random labels, or the same number of samples for each class.

    Args:
        model: adapter name.
        checkpoint: weights file; null takes the adapter's own.
        num_samples: how many samples, with labels drawn at random.
        samples_per_class: so many of each class instead, the classes taking turns.
        seed: sample i starts from the noise of (seed, i).
        sampler: heun, euler or renoise.
        num_steps: sampler steps; null takes the model's default.
        guidance_scale: null takes the model's default.
        batch_size: samples in one forward pass.
        device: auto, cpu, cuda, cuda:N or mps.
        devices: number of devices.
        resume: go on with a job that was killed.
        force: make them again even if a finished run has the same fingerprint.
        profile: tracking profile of mlruns_config.
        experiment: MLflow experiment name.

    Raises:
        ConfigError: if samples_per_class is asked of a model without classes, or a number is below 1.
    """
    adapter = load_adapter(model, checkpoint=checkpoint, device=device)
    labels, total = _labels(adapter, num_samples, samples_per_class)
    request = GenerationRequest(
        class_labels=labels,
        num_samples=total,
        seed=seed,
        sampler=sampler,
        num_steps=num_steps,
        guidance_scale=guidance_scale,
        batch_size=batch_size,
    )
    job = DatasetJob(adapter, request, samples_per_class is not None, open_workspace(profile, experiment), devices)
    return job.run(resume=resume, force=force)


def _labels(
    adapter: GeneratorAdapter, num_samples: int, samples_per_class: int | None
) -> tuple[tuple[int, ...] | None, int]:
    """Return the classes of the samples, None for random ones, and how many samples there are."""
    if samples_per_class is None:
        if num_samples < 1:
            raise ConfigError(f"num_samples is {num_samples}; ask for 1 or more")
        return None, num_samples
    if adapter.num_classes == 0 or samples_per_class < 1:
        raise ConfigError(
            f"samples_per_class {samples_per_class} needs a number above 0 and a model with classes; "
            f"{adapter.model_type!r} has {adapter.num_classes}"
        )
    total = samples_per_class * adapter.num_classes
    return tuple(i % adapter.num_classes for i in range(total)), total


@dataclass(frozen=True, slots=True)
class DatasetJob:
    """A sample set in the making."""

    adapter: GeneratorAdapter
    request: GenerationRequest
    class_by_turn: bool
    workspace: Workspace
    devices: int

    def run(self, *, resume: bool, force: bool) -> DatasetOutcome:
        """Generate what is missing and log the whole set."""
        tracker, total = self.workspace.tracker, self.request.num_samples
        finished = None if force else tracker.find_finished(self.fingerprint(total))
        if finished is not None:
            tracker.mark_reused(finished)
            return DatasetOutcome(finished, total, 0)
        earlier = None if force else self._earlier()
        unfinished = tracker.find_unfinished(self.fingerprint(total)) if resume else None
        with tracker.resume(unfinished) if unfinished else self._start() as run:
            folder = run.work / "spans"
            folder.mkdir(parents=True, exist_ok=True)
            spans = self._spans(0 if earlier is None else len(earlier))
            made = self._generate(folder, spans)
            parts = [] if earlier is None else [earlier]
            samples = concatenate(parts + [SampleSet.read_parquet(_span_path(folder, span)) for span in spans])
            samples.write_parquet(run.stage("samples.parquet"))
            run.log_metrics({"num_samples": len(samples), "made": made})
            run.log_input(samples, name=self.adapter.model_type, source=f"run:{run.run_id}", context="generated")
        if unfinished is not None:
            tracker.mark_reused(unfinished)
        return DatasetOutcome(run.run_id, total, made)

    def fingerprint(self, total: int) -> str:
        """Digest of everything that determines the first `total` samples."""
        request = self.request
        return fingerprint(
            kind="generate-dataset",
            model=self.adapter.digest(),
            total=total,
            class_by_turn=self.class_by_turn,
            seed=request.seed,
            sampler=request.sampler,
            num_steps=request.num_steps,
            guidance_scale=request.guidance_scale,
            device=self.adapter.device.type,
        )

    def _earlier(self) -> SampleSet | None:
        """Return the largest finished set of the same series with fewer samples."""
        for record in sorted(
            self.workspace.catalog.runs("generate-dataset"), key=lambda r: r.metrics.get("num_samples", 0), reverse=True
        ):
            count = int(record.metrics.get("num_samples", 0))
            if 0 < count < self.request.num_samples and record.fingerprint == self.fingerprint(count):
                logger.info("the first %d samples come from run %s", count, record.run_id)
                return SampleSet.read_parquet(self.workspace.folder(record.run_id).path("samples.parquet"))
        return None

    def _start(self) -> ActiveRun:
        total = self.request.num_samples
        tags = RunTags(model=self.adapter.model_type, fingerprint=self.fingerprint(total))
        params = {
            "model": self.adapter.model_type,
            "num_samples": total,
            "seed": self.request.seed,
            "sampler": self.request.sampler,
            "num_steps": self.request.num_steps,
            "guidance_scale": self.request.guidance_scale,
        }
        name = f"generate {total} samples with {self.adapter.model_type}"
        return self.workspace.tracker.start("generate-dataset", name, tags, params=params, system_metrics=True)

    def _spans(self, first: int) -> list[Span]:
        """Return the samples from `first` on, cut into batches."""
        size, total = self.request.batch_size, self.request.num_samples
        return [Span(start, min(size, total - start)) for start in range(first, total, size)]

    def _generate(self, folder: Path, spans: Sequence[Span]) -> int:
        """Generate the spans that `folder` lacks; return how many samples were made now."""
        missing = [span for span in spans if not _span_path(folder, span).exists()]
        if missing:
            origin = Origin(self.adapter.model_type, self.request.sampler, self.adapter.class_names)
            module = GenerationModule(self.adapter, self.request, partial(write_span, folder, origin))
            runner = trainer(self.adapter.device.type, min(self.devices, len(missing)))
            predict(runner, module, GenerationData(missing))
        return sum(span.count for span in missing)


@dataclass(frozen=True, slots=True)
class Origin:
    """What the table of a generated sample set says of where its samples come from."""

    model: str
    sampler: str
    class_names: tuple[str, ...] | None


def write_span(folder: Path, origin: Origin, span: Span, result: GenerationResult) -> None:
    """Write one span of generated samples to `folder`, whole or not at all."""
    names, classes = origin.class_names, [int(label) for label in result.labels]
    samples = SampleSet.from_images(
        result.images,
        [f"{origin.model}-{result.seed}-{span.first + i:08d}" for i in range(span.count)],
        class_labels=classes,
        class_names=None if names is None else [names[c] if c >= 0 else None for c in classes],
        seeds=[result.seed] * span.count,
        sources=[f"{origin.model}:{origin.sampler}"] * span.count,
    )
    samples.write_parquet(_span_path(folder, span))


def _span_path(folder: Path, span: Span) -> Path:
    return folder / f"{span.first:08d}-{span.count}.parquet"
