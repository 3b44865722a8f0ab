"""Denoising paths: where each step of a generation lies on a layer's map."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from diffviews.processing.placement import USUAL
from diffviews.processing.projector import Projector

PERCENTILES = ["distance_percentile", "residual_percentile"]
"""Columns of a path; one of an earlier version, or on its map, does not say them."""


def place_path(
    projectors: Mapping[float, Projector], trajectory: np.ndarray, sigmas: np.ndarray, *, variant: str = "masked"
) -> pd.DataFrame:
    """Place every step of every sample on the map.

    Args:
        projectors: one a sigma for an aligned map, a single one otherwise, under any sigma; a step goes to the slice
            whose sigma is nearest on a logarithmic scale.
        trajectory: (S, N, *layer_shape) activations of the mapped layer.
        sigmas: (S,) noise level of each step.
        variant: 'masked' or 'baseline', repeated in the table.

    Returns:
        Columns step, sample, sigma, x, y[, z], distance (to the data, in the layer's PCA space; far
        from the map's own sigma it is large and the place means little), distance_percentile and residual_percentile
        (among held-out samples, of that distance and of what is off the map's axes; see `Placement`), variant.
    """
    levels = np.array(sorted(projectors))
    places = np.log(np.maximum(levels, 1e-12))
    tables = []
    for step, (sigma, activations) in enumerate(zip(sigmas, trajectory, strict=True)):
        nearest = float(levels[np.argmin(np.abs(places - np.log(max(sigma, 1e-12))))])
        placement = projectors[nearest].transform(activations)
        table = pd.DataFrame(placement.coordinates, columns=list("xyz")[: placement.coordinates.shape[1]])
        table.insert(0, "step", step)
        table.insert(1, "sample", np.arange(len(table)))
        table.insert(2, "sigma", float(sigma))
        table["distance"] = placement.distance
        table["distance_percentile"] = placement.distance_percentile
        table["residual_percentile"] = placement.residual_percentile
        table["variant"] = variant
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def unusual_steps(path: pd.DataFrame) -> np.ndarray:
    """Return which steps of a path lie beyond 95 % of held-out samples, (n,) bool: their places mean little."""
    return np.asarray((path.reindex(columns=PERCENTILES) > USUAL).any(axis=1))
