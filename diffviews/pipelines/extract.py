"""The `extract` job: activations of any layers at any noise levels, each (layer, sigma) a measured layer run."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from tqdm import tqdm

from diffviews.data.activations import ActivationReader
from diffviews.data.layout import LayerKey
from diffviews.lightning.team import Team, dismiss, joined_team
from diffviews.noise import format_sigma
from diffviews.pipelines.capture import capture_activations, follow
from diffviews.pipelines.captured import CapturedArray
from diffviews.pipelines.control import ControlExperiment
from diffviews.pipelines.datasets import open_dataset
from diffviews.pipelines.inputs import log_inputs
from diffviews.pipelines.layers.runs import LayerRuns
from diffviews.pipelines.models import load_model
from diffviews.pipelines.plan import ExtractionPlan, check_sigmas, choose_layers
from diffviews.pipelines.sketch import captured_rows
from diffviews.pipelines.summary import ExtractionSummary
from diffviews.pipelines.workspace import Workspace
from diffviews.processing.judge import fit_judge
from diffviews.recipes.execution import Execution
from diffviews.recipes.extraction import ExtractionRecipe
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.schema import RunTags

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExtractionResult:
    """The logged extraction."""

    run_id: str
    reused: bool
    """True when a finished run with the same fingerprint answered."""
    digests: Mapping[str, str]
    """{layer@sigma: digest of its activations}; empty when reused."""
    rank: int = 0
    """Of this process under torchrun; all but the first do their share of the capture and know no run."""

    def __str__(self) -> str:
        if self.rank:
            return f"rank {self.rank} has done its share"
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
    with joined_team(execution.devices) as team:
        own = execution.device if team is None else team.own_device(execution.device)
        adapter = load_model(recipe, workspace, device=own)
        if team is not None and not team.leads:
            follow(adapter, team)
            return ExtractionResult("", reused=False, digests={}, rank=team.rank)
        # What the model has not is refused before its samples are read, or made.
        choose_layers(adapter, recipe.layers), check_sigmas(recipe.sigmas)
        samples = open_dataset(recipe, adapter, workspace, devices=execution.devices)
        plan = ExtractionPlan.of(recipe, adapter, samples)
        tracker, fingerprint = workspace.tracker, plan.fingerprint()
        finished = None if execution.force else tracker.find_finished(fingerprint)
        if finished is not None:
            tracker.mark_reused(finished)
            return ExtractionResult(finished, reused=True, digests={})
        unfinished = tracker.find_unfinished(fingerprint) if execution.resume else None
        result = ExtractionJob(plan, workspace, execution, team).run(unfinished)
        if unfinished is not None:
            tracker.mark_reused(unfinished)
        return result


@dataclass(frozen=True, slots=True)
class ExtractionJob:
    """An extraction under way: the parent run, then one child a layer and sigma."""

    plan: ExtractionPlan
    workspace: Workspace
    execution: Execution
    team: Team | None = None
    """The processes that torchrun started, of which this one is the leader."""

    def run(self, unfinished: str | None = None) -> ExtractionResult:
        """Capture, map, measure and log everything of the plan, going on with an unfinished run if named."""
        plan = self.plan
        with self._parent(unfinished) as parent:
            log_inputs(parent, plan.adapter, plan.samples, plan.recipe, dataset=plan.recipe.dataset)
            order = list(plan.adapter.hookable_layers)
            runs = LayerRuns(self.workspace, parent, plan.samples, plan.recipe.maps, plan.params(), order)
            missing = [key for key in plan.keys if key not in runs.logged]
            arrays = capture_activations(
                plan, missing, parent.work / "arrays", devices=self.execution.devices, team=self.team
            )
            dismiss(self.team)
            control = self._control_experiment(parent) if missing else None
            decides = None if control is None else partial(self._measure_control, control)
            summary = ExtractionSummary(plan.samples)
            digests = {}
            for key in tqdm(plan.keys, desc="maps", unit="layer", disable=None):
                record = runs.logged.get(key) or runs.log(key, arrays[key], plan.layer_fingerprint(*key), decides)
                digests[f"{key[0]}@{format_sigma(key[1])}"] = summary.add(self.workspace, record)
            summary.log(parent)
        return ExtractionResult(parent.run_id, reused=False, digests=digests)

    def _parent(self, unfinished: str | None) -> ActiveRun:
        if unfinished is not None:
            logger.info("going on with run %s", unfinished)
            return self.workspace.tracker.resume(unfinished)
        name = f"extract {self.plan.adapter.model_type} on {self.plan.recipe.dataset}"
        tags = RunTags(
            model=self.plan.adapter.model_type, dataset=self.plan.recipe.dataset, fingerprint=self.plan.fingerprint()
        )
        return self.workspace.tracker.start("extract", name, tags, params=self.plan.params(), system_metrics=True)

    def _measure_control(self, control: ControlExperiment, key: LayerKey, array: CapturedArray) -> dict[str, float]:
        """Return a layer's control rate; what a sketch does not hold is captured anew."""
        layer, sigma = key
        if array.sketch is None:
            return control.measure(layer, ActivationReader.open(array.path).rows)
        return control.measure(layer, partial(self._anew, layer, sigma))

    def _anew(self, layer: str, sigma: float, rows: np.ndarray) -> np.ndarray:
        plan = self.plan
        captured = captured_rows(plan.adapter, plan.samples, plan.recipe.conditioning, sigma, [layer], rows)
        return captured[layer].float().cpu().numpy()

    def _control_experiment(self, parent: ActiveRun) -> ControlExperiment | None:
        if self.plan.control is None:
            return None
        labels = self.plan.samples.class_labels
        judge = fit_judge(self.plan.samples.images, labels)
        parent.log_metrics({"judge_accuracy": judge.accuracy})
        return ControlExperiment(self.plan.adapter, labels, judge, self.plan.control)
