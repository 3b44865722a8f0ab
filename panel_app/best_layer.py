"""Which layer run a visitor means, and how much a layer knows and decides."""

from collections.abc import Sequence

from diffviews.noise import format_sigma
from diffviews.pipelines.control.measures import is_marked
from diffviews.tracking.records import LayerRecord

KNOWS = "knn_accuracy_activation"
"""Metric: share of samples whose neighbours in activation space vote for their class."""
GAIN = "gain_knn"
"""Metric: by how much k-NN reads the classes better from a layer than from the noised input."""
DECIDES = "control_rate"
"""Metric: share of masked generations that land in the masked class."""


def best_layer(layers: Sequence[LayerRecord], layer: str | None, sigma: float | None) -> tuple[LayerRecord, str]:
    """Return the layer run nearest to what is asked for, and a sentence where it is another.

    Args:
        layers: layer runs of one extraction, at least one.
        layer: layer asked for; None takes the one that knows and decides most.
        sigma: noise level asked for; None takes any.
    """
    of_layer, lacking = [r for r in layers if r.layer == layer], ""
    if layer is not None and not of_layer:
        lacking = f"This extraction has no layer {layer!r}; another one is shown."
    candidates = of_layer or layers
    if sigma is not None:
        gap = min(abs(r.sigma - sigma) for r in candidates)
        if gap and layer is not None:
            nearest = min(candidates, key=lambda r: abs(r.sigma - sigma)).sigma
            lacking = f"There is no layer run at sigma {format_sigma(sigma)}; sigma {format_sigma(nearest)} is shown."
        candidates = [r for r in candidates if abs(r.sigma - sigma) == gap]
    return max(candidates, key=standing), lacking


def standing(record: LayerRecord) -> float:
    """Return how much a layer knows, beyond its input where that was measured, and decides together, at most 2; a rate
    of images unlike real ones does not count."""
    decides = 0.0 if is_marked(record.metrics) else record.metrics.get(DECIDES, 0.0)
    return float(record.metrics.get(GAIN, record.metrics.get(KNOWS, 0.0)) + decides)
