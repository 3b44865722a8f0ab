"""A computed layer, complete in one folder, and its two ways: from a run into the folder, from the folder into a run.

    samples.parquet  model.json  config.json  columns.parquet     of the extraction, the last three where it has them
    map/points.parquet  map/projector.safetensors  map.png        of the layer run, as are all further files
    activations.zarr/…
    entry.json                                                    parameters, measures, and the list of files
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from diffviews.data.activations import ActivationReader
from diffviews.data.samples import SampleSet
from diffviews.data.storage.cache import CachedLayer
from diffviews.errors import CorruptDataError
from diffviews.noise import format_sigma
from diffviews.pipelines.capture.layer_array import link_tree
from diffviews.pipelines.workspace import Workspace, projector_name
from diffviews.processing.projector import Projector
from diffviews.processing.sketch import SKETCH_FILE, SketchRecord
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.artifacts import ArtifactFolder
from diffviews.tracking.schema import MapKind, RunTags, fingerprint

Origin = Literal["local", "shared", "run", "legacy", "extraction"]
"""Where a layer was found: this machine's cache, the shared bucket, a logged run, the bucket's legacy cache,
or nowhere, so that it was extracted."""

SHARED_FILES = ("samples.parquet", "model.json", "config.json", "columns.parquet")
"""What a layer takes from its extraction to be complete by itself."""


@dataclass(frozen=True, slots=True)
class OpenedLayer:
    """One layer at one sigma, ready on this machine; it is not evicted until it is closed."""

    origin: Origin
    run_id: str | None
    """Layer run that holds it in the tracking store; None where there is none."""
    entry: CachedLayer

    @property
    def about(self) -> Mapping[str, Any]:
        """Model, layer, sigma, data set, parameters and measures."""
        return self.entry.manifest.about

    @property
    def fingerprint(self) -> str:
        """Digest of everything that determines it."""
        return self.entry.manifest.owner

    @property
    def files(self) -> ArtifactFolder:
        """Its files, which read like those of any run."""
        return ArtifactFolder(self.fingerprint, str(self.entry.folder), manifest=self.entry.manifest)

    def points(self) -> pd.DataFrame:
        """Return the map: sample_id, x, y[, z] and the measures of each point."""
        return pd.read_parquet(self.files.path("map/points.parquet"))

    def projector(self) -> Projector:
        """Return what places new activations on the map."""
        return Projector.load(self.files.path(projector_name(None)))

    def activations(self) -> ActivationReader:
        """Open the activations, which a layer extracted in sketch mode has not."""
        return ActivationReader.open(self.files.fetcher("activations.zarr"), name=f"activations in {self.entry.folder}")

    def samples(self) -> SampleSet:
        """Return the sample set."""
        return SampleSet.read_parquet(self.files.path("samples.parquet"))

    def close(self) -> None:
        """Let the local cache evict it."""
        self.entry.close()

    def __enter__(self) -> "OpenedLayer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        place = f"{self.about['layer']} σ {format_sigma(self.about['sigma'])}"
        return f"layer {place}: {self.fingerprint[:12]} from {self.origin}, {self.entry.folder}"


def fill_from_run(workspace: Workspace, run_id: str, folder: Path) -> dict[str, Any]:
    """Copy a layer run's artifacts and its extraction's sample set to `folder`; return what `entry.json` says.

    Raises:
        RunNotFoundError: if there is no such layer run.
        CorruptDataError: if one of its files is damaged.
    """
    record = workspace.catalog.layer(run_id)
    own = workspace.catalog.artifacts(record)
    _copy(own, own.names(), folder)
    if record.parent_id is not None:
        parent = workspace.folder(record.parent_id)
        _copy(parent, [name for name in SHARED_FILES if name in parent.names()], folder)
    return {
        "model": record.model,
        "layer": record.layer,
        "layer_index": record.layer_index,
        "sigma": record.sigma,
        "dataset": record.dataset,
        "params": dict(record.params),
        "metrics": {name: value for name, value in record.metrics.items() if value == value},
    }


def _copy(source: ArtifactFolder, names: Sequence[str], folder: Path) -> None:
    source.gather(names)
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.path(name).read_bytes())


def log_entry(workspace: Workspace, entry: CachedLayer) -> str:
    """Log a layer that no run of this tracking store holds, as an import with one layer run; return that one's id.

    Nothing is computed: coordinates, projector, activations and measures are those of the entry.
    """
    about, folder = entry.manifest.about, entry.folder
    tags = _tags(entry)
    name = f"import {tags.layer} σ {format_sigma(about['sigma'])} of {tags.model} from a cache"
    whole = RunTags(
        model=tags.model, dataset=tags.dataset, fingerprint=fingerprint(kind="import", layer=tags.fingerprint)
    )
    tracker, params = workspace.tracker, {str(k): str(v) for k, v in dict(about.get("params", {})).items()}
    with tracker.start("import", name, whole, params=params, on_the_way=True) as parent:
        samples = SampleSet.read_parquet(folder / "samples.parquet")
        for shared in SHARED_FILES:
            if (folder / shared).is_file():
                parent.log_artifact_file(folder / shared, shared)
        parent.log_input(samples, name=tags.dataset or "samples", source=tags.dataset or "cache")
        with tracker.start("layer", str(tags.layer), tags, parent=parent, params=params) as run:
            _log_layer(run, entry)
        parent.log_table([{"layer": tags.layer, "sigma": tags.sigma, "run_id": run.run_id}], "layers.csv")
    return run.run_id


def _tags(entry: CachedLayer) -> RunTags:
    about = entry.manifest.about
    try:
        return RunTags(
            model=str(about["model"]),
            dataset=about.get("dataset"),
            fingerprint=entry.manifest.owner,
            layer=str(about["layer"]),
            layer_index=about.get("layer_index"),
            sigma=float(about["sigma"]),
            map=MapKind.SINGLE,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptDataError(f"{entry.folder} does not say what layer it is: {error}") from error


def _log_layer(run: ActiveRun, entry: CachedLayer) -> None:
    run.log_metrics({str(name): float(value) for name, value in dict(entry.manifest.about.get("metrics", {})).items()})
    picture = entry.folder / "map.png"
    if picture.is_file():
        run.log_image("map", picture.read_bytes())
    if (entry.folder / SKETCH_FILE).is_file():
        run.set_tag("diffviews.digest", SketchRecord.load(entry.folder / SKETCH_FILE).digest)
    else:
        run.set_tag("diffviews.digest", ActivationReader.open(entry.folder / "activations.zarr").digest)
        link_tree(entry.folder / "activations.zarr", run.stage("activations.zarr"))
    for name in entry.manifest.files:
        if name not in SHARED_FILES and not name.startswith("activations.zarr/"):
            run.log_artifact_file(entry.folder / name, name)
