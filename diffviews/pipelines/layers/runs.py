"""Layer runs: the MLflow runs that hold the layers of one job, one a layer and noise level, and the making of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from tqdm import tqdm

from diffviews.data.layout import LayerKey
from diffviews.data.samples import SampleSet
from diffviews.lightning.process_group import ALONE, ProcessGroup
from diffviews.noise import format_sigma
from diffviews.pipelines.capture.layer_array import LayerArray
from diffviews.pipelines.layers.measured_map import map_title
from diffviews.pipelines.worker_processes import Workers, choose_workers, in_processes
from diffviews.pipelines.workspace import Workspace
from diffviews.processing.map_parameters import MapParameters
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.catalog import LayerRecord
from diffviews.tracking.schema import MapKind, RunTags

Further = Callable[[LayerKey, LayerArray], Mapping[str, float]]
"""Takes (layer, sigma) and its array, returns measures besides those of the map, such as its control rate."""


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
        if not array.is_whole:
            array.finish(array.made(self.samples, self.maps, map_title(self.parent.tags.model or "", *key)))
        with self._child(key, fingerprint) as run:
            array.log(run)
        array.remove()
        self.logged[key] = self.workspace.catalog.layer(run.run_id)

    def log_whole(self, arrays: Mapping[LayerKey, LayerArray], fingerprint: Callable[[str, float], str]) -> None:
        """Log those arrays that are mapped and measured and have no layer run yet; `fingerprint` takes their keys."""
        for key, array in arrays.items():
            if key not in self.logged and array.is_whole:
                self.log(key, array, fingerprint(*key))

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


def make_results(
    arrays: Mapping[LayerKey, LayerArray],
    samples: SampleSet,
    maps: MapParameters,
    model: str,
    *,
    group: ProcessGroup = ALONE,
    workers: Workers = 1,
    further: Further | None = None,
    on_whole: Callable[[], None] = lambda: None,
) -> None:
    """Map and measure arrays: each process of the group takes its share, and its workers share that.

    Args:
        arrays: {(layer, sigma): its array}, the same in every process.
        samples: the sample set.
        maps: parameters of each map.
        model: name of the model, for the pictures.
        group: processes that share the arrays.
        workers: processes of this machine that make maps; with several, this process only hands them out.
        further: measures that this process adds to each.
        on_whole: called whenever one is whole, and when all are.

    Raises:
        WorkerError: if another process failed.
    """
    lacking = group.from_first(lambda: [key for key, array in arrays.items() if not array.is_whole])
    own = group.share(lacking)
    count = choose_workers(workers, len(lacking), len(samples), group)
    given = samples if count == 1 else samples.without_images()
    jobs = [partial(arrays[key].made, given, maps, map_title(model, *key)) for key in own]
    bar = tqdm(total=len(own), desc="maps", unit="layer", disable=None if group.leads else True)
    with bar, in_processes(jobs, count) as all_made:
        for key, made in zip(own, all_made, strict=True):
            arrays[key].finish(made, further(key, arrays[key]) if further is not None else {})
            bar.update()
            on_whole()
    group.wait()
    on_whole()
