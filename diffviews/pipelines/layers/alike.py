"""How alike layer runs are on the samples they share: of one extraction, or of several, models and checkpoints."""

from collections.abc import Sequence

import numpy as np

from diffviews.data.samples import SampleIndex
from diffviews.errors import SelectionError
from diffviews.noise import format_sigma
from diffviews.pipelines.workspace import Workspace, is_sketch
from diffviews.processing.similarity import Similarity, centered_gram, compare_grams, spanned_gram
from diffviews.tracking.catalog import LayerRecord

SIMILARITY_SAMPLES = 1000
"""Of more common samples so many evenly spaced ones are compared."""


def compare_layers(workspace: Workspace, records: Sequence[LayerRecord]) -> Similarity:
    """Return how alike layer runs are on the samples that all of them have, matched by sample id.

    Args:
        workspace: that holds them.
        records: layer runs of any extractions; each is named `layer σ sigma`, with its extraction's run id where these
            are several.

    Raises:
        SelectionError: if they share fewer than 4 samples.
        CorruptDataError: if stored activations are damaged.
    """
    indexes = [SampleIndex(_sample_ids(workspace, record)) for record in records]
    common = [each for each in indexes[0].sample_ids if all(each in other for other in indexes[1:])] if indexes else []
    if len(common) < 4:
        raise SelectionError(f"these {len(records)} layer runs share {len(common)} samples; take those of one set")
    chosen = [common[row] for row in spaced_rows(len(common))]
    several = len({record.parent_id for record in records}) > 1
    grams = {}
    for record, index in zip(records, indexes, strict=True):
        name = f"{record.layer} σ {format_sigma(record.sigma)}" + (f" · {record.parent_id}" if several else "")
        grams[name] = layer_gram(workspace, record, index.rows_of(chosen))
    return compare_grams(grams)


def spaced_rows(count: int) -> np.ndarray:
    """Return the rows of `count` samples that similarities are computed from, the same for all layers."""
    return np.linspace(0, count - 1, min(count, SIMILARITY_SAMPLES)).astype(np.int64)


def layer_gram(workspace: Workspace, record: LayerRecord, rows: np.ndarray) -> np.ndarray:
    """Return the centred Gram matrix of some samples of a layer run; of a sketch, as far as its axes span them."""
    if not is_sketch(record):
        return centered_gram(workspace.activations(record).rows(rows))
    (projector,) = workspace.projectors(record.run_id).values()
    return spanned_gram(projector.pca_points[rows], projector.pca_components, projector.scaler_scale)


def _sample_ids(workspace: Workspace, record: LayerRecord) -> tuple[str, ...]:
    if not is_sketch(record):
        return workspace.activations(record).sample_ids
    (projector,) = workspace.projectors(record.run_id).values()
    return projector.sample_ids
