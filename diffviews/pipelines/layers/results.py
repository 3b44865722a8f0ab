"""What a layer run will hold, in a folder beside its array: made by any process, logged by the one that has MLflow."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from tqdm import tqdm

from diffviews.data.files import write_atomically
from diffviews.data.layout import LayerKey
from diffviews.data.samples import SampleSet
from diffviews.errors import CorruptDataError
from diffviews.lightning.process_group import ALONE, ProcessGroup
from diffviews.pipelines.capture.layer_array import LayerArray, link_file, link_tree
from diffviews.pipelines.layers.measured_map import map_title, measure, write_map
from diffviews.pipelines.worker_processes import Workers, choose_workers, in_processes
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.sketch import SKETCH_FILE
from diffviews.tracking.active_run import ActiveRun

_MEASURES = "measures.json"

Further = Callable[[LayerKey, LayerArray], Mapping[str, float]]
"""Takes (layer, sigma) and its array, returns measures besides those of the map, such as its control rate."""


@dataclass(frozen=True, slots=True)
class Measures:
    """The numbers of a layer run."""

    digest: str
    """Of the array."""
    metrics: dict[str, float]
    explained_variance: list[float] = field(default_factory=list)
    """Share of the variance along each principal axis."""


@dataclass(frozen=True, slots=True)
class LayerResult:
    """Map, picture, sketch and measures of one array, in a folder; whole once the measures are written."""

    array: LayerArray

    @property
    def is_whole(self) -> bool:
        """True when nothing is left to be computed."""
        return (self.array.results / _MEASURES).is_file()

    def made(self, samples: SampleSet, maps: MapParameters, title: str) -> Measures:
        """Fit, measure and write the map; return the numbers, with which `finish` makes the result whole.

        Args:
            samples: the sample set of the array; its images are not looked at.
            maps: parameters of the map.
            title: heading of its picture.

        Raises:
            CorruptDataError: if values are not finite; title and samples are named.
        """
        try:
            fitted = self.array.fit(samples.sample_ids, maps)
        except CorruptDataError as error:
            raise CorruptDataError(f"{title}: {error}") from error
        measured = measure(fitted, samples, title=title)
        shutil.rmtree(self.array.results, ignore_errors=True)
        write_map(measured, self._place)
        if self.array.sketch is not None:
            self.array.write_sketch(self._place(SKETCH_FILE))
        metrics = {**measured.quality.summary, **self.array.measures()}
        return Measures(self.array.digest, metrics, list(map(float, measured.quality.explained_variance)))

    def finish(self, measures: Measures, further: Mapping[str, float] | None = None) -> None:
        """Write the numbers, with further ones."""
        whole = asdict(measures)
        whole["metrics"] |= further or {}
        write_atomically(self.array.results / _MEASURES, lambda file: file.write(json.dumps(whole).encode()))

    def log(self, run: ActiveRun) -> None:
        """Log all of it, and what is kept of the array, in a layer run."""
        measures = Measures(**json.loads((self.array.results / _MEASURES).read_text()))
        run.set_tag("diffviews.digest", measures.digest)
        run.log_metrics(measures.metrics)
        run.log_metric_series("pca_explained_variance", measures.explained_variance)
        run.log_image("map", (self.array.results / "map.png").read_bytes())
        # Linked, not moved: until the run is finished a resume finds everything where it was made.
        for path in self.array.results.rglob("*"):
            if path.is_file() and path.name != _MEASURES:
                link_file(path, run.stage(path.relative_to(self.array.results).as_posix()))
        if self.array.sketch is None:
            link_tree(self.array.path, run.stage("activations.zarr"))

    def _place(self, name: str) -> Path:
        path = self.array.results / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


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
    results = {key: LayerResult(array) for key, array in arrays.items()}
    lacking = group.from_first(lambda: [key for key, result in results.items() if not result.is_whole])
    own = group.share(lacking)
    count = choose_workers(workers, len(lacking), len(samples), group)
    given = samples if count == 1 else samples.without_images()
    jobs = [partial(results[key].made, given, maps, map_title(model, *key)) for key in own]
    bar = tqdm(total=len(own), desc="maps", unit="layer", disable=None if group.leads else True)
    with bar, in_processes(jobs, count) as all_made:
        for key, made in zip(own, all_made, strict=True):
            results[key].finish(made, further(key, arrays[key]) if further is not None else {})
            bar.update()
            on_whole()
    group.wait()
    on_whole()
