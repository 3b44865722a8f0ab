"""The logged runs behind the dashboard, read from the tracking store."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from diffviews.data.samples import SampleSet
from diffviews.errors import ConfigError, CorruptDataError, RunNotFoundError, SchemaVersionError, TrackingError
from diffviews.noise import format_sigma
from diffviews.pipelines.export import log_export
from diffviews.pipelines.workspace import Workspace, artifact_trouble, projector_name
from diffviews.processing.projector import Projector
from diffviews.processing.similarity import Similarity
from diffviews.recipes.generation import GenerationRecipe
from diffviews.tracking.records import ExtractionRecord, LayerRecord, MapRecord, RunRecord
from diffviews.tracking.schema import MapKind
from panel_app.computing.pending import Pending, pending_of
from panel_app.data import Library
from panel_app.generation.archive import GenerationArchive
from panel_app.places import Across
from panel_app.state import Address, Selection

POINTS = "map/points.parquet"
MODEL = "model.json"
COLUMNS = "columns.parquet"
RECIPE = "recipe.json"


class LoggedRuns(Library):
    """Reads a workspace's runs; usable from several threads.

    Args:
        workspace: the opened tracking store.
        ui_url: address of the MLflow UI, or None when there is none to link to.
    """

    def __init__(self, workspace: Workspace, ui_url: str | None = None) -> None:
        self._workspace = workspace
        self.generations = GenerationArchive(workspace)
        self._ui_url = ui_url.rstrip("/") if ui_url else None
        self._paths: dict[str, str] = {}

    def experiments(self) -> Sequence[str]:
        return sorted({record.experiment for record in self._workspace.catalog.extractions()})

    def extractions(self, experiment: str) -> Sequence[ExtractionRecord]:
        return self._noted(self._workspace.catalog.extractions(experiment))

    def pending(self, experiment: str) -> Sequence[Pending]:
        return pending_of(self._workspace.catalog, experiment)

    def trouble(self) -> str | None:
        return artifact_trouble(self._workspace)

    def layers(self, extraction: str) -> Sequence[LayerRecord]:
        return self._noted(self._workspace.catalog.layers(extraction))

    def maps(self, layer_run: str) -> Sequence[MapRecord]:
        shown = (None, MapKind.SINGLE, MapKind.JOINT)
        return [m for m in self._noted(self._workspace.catalog.maps(layer_run)) if m.map in shown]

    def aligned_maps(self, layer_runs: Sequence[str]) -> Sequence[MapRecord]:
        found = [m for run in layer_runs for m in self._noted(self._workspace.catalog.maps(run))]
        aligned = [m for m in found if m.map is MapKind.ALIGNED]
        return sorted(aligned, key=lambda record: record.start_time, reverse=True)

    def samples(self, extraction: str) -> SampleSet:
        return SampleSet.read_parquet(self._file(extraction, "samples.parquet"))

    def model(self, extraction: str) -> Mapping[str, Any] | None:
        """What an extraction noted of its model, or None where it noted nothing.

        Raises:
            CorruptDataError: if the note cannot be read.
        """
        path = self._optional(extraction, MODEL)
        if path is None:
            return None
        try:
            noted = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CorruptDataError(f"the note on the model {path} cannot be read: {error}") from error
        return noted if isinstance(noted, dict) else None

    def columns(self, extraction: str) -> pd.DataFrame | None:
        """Further columns of an extraction's samples, by sample_id, or None.

        Raises:
            CorruptDataError: if the table cannot be read or names no samples.
        """
        path = self._optional(extraction, COLUMNS)
        return None if path is None else _table(path, {"sample_id"})

    def points(self, map_run: str, slice_sigma: float | None = None) -> pd.DataFrame:
        """The table of a layer run's or re-computed map's points, or of one slice of an aligned map.

        Raises:
            CorruptDataError: if the table cannot be read or lacks its columns.
        """
        return _table(self._file(map_run, _of_slice(POINTS, slice_sigma)), {"sample_id", "x", "y"})

    def projector(self, map_run: str, slice_sigma: float | None = None) -> Projector:
        return Projector.load(self._file(map_run, projector_name(slice_sigma)))

    def similarity(self, extraction: str, sigma: float) -> Similarity | None:
        """How alike all layers of an extraction are at a noise level, or None where it was not logged.

        Raises:
            CorruptDataError: if the table cannot be read, or its rows and columns are not the same layers.
        """
        path = self._optional(extraction, f"similarity/{format_sigma(sigma)}.csv")
        if path is not None:
            return _similarity(path)
        path = self._optional(extraction, f"cka/{format_sigma(sigma)}.csv")
        return None if path is None else _biased(path)

    def address_of(self, run_id: str) -> Address | None:
        """Where a layer run, a map or a generation is looked at; None for any other run, or one that is not there.

        A generation is looked at on the map of the layer that its mask came from, with its samples selected.
        """
        try:
            return _address_of(self._workspace, run_id)
        except (RunNotFoundError, SchemaVersionError, ConfigError):
            return None

    def log_export(self, source_run: str, files: Mapping[str, bytes], *, title: str, link: str) -> str:
        run_id = log_export(self._workspace, source_run, files, title=title, link=link)
        self._paths[run_id] = self._workspace.tracker.ui_path(run_id)
        return run_id

    def run_url(self, run_id: str) -> str | None:
        if self._ui_url is None:
            return None
        if run_id not in self._paths:
            self._paths[run_id] = self._workspace.catalog.generation(run_id).ui_path
        return self._ui_url + self._paths[run_id]

    def _optional(self, run_id: str, name: str) -> Path | None:
        folder = self._workspace.catalog.artifacts(run_id)
        return folder.path(name) if name in folder.names() else None

    def _file(self, run_id: str, name: str) -> Path:
        path = self._workspace.catalog.artifacts(run_id).path(name)
        if not path.exists():
            raise TrackingError(f"run {run_id} has no artifact {name}; it was removed or is still being written")
        return path

    def _noted(self, records: Sequence[Any]) -> Sequence[Any]:
        """Remember where these runs are in the UI."""
        self._paths.update({record.run_id: record.ui_path for record in records if isinstance(record, RunRecord)})
        return list(records)


def _address_of(workspace: Workspace, run_id: str) -> Address | None:
    catalog = workspace.catalog
    readers: tuple[Callable[[str], RunRecord], ...] = (catalog.layer, catalog.map, catalog.generation)
    record = next((found for reader in readers if (found := _read(reader, run_id)) is not None), None)
    if record is None or not record.is_finished:
        return None
    if isinstance(record, LayerRecord):
        return Address(run=record.parent_id, layer=record.layer, sigma=record.sigma)
    if record.source_run is None:
        return None
    layer = catalog.layer(record.source_run)
    place = Address(run=layer.parent_id, layer=layer.layer, sigma=layer.sigma)
    if isinstance(record, MapRecord) and record.map is MapKind.ALIGNED:
        return replace(place, view="noise", across=Across(map=run_id))
    if isinstance(record, MapRecord):
        return replace(place, map=run_id)
    recipe = GenerationRecipe.from_json(catalog.artifacts(run_id).path(RECIPE).read_text(encoding="utf-8"))
    chosen = Selection(recipe.sample_ids[0], (), recipe.sample_ids[1:]) if recipe.sample_ids else Selection()
    return replace(place, map=recipe.map_run, selection=chosen)


def _read(reader: Callable[[str], RunRecord], run_id: str) -> RunRecord | None:
    try:
        return reader(run_id)
    except RunNotFoundError:  # of another kind
        return None


def _of_slice(name: str, sigma: float | None) -> str:
    """Return an artifact's name, with the noise level of the slice that it holds."""
    stem, _, ending = name.rpartition(".")
    return name if sigma is None else f"{stem}-{format_sigma(sigma)}.{ending}"


def _similarity(path: Path) -> Similarity:
    try:
        return Similarity.from_table(pd.read_csv(path))
    except (OSError, ValueError, CorruptDataError) as error:
        raise CorruptDataError(f"the table {path} cannot be read: {error}") from error


def _biased(path: Path) -> Similarity:
    """Read the square table of an earlier version, which had the biased CKA alone."""
    try:
        table = pd.read_csv(path, index_col=0).astype("float64")
    except (OSError, ValueError) as error:
        raise CorruptDataError(f"the table {path} cannot be read: {error}") from error
    if list(table.index.astype(str)) != list(table.columns):
        raise CorruptDataError(f"the table {path} compares different layers in its rows and columns")
    return Similarity(tuple(table.columns), table.to_numpy(), debiased=False)


def _table(path: Path, needed: set[str]) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise CorruptDataError(f"the table {path} cannot be read: {error}") from error
    missing = needed - set(table.columns)
    if missing:
        raise CorruptDataError(f"the table {path} lacks the columns {', '.join(sorted(missing))}")
    return table
