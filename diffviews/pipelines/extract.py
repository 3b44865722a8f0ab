"""The `extract` job: activations of any layers at any noise levels, each (layer, sigma) a measured layer run."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from tqdm import tqdm

from diffviews.data.activations import ActivationReader
from diffviews.data.layout import LayerKey
from diffviews.lightning.team import Team, dismiss, joined_team
from diffviews.noise import format_sigma
from diffviews.pipelines.capture import capture_activations, follow
from diffviews.pipelines.captured import CapturedArray
from diffviews.pipelines.control import ControlExperiment, ControlSettings
from diffviews.pipelines.datasets import open_dataset
from diffviews.pipelines.inputs import log_inputs
from diffviews.pipelines.layers.runs import LayerRuns
from diffviews.pipelines.models import absolute, load_model
from diffviews.pipelines.plan import (
    Conditioning,
    ExtractionPlan,
    Storage,
    check_sigmas,
    choose_layers,
    resolve_conditioning,
)
from diffviews.pipelines.recipe import Precision
from diffviews.pipelines.sketch import captured_rows
from diffviews.pipelines.summary import ExtractionSummary
from diffviews.pipelines.workspace import Workspace, open_workspace
from diffviews.processing.judge import fit_judge
from diffviews.processing.map_parameters import MapParameters
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.schema import RunTags

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExtractOutcome:
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
    model: str = "edm-digits",
    checkpoint: str | None = None,
    dataset: str = "digits",
    layers: tuple[str, ...] = ("all",),
    *,
    sigmas: tuple[float, ...] = (0.5, 2.0),
    max_samples: int | None = None,
    conditioning: Conditioning = "auto",
    batch_size: int = 128,
    dtype: Literal["float16", "float32"] = "float16",
    storage: Storage = "full",
    sketch_samples: int = 4096,
    maps: MapParameters = MapParameters(),
    control_seeds: int = 0,
    control_windows: bool = True,
    precision: Precision = "auto",
    device: str = "auto",
    devices: int = 1,
    resume: bool = False,
    force: bool = False,
    profile: str | None = None,
    experiment: str | None = None,
) -> ExtractOutcome:
    """Capture, map and measure the layers of a model over a sample set, logged as MLflow runs.

    Args:
        model: adapter name.
        checkpoint: weights: a file, a folder or an address; null takes the adapter's own.
        dataset: sample source: digits, folder:<path>, parquet:<path>, lmdb:<path>, run:<id> or
            prompts:<path>, of which the model makes an image each first.
        layers: hook points, or all.
        sigmas: noise levels, EDM units.
        max_samples: use at most so many samples, stratified by class.
        conditioning: none, label, uniform or prompt; auto takes the prompts where there are any, else none
            where the model has an unconditional pass.
        batch_size: samples a forward pass.
        dtype: of the stored activations; a layer that exceeds float16 is stored in float32.
        storage: full keeps all activations; sketch keeps pca_components numbers a sample and layer, and captures
            anew the samples that a mask needs.
        sketch_samples: samples, drawn at random, that a sketch's scaler and PCA are fitted on.
        maps: parameters of each layer's map.
        control_seeds: generations per class for the control rate; 0 does not measure it.
        control_windows: measure masks on the early and on the late half of the steps as well.
        precision: of the forward pass: auto, float32, float16 or bfloat16.
        device: auto, cpu, cuda, cuda:N or mps.
        devices: number of devices.
        resume: continue an extraction that was killed.
        force: run again even if a finished run has the same fingerprint.
        profile: tracking profile of mlruns_config.
        experiment: MLflow experiment name.

    Raises:
        DiffViewsError: with the reason, for any input it refuses.
    """
    with joined_team(devices) as team:
        own = device if team is None else team.own_device(device)
        adapter = load_model(model, checkpoint, device=own, precision=precision)
        if team is not None and not team.leads:
            follow(adapter, team)
            return ExtractOutcome("", reused=False, digests={}, rank=team.rank)
        wanted, levels = choose_layers(adapter, layers), check_sigmas(sigmas)
        workspace = open_workspace(profile, experiment)
        samples = open_dataset(
            dataset,
            adapter,
            workspace,
            maps=maps,
            max_samples=max_samples,
            checkpoint=absolute(checkpoint),
            batch_size=batch_size,
            devices=devices,
        )
        plan = ExtractionPlan(
            adapter=adapter,
            samples=samples,
            dataset=dataset,
            layers=wanted,
            sigmas=levels,
            dtype=dtype,
            batch_size=batch_size,
            conditioning=resolve_conditioning(adapter, samples, conditioning),
            maps=maps,
            control=ControlSettings(control_seeds, windows=control_windows) if control_seeds else None,
            checkpoint=absolute(checkpoint),
            storage=storage,
            sketch_samples=sketch_samples,
        )
        tracker, fingerprint = workspace.tracker, plan.fingerprint()
        finished = None if force else tracker.find_finished(fingerprint)
        if finished is not None:
            tracker.mark_reused(finished)
            return ExtractOutcome(finished, reused=True, digests={})
        unfinished = tracker.find_unfinished(fingerprint) if resume else None
        outcome = ExtractionJob(plan, workspace, devices, team).run(unfinished)
        if unfinished is not None:
            tracker.mark_reused(unfinished)
        return outcome


@dataclass(frozen=True, slots=True)
class ExtractionJob:
    """An extraction under way: the parent run, then one child a layer and sigma."""

    plan: ExtractionPlan
    workspace: Workspace
    devices: int
    team: Team | None = None
    """The processes that torchrun started, of which this one is the leader."""

    def run(self, unfinished: str | None = None) -> ExtractOutcome:
        """Capture, map, measure and log everything of the plan, going on with an unfinished run if named."""
        plan = self.plan
        with self._parent(unfinished) as parent:
            log_inputs(parent, plan.adapter, plan.samples, plan.params(), dataset=plan.dataset)
            order = list(plan.adapter.hookable_layers)
            runs = LayerRuns(self.workspace, parent, plan.samples, plan.maps, plan.params(), order)
            missing = [key for key in plan.keys if key not in runs.logged]
            arrays = capture_activations(
                plan, missing, parent.work / "arrays", devices=self.devices, team=self.team
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
        return ExtractOutcome(parent.run_id, reused=False, digests=digests)

    def _parent(self, unfinished: str | None) -> ActiveRun:
        if unfinished is not None:
            logger.info("going on with run %s", unfinished)
            return self.workspace.tracker.resume(unfinished)
        name = f"extract {self.plan.adapter.model_type} on {self.plan.dataset}"
        tags = RunTags(
            model=self.plan.adapter.model_type, dataset=self.plan.dataset, fingerprint=self.plan.fingerprint()
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
        captured = captured_rows(plan.adapter, plan.samples, plan.conditioning, sigma, [layer], rows)
        return captured[layer].float().cpu().numpy()

    def _control_experiment(self, parent: ActiveRun) -> ControlExperiment | None:
        if self.plan.control is None:
            return None
        labels = self.plan.samples.class_labels
        judge = fit_judge(self.plan.samples.images, labels)
        parent.log_metrics({"judge_accuracy": judge.accuracy})
        return ControlExperiment(self.plan.adapter, labels, judge, self.plan.control)
