"""A map whose coordinates are given: what places new points on it is fitted, the map itself is not."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diffviews.errors import ShapeError
from diffviews.processing.fitting import FittedMap
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.near_neighbors import near_neighbors
from diffviews.processing.projector import Projector
from diffviews.processing.reduction import reduce_activations
from diffviews.processing.umap_backend import fitting


def fit_given_map(
    activations: Any,
    sample_ids: Sequence[str],
    coordinates: np.ndarray,
    parameters: MapParameters | None = None,
    *,
    sigmas: Sequence[float] | np.ndarray | None = None,
) -> FittedMap:
    """Fit StandardScaler → PCA → exact neighbours to activations whose places on a map are known.

    The coordinates are kept as they are. New activations are placed among them by weighted neighbours
    in PCA space, as on any map.

    Args:
        activations: (N, *shape) float16 or float32, all finite.
        sample_ids: of the rows.
        coordinates: (N, n) on the map.
        parameters: None: the defaults; n_components is that of the coordinates.
        sigmas: noise level of each row where several are stacked; then (id, sigma) is unique.

    Raises:
        ShapeError: if there is not one place a row, or ids repeat.
        SampleSetError: if all samples are the same.
    """
    places = np.asarray(coordinates, dtype=np.float32)
    if places.ndim != 2 or len(places) != len(activations):
        raise ShapeError(f"coordinates are {places.shape}, not a row for each of {len(activations)} activations")
    chosen = replace(parameters or MapParameters(), n_components=places.shape[1])
    with fitting():
        reduction = reduce_activations(activations, chosen.pca_components, normalize=chosen.normalize)
        k = min(chosen.n_neighbors, len(places) - 1)
        indices, distances = near_neighbors(reduction.points, k, metric=chosen.metric, random_state=chosen.random_state)
    projector = Projector(
        scaler_mean=reduction.mean,
        scaler_scale=reduction.scale,
        pca_components=reduction.components,
        pca_points=reduction.points,
        embedding=places,
        parameters=chosen,
        sample_ids=tuple(sample_ids),
        row_sigmas=None if sigmas is None else np.asarray(sigmas, dtype=np.float64),
    )
    return FittedMap(
        projector,
        indices,
        distances,
        reduction.eigenvalues,
        reduction.explained_variance_ratio,
        reduction.spectrum_rows,
    )
