"""The `generate-dataset` job: a sample set made by a model, resumable and growable.

Sample i depends on the seed and i alone, so asking for more keeps the first samples as they are.
Finished spans lie in the run's work folder; a killed job goes on with what is there, and a larger
job begins with the samples of the largest finished one of the same series.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from diffviews.adapters.base import GeneratorAdapter
from diffviews.core.generator import GenerationRequest, GenerationResult
from diffviews.core.plan import noise_levels
from diffviews.data.prompts import read_prompts
from diffviews.data.samples import SampleSet, concatenate
from diffviews.lightning.generation import GenerationData, GenerationModule, Span
from diffviews.lightning.runner import predict, trainer
from diffviews.noise import format_sigma
from diffviews.pipelines.inputs import log_inputs
from diffviews.pipelines.layers.runs import LayerRuns
from diffviews.pipelines.models import absolute, load_model
from diffviews.pipelines.plan import check_sample_count, choose_layers
from diffviews.pipelines.series import Series
from diffviews.pipelines.trajectories import TrajectoryArrays, write_trajectory
from diffviews.pipelines.workspace import Workspace, samples_file
from diffviews.processing.map_parameters import MapParameters
from diffviews.recipes.dataset import DatasetRecipe
from diffviews.recipes.execution import Execution
from diffviews.recipes.options import flatten
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.catalog import RunRecord
from diffviews.tracking.schema import RunTags, fingerprint

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DatasetResult:
    """A generated sample set and its run."""

    run_id: str
    num_samples: int
    made: int
    """Samples generated now; the others were taken over from earlier runs."""

    def __str__(self) -> str:
        return f"sample set {self.run_id}: {self.num_samples} samples, {self.made} of them new"


def generate_dataset(
    recipe: DatasetRecipe, workspace: Workspace, execution: Execution = Execution(resume=True)
) -> DatasetResult:
    """Make a sample set with a model: of random classes, so many of each class, or so many of each prompt.

    Args:
        recipe: what is made.
        workspace: where earlier sets are found and this one is logged.
        execution: how the job runs.

    Raises:
        ConfigError: if the model has no classes, or takes no prompts, or a number is below 1.
        SampleSetError: if the prompts cannot be read.
    """
    adapter = load_model(recipe, workspace, device=execution.device)
    if recipe.prompts is not None:
        series = Series.of_prompts(adapter, read_prompts(recipe.prompts), recipe.samples_per_prompt)
    elif recipe.samples_per_class is not None:
        series = Series.by_class(adapter, recipe.samples_per_class)
    else:
        series = Series(recipe.num_samples)
    if recipe.layers:
        check_sample_count(series.total, MapParameters())
    return DatasetJob(adapter, series, recipe, workspace, execution).run()


@dataclass(frozen=True, slots=True)
class DatasetJob:
    """A sample set in the making."""

    adapter: GeneratorAdapter
    series: Series
    recipe: DatasetRecipe
    workspace: Workspace
    execution: Execution
    on_the_way: bool = False
    """Whether another job needs the set; then the run that `mlflow run` opened is left to that job."""

    def __post_init__(self) -> None:
        layers = choose_layers(self.adapter, self.recipe.layers) if self.recipe.layers else ()
        resolved = replace(
            self.recipe,
            checkpoint=absolute(self.recipe.checkpoint),
            precision=self.adapter.precision,
            layers=layers,
        )
        object.__setattr__(self, "recipe", resolved)

    @property
    def request(self) -> GenerationRequest:
        """The generation of the whole series."""
        series = self.series
        return GenerationRequest(
            class_labels=series.classes,
            prompts=series.prompts,
            negative_prompt=series.negative_prompts or "",
            num_samples=series.total,
            seed=self.recipe.seed,
            batch_size=self.recipe.batch_size,
            record_layers=self.recipe.layers,
            **self.recipe.sampling.request_fields(),
        )

    def run(self) -> DatasetResult:
        """Generate what is missing and log the whole set."""
        tracker, total, execution = self.workspace.tracker, self.series.total, self.execution
        finished = None if execution.force else tracker.find_finished(self.fingerprint(total))
        if finished is not None:
            self._mark_reused(finished)
            return DatasetResult(finished, total, 0)
        earlier = None if execution.force else self._earlier()
        unfinished = tracker.find_unfinished(self.fingerprint(total)) if execution.resume else None
        with tracker.resume(unfinished) if unfinished else self._start() as run:
            folder = run.work / "spans"
            folder.mkdir(parents=True, exist_ok=True)
            known = [] if earlier is None else [SampleSet.read_parquet(samples_file(self.workspace, earlier.run_id))]
            spans = self._spans(sum(map(len, known)))
            made = self._generate(folder, spans)
            samples = concatenate(known + [SampleSet.read_parquet(_span_path(folder, span)) for span in spans])
            run.log_metrics({"num_samples": len(samples), "made": made})
            log_inputs(run, self.adapter, samples, self.recipe, dataset=self._dataset)
            self._log_layers(run, samples, spans, earlier)
        if unfinished is not None:
            self._mark_reused(unfinished)
        return DatasetResult(run.run_id, total, made)

    def _log_layers(
        self, run: ActiveRun, samples: SampleSet, spans: Sequence[Span], earlier: RunRecord | None
    ) -> None:
        """Log a layer run for each layer and step, if any layers are wanted."""
        layers = self.recipe.layers
        if not layers:
            return
        records = [] if earlier is None else self.workspace.catalog.layers(earlier.run_id)
        arrays = TrajectoryArrays(
            self.adapter,
            samples,
            run.work / "spans",
            spans,
            noise_levels(self.adapter, self.request).tolist(),
            {(record.layer, record.sigma): self.workspace.activations(record) for record in records},
        )
        order = list(self.adapter.hookable_layers)
        runs = LayerRuns(self.workspace, run, samples, MapParameters(), self._params(), order)
        keys = [(layer, sigma) for sigma in arrays.sigmas for layer in layers if (layer, sigma) not in runs.logged]
        for layer, sigma in tqdm(keys, desc="maps", unit="layer", disable=None):
            fingerprint = self.fingerprint(len(samples), layer=layer, sigma=format_sigma(sigma))
            runs.log((layer, sigma), arrays.build((layer, sigma)), fingerprint)

    def _mark_reused(self, run_id: str) -> None:
        if not self.on_the_way:
            self.workspace.tracker.mark_reused(run_id)

    def fingerprint(self, total: int, **part: str) -> str:
        """Digest of everything that determines the first `total` samples, or a part made of them."""
        return fingerprint(
            kind="generate-dataset",
            model=self.adapter.digest(),
            defaults=asdict(self.adapter.defaults),
            total=total,
            series=self.series.digest(total),
            device=self.adapter.device.type,
            **self.recipe.determining(),
            **part,
        )

    def _earlier(self) -> RunRecord | None:
        """Return the run of the largest finished set of the same series with fewer samples."""
        for record in sorted(
            self.workspace.catalog.runs("generate-dataset"), key=lambda r: r.metrics.get("num_samples", 0), reverse=True
        ):
            count = int(record.metrics.get("num_samples", 0))
            if 0 < count < self.series.total and record.fingerprint == self.fingerprint(count):
                logger.info("the first %d samples come from run %s", count, record.run_id)
                return record
        return None

    def _start(self) -> ActiveRun:
        total, params = self.series.total, self._params()
        tags = RunTags(model=self.adapter.model_type, dataset=self._dataset, fingerprint=self.fingerprint(total))
        name = f"generate {total} samples with {self.adapter.model_type}"
        return self.workspace.tracker.start(
            "generate-dataset", name, tags, params=params, system_metrics=True, on_the_way=self.on_the_way
        )

    @property
    def _dataset(self) -> str:
        return f"generated, seed {self.recipe.seed}"

    def _params(self) -> dict[str, object]:
        prompts = self.series.prompts
        return {
            **flatten(self.recipe),
            "checkpoint": self.recipe.checkpoint or "",
            "num_samples": self.series.total,
            "prompts": 0 if prompts is None else len(set(prompts)),
            "conditioning": "prompt" if prompts is not None else "label" if self.adapter.num_classes else "none",
            "layers": len(self.recipe.layers),
        }

    def _spans(self, first: int) -> list[Span]:
        """Return the samples from `first` on, cut into batches."""
        size, total = self.recipe.batch_size, self.series.total
        return [Span(start, min(size, total - start)) for start in range(first, total, size)]

    def _generate(self, folder: Path, spans: Sequence[Span]) -> int:
        """Generate the spans that `folder` lacks; return how many samples were made now."""
        missing = [span for span in spans if not _span_path(folder, span).exists()]
        if missing:
            module = GenerationModule(self.adapter, self.request, partial(write_span, folder, self._origin()))
            runner = trainer(self.adapter.device.type, min(self.execution.devices, len(missing)))
            predict(runner, module, GenerationData(missing))
        return sum(span.count for span in missing)

    def _origin(self) -> "Origin":
        sampler = self.recipe.sampling.sampler or self.adapter.defaults.default_sampler
        names = self.adapter.class_names if self.adapter.num_classes else ()
        return Origin(self.adapter.model_type, sampler, names, self.series)


@dataclass(frozen=True, slots=True)
class Origin:
    """What the table of a generated sample set says of where its samples come from."""

    model: str
    sampler: str
    class_names: tuple[str, ...] | None
    """One name a class; empty for a model without classes, None where classes have no names."""
    series: Series

    def columns(self, span: Span, result: GenerationResult) -> dict[str, Any]:
        """Return class, class name and prompt of the samples of one span."""
        if self.series.prompts is not None:
            labels, named = self.series.category_labels(span.first, span.count)
            prompts = self.series.prompts[span.first : span.first + span.count]
            return {"class_labels": labels, "class_names": named, "prompts": prompts, "class_order": "categories"}
        if self.class_names == ():
            return {}
        classes = [int(label) for label in result.labels]
        if self.class_names is None:
            return {"class_labels": classes}
        return {
            "class_labels": classes,
            "class_names": [self.class_names[c] if c >= 0 else None for c in classes],
        }


def write_span(folder: Path, origin: Origin, span: Span, result: GenerationResult) -> None:
    """Write one span of generated samples to `folder`, whole or not at all."""
    write_trajectory(folder, span, result)
    samples = SampleSet.from_images(
        result.images,
        [f"{origin.model}-{result.seed}-{span.first + i:08d}" for i in range(span.count)],
        seeds=[result.seed] * span.count,
        sources=[f"{origin.model}:{origin.sampler}"] * span.count,
        **origin.columns(span, result),
    )
    samples.write_parquet(_span_path(folder, span))


def _span_path(folder: Path, span: Span) -> Path:
    return folder / f"{span.first:08d}-{span.count}.parquet"
