"""The `extract` job: activations of any layers at any noise levels, each (layer, sigma) a measured layer run."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from diffviews.adapters.base import GeneratorAdapter
from diffviews.data.layout import LayerKey
from diffviews.data.prompts import read_prompts
from diffviews.data.samples import SampleSet
from diffviews.data.sources import open_source
from diffviews.data.storage.cache import cache_folder
from diffviews.lightning.process_group import ALONE, ProcessGroup, joined_process_group, run_processes
from diffviews.noise import format_sigma
from diffviews.pipelines.capture.arrays import capture_activations
from diffviews.pipelines.capture.earlier import Earlier, counts, find_earlier, open_earlier
from diffviews.pipelines.control.job import control_measure
from diffviews.pipelines.generate_dataset import DatasetJob
from diffviews.pipelines.knows import Knowledge, measure_knowledge
from diffviews.pipelines.layers.runs import Further, LayerRuns, log_inputs, make_results
from diffviews.pipelines.models import left_out, load_model
from diffviews.pipelines.plan import ExtractionPlan, check_sample_count, check_sigmas, choose_layers
from diffviews.pipelines.series import Series
from diffviews.pipelines.summary import ExtractionSummary
from diffviews.pipelines.workspace import Workspace, samples_file
from diffviews.recipes import DatasetRecipe, Execution, ExtractionRecipe
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.artifacts import local_folder
from diffviews.tracking.notes import Note, code
from diffviews.tracking.schema import RunTags

logger = logging.getLogger(__name__)

PROMPTS = "prompts:"
"""Notation of a prompt file, whose images the model makes first."""


@dataclass(frozen=True, slots=True)
class ExtractionResult:
    """The logged extraction."""

    run_id: str
    reused: bool
    """True when a finished run with the same fingerprint answered."""
    digests: Mapping[str, str]
    """{layer@sigma: digest of its activations}; empty when reused."""

    def __str__(self) -> str:
        return f"extraction {self.run_id} {'re-used' if self.reused else 'finished'}"


def extract(
    recipe: ExtractionRecipe, workspace: Workspace, execution: Execution = Execution()
) -> ExtractionResult:
    """Capture, map and measure the layers of a model over a sample set, logged as MLflow runs.

    Args:
        recipe: what is captured, and how it is kept, mapped and measured.
        workspace: where earlier runs are found and this one is logged.
        execution: how the job runs.

    Raises:
        DiffViewsError: with the reason, for any input it refuses.
    """
    if execution.devices > 1:
        return run_processes(execution.devices, extract, recipe, workspace, replace(execution, devices=1))
    with joined_process_group() as group:
        adapter = load_model(recipe, workspace, device=group.own_device(execution.device))
        # What the model has not is refused before its samples are read, or made.
        choose_layers(adapter, recipe.layers), check_sigmas(recipe.sigmas)
        samples = open_dataset(recipe, adapter, workspace, group)
        return ExtractionJob(ExtractionPlan.of(recipe, adapter, samples), workspace, execution, group).run()


@dataclass(frozen=True, slots=True)
class _Begun:
    """What every process must know of the run."""

    run_id: str
    work: Path | None
    """Folder that all of them write in; None: a finished run answers."""
    missing: Sequence[LayerKey] = ()
    """Layer runs that are still to be made."""
    earlier: Earlier = field(default_factory=dict)
    """Layer runs that hold some of their rows."""


@dataclass(frozen=True, slots=True)
class ExtractionJob:
    """An extraction under way: the parent run, then one child a layer and sigma."""

    plan: ExtractionPlan
    workspace: Workspace
    execution: Execution
    group: ProcessGroup = ALONE
    """The processes that do it together, each with the same plan; the first alone talks to MLflow."""

    def run(self) -> ExtractionResult:
        """Capture, map, measure and log everything of the plan, or find the run that holds it."""
        plan, group = self.plan, self.group
        runs: list[LayerRuns] = []  # one, in the first process
        with ExitStack() as ending:
            begun = group.from_first(lambda: self._begin(ending, runs))
            if begun.work is None:
                return ExtractionResult(begun.run_id, reused=True, digests={})
            # A judge that is not good enough is refused before anything is captured.
            control = self._control(begun.missing, runs[0].parent if runs else None)
            known = open_earlier(begun.earlier, self.workspace)
            arrays = capture_activations(plan, begun.missing, begun.work / "arrays", group=group, known=known)
            knowledge = measure_knowledge(plan, begun.work / "knows", group)
            make_results(
                arrays,
                plan.samples,
                plan.recipe.maps,
                plan.adapter.model_type,
                conditioning=plan.recipe.conditioning,
                group=group,
                workers=self.execution.workers,
                further=lambda key, array: {**knowledge.metrics(key), **(control(key, array) if control else {})},
                runs=runs[0] if runs else None,
            )
            digests = group.from_first(lambda: self._summary(runs[0], knowledge))
        return ExtractionResult(begun.run_id, reused=False, digests=digests)

    def _begin(self, ending: ExitStack, runs: list[LayerRuns]) -> _Begun:
        """Find the finished run, or open the one that is to be written until `ending`."""
        plan, execution, tracker = self.plan, self.execution, self.workspace.tracker
        fingerprint = plan.fingerprint()
        finished = None if execution.force else tracker.find_finished(fingerprint)
        if finished is not None:
            tracker.mark_reused(finished)
            return _Begun(finished, None)
        unfinished = tracker.find_unfinished(fingerprint) if execution.resume else None
        if unfinished is not None:
            logger.info("going on with run %s", unfinished)
            ending.callback(tracker.mark_reused, unfinished)
            opened = tracker.resume(unfinished)
        else:
            model, dataset = plan.adapter.model_type, plan.recipe.dataset
            tags = RunTags(model, dataset, fingerprint, adapter_partial=left_out(plan.adapter))
            name = f"extract {model} on {dataset}"
            params, samples = plan.params(), f"{len(plan.samples):,} samples of {code(dataset)}"
            told = f"{params['layers']} layers of {code(model)} at σ {params['sigmas']}, captured over {samples}"
            note = Note(f"{told}, mapped and measured.", plan.ordered().command())
            opened = tracker.start("extract", name, tags, params=params, note=note, system_metrics=True)
        parent = ending.enter_context(opened)
        log_inputs(parent, plan.adapter, plan.samples, plan.recipe, dataset=plan.recipe.dataset)
        order = list(plan.adapter.hookable_layers)
        about = (plan.samples, plan.recipe.maps, plan.layer_command, order, plan.layer_fingerprint)
        rows = plan.rows_fingerprint() if plan.recipe.storage == "full" else None
        runs.append(LayerRuns(self.workspace, parent, *about, plan.recipe.conditioning, rows))
        missing = [key for key in plan.keys if key not in runs[0].logged]
        earlier = {} if execution.force else find_earlier(plan, missing, self.workspace)
        captured, reused = counts(plan, missing, earlier)
        if reused:
            logger.info("%d samples are captured, %d come from earlier extractions", captured, reused)
        parent.log_metrics({"samples_captured": captured, "samples_reused": reused})
        return _Begun(parent.run_id, parent.work.absolute(), missing, earlier)

    def _summary(self, runs: LayerRuns, knowledge: Knowledge) -> dict[str, str]:
        """Log what the parent shows of all layer runs; return the digest of each one's activations."""
        summary, digests = ExtractionSummary(self.plan.samples), {}
        for layer, sigma in self.plan.keys:
            digests[f"{layer}@{format_sigma(sigma)}"] = summary.add(self.workspace, runs.logged[layer, sigma])
        summary.log(runs.parent)
        knowledge.log(runs.parent)
        return digests

    def _control(self, missing: Sequence[LayerKey], parent: ActiveRun | None) -> Further | None:
        """Return what measures a layer's control rate, None where this process has none to measure."""
        wanted = [key for key in missing if self.plan.control_of(key[0])]
        if not wanted or not self.group.share(missing):
            return None
        return control_measure(self.plan, len(wanted), None if parent is None else parent.log_metrics)


def open_dataset(
    recipe: ExtractionRecipe, adapter: GeneratorAdapter, workspace: Workspace, group: ProcessGroup = ALONE
) -> SampleSet:
    """Return the sample set that an extraction names, its images fitted to the model.

    A prompt file holds no images: the model makes one of each prompt, with its own defaults and seed
    0, as a `generate-dataset` run of its own, which the next job re-uses.

    Args:
        recipe: of the extraction; too few prompts for its maps are refused before any image is made.
        adapter: model that the samples are for, and that makes them from prompts.
        workspace: where earlier runs are found.
        group: processes that make them together, and all have them; the first alone reads what is named.

    Raises:
        SampleSetError, CorruptDataError: if the source cannot be read.
        ConfigError: if prompts are given to a model that takes none.
    """
    if recipe.dataset.startswith(PROMPTS):
        found = _made_of_prompts(recipe, adapter, workspace, group)
    else:
        found = partial(
            open_source,
            recipe.dataset,
            max_samples=recipe.max_samples,
            resolution=adapter.resolution,
            runs=lambda run_id: samples_file(workspace, run_id),
        )
    if group.size == 1:
        return found()
    return SampleSet.read_parquet(group.from_first(lambda: _handed_out(found(), workspace)))


def _made_of_prompts(
    recipe: ExtractionRecipe, adapter: GeneratorAdapter, workspace: Workspace, group: ProcessGroup
) -> Callable[[], SampleSet]:
    """Have an image made of each prompt; return what reads them."""
    prompts = read_prompts(recipe.dataset.removeprefix(PROMPTS), max_prompts=recipe.max_samples)
    series = Series.of_prompts(adapter, prompts, samples_per_prompt=1)
    check_sample_count(series.total, recipe.maps)
    own = DatasetRecipe(
        recipe.model, recipe.checkpoint, adapter_partial=recipe.adapter_partial, batch_size=recipe.batch_size
    )
    made = DatasetJob(adapter, series, own, workspace, Execution(resume=True), group, on_the_way=True).run()
    logger.info("images of %d prompts: run %s, %d made now", series.total, made.run_id, made.made)
    return lambda: SampleSet.read_parquet(samples_file(workspace, made.run_id))


def _handed_out(samples: SampleSet, workspace: Workspace) -> Path:
    """Return a Parquet file of a sample set that all processes see: beside the artifacts, or in the cache folder."""
    root = local_folder(workspace.profile.artifact_root or "s3:")
    path = (cache_folder() if root is None else root).absolute() / "shared" / f"{samples.digest[:32]}.parquet"
    if not path.exists():
        samples.write_parquet(path)
    return path
