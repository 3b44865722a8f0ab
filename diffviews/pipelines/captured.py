"""What a capture leaves: one finished array, of which a layer run makes its map and keeps what it needs."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffviews.data.activations import ActivationReader
from diffviews.data.sketches import SKETCH_FILE, StoredSketch
from diffviews.lightning.sums import sums_folder
from diffviews.pipelines.sketch import mean_of_sums
from diffviews.processing.fitting import FittedMap, fit_map, fit_reduced
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.sketch import Sketch
from diffviews.tracking.active_run import ActiveRun


@dataclass(frozen=True, slots=True)
class CapturedArray:
    """One finished array of activations."""

    path: Path
    """Zarr v3 array, a folder."""
    digest: str
    nonfinite: int
    """NaN and infinite values among it."""
    sketch: Path | None = None
    """Fitted sketch whose vectors it holds; None: it holds the activations."""
    layer_shape: tuple[int, ...] = ()
    """Of the activations, where it holds a sketch's vectors."""

    def fit(self, sample_ids: Sequence[str], parameters: MapParameters) -> FittedMap:
        """Fit the map of what it holds."""
        if self.sketch is not None:  # the reader and its ids are let go before the map is fitted
            reduction = Sketch.load(self.sketch).reduction(ActivationReader.open(self.path).array())
            return fit_reduced(reduction, sample_ids, parameters)
        return fit_map(ActivationReader.open(self.path), sample_ids, parameters)

    def measures(self) -> dict[str, float]:
        """Return what is to be known of it besides its map."""
        if self.sketch is None:
            return {"nonfinite": float(self.nonfinite)}
        sketch = Sketch.load(self.sketch)
        return {"nonfinite": float(self.nonfinite), "sketch_rows": float(sketch.rows), **sketch.loss}

    def keep(self, run: ActiveRun) -> None:
        """Stage what the layer run keeps besides its map: the activations; of a sketch, whose vectors are the map's
        points, their mean."""
        run.set_tag("diffviews.digest", self.digest)
        if self.sketch is None:
            # Linked, not moved: until the run is finished a resume finds the array where it was made.
            link_tree(self.path, run.stage("activations.zarr"))
            return
        attrs = ActivationReader.open(self.path).attrs
        names = ("layer", "sigma", "model_digest", "dataset_digest")
        mean = mean_of_sums(self.path, Sketch.load(self.sketch), len(attrs["sample_ids"]))
        stored = StoredSketch(
            **{name: attrs[name] for name in names}, digest=self.digest, mean=mean.reshape(1, *self.layer_shape)
        )
        stored.save(run.stage(SKETCH_FILE))

    def remove(self) -> None:
        """Remove it; a fitted sketch stays as long as the job's folder, since other runs do not need it."""
        shutil.rmtree(self.path)
        shutil.rmtree(sums_folder(self.path), ignore_errors=True)


def link_tree(source: Path, target: Path) -> None:
    """Make `target` a second name of the files below the folder `source`; copies them where links are not to be had."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copy2(source, target)
