"""A map with its measures and picture, and how these are written and logged."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from diffviews.data.disk import named_disk_errors
from diffviews.data.parquet import write_table
from diffviews.data.samples import SampleSet
from diffviews.noise import format_sigma
from diffviews.pipelines.workspace import projector_name
from diffviews.processing.figures import map_figure
from diffviews.processing.fitting import FittedMap
from diffviews.processing.quality import MapQuality, map_quality
from diffviews.recipes.extraction import without_class_measures
from diffviews.tracking.active_run import ActiveRun


@dataclass(frozen=True, slots=True)
class MeasuredMap:
    """A map with its measures and picture, ready to be logged."""

    fitted: FittedMap
    quality: MapQuality
    points: pd.DataFrame
    """One row a sample: sample_id, x, y[, z], neighborhood_preservation, distance_to_data."""
    picture: bytes
    """PNG."""


def class_array(samples: SampleSet) -> np.ndarray | None:
    """Return the classes, (N,): int64, or objects with None for a sample without one; None when no sample has one."""
    labels = samples.class_labels
    absent = labels < 0
    if absent.all():
        return None
    if not absent.any():
        return labels
    partial = labels.astype(object)
    partial[absent] = None
    return partial


def measure(fitted: FittedMap, samples: SampleSet, *, title: str, conditioning: str = "none") -> MeasuredMap:
    """Measure and draw a fitted map whose rows are samples of `samples`, at one sigma or several.

    Where the conditioning told the model the classes, measures by class are left out.
    """
    projector = fitted.projector
    classes, rows = class_array(samples), samples.index_of(projector.sample_ids)
    labels = None if classes is None else classes[rows]  # a joint map holds each sample once a sigma
    quality = map_quality(fitted, None if without_class_measures(conditioning) else labels)
    embedding = projector.embedding
    points = pd.DataFrame(embedding, columns=list("xyz")[: embedding.shape[1]])
    points.insert(0, "sample_id", list(projector.sample_ids))
    if projector.row_sigmas is not None:
        points.insert(1, "sigma", projector.row_sigmas)
    for name, values in quality.per_point.items():
        points[name] = values
    picture = map_figure(
        embedding,
        labels,
        class_names=samples.classes,
        title=title,
        caption=f"trustworthiness {quality.summary['trustworthiness']:.3f}",
    )
    return MeasuredMap(fitted, quality, points, picture)


def log_map(run: ActiveRun, measured: MeasuredMap, *, slice_sigma: float | None = None) -> None:
    """Log a map: its arrays and table, summary metrics, variance curve, and its picture under one same key.

    Args:
        run: that holds the map.
        measured: the map.
        slice_sigma: sigma of one slice of an aligned map, whose names and keys then carry it.
    """
    suffix = "" if slice_sigma is None else f"-{format_sigma(slice_sigma)}"
    run.log_metrics({f"{key}{suffix}": value for key, value in measured.quality.summary.items()})
    if measured.quality.held_out_variance is not None:
        run.log_metric_series(f"pca_held_out_variance{suffix}", measured.quality.held_out_variance)
    run.log_image(f"map{suffix}", measured.picture)
    write_map(measured, run.stage, slice_sigma)


def write_map(measured: MeasuredMap, place: Callable[[str], Path], slice_sigma: float | None = None) -> None:
    """Write a map's picture, table and arrays as artifacts, each where `place` says.

    Raises:
        DiskSpaceError: if the disk is full.
    """
    suffix = "" if slice_sigma is None else f"-{format_sigma(slice_sigma)}"
    picture, points, projector = (
        place(name) for name in (f"map{suffix}.png", f"map/points{suffix}.parquet", projector_name(slice_sigma))
    )
    with named_disk_errors(picture):
        picture.write_bytes(measured.picture)
        write_table(measured.points, points)
        measured.fitted.projector.save(projector)


def map_title(model: str, layer: str, sigma: float) -> str:
    """Return the heading of a map's picture."""
    return f"{model} · {layer} · σ {format_sigma(sigma)}"
