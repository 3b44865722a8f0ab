"""What `viz` imports before it serves: a data folder in the legacy layout, and the table of places to open."""

import logging
from pathlib import Path

from diffviews.data.legacy.maps import tables_in
from diffviews.errors import ConfigError
from diffviews.pipelines.legacy.import_legacy import ImportResult, import_legacy
from diffviews.pipelines.workspace import Workspace, open_workspace

logger = logging.getLogger(__name__)


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
