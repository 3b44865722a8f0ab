"""Opening a layer: from the nearest place that has it, computed only where none has.

    with open_layer(ExtractionRecipe(layers=("decoder_block_4",), sigmas=(2.0,))) as layer:
        layer.points(), layer.projector(), layer.activations().rows(ids)

Order: this machine's cache, the shared bucket, a run with the same fingerprint, the bucket's legacy cache,
extraction. What was found is then stored where it was missing; the bucket gets it in the background.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from diffviews.data.layout import LayerKey
from diffviews.data.storage.cache import Cache, CachedLayer
from diffviews.data.storage.shared_layers import SharedLayers
from diffviews.data.storage.store_errors import StoreError
from diffviews.errors import ConfigError, CorruptDataError, RunNotFoundError, SchemaVersionError
from diffviews.pipelines.datasets import open_dataset
from diffviews.pipelines.extract import ExtractionJob, extract
from diffviews.pipelines.layers.entry import OpenedLayer, Origin, fill_from_run, log_entry
from diffviews.pipelines.legacy.layer import LegacyLayer
from diffviews.pipelines.models import load_model
from diffviews.pipelines.plan import ExtractionPlan
from diffviews.pipelines.workspace import Workspace, open_workspace
from diffviews.recipes.execution import Execution
from diffviews.recipes.extraction import ExtractionRecipe

logger = logging.getLogger(__name__)


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
        run_id = self.workspace.tracker.find_finished(wanted)
        entry = self._from_run(wanted)
        if entry is None:
            raise RunNotFoundError(f"layer {key[0]} was extracted, but no run has its fingerprint {wanted[:12]}")
        return self._stored("extraction", model, entry, run_id)

    def find(self, model: str, fingerprint: str) -> OpenedLayer | None:
        """Open the layer with this fingerprint, None if no store has it; nothing is computed.

        Raises:
            TrackingError: if the tracking store must be asked and cannot be.
        """
        entry = self.cache.open(fingerprint)
        if entry is not None:
            return self._stored("local", model, entry, None, log=False)
        entry = self._from_shared(model, fingerprint)
        if entry is not None:
            return self._stored("shared", model, entry, self.workspace.tracker.find_finished(fingerprint))
        entry = self._from_run(fingerprint)
        if entry is not None:
            return self._stored("run", model, entry, self.workspace.tracker.find_finished(fingerprint))
        return None

    def flush(self, timeout: float | None = None) -> bool:
        """Wait for uploads in the background; return whether all succeeded. The program's end waits, too."""
        return self.shared is None or self.shared.flush(timeout)

    def offer_run(self, run_id: str) -> None:
        """Put a finished layer run into the local cache and, in the background, into the shared bucket."""
        record = self.workspace.catalog.layer(run_id)
        if record.fingerprint is None:
            raise ConfigError(f"layer run {run_id} has no fingerprint, by which it could be shared")
        entry = self.cache.open(record.fingerprint) or self._from_run(record.fingerprint)
        if entry is not None:
            self._stored("run", record.model, entry, run_id).close()

    def _from_shared(self, model: str, fingerprint: str) -> CachedLayer | None:
        if self.shared is None:
            return None
        with _tolerated("the shared bucket is left out"):
            return self.shared.fetch(model, fingerprint, self.cache)
        return None

    def _from_run(self, fingerprint: str) -> CachedLayer | None:
        run_id = self.workspace.tracker.find_finished(fingerprint)
        if run_id is None:
            return None
        with self.cache.adding(fingerprint) as draft:
            draft.about = fill_from_run(self.workspace, run_id, draft.folder)
        return self.cache.open(fingerprint)

    def _from_legacy(self, plan: ExtractionPlan, key: LayerKey) -> OpenedLayer | None:
        if self.shared is None:
            return None
        with _tolerated("the legacy cache is left out"):
            legacy = LegacyLayer.find(self.shared.store, plan, key)
            if legacy is None:
                return None
            found = self.find(plan.adapter.model_type, legacy.fingerprint())
            if found is not None:
                return found
            return self._fitted(legacy)
        return None

    def _fitted(self, legacy: LegacyLayer) -> OpenedLayer | None:
        with self.cache.adding(legacy.fingerprint()) as draft:
            draft.about = legacy.fill(draft.folder)
        entry = self.cache.open(legacy.fingerprint())
        return None if entry is None else self._stored("legacy", legacy.plan.adapter.model_type, entry, None)

    def _stored(
        self, origin: Origin, model: str, entry: CachedLayer, run_id: str | None, *, log: bool = True
    ) -> OpenedLayer:
        """Store an entry where it is missing: a run of its own now, the shared bucket in the background."""
        if self.shared is not None:
            self.shared.offer(model, entry, self.cache)
        if run_id is None and log:
            run_id = log_entry(self.workspace, entry)
        logger.info("layer %s of %s: from %s", entry.manifest.about.get("layer"), model, origin)
        return OpenedLayer(origin, run_id, entry)


@contextlib.contextmanager
def _tolerated(consequence: str) -> Iterator[None]:
    """Write a failure of a bucket within the block to the log: the next place is asked."""
    try:
        yield
    except (StoreError, CorruptDataError, SchemaVersionError) as error:
        logger.warning("%s: %s", consequence, error)
