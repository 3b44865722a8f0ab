"""Opening a layer: from the nearest place that has it, computed only where none has.

    with open_layer("edm-digits", "decoder_block_4", 2.0) as layer:
        layer.points(), layer.projector(), layer.activations().rows(ids)

Order: this machine's cache, the shared bucket, a run with the same fingerprint, the bucket's legacy cache,
extraction. What was found is then stored where it was missing; the bucket gets it in the background.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from diffviews.data.layout import LayerKey
from diffviews.data.storage.layer_cache import CachedLayer, LayerCache
from diffviews.data.storage.shared_layers import SharedLayers
from diffviews.data.storage.store_errors import StoreError
from diffviews.errors import ConfigError, CorruptDataError, RunNotFoundError, SchemaVersionError
from diffviews.pipelines.datasets import open_dataset
from diffviews.pipelines.extract import ExtractionJob
from diffviews.pipelines.layers.entry import OpenedLayer, Origin, fill_from_run, log_entry
from diffviews.pipelines.legacy.layer import LegacyLayer
from diffviews.pipelines.models import absolute, load_model
from diffviews.pipelines.plan import Conditioning, ExtractionPlan, check_sigmas, choose_layers, resolve_conditioning
from diffviews.pipelines.recipe import Precision
from diffviews.pipelines.workspace import Workspace, open_workspace
from diffviews.processing.map_parameters import MapParameters

logger = logging.getLogger(__name__)


def open_layer(
    model: str = "edm-digits",
    layer: str = "midblock",
    sigma: float = 2.0,
    *,
    checkpoint: str | None = None,
    dataset: str = "digits",
    max_samples: int | None = None,
    conditioning: Conditioning = "auto",
    batch_size: int = 128,
    dtype: Literal["float16", "float32"] = "float16",
    maps: MapParameters = MapParameters(),
    precision: Precision = "auto",
    device: str = "auto",
    devices: int = 1,
    profile: str | None = None,
    experiment: str | None = None,
    opener: "LayerOpener | None" = None,
) -> OpenedLayer:
    """Return one layer of a model over a sample set at one noise level, computed only where no store has it.

    Args:
        model: adapter name.
        layer: hook point.
        sigma: noise level, EDM units.
        checkpoint: weights: a file, a folder or an address; None takes the adapter's own.
        dataset: sample source, as `extract` takes it.
        max_samples: use at most so many samples, stratified by class.
        conditioning: none, label, uniform, prompt or auto, as `extract` takes it.
        batch_size: samples a forward pass.
        dtype: of stored activations.
        maps: parameters of the map.
        precision: of the forward pass.
        device: auto, cpu, cuda, cuda:N or mps.
        devices: number of devices for an extraction.
        profile: tracking profile of mlruns_config.
        experiment: MLflow experiment name.
        opener: stores to look in; None: the profile's, the local cache, and the shared bucket if configured.

    Raises:
        DiffViewsError: with the reason, for any input it refuses.
    """
    opener = opener or LayerOpener.of_profile(profile, experiment)
    adapter = load_model(model, checkpoint, device=device, precision=precision)
    (name,), (level,) = choose_layers(adapter, (layer,)), check_sigmas((sigma,))
    where = absolute(checkpoint)
    samples = open_dataset(
        dataset,
        adapter,
        opener.workspace,
        maps=maps,
        max_samples=max_samples,
        checkpoint=where,
        batch_size=batch_size,
        devices=devices,
    )
    plan = ExtractionPlan(
        adapter=adapter,
        samples=samples,
        dataset=dataset,
        layers=(name,),
        sigmas=(level,),
        dtype=dtype,
        batch_size=batch_size,
        conditioning=resolve_conditioning(adapter, samples, conditioning),
        maps=maps,
        control=None,
        checkpoint=where,
    )
    return opener.open(plan, (name, level), devices=devices)


@dataclass(frozen=True, slots=True)
class LayerOpener:
    """The stores that a layer may lie in. Safe to share between threads."""

    workspace: Workspace
    cache: LayerCache
    shared: SharedLayers | None
    """None: no shared bucket is configured."""

    @classmethod
    def of_profile(cls, profile: str | None = None, experiment: str | None = None) -> "LayerOpener":
        """Return the stores that the profile and the environment name."""
        workspace = open_workspace(profile, experiment, check_artifacts=False)
        return cls(workspace, LayerCache(), SharedLayers.configured())

    def open(self, plan: ExtractionPlan, key: LayerKey, *, devices: int = 1) -> OpenedLayer:
        """Open one layer of a plan, from the nearest place that has it.

        Raises:
            DiffViewsError: if it can neither be found nor extracted.
        """
        model, wanted = plan.adapter.model_type, plan.layer_fingerprint(*key)
        found = self.find(model, wanted) or self._from_legacy(plan, key)
        if found is not None:
            return found
        ExtractionJob(plan, self.workspace, devices).run()
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
        logger.info("layer %s of %s: from %s", entry.listed.about.get("layer"), model, origin)
        return OpenedLayer(origin, run_id, entry)


@contextlib.contextmanager
def _tolerated(consequence: str) -> Iterator[None]:
    """Write a failure of a bucket within the block to the log: the next place is asked."""
    try:
        yield
    except (StoreError, CorruptDataError, SchemaVersionError) as error:
        logger.warning("%s: %s", consequence, error)
