"""One layer run: the map of its activations, its measures, and the MLflow run that holds them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from diffviews.data.samples import SampleSet
from diffviews.noise import format_sigma
from diffviews.processing.figures import map_figure
from diffviews.processing.projector import FittedMap, MapParameters, fit_map
from diffviews.processing.quality import MapQuality, map_quality
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
    """Return the classes, (N,) int64, or None when a sample has none."""
    labels = samples.class_labels
    return None if (labels < 0).any() else labels


def measure_map(
    activations: np.ndarray, samples: SampleSet, parameters: MapParameters, *, title: str
) -> MeasuredMap:
    """Fit the map of one layer's activations (N, *layer_shape), rows in sample-set order, and measure it."""
    labels = class_array(samples)
    fitted = fit_map(activations, samples.sample_ids, parameters)
    quality = map_quality(fitted, labels)
    embedding = fitted.projector.embedding
    points = pd.DataFrame(embedding, columns=list("xyz")[: embedding.shape[1]])
    points.insert(0, "sample_id", list(samples.sample_ids))
    for name, values in quality.per_point.items():
        points[name] = values
    picture = map_figure(
        embedding, labels, class_names=samples.class_names(), title=title,
        caption=f"trustworthiness {quality.summary['trustworthiness']:.3f}",
    )
    return MeasuredMap(fitted, quality, points, picture)


def log_map(run: ActiveRun, measured: MeasuredMap, extra: Mapping[str, float] | None = None) -> None:
    """Log a map: its arrays and table, summary metrics, variance curve, and its picture under one same key."""
    run.log_metrics({**measured.quality.summary, **(extra or {})})
    run.log_metric_series("pca_explained_variance", measured.quality.explained_variance)
    run.log_image("map", measured.picture)
    run.log_artifact_bytes(measured.picture, "map.png")
    run.log_table(measured.points, "map/points.parquet")
    measured.fitted.projector.save(run.stage("map/projector.safetensors"))


def map_title(model: str, layer: str, sigma: float) -> str:
    """Return the heading of a map's picture."""
    return f"{model} · {layer} · σ {format_sigma(sigma)}"
