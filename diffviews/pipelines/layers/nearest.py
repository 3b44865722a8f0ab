"""Opening a layer: from the nearest place that has it, computed only where none has.

    with open_layer(ExtractionRecipe(layers=("decoder_block_4",), sigmas=(2.0,))) as layer:
        layer.points(), layer.projector(), layer.activations().rows(ids)

Order: this machine's cache, the shared bucket, a run with the same fingerprint, the bucket's legacy cache,
extraction. What was found is then stored where it was missing; the bucket gets it in the background. In cache and
bucket a layer is complete in one folder:

    samples.parquet  model.json  config.json  columns.parquet     of the extraction, the last three where it has them
    map/points.parquet  map/projector.safetensors  map.png        of the layer run, as are all further files
    activations.zarr/…
    entry.json                                                    parameters, measures, and the list of files
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from diffviews.data.activations import ActivationReader
from diffviews.data.layout import LayerKey
from diffviews.data.samples import SampleSet
from diffviews.data.storage.cache import Cache, CachedLayer
from diffviews.data.storage.shared_layers import SharedLayers
from diffviews.data.storage.store_errors import StoreError
from diffviews.errors import ConfigError, CorruptDataError, RunNotFoundError, SchemaVersionError
from diffviews.noise import format_sigma
from diffviews.pipelines.capture.layer_array import link_tree
from diffviews.pipelines.extract import ExtractionJob, extract, open_dataset
from diffviews.pipelines.legacy.layer import LegacyLayer
from diffviews.pipelines.models import load_model
from diffviews.pipelines.plan import ExtractionPlan
from diffviews.pipelines.workspace import Workspace, open_workspace, projector_name
from diffviews.processing.projector import Projector
from diffviews.processing.sketch import SKETCH_FILE, SketchRecord
from diffviews.recipes import Execution, ExtractionRecipe
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.artifacts import ArtifactFolder
from diffviews.tracking.notes import Note, code
from diffviews.tracking.schema import MapKind, RunTags, fingerprint

logger = logging.getLogger(__name__)

Origin = Literal["local", "shared", "run", "legacy", "extraction"]
"""Where a layer was found: this machine's cache, the shared bucket, a logged run, the bucket's legacy cache,
or nowhere, so that it was extracted."""

SHARED_FILES = ("samples.parquet", "model.json", "config.json", "columns.parquet")
"""What a layer takes from its extraction to be complete by itself."""
_ABOUT = ("model", "layer", "layer_index", "sigma", "dataset")
"""What `entry.json` says of a layer besides parameters and measures."""


@dataclass(frozen=True, slots=True)
class OpenedLayer(CachedLayer):
    """One layer at one sigma, ready on this machine; it is not evicted until it is closed."""

    origin: Origin
    run_id: str | None
    """Layer run that holds it in the tracking store; None where there is none."""

    @property
    def files(self) -> ArtifactFolder:
        """Its files, which read like those of any run."""
        return ArtifactFolder(self.fingerprint, str(self.folder), manifest=self.manifest)

    def points(self) -> pd.DataFrame:
        """Return the map: sample_id, x, y[, z] and the measures of each point."""
        return pd.read_parquet(self.files.path("map/points.parquet"))

    def projector(self) -> Projector:
        """Return what places new activations on the map."""
        return Projector.load(self.files.path(projector_name(None)))

    def activations(self) -> ActivationReader:
        """Open the activations, which a layer extracted in sketch mode has not."""
        return ActivationReader.open(self.files.fetcher("activations.zarr"), name=f"activations in {self.folder}")

    def samples(self) -> SampleSet:
        """Return the sample set."""
        return SampleSet.read_parquet(self.files.path("samples.parquet"))

    def __str__(self) -> str:
        place = f"{self.about['layer']} σ {format_sigma(self.about['sigma'])}"
        return f"layer {place}: {self.fingerprint[:12]} from {self.origin}, {self.folder}"


def open_layer(
    recipe: ExtractionRecipe, opener: "LayerOpener | None" = None, execution: Execution = Execution()
) -> OpenedLayer:
    """Return one layer of a model over a sample set at one noise level, computed only where no store has it.

    Args:
        recipe: of the extraction that would make it, of one layer and one noise level.
        opener: stores to look in; None: the profile's, the local cache, and the shared bucket if configured.
        execution: how it is computed where no store has it.

    Raises:
        DiffViewsError: with the reason, for any input it refuses.
    """
    opener = opener or LayerOpener.of_profile()
    adapter = load_model(recipe, opener.workspace, device=execution.device)
    samples = open_dataset(recipe, adapter, opener.workspace)
    plan = ExtractionPlan.of(recipe, adapter, samples)
    if len(plan.keys) != 1:
        raise ConfigError(f"{len(plan.keys)} layers and noise levels were asked for; open one layer at one level")
    return opener.open(plan, plan.keys[0], execution)


@dataclass(frozen=True, slots=True)
class LayerOpener:
    """The stores that a layer may lie in. Safe to share between threads."""

    workspace: Workspace
    cache: Cache
    shared: SharedLayers | None
    """None: no shared bucket is configured."""

    @classmethod
    def of_profile(cls, profile: str | None = None, experiment: str | None = None) -> "LayerOpener":
        """Return the stores that the profile and the environment name."""
        workspace = open_workspace(profile, experiment, check_artifacts=False)
        return cls(workspace, Cache(), SharedLayers.configured())

    def open(self, plan: ExtractionPlan, key: LayerKey, execution: Execution = Execution()) -> OpenedLayer:
        """Open one layer of a plan, from the nearest place that has it.

        Raises:
            DiffViewsError: if it can neither be found nor extracted.
        """
        model, wanted = plan.adapter.model_type, plan.layer_fingerprint(*key)
        found = self.find(model, wanted) or self._from_legacy(plan, key)
        if found is not None:
            return found
        if execution.devices > 1:
            extract(plan.recipe, self.workspace, execution)
        else:
            ExtractionJob(plan, self.workspace, execution).run()
        entry = self._from_run(wanted)
        if entry is None:
            raise RunNotFoundError(f"layer {key[0]} was extracted, but no run has its fingerprint {wanted[:12]}")
        return self._stored("extraction", model, entry)

    def find(self, model: str, fingerprint: str) -> OpenedLayer | None:
        """Open the layer with this fingerprint, None if no store has it; nothing is computed.

        Raises:
            TrackingError: if the tracking store must be asked and cannot be.
        """
        places: tuple[tuple[Origin, Callable[[str], CachedLayer | None]], ...] = (
            ("local", self.cache.open), ("shared", partial(self._from_shared, model)), ("run", self._from_run)
        )  # fmt: skip
        for origin, look in places:
            entry = look(fingerprint)
            if entry is not None:
                return self._stored(origin, model, entry)
        return None

    def flush(self, timeout: float | None = None) -> bool:
        """Wait for uploads in the background; return whether all succeeded. The program's end waits, too."""
        return self.shared is None or self.shared.uploads.flush(timeout)

    def offer_run(self, run_id: str) -> None:
        """Put a finished layer run into the local cache and, in the background, into the shared bucket."""
        record = self.workspace.catalog.layer(run_id)
        if record.fingerprint is None:
            raise ConfigError(f"layer run {run_id} has no fingerprint, by which it could be shared")
        entry = self.cache.open(record.fingerprint) or self._from_run(record.fingerprint)
        if entry is not None:
            with entry:
                self._offer(record.model, entry)

    def _from_shared(self, model: str, fingerprint: str) -> CachedLayer | None:
        if self.shared is None:
            return None
        with _tolerated("the shared bucket is left out"):
            return self.shared.fetch(model, fingerprint, self.cache)
        return None

    def _from_run(self, fingerprint: str) -> CachedLayer | None:
        run_id = self.workspace.tracker.find_finished(fingerprint)
        return None if run_id is None else self.cache.add(fingerprint, partial(fill_from_run, self.workspace, run_id))

    def _from_legacy(self, plan: ExtractionPlan, key: LayerKey) -> OpenedLayer | None:
        model = plan.adapter.model_type
        with _tolerated("the legacy cache is left out"):
            legacy = None if self.shared is None else LegacyLayer.find(self.shared.store, plan, key)
            if legacy is None:
                return None
            found = self.find(model, legacy.fingerprint())
            if found is not None:
                return found
            entry = self.cache.add(legacy.fingerprint(), legacy.fill)
            return None if entry is None else self._stored("legacy", model, entry)
        return None

    def _offer(self, model: str, entry: CachedLayer) -> None:
        if self.shared is not None:
            self.shared.offer(model, entry, self.cache)

    def _stored(self, origin: Origin, model: str, entry: CachedLayer) -> OpenedLayer:
        """Store an entry where it is missing: a run of its own now, the shared bucket in the background."""
        self._offer(model, entry)
        run_id = None
        if origin != "local":
            run_id = self.workspace.tracker.find_finished(entry.fingerprint) or log_entry(self.workspace, entry)
        logger.info("layer %s of %s: from %s", entry.about.get("layer"), model, origin)
        return OpenedLayer(entry.folder, entry.manifest, entry.lease, origin, run_id)


@contextlib.contextmanager
def _tolerated(consequence: str) -> Iterator[None]:
    """Write a failure of a bucket within the block to the log: the next place is asked."""
    try:
        yield
    except (StoreError, CorruptDataError, SchemaVersionError) as error:
        logger.warning("%s: %s", consequence, error)


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
        **{name: getattr(record, name) for name in _ABOUT},
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
    about, folder = entry.about, entry.folder
    entry.manifest.verify(folder)  # what was damaged on this machine must not become a run
    tags = _tags(entry)
    name = f"import {tags.layer} σ {format_sigma(about['sigma'])} of {tags.model} from a cache"
    whole = RunTags(
        model=tags.model, dataset=tags.dataset, fingerprint=fingerprint(kind="import", layer=tags.fingerprint)
    )
    tracker, params = workspace.tracker, {str(k): str(v) for k, v in dict(about.get("params", {})).items()}
    own = {"layer": params.pop("layer", str(tags.layer)), "sigma": params.pop("sigma", format_sigma(about["sigma"]))}
    told = f"{code(str(tags.layer))} of {code(str(tags.model))} at σ {own['sigma']}, as a cache held it"
    note = Note(f"{told}; nothing was computed.")
    with tracker.start("import", name, whole, params=params, note=note, on_the_way=True) as parent:
        samples = SampleSet.read_parquet(folder / "samples.parquet")
        for shared in SHARED_FILES:
            if (folder / shared).is_file():
                parent.log_artifact_file(folder / shared, shared)
        parent.log_input(samples, name=tags.dataset or "samples", source=tags.dataset or "cache")
        with tracker.start("layer", str(tags.layer), tags, parent=parent, params=own, note=note) as run:
            _log_layer(run, entry)
        parent.log_table([{"layer": tags.layer, "sigma": tags.sigma, "run_id": run.run_id}], "layers.csv")
    return run.run_id


def _tags(entry: CachedLayer) -> RunTags:
    try:
        about = {name: entry.about.get(name) for name in _ABOUT} | {"sigma": float(entry.about["sigma"])}
        tags = RunTags(**about, fingerprint=entry.fingerprint, map=MapKind.SINGLE)
        tags.as_tags("layer")  # refuses one without its layer
        return tags
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise CorruptDataError(f"{entry.folder} does not say what layer it is: {error}") from error


def _log_layer(run: ActiveRun, entry: CachedLayer) -> None:
    run.log_metrics({str(name): float(value) for name, value in dict(entry.about.get("metrics", {})).items()})
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
