"""The `generate-dataset` job: a sample set made by a model, resumable and growable.

Sample i depends on the seed and i alone, so asking for more keeps the first samples as they are.
Finished spans lie in the run's work folder; a killed job goes on with what is there, and a larger
job begins with the samples of the largest finished one of the same series.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from diffviews.adapters.base import GeneratorAdapter
from diffviews.core.generator import GenerationRequest, GenerationResult
from diffviews.core.plan import noise_levels
from diffviews.data.prompts import read_prompts
from diffviews.data.samples import SampleSet, concatenate
from diffviews.lightning.process_group import ALONE, ProcessGroup, joined_process_group, run_processes
from diffviews.lightning.runner import GenerationModule, Span, predict
from diffviews.noise import format_sigma
from diffviews.pipelines.layers.runs import LayerRuns, log_inputs, make_results
from diffviews.pipelines.models import absolute, left_out, load_model
from diffviews.pipelines.plan import check_sample_count, choose_layers
from diffviews.pipelines.series import Series
from diffviews.pipelines.trajectories import TrajectoryArrays, write_trajectory
from diffviews.pipelines.workspace import Workspace, samples_file
from diffviews.processing.map_parameters import MapParameters
from diffviews.recipes import DatasetRecipe, Execution
from diffviews.recipes.options import flatten
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.catalog import RunRecord
from diffviews.tracking.notes import Note, code
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
    if execution.devices > 1:
        return run_processes(execution.devices, generate_dataset, recipe, workspace, replace(execution, devices=1))
    with joined_process_group() as group:
        adapter = load_model(recipe, workspace, device=group.own_device(execution.device))
        if recipe.prompts is not None:
            series = Series.of_prompts(adapter, read_prompts(recipe.prompts), recipe.samples_per_prompt)
        elif recipe.samples_per_class is not None:
            series = Series.by_class(adapter, recipe.samples_per_class)
        else:
            series = Series(recipe.num_samples)
        if recipe.layers:
            check_sample_count(series.total, MapParameters())
        return DatasetJob(adapter, series, recipe, workspace, execution, group).run()


@dataclass(frozen=True, slots=True)
class _Begun:
    """What every process must know of the run."""

    run_id: str
    work: Path | None = None
    """Folder that all of them write in; None: a finished run answers."""
    spans: Sequence[Span] = ()
    """All that the run makes."""
    missing: Sequence[Span] = ()
    """Those that `work` lacks."""
    earlier: str | None = None
    """Run that holds the samples before the first span."""


@dataclass(frozen=True, slots=True)
class DatasetJob:
    """A sample set in the making."""

    adapter: GeneratorAdapter
    series: Series
    recipe: DatasetRecipe
    workspace: Workspace
    execution: Execution
    group: ProcessGroup = ALONE
    """The processes that make it together; the first alone writes to MLflow."""
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
        group, total = self.group, self.series.total
        runs: list[ActiveRun] = []  # one, in the first process
        with ExitStack() as ending:
            begun = group.from_first(lambda: self._begin(ending, runs))
            if begun.work is None:
                return DatasetResult(begun.run_id, total, 0)
            own = group.share(begun.missing)
            if own:
                module = GenerationModule(self.adapter, self.request, partial(self.write_span, begun.work))
                predict(module, own, self.adapter.device, progress=group.leads)
            group.wait()
            made = sum(span.count for span in begun.missing)
            samples = self._samples(begun)
            if runs:
                runs[0].log_metrics({"num_samples": len(samples), "made": made})
                log_inputs(runs[0], self.adapter, samples, self.recipe, dataset=self._dataset)
            if self.recipe.layers:
                self._make_layers(begun, samples, runs[0] if runs else None)
        return DatasetResult(begun.run_id, total, made)

    def _begin(self, ending: ExitStack, runs: list[ActiveRun]) -> _Begun:
        """Find the finished run, or open the one that is to be written until `ending`."""
        tracker, execution, wanted = self.workspace.tracker, self.execution, self.fingerprint(self.series.total)
        finished = None if execution.force else tracker.find_finished(wanted)
        if finished is not None:
            self._mark_reused(finished)
            return _Begun(finished)
        earlier = None if execution.force else self._earlier()
        unfinished = tracker.find_unfinished(wanted) if execution.resume else None
        if unfinished is not None:
            ending.callback(self._mark_reused, unfinished)
            run = tracker.resume(unfinished)
        else:
            model, params = self.adapter.model_type, self._params()
            name, tags = f"generate {self.series.total} samples with {model}", RunTags(model, self._dataset, wanted)
            tags = replace(tags, adapter_partial=left_out(self.adapter))
            told = f"{self.series.total:,} samples made by {code(model)}, seed {self.recipe.seed}"
            kept = f", and {len(self.recipe.layers)} layers kept along the denoising" if self.recipe.layers else ""
            note = Note(f"{told}{kept}.", self.recipe.command(), shown=bool(self.recipe.layers))
            run = tracker.start(
                "generate-dataset",
                name,
                tags,
                params=params,
                note=note,
                system_metrics=True,
                on_the_way=self.on_the_way,
            )
        runs.append(ending.enter_context(run))
        folder = run.work.absolute() / "spans"
        folder.mkdir(parents=True, exist_ok=True)
        spans = self._spans(0 if earlier is None else int(earlier.metrics["num_samples"]))
        missing = [span for span in spans if not _span_path(folder, span).exists()]
        return _Begun(run.run_id, folder, spans, missing, None if earlier is None else earlier.run_id)

    def _samples(self, begun: _Begun) -> SampleSet:
        """Return the whole set, once all spans are there."""
        assert begun.work is not None
        files = [_span_path(begun.work, span) for span in begun.spans]
        if begun.earlier is not None:
            files.insert(0, samples_file(self.workspace, begun.earlier))
        return concatenate([SampleSet.read_parquet(file) for file in files])

    def _make_layers(self, begun: _Begun, samples: SampleSet, parent: ActiveRun | None) -> None:
        """Make and log a layer run for each layer and step."""
        assert begun.work is not None
        group, catalog = self.group, self.workspace.catalog
        records = [] if begun.earlier is None else catalog.layers(begun.earlier)
        trajectories = TrajectoryArrays(
            self.adapter,
            samples,
            begun.work,
            begun.spans,
            noise_levels(self.adapter, self.request).tolist(),
            {(record.layer, record.sigma): self.workspace.activations(record) for record in records},
        )
        about = (
            samples,
            MapParameters(),
            lambda layer, sigma: replace(self.recipe, layers=(layer,)).command(),
            list(self.adapter.hookable_layers),
            lambda layer, sigma: self.fingerprint(len(samples), layer=layer, sigma=format_sigma(sigma)),
        )
        runs = None if parent is None else LayerRuns(self.workspace, parent, *about, self._conditioning)
        wanted = [(layer, sigma) for sigma in trajectories.sigmas for layer in self.recipe.layers]
        keys = group.from_first(lambda: [key for key in wanted if runs is None or key not in runs.logged])
        for key in group.share(keys):
            trajectories.build(key)
        group.wait()
        make_results(
            {key: trajectories.array(key) for key in keys},
            samples,
            MapParameters(),
            self.adapter.model_type,
            conditioning=self._conditioning,
            group=group,
            workers=self.execution.workers,
            runs=runs,
        )

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

    @property
    def _dataset(self) -> str:
        return f"generated, seed {self.recipe.seed}"

    @property
    def _conditioning(self) -> str:
        if self.series.prompts is not None:
            return "prompt"
        return "label" if self.adapter.num_classes else "none"

    def _params(self) -> dict[str, object]:
        prompts = self.series.prompts
        return {
            **flatten(self.recipe),
            "checkpoint": self.recipe.checkpoint or "",
            "num_samples": self.series.total,
            "prompts": 0 if prompts is None else len(set(prompts)),
            "conditioning": self._conditioning,
            "layers": len(self.recipe.layers),
        }

    def _spans(self, first: int) -> list[Span]:
        """Return the samples from `first` on, cut into batches."""
        size, total = self.recipe.batch_size, self.series.total
        return [Span(start, min(size, total - start)) for start in range(first, total, size)]

    def write_span(self, folder: Path, span: Span, result: GenerationResult) -> None:
        """Write one span of generated samples to `folder`, whole or not at all."""
        write_trajectory(folder, span, result)
        model, sampler = self.adapter.model_type, self.recipe.sampling.sampler or self.adapter.defaults.default_sampler
        samples = SampleSet.from_images(
            result.images,
            [f"{model}-{result.seed}-{span.first + i:08d}" for i in range(span.count)],
            seeds=[result.seed] * span.count,
            sources=[f"{model}:{sampler}"] * span.count,
            **self._columns(span, result),
        )
        samples.write_parquet(_span_path(folder, span))

    def _columns(self, span: Span, result: GenerationResult) -> dict[str, Any]:
        """Return class, class name and prompt of the samples of one span."""
        if self.series.prompts is not None:
            labels, named = self.series.category_labels(span.first, span.count)
            prompts = self.series.prompts[span.first : span.first + span.count]
            return {"class_labels": labels, "class_names": named, "prompts": prompts, "class_order": "categories"}
        if not self.adapter.num_classes:
            return {}
        classes, names = [int(label) for label in result.labels], self.adapter.class_names
        if names is None:
            return {"class_labels": classes}
        return {"class_labels": classes, "class_names": [names[c] if c >= 0 else None for c in classes]}


def _span_path(folder: Path, span: Span) -> Path:
    return folder / f"{span.first:08d}-{span.count}.parquet"
