"""Capturing some rows of a sample set anew, as an extraction did."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from diffviews.adapters.base import GeneratorAdapter
from diffviews.core.extractor import capture
from diffviews.core.session import Keep, copy_of
from diffviews.data.samples import SampleSet
from diffviews.pipelines.workspace import conditions_of


@torch.inference_mode()
def capture_rows(
    adapter: GeneratorAdapter,
    samples: SampleSet,
    conditioning: str,
    sigma: float,
    layers: Sequence[str],
    rows: np.ndarray,
    keep: Keep = copy_of,
) -> dict[str, Any]:
    """Return what `keep` makes of each layer's outputs, (n, *layer_shape), for n rows, from one forward pass."""
    chosen = samples.take(rows)
    conditions = conditions_of(chosen, conditioning)
    given = {} if conditions is None else adapter.condition(conditions)
    x0 = adapter.encode(chosen.images)
    return capture(adapter, x0, chosen.sample_ids, given, sigma, layers, keep)
