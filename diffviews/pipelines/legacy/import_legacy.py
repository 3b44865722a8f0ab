"""The `import` job: a data folder in the legacy layout becomes runs like those of an extraction."""

import json
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from diffviews.data.activations import ActivationWriter
from diffviews.data.disk import format_bytes, require_disk_space
from diffviews.data.layout import LayerKey, estimate_bytes
from diffviews.data.legacy.datasets import LegacyModel, find_models, read_dataset
from diffviews.data.legacy.maps import LegacyMap, read_maps, tables_in
from diffviews.errors import ConfigError, SampleSetError, unknown_name
from diffviews.noise import format_sigma
from diffviews.pipelines.capture.layer_array import LayerArray
from diffviews.pipelines.layers.measured_map import log_map, measure
from diffviews.pipelines.layers.runs import LayerRuns
from diffviews.pipelines.legacy.import_plan import ImportedModel, ImportPlan
from diffviews.pipelines.summary import RANKED, ExtractionSummary
from diffviews.pipelines.workspace import Workspace, open_workspace
from diffviews.processing.fitting import fit_given_map
from diffviews.processing.map_parameters import MapParameters
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.catalog import LayerRecord
from diffviews.tracking.notes import Note, code
from diffviews.tracking.schema import MapKind, RunTags, fingerprint

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ImportedRun:
    """One logged import: a data set of a model."""

    run_id: str
    model: str
    dataset: str
    reused: bool
    """True when a finished run with the same fingerprint answered."""
    left_out: int
    """Samples without a picture or activations."""

    def __str__(self) -> str:
        missing = f"; {self.left_out} samples left out" if self.left_out else ""
        done = "re-used" if self.reused else "finished"
        return f"import {self.run_id} of {self.dataset} for {self.model} {done}{missing}"


@dataclass(frozen=True, slots=True)
class ImportResult:
    """The logged imports, one a data set of each model."""

    runs: tuple[ImportedRun, ...]

    @property
    def run_id(self) -> str:
        """The first of them."""
        return self.runs[0].run_id

    def __str__(self) -> str:
        return "\n".join(map(str, self.runs))


def import_legacy(
    path: str,
    model: str | None = None,
    layers: tuple[str, ...] = ("all",),
    *,
    embeddings: str | None = None,
    adapter: str | None = None,
    maps: MapParameters = MapParameters(),
    force: bool = False,
    profile: str | None = None,
    experiment: str | None = None,
) -> ImportResult:
    """Import a data folder in the legacy layout: activations, pictures, classes, and the maps that came with them.

    Each data set of each model becomes one run with a layer run for every layer and noise level, mapped
    and measured as an extraction's are. Coordinates in embeddings/*.csv are kept, each table a map of its own.

    Args:
        path: folder that holds the models' folders, or one model's folder.
        model: import this one only, by its folder or adapter; or the adapter, where config.json names none.
        layers: layers to import, or all.
        embeddings: further table of coordinates, or folder of such, that does not lie in embeddings/.
        adapter: adapter of the folders whose config.json names none.
        maps: parameters of each layer's map.
        force: import again even if a finished run has the same fingerprint.
        profile: tracking profile of mlruns_config.
        experiment: MLflow experiment name.

    Raises:
        DiffViewsError: with the reason, for any input it refuses; nothing is logged then.
    """
    tables = tables_in(Path(embeddings)) if embeddings else []
    models = _models(Path(path), model, adapter)
    plans = [plan for found, name in models for plan in _plans(found, name, layers, maps, tables)]
    if not plans:
        raise SampleSetError(f"{path} holds no data set: no metadata/*/dataset_info.json, no folder in activations/")
    _check_used(tables, plans)
    workspace = open_workspace(profile, experiment)
    return ImportResult(tuple(_run_or_reuse(plan, workspace, force=force) for plan in plans))


def _check_used(tables: Sequence[Path], plans: Sequence[ImportPlan]) -> None:
    """Refuse tables of coordinates that are all of other samples than those imported."""
    used = {original.path.resolve() for plan in plans for original in plan.originals}
    if tables and not used.intersection(table.resolve() for table in tables):
        raise SampleSetError(
            f"{tables[0]} gives no coordinates of the imported samples; it needs the columns sample_id, umap_x and "
            "umap_y, with ids that the data set has"
        )


def _models(path: Path, wanted: str | None, adapter: str | None) -> Iterator[tuple[LegacyModel, str]]:
    """Yield the models to import with the names of their adapters."""
    found = find_models(path)
    if wanted is not None:
        nameless = len(found) == 1 and found[0].adapter is None
        chosen = [model for model in found if nameless or wanted in (model.folder.name, model.adapter)]
        if not chosen:
            options = [model.folder.name for model in found] + [model.adapter for model in found if model.adapter]
            raise ConfigError(unknown_name("model", wanted, dict.fromkeys(options)))
        found = chosen
    for model in found:
        name = model.adapter or adapter or wanted
        if name is None:
            raise ConfigError(f"{model.folder} has no config.json that names an adapter; give it by --adapter")
        yield model, name


def _plans(
    model: LegacyModel, name: str, layers: tuple[str, ...], maps: MapParameters, tables: Sequence[Path]
) -> Iterator[ImportPlan]:
    about = ImportedModel.of(model, name)
    for dataset_name in model.datasets():
        dataset = read_dataset(model, dataset_name)
        yield ImportPlan.of(dataset, about, layers, read_maps(dataset, tables), maps)


def _run_or_reuse(plan: ImportPlan, workspace: Workspace, *, force: bool) -> ImportedRun:
    digest = plan.fingerprint()
    finished = None if force else workspace.tracker.find_finished(digest)
    if finished is not None:
        workspace.tracker.mark_reused(finished)
    run_id = finished or ImportJob(plan, workspace).run()
    return ImportedRun(run_id, plan.model.name, plan.dataset.name, finished is not None, len(plan.dataset.left_out))


@dataclass(frozen=True, slots=True)
class ImportJob:
    """An import under way: the parent run, then one child a layer and sigma, then the recorded maps."""

    plan: ImportPlan
    workspace: Workspace

    def run(self) -> str:
        """Log everything of the plan and return the parent's id."""
        plan = self.plan
        name = f"import {plan.model.name} {plan.dataset.name}"
        told = f"The data set {code(plan.dataset.name)} of {code(plan.model.name)}, imported from a data folder."
        note, tags = Note(told, self._command(*plan.layers)), self._tags(plan.fingerprint())
        with self.workspace.tracker.start("import", name, tags, params=plan.params(), note=note) as parent:
            self._require_space(parent)
            self._log_inputs(parent)
            records = dict(self._layer_runs(parent))
            for original in plan.originals:  # a map of each imported layer that it was made of
                for layer in [layer for layer in original.layers if layer in plan.layers] or plan.layers:
                    self._log_original(parent, original, layer, records)
            self._log_summary(parent, records)
        return parent.run_id

    def _command(self, *layers: str) -> str:
        """Return the command that imports these layers."""
        options = [f"--layers={json.dumps(list(layers))}", f"--model={self.plan.model.name}"]
        return shlex.join(["diffviews", "import", str(self.plan.dataset.model.folder), *options])

    def _tags(self, digest: str, **more: Any) -> RunTags:
        return RunTags(model=self.plan.model.name, dataset=self.plan.dataset.name, fingerprint=digest, **more)

    def _require_space(self, parent: ActiveRun) -> None:
        plan, size = self.plan, 0
        for layer, sigma in plan.keys:
            size += estimate_bytes(len(plan.rows_at(sigma)), {layer: plan.shape(layer)}, self._dtype(layer))
        logger.info("%s: %s of activations to be written", plan.dataset.name, format_bytes(size))
        require_disk_space(parent.staging, size)

    def _dtype(self, layer: str) -> str:
        return "float16" if self.plan.activations.layers[layer].dtype.itemsize == 2 else "float32"

    def _log_inputs(self, parent: ActiveRun) -> None:
        """Publish parameters, the folder's own configuration, the sample set, and what was left out."""
        plan = self.plan
        parent.log_json(plan.params(), "config.json")
        if (plan.dataset.model.folder / "config.json").exists():
            parent.log_artifact_file(plan.dataset.model.folder / "config.json", "imported/config.json")
        ids = [{"sample_id": s.sample_id, "recorded_id": s.recorded_id, "sigma": s.sigma} for s in plan.dataset.samples]
        parent.log_table(ids, "imported/ids.csv")
        if plan.dataset.left_out:
            missing = plan.dataset.left_out
            parent.log_table({"recorded_id": list(missing), "reason": list(missing.values())}, "imported/left_out.csv")
            parent.log_metrics({"samples_left_out": float(len(missing))})
        plan.samples.write_parquet(parent.stage("samples.parquet"))
        parent.log_input(plan.samples, name=plan.dataset.name, source=plan.dataset.source)
        parent.publish()

    def _layer_runs(self, parent: ActiveRun) -> Iterator[tuple[LayerKey, LayerRecord]]:
        """Store, map and measure every (layer, sigma), each a child run, as an extraction's are."""
        plan = self.plan
        with tqdm(total=len(plan.keys), desc="layers", unit="layer", disable=None) as progress:
            for sigma in plan.dataset.sigmas:
                samples = plan.samples.select(plan.ids_at(sigma))
                order, digest = plan.network_order, plan.layer_fingerprint
                about = (samples, plan.maps, lambda layer, _: self._command(layer), order, digest)
                runs = LayerRuns(self.workspace, parent, *about, plan.conditioning)
                for layer in plan.layers:
                    folder = parent.work / f"{format_sigma(sigma)}-{plan.layers.index(layer)}"
                    array = self._store(folder / "activations.zarr", layer, sigma)
                    runs.log((layer, sigma), array)
                    yield (layer, sigma), runs.logged[layer, sigma]
                    progress.update()

    def _store(self, path: Path, layer: str, sigma: float) -> LayerArray:
        """Write the activations of one (layer, sigma) chunk by chunk."""
        plan = self.plan
        rows = np.asarray(plan.rows_at(sigma))
        writer = ActivationWriter(
            path,
            sample_ids=plan.ids_at(sigma),
            layer=layer,
            shape=plan.shape(layer),
            dtype=self._dtype(layer),
            sigma=sigma,
            model_digest=plan.model.digest,
            dataset_digest=plan.samples.digest,
        )
        writer.fill(lambda span: plan.activations.rows(layer, rows[span]).reshape(-1, *writer.shape[1:]))
        return LayerArray(path)

    def _log_original(
        self, parent: ActiveRun, original: LegacyMap, layer: str, records: Mapping[LayerKey, LayerRecord]
    ) -> None:
        """Log recorded coordinates as a map of a layer."""
        plan = self.plan
        samples = [plan.dataset.samples[row] for row in original.samples]
        sigmas = sorted({sample.sigma for sample in samples})
        kind = MapKind.SINGLE if len(sigmas) == 1 else MapKind.JOINT
        source, parameters = records[layer, sigmas[0]], original_parameters(original, plan.maps)
        digest = fingerprint(
            kind="embedding",
            map=kind.value,
            source=source.fingerprint,
            coordinates=sha256(np.ascontiguousarray(original.coordinates).tobytes()).hexdigest(),
            samples=list(original.samples),
            parameters=parameters,
        )
        tags = self._tags(
            digest,
            layer=layer,
            layer_index=plan.network_order.index(layer),
            sigma=sigmas[0] if kind is MapKind.SINGLE else None,
            source_run=source.run_id,
            map=kind,
        )
        levels = ",".join(map(format_sigma, sigmas))
        params = {"map": kind.value, "sigmas": levels, "imported": original.path.name}
        name = f"imported map {original.path.stem} of {layer} σ {levels}"
        told = f"The map {code(original.path.name)} of {code(layer)} at σ {levels}, as it was imported."
        note = Note(told, self._command(*plan.layers))
        with self.workspace.tracker.start("embedding", name, tags, parent=parent, params=params, note=note) as run:
            fitted = fit_given_map(
                plan.activations.rows(layer, original.samples),
                [sample.sample_id for sample in samples],
                original.coordinates,
                parameters,
                sigmas=None if kind is MapKind.SINGLE else [sample.sigma for sample in samples],
            )
            title = f"{plan.model.name} · {layer} · σ {levels} · {original.path.stem}"
            log_map(run, measure(fitted, plan.samples, title=title, conditioning=plan.conditioning))
            for file in original.files:
                run.log_artifact_file(file, f"imported/{file.name}")

    def _log_summary(self, parent: ActiveRun, records: Mapping[LayerKey, LayerRecord]) -> None:
        """Log the table of layers and, where all noise levels have the same samples, what compares them."""
        if self.plan.is_even:
            summary = ExtractionSummary(self.plan.samples)
            for record in records.values():
                summary.add(self.workspace, record)
            summary.log(parent)
            return
        found = list(records.values())
        parent.log_table(
            [{"layer": r.layer, "sigma": r.sigma, "run_id": r.run_id, **r.metrics} for r in found], "layers.csv"
        )
        shared = [name for name in RANKED if all(name in record.metrics for record in found)]
        parent.log_metrics({f"best_{name}": max(record.metrics[name] for record in found) for name in shared})


def original_parameters(original: LegacyMap, fallback: MapParameters) -> MapParameters:
    """Return the parameters that a recorded map states, those of `fallback` where it states none that is possible."""
    known = {field.name for field in fields(MapParameters)} - {"n_components"}
    stated = {name: value for name, value in original.parameters.items() if name in known}
    try:
        return replace(fallback, **stated)
    except ConfigError as error:
        logger.warning("parameters of %s are not used: %s", original.path, error)
        return fallback


def import_for_viz(
    data_dir: str | None,
    embeddings: str | None,
    *,
    model: str | None = None,
    adapter: str | None = None,
    profile: str | None = None,
    experiment: str | None = None,
) -> str | None:
    """Import a data folder and return the run of the map to open first, None where no table is named.

    Args:
        data_dir: folder in the legacy layout; None: the one whose embeddings/ holds the table.
        embeddings: table of coordinates or folder of such, of which the first is opened.
        model: import this one only.
        adapter: adapter of the folders whose config.json names none.
        profile: tracking profile of mlruns_config.
        experiment: MLflow experiment name.

    Raises:
        DiffViewsError: with the reason, for any input that the import refuses.
    """
    folder = data_dir or str(_folder_around(Path(str(embeddings))))
    result = import_legacy(
        folder, model=model, embeddings=embeddings, adapter=adapter, profile=profile, experiment=experiment
    )
    logger.info("%s", result)
    if embeddings is None:
        return None
    names = [table.name for table in tables_in(Path(embeddings))]
    return _map_named(names, result, open_workspace(profile, experiment))


def _folder_around(embeddings: Path) -> Path:
    """Return the model's folder whose embeddings/ is, or holds, what is named.

    Raises:
        ConfigError: if it lies in none.
    """
    holder = tables_in(embeddings)[0].resolve().parent
    if holder.name != "embeddings":
        raise ConfigError(f"{embeddings} does not lie in a model's folder embeddings/; say by --data-dir what it is of")
    return holder.parent


def _map_named(names: list[str], result: ImportResult, workspace: Workspace) -> str | None:
    """Return the newest imported map of the first of these tables that has one."""
    catalog = workspace.catalog
    layers = [layer for run in result.runs for layer in catalog.layers(run.run_id)]
    maps = {str(found.params.get("imported")): found for layer in layers for found in catalog.maps(layer.run_id)[::-1]}
    return next((maps[name].run_id for name in names if name in maps), None)
