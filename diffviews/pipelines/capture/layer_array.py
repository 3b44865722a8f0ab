"""One finished array of a layer, and what is made of it by any process until a layer run has it: map and measures."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from diffviews.data.activations import ActivationReader
from diffviews.data.files import write_atomically
from diffviews.data.layout import LayerKey
from diffviews.data.samples import SampleSet
from diffviews.errors import CorruptDataError
from diffviews.lightning.projection import mean_of_sums, sums_folder
from diffviews.noise import format_sigma
from diffviews.pipelines.layers.measured_map import measure, write_map
from diffviews.processing.fitting import FittedMap, fit_map
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.sketch import SKETCH_FILE, Sketch, SketchRecord
from diffviews.tracking.active_run import ActiveRun

_MEASURES = "measures.json"


Measures = dict[str, Any]
"""The numbers of a layer run: `digest` of the array, `metrics` by name, and `held_out_variance`, the share of held-out
samples' variance along the first principal axes; empty where it is not known."""


@dataclass(frozen=True, slots=True)
class LayerArray:
    """One finished array: a layer's activations, or the vectors that a sketch keeps of them."""

    path: Path
    """Zarr v3 array, a folder."""
    sketch: Path | None = None
    """Fitted sketch whose vectors it holds; None: it holds the activations."""
    layer_shape: tuple[int, ...] = ()
    """Of the activations, where it holds a sketch's vectors."""

    @property
    def digest(self) -> str:
        """Of all its values, in order."""
        return ActivationReader.open(self.path).digest

    @property
    def width(self) -> int:
        """How many values it holds of each sample."""
        return prod(ActivationReader.open(self.path).shape[1:])

    @property
    def results(self) -> Path:
        """Folder for what is made of it, until a layer run has it."""
        return self.path.with_name("layer-run")

    def fit(self, sample_ids: Sequence[str], parameters: MapParameters) -> FittedMap:
        """Fit the map of what it holds."""
        if self.sketch is not None:  # the reader and its ids are let go before the map is fitted
            reduction = Sketch.load(self.sketch).reduction(ActivationReader.open(self.path).array())
            return fit_map(reduction, sample_ids, parameters)
        return fit_map(ActivationReader.open(self.path), sample_ids, parameters)

    def _known(self) -> dict[str, float]:
        """Return what is to be known of it besides its map: values that are not finite, and what a sketch lost."""
        known = {"nonfinite": float(ActivationReader.open(self.path).nonfinite)}
        if self.sketch is None:
            return known
        sketch = Sketch.load(self.sketch)
        return {**known, "sketch_rows": float(sketch.rows), **sketch.loss}

    def mean(self) -> np.ndarray:
        """Return the mean activation of all samples, (D,) float32, where it holds a sketch's vectors."""
        assert self.sketch is not None
        sketch = Sketch.load(self.sketch)
        if sketch.points is not None:  # it was fitted on all
            return sketch.mean
        return mean_of_sums(self.path, len(ActivationReader.open(self.path)))

    def _write_sketch(self, path: Path) -> None:
        """Write what a layer run keeps of a sketch beside its map, whose points are the vectors."""
        attrs = ActivationReader.open(self.path).attrs
        about = {name: attrs[name] for name in ("layer", "sigma", "model_digest", "dataset_digest", "digest")}
        SketchRecord(**about, mean=self.mean().reshape(1, *self.layer_shape)).save(path)

    @property
    def is_whole(self) -> bool:
        """True when map, picture and measures are made, so that nothing is left to be computed."""
        return (self.results / _MEASURES).is_file()

    def made(self, samples: SampleSet, maps: MapParameters, title: str, conditioning: str = "none") -> Measures:
        """Fit, measure and write the map in `results`; return the numbers, with which `finish` makes it whole.

        Args:
            samples: of its rows.
            maps: parameters of the map.
            title: of its picture.
            conditioning: under which the model ran.

        Raises:
            CorruptDataError: if values are not finite; title and samples are named.
        """
        try:
            fitted = self.fit(samples.sample_ids, maps)
        except CorruptDataError as error:
            raise CorruptDataError(f"{title}: {error}") from error
        measured = measure(fitted, samples, title=title, conditioning=conditioning)
        shutil.rmtree(self.results, ignore_errors=True)
        write_map(measured, self._place)
        if self.sketch is not None:
            self._write_sketch(self._place(SKETCH_FILE))
        metrics = {**measured.quality.summary, **self._known()}
        curve = measured.quality.held_out_variance
        held_out = [] if curve is None else curve.tolist()
        return {"digest": self.digest, "metrics": metrics, "held_out_variance": held_out}

    def finish(self, measures: Measures, further: Mapping[str, float] | None = None) -> None:
        """Write the numbers, with further ones."""
        whole = measures | {"metrics": measures["metrics"] | dict(further or {})}
        write_atomically(self.results / _MEASURES, lambda file: file.write(json.dumps(whole).encode()))

    def log(self, run: ActiveRun) -> None:
        """Log what was made of it, and what is kept of it, in a layer run."""
        measures = json.loads((self.results / _MEASURES).read_text())
        run.set_tag("diffviews.digest", measures["digest"])
        run.log_metrics(measures["metrics"])
        run.log_metric_series("pca_held_out_variance", measures["held_out_variance"])
        run.log_image("map", (self.results / "map.png").read_bytes())
        # Linked, not moved: until the run is finished a resume finds everything where it was made.
        for path in self.results.rglob("*"):
            if path.is_file() and path.name != _MEASURES:
                link_file(path, run.stage(path.relative_to(self.results).as_posix()))
        if self.sketch is None:
            link_tree(self.path, run.stage("activations.zarr"))

    def _place(self, name: str) -> Path:
        path = self.results / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def remove(self) -> None:
        """Remove it and what was made of it; a fitted sketch stays as long as the job's folder."""
        shutil.rmtree(self.path)
        for folder in (self.results, sums_folder(self.path)):
            shutil.rmtree(folder, ignore_errors=True)


def place_of(folder: Path, key: LayerKey) -> Path:
    """Return the folder, below that of a job, of what is made of a (layer, sigma) while the job runs."""
    layer, sigma = key
    return folder / f"{layer}@{format_sigma(sigma)}"


def array_path(folder: Path, key: LayerKey, dtype: str) -> Path:
    """Return where the array of a (layer, sigma) is written."""
    return place_of(folder, key) / dtype / "activations.zarr"


def overflow_note(folder: Path, key: LayerKey) -> Path:
    """Return the file whose presence says that a layer does not fit float16; a later resume reads it too."""
    return place_of(folder, key) / "exceeds-float16"


def link_tree(source: Path, target: Path) -> None:
    """Make the folder `target` a second name of the files below `source`, as `link_file` does; what was there goes."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=link_file)


def link_file(source: Path | str, target: Path | str) -> None:
    """Make `target` a second name of a file; copies it where links are not to be had."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copy2(source, target)
