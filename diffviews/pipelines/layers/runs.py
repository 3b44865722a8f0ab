"""Layer runs: the MLflow runs that hold the layers of one job, one a layer and noise level."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from diffviews.data.layout import LayerKey
from diffviews.data.samples import SampleSet
from diffviews.noise import format_sigma
from diffviews.pipelines.captured import CapturedArray
from diffviews.pipelines.layers.measured_map import log_map, map_title, measure
from diffviews.pipelines.workspace import Workspace
from diffviews.processing.map_parameters import MapParameters
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.catalog import LayerRecord
from diffviews.tracking.schema import MapKind, RunTags

Decides = Callable[[LayerKey, CapturedArray], Mapping[str, float]]
"""Takes (layer, sigma) and what was captured there, returns further measures, such as its control rate."""


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

    def log(
        self, key: LayerKey, array: CapturedArray, fingerprint: str, decides: Decides | None = None
    ) -> LayerRecord:
        """Map and measure one (layer, sigma), log it as a child run, and remove the array it was made from."""
        layer, sigma = key
        with self._child(key, fingerprint) as run:
            title = map_title(self.parent.tags.model or "", layer, sigma)
            measured = measure(array.fit(self.samples.sample_ids, self.maps), self.samples, title=title)
            further = decides(key, array) if decides is not None else {}
            log_map(run, measured, {**further, **array.measures()})
            array.keep(run)
        array.remove()
        return self.workspace.catalog.layer(run.run_id)

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
