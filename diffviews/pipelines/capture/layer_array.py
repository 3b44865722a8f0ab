"""One finished array of a layer: a layer run makes its map of it and keeps what it needs."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffviews.data.activations import ActivationReader
from diffviews.lightning.projection import RunningMean
from diffviews.processing.fitting import FittedMap, fit_map, fit_reduced
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.sketch import Sketch, SketchRecord


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
    def results(self) -> Path:
        """Folder for what is made of it, until a layer run has it."""
        return self.path.with_name("layer-run")

    def fit(self, sample_ids: Sequence[str], parameters: MapParameters) -> FittedMap:
        """Fit the map of what it holds."""
        if self.sketch is not None:  # the reader and its ids are let go before the map is fitted
            reduction = Sketch.load(self.sketch).reduction(ActivationReader.open(self.path).array())
            return fit_reduced(reduction, sample_ids, parameters)
        return fit_map(ActivationReader.open(self.path), sample_ids, parameters)

    def measures(self) -> dict[str, float]:
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
        return RunningMean(self.path).mean(len(ActivationReader.open(self.path)))

    def write_sketch(self, path: Path) -> None:
        """Write what a layer run keeps of a sketch beside its map, whose points are the vectors."""
        attrs = ActivationReader.open(self.path).attrs
        about = {name: attrs[name] for name in ("layer", "sigma", "model_digest", "dataset_digest", "digest")}
        SketchRecord(**about, mean=self.mean().reshape(1, *self.layer_shape)).save(path)

    def remove(self) -> None:
        """Remove it and what was made of it; a fitted sketch stays as long as the job's folder."""
        shutil.rmtree(self.path)
        for folder in (self.results, RunningMean(self.path).folder):
            shutil.rmtree(folder, ignore_errors=True)


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
