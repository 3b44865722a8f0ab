"""The logged runs behind the dashboard, read from the tracking store."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from diffviews.data.samples import SampleSet
from diffviews.errors import CorruptDataError, TrackingError
from diffviews.pipelines.workspace import Workspace
from diffviews.processing.projector import Projector
from diffviews.tracking.records import ExtractionRecord, LayerRecord, MapRecord, RunRecord
from diffviews.tracking.schema import MapKind

POINTS = "map/points.parquet"
PROJECTOR = "map/projector.safetensors"
MODEL = "model.json"
COLUMNS = "columns.parquet"


class LoggedRuns:
    """Reads a workspace's runs for `DataStore`; usable from several threads.

    Args:
        workspace: the opened tracking store.
        ui_url: address of the MLflow UI, or None when there is none to link to.
    """

    def __init__(self, workspace: Workspace, ui_url: str | None = None) -> None:
        self._workspace = workspace
        self._ui_url = ui_url.rstrip("/") if ui_url else None
        self._paths: dict[str, str] = {}

    def experiments(self) -> Sequence[str]:
        """Names of the experiments that hold anything with layer runs."""
        return sorted({record.experiment for record in self._workspace.catalog.extractions()})

    def extractions(self, experiment: str) -> Sequence[ExtractionRecord]:
        """Finished extractions, imports and generated sets with layer runs, newest first."""
        return self._noted(self._workspace.catalog.extractions(experiment))

    def layers(self, extraction: str) -> Sequence[LayerRecord]:
        """Finished layer runs of an extraction, in the network's order."""
        return self._noted(self._workspace.catalog.layers(extraction))

    def maps(self, layer_run: str) -> Sequence[MapRecord]:
        """Finished re-computed maps of a layer run, at its own sigma or joint over several, newest first."""
        shown = (None, MapKind.SINGLE, MapKind.JOINT)
        return [m for m in self._noted(self._workspace.catalog.maps(layer_run)) if m.map_kind in shown]

    def samples(self, extraction: str) -> SampleSet:
        """The sample set of an extraction."""
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

    def points(self, map_run: str) -> pd.DataFrame:
        """The table of a layer run's or re-computed map's points.

        Raises:
            CorruptDataError: if the table cannot be read or lacks its columns.
        """
        return _table(self._file(map_run, POINTS), {"sample_id", "x", "y"})

    def projector(self, map_run: str) -> Projector:
        """The projector of a layer run's or re-computed map."""
        return Projector.load(self._file(map_run, PROJECTOR))

    def run_url(self, run_id: str) -> str | None:
        """Address of a run in the MLflow UI, or None when no UI is known."""
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


def _table(path: Path, needed: set[str]) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise CorruptDataError(f"the table {path} cannot be read: {error}") from error
    missing = needed - set(table.columns)
    if missing:
        raise CorruptDataError(f"the table {path} lacks the columns {', '.join(sorted(missing))}")
    return table
