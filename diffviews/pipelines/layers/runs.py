"""Layer runs: the MLflow runs that hold the layers of one job, one a layer and noise level."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from diffviews.data.layout import LayerKey
from diffviews.data.samples import SampleSet
from diffviews.noise import format_sigma
from diffviews.pipelines.capture.layer_array import LayerArray
from diffviews.pipelines.layers.measured_map import map_title
from diffviews.pipelines.layers.results import LayerResult
from diffviews.pipelines.workspace import Workspace
from diffviews.processing.map_parameters import MapParameters
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.catalog import LayerRecord
from diffviews.tracking.schema import MapKind, RunTags


@dataclass(frozen=True, slots=True)
class LayerRuns:
    """The layer runs of one job's parent run: those an earlier attempt has logged, and those to come.

    Raises:
        TrackingError: if the store cannot be used.
    """

    workspace: Workspace
    parent: ActiveRun
    samples: SampleSet
    maps: MapParameters
    params: Mapping[str, object]
    """Parameters of each layer run."""
    order: Sequence[str]
    """All layers of the model, in the network's order."""
    logged: dict[LayerKey, LayerRecord] = field(init=False)
    """{(layer, sigma): its run}, of those that are finished."""
    _begun: dict[LayerKey, str] = field(init=False)

    def __post_init__(self) -> None:
        found = self.workspace.catalog.layers(self.parent.run_id, unfinished=True)
        known = {(record.layer, record.sigma): record for record in found}
        object.__setattr__(self, "logged", {key: r for key, r in known.items() if r.is_finished})
        object.__setattr__(self, "_begun", {key: r.run_id for key, r in known.items() if not r.is_finished})

    def log(self, key: LayerKey, array: LayerArray, fingerprint: str) -> None:
        """Log one (layer, sigma) as a child run, mapped and measured unless it is, and remove the array."""
        result = LayerResult(array)
        if not result.is_whole:
            result.finish(result.made(self.samples, self.maps, map_title(self.parent.tags.model or "", *key)))
        with self._child(key, fingerprint) as run:
            result.log(run)
        array.remove()
        self.logged[key] = self.workspace.catalog.layer(run.run_id)

    def _child(self, key: LayerKey, fingerprint: str) -> ActiveRun:
        """Start the layer run of `key`, or go on with the one that an earlier attempt has begun."""
        tracker, (layer, sigma) = self.workspace.tracker, key
        if key in self._begun:
            run = tracker.resume(self._begun[key])
            run.log_params(self.params)
            return run
        tags = RunTags(
            fingerprint=fingerprint,
            layer=layer,
            layer_index=self.order.index(layer),
            sigma=sigma,
            source_run=self.parent.run_id,
            map=MapKind.SINGLE,
        )
        name = f"{layer} σ {format_sigma(sigma)}"
        return tracker.start("layer", name, tags, parent=self.parent, params=self.params)
