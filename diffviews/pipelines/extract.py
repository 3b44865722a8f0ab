"""The `extract` job: activations of any layers at any noise levels, each (layer, sigma) a measured layer run."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tqdm import tqdm

from diffviews.data.activations import ActivationReader
from diffviews.lightning.extraction import LayerKey
from diffviews.noise import format_sigma
from diffviews.pipelines.capture import CapturedArray, capture_activations, link_tree
from diffviews.pipelines.control import ControlExperiment, ControlSettings
from diffviews.pipelines.datasets import open_dataset
from diffviews.pipelines.layer_run import log_map, map_title, measure_map
from diffviews.pipelines.models import absolute, describe, load_model
from diffviews.pipelines.plan import (
    Conditioning,
    ExtractionPlan,
    check_sigmas,
    choose_layers,
    resolve_conditioning,
)
from diffviews.pipelines.prompt_columns import prompt_columns
from diffviews.pipelines.recipe import Precision
from diffviews.pipelines.summary import ExtractionSummary
from diffviews.pipelines.workspace import Workspace, open_workspace
from diffviews.processing.judge import fit_judge
from diffviews.processing.map_parameters import MapParameters
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.catalog import LayerRecord
from diffviews.tracking.schema import MapKind, RunTags

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExtractOutcome:
    """The logged extraction."""

    run_id: str
    reused: bool
    """True when a finished run with the same fingerprint answered."""
    digests: Mapping[str, str]
    """{layer@sigma: digest of its activations}; empty when reused."""

    def __str__(self) -> str:
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
    adapter = load_model(model, checkpoint, device=device, precision=precision)
    wanted, levels = choose_layers(adapter, layers), check_sigmas(sigmas)
    workspace = open_workspace(profile, experiment)
    samples = open_dataset(
        dataset, adapter, workspace, max_samples=max_samples, batch_size=batch_size, devices=devices
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
    )
    tracker, fingerprint = workspace.tracker, plan.fingerprint()
    finished = None if force else tracker.find_finished(fingerprint)
    if finished is not None:
        tracker.mark_reused(finished)
        return ExtractOutcome(finished, reused=True, digests={})
    unfinished = tracker.find_unfinished(fingerprint) if resume else None
    outcome = ExtractionJob(plan, workspace, devices).run(unfinished)
    if unfinished is not None:
        tracker.mark_reused(unfinished)
    return outcome


@dataclass(frozen=True, slots=True)
class ExtractionJob:
    """An extraction under way: the parent run, then one child a layer and sigma."""

    plan: ExtractionPlan
    workspace: Workspace
    devices: int

    def run(self, unfinished: str | None = None) -> ExtractOutcome:
        """Capture, map, measure and log everything of the plan, going on with an unfinished run if named."""
        with self._parent(unfinished) as parent:
            self._log_inputs(parent)
            logged = self._logged_layers(parent)
            begun = self._begun_layers(parent)
            missing = [key for key in self.plan.keys if key not in logged]
            arrays = capture_activations(self.plan, missing, parent.work / "arrays", devices=self.devices)
            control = self._control_experiment(parent) if missing else None
            summary = ExtractionSummary(self.plan.samples)
            digests = {}
            for key in tqdm(self.plan.keys, desc="maps", unit="layer", disable=None):
                record = logged.get(key) or self._layer_run(parent, key, arrays[key], control, begun.get(key))
                digests[f"{key[0]}@{format_sigma(key[1])}"] = summary.add(self.workspace, record)
            summary.log(parent)
        return ExtractOutcome(parent.run_id, reused=False, digests=digests)

    def _parent(self, unfinished: str | None) -> ActiveRun:
        if unfinished is not None:
            logger.info("going on with run %s", unfinished)
            return self.workspace.tracker.resume(unfinished)
        name = f"extract {self.plan.adapter.model_type} on {self.plan.dataset}"
        tags = self._tags(self.plan.fingerprint())
        return self.workspace.tracker.start("extract", name, tags, params=self.plan.params(), system_metrics=True)

    def _tags(self, fingerprint: str, **more: Any) -> RunTags:
        return RunTags(model=self.plan.adapter.model_type, dataset=self.plan.dataset, fingerprint=fingerprint, **more)

    def _log_inputs(self, parent: ActiveRun) -> None:
        """Publish the resolved plan and the sample set, which the dashboard and masks read."""
        parent.log_json(self.plan.params(), "config.json")
        parent.log_json(describe(self.plan.adapter), "model.json")
        self.plan.samples.write_parquet(parent.stage("samples.parquet"))
        columns = prompt_columns(self.plan.adapter, self.plan.samples)
        if columns is not None:
            parent.log_table(columns, "columns.parquet")
        parent.log_input(self.plan.samples, name=self.plan.dataset, source=self.plan.dataset)
        parent.publish()

    def _logged_layers(self, parent: ActiveRun) -> dict[LayerKey, LayerRecord]:
        """Return the layer runs that an earlier attempt has finished."""
        return {(record.layer, record.sigma): record for record in self.workspace.catalog.layers(parent.run_id)}

    def _begun_layers(self, parent: ActiveRun) -> dict[LayerKey, str]:
        """Return the layer runs that an earlier attempt has begun and not finished."""
        records = self.workspace.catalog.layers(parent.run_id, unfinished=True)
        return {(record.layer, record.sigma): record.run_id for record in records if not record.is_finished}

    def _control_experiment(self, parent: ActiveRun) -> ControlExperiment | None:
        if self.plan.control is None:
            return None
        labels = self.plan.samples.class_labels
        judge = fit_judge(self.plan.samples.images, labels)
        parent.log_metrics({"judge_accuracy": judge.accuracy})
        return ControlExperiment(self.plan.adapter, labels, judge, self.plan.control)

    def _layer_run(
        self,
        parent: ActiveRun,
        key: LayerKey,
        array: CapturedArray,
        control: ControlExperiment | None,
        begun: str | None,
    ) -> LayerRecord:
        """Map and measure one (layer, sigma) and log it as a child run."""
        layer, sigma = key
        plan = self.plan
        with self._child(parent, key, begun) as run:
            activations = ActivationReader.open(array.path).array()
            measured = measure_map(
                activations, plan.samples, plan.maps, title=map_title(plan.adapter.model_type, layer, sigma)
            )
            decides = control.measure(layer, lambda rows: activations[rows]) if control else {}
            log_map(run, measured, {**decides, "nonfinite": float(array.nonfinite)})
            run.set_tag("diffviews.digest", array.digest)
            # Linked, not moved: until the run is finished a resume finds the array where it was made.
            link_tree(array.path, run.stage("activations.zarr"))
        shutil.rmtree(array.path)
        return self.workspace.catalog.layer(run.run_id)

    def _child(self, parent: ActiveRun, key: LayerKey, begun: str | None) -> ActiveRun:
        """Start the layer run of `key`, or go on with the one that an earlier attempt has begun."""
        plan, (layer, sigma) = self.plan, key
        if begun is not None:
            run = self.workspace.tracker.resume(begun)
            run.log_params(plan.params())
            return run
        tags = self._tags(
            plan.layer_fingerprint(layer, sigma),
            layer=layer,
            layer_index=list(plan.adapter.hookable_layers).index(layer),
            sigma=sigma,
            source_run=parent.run_id,
            map=MapKind.SINGLE,
        )
        name = f"{layer} σ {format_sigma(sigma)}"
        return self.workspace.tracker.start("layer", name, tags, parent=parent, params=plan.params())
