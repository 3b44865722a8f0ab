"""Fitting maps: of one noise level, of several in one space, aligned along them, or of places that are given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from diffviews.errors import ConfigError, SampleSetError, ShapeError
from diffviews.processing.blocks import ActivationSource, StackedRows
from diffviews.processing.held_out import with_held_out
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.neighbors import near_neighbors
from diffviews.processing.placement import quantiles_of
from diffviews.processing.projector import Projector
from diffviews.processing.reduction import Reduction, reduce_activations
from diffviews.processing.umap_backend import embed_aligned, embed_neighbors, fitting


@dataclass(frozen=True, slots=True, eq=False)
class FittedMap:
    """A projector and what only the fit knows: its measures are made from this."""

    projector: Projector
    neighbor_indices: np.ndarray
    """(N, k) int64: the nearest other samples in PCA space, k = projector.num_neighbors."""
    neighbor_distances: np.ndarray
    """(N, k) float64."""
    eigenvalues: np.ndarray
    """Variances along all principal axes, descending, float64: the full spectrum."""
    explained_variance_ratio: np.ndarray
    """(d,) float64 share of the total variance along each kept axis."""
    spectrum_rows: int
    """Number of rows that `eigenvalues` were computed from; fewer than N only for very large data."""
    held_out_variance: np.ndarray | None = None
    """(d,) float64 cumulative share of held-out samples' variance along the kept axes; None where it is not known."""
    space: dict[str, float] = field(default_factory=dict)
    """How large the layer's own space is at a fixed number of samples; empty where only a map's points are known."""


def fit_map(
    activations: Any,
    sample_ids: Sequence[str],
    parameters: MapParameters | None = None,
    *,
    sigmas: Sequence[float] | np.ndarray | None = None,
) -> FittedMap:
    """Fit StandardScaler → PCA → UMAP on neighbours that are exact up to 50,000 samples.

    The same activations and parameters give the same coordinates, whatever the number of cores; another
    kind of processor, BLAS or backend may differ in the last bits and hence in the map.

    Args:
        activations: (N, *shape) float16 or float32: array, memory map, Zarr or stored layer; or a reduction of
            them, as a sketch keeps it, whose own scaler and PCA count in place of the parameters'.
        sample_ids: of the rows, unique.
        parameters: None: the defaults.
        sigmas: noise level of each row where several are stacked; then (id, sigma) is unique.

    Raises:
        ShapeError: if shapes or dtypes do not fit.
        SampleSetError: if ids repeat or all samples are the same.
        ConfigError: if there are too few samples for n_neighbors.
        CorruptDataError: if a value is NaN or infinite; counted, and the samples named.
    """
    chosen = parameters or MapParameters()
    ids, levels = _check_rows(activations, sample_ids, chosen, sigmas)
    with fitting():
        reduction = _reduce_finite(activations, ids, chosen)
        indices, distances = near = _neighbors_of(reduction, chosen)
        embedding = embed_neighbors(
            reduction.points,
            *_with_self(indices, distances, chosen.n_neighbors),
            initial=_start_of_descent(reduction.leading, chosen),
            min_dist=chosen.min_dist,
            random_state=chosen.random_state,
        )
    return _assemble(reduction, embedding, near, parameters=chosen, sample_ids=ids, sigmas=levels)


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
    levels = None if sigmas is None else np.asarray(sigmas, dtype=np.float64)
    with fitting():
        reduction = _reduced(activations, sample_ids, chosen)
        near = _neighbors_of(reduction, chosen)
    return _assemble(reduction, places, near, parameters=chosen, sample_ids=sample_ids, sigmas=levels)


def _check_rows(
    activations: Any, sample_ids: Sequence[str], parameters: MapParameters, sigmas: Any = None
) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Return the ids and noise levels of the rows after checking that a map can be made of them."""
    ids, count = tuple(map(str, sample_ids)), _num_rows(activations)
    if len(ids) != count:
        raise ShapeError(f"{len(ids)} sample ids were given for {count} rows of activations")
    levels = None if sigmas is None else np.asarray(sigmas, dtype=np.float64)
    if levels is not None and levels.shape != (count,):
        raise ShapeError(f"sigmas are {levels.shape}, not one for each of {count} rows")
    seen: set[Any] = set()
    for key in ids if levels is None else zip(ids, levels.tolist(), strict=True):
        if key in seen:
            raise SampleSetError(f"sample id {key!r} occurs more than once; give each row an id of its own")
        seen.add(key)
    if count <= parameters.n_neighbors:
        raise ConfigError(
            f"n_neighbors {parameters.n_neighbors} needs more than {parameters.n_neighbors} samples, but there "
            f"are {count}; " + (f"use n_neighbors {count - 1} or fewer" if count > 2 else "take more samples")
        )
    return ids, levels


def _num_rows(activations: Any) -> int:
    return ActivationSource(activations.points if isinstance(activations, Reduction) else activations).num_rows


def _reduce_finite(activations: Any, sample_ids: Sequence[str], parameters: MapParameters) -> Reduction:
    """Scale and reduce what is not yet; when the result is not finite, say which samples were not."""
    if isinstance(activations, Reduction):
        ActivationSource(activations.points).require_finite(sample_ids)
        return activations
    try:
        return _reduced(activations, sample_ids, parameters)
    except FloatingPointError as error:
        ActivationSource(activations).require_finite(sample_ids)
        raise ShapeError(
            "activations are finite, but too large for float32 arithmetic; divide them by a constant first"
        ) from error


def _reduced(activations: Any, sample_ids: Sequence[str], parameters: MapParameters) -> Reduction:
    """Scale and reduce activations, and measure what that is worth on samples held out of it."""
    reduction = reduce_activations(activations, parameters.pca_components, normalize=parameters.normalize)
    return with_held_out(
        reduction, activations, k=parameters.n_neighbors, metric=parameters.metric, sample_ids=sample_ids
    )


def _neighbors_of(reduction: Reduction, parameters: MapParameters) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest others of each point, as many as a map's parameters ask for, and their distances."""
    k = min(parameters.n_neighbors, len(reduction.points) - 1)
    return near_neighbors(reduction.points, k, metric=parameters.metric, random_state=parameters.random_state)


def _with_self(indices: np.ndarray, distances: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return neighbours as UMAP counts them: each point is its own nearest, `count` with itself."""
    own = np.arange(len(indices))[:, None]
    nearest = np.concatenate([own, indices[:, : count - 1]], axis=1)
    away = np.zeros((len(own), nearest.shape[1]), np.float32)  # what UMAP takes, so that it makes no copy
    away[:, 1:] = distances[:, : count - 1]
    return nearest, away


def _start_of_descent(leading: np.ndarray, parameters: MapParameters) -> np.ndarray:
    """Return the first principal coordinates, (N, n) float32, filled up with seeded noise where they are fewer."""
    start = leading[:, : parameters.n_components]
    lacking = parameters.n_components - start.shape[1]
    if lacking:
        noise = np.random.default_rng(parameters.random_state).standard_normal((len(start), lacking))
        start = np.concatenate([start, noise * start.std() * 0.1], axis=1)
    return np.ascontiguousarray(start, dtype=np.float32)


def _assemble(
    reduction: Reduction,
    embedding: np.ndarray,
    neighbors: tuple[np.ndarray, np.ndarray],
    *,
    parameters: MapParameters,
    sample_ids: Sequence[str],
    sigmas: np.ndarray | None = None,
) -> FittedMap:
    """Put the parts of a fit together."""
    held_out = reduction.held_out_distances
    if held_out is None:
        # Leaving one out of a map's own neighbours holds it out of all but the axes, which many samples fix.
        held_out = np.sort(neighbors[1].mean(axis=1))
    projector = Projector(
        scaler_mean=reduction.mean,
        scaler_scale=reduction.scale,
        pca_components=reduction.components,
        pca_points=reduction.points,
        embedding=embedding,
        parameters=parameters,
        sample_ids=tuple(sample_ids),
        row_sigmas=sigmas,
        held_out_distances=quantiles_of(held_out),
        held_out_residuals=None if reduction.held_out_residuals is None else quantiles_of(reduction.held_out_residuals),
    )
    return FittedMap(
        projector,
        *neighbors,
        reduction.eigenvalues,
        reduction.explained_variance_ratio,
        reduction.spectrum_rows,
        reduction.held_out_variance,
        reduction.space,
    )


def fit_joint_map(
    activations: Mapping[float, Any], sample_ids: Sequence[str], parameters: MapParameters | None = None
) -> FittedMap:
    """Fit one map of the same samples at several noise levels, in one space.

    Args:
        activations: by sigma, each (N, *shape), rows in the order of `sample_ids`.
        sample_ids: (N,) unique; each occurs once a level in the map, whose `row_sigmas` says which.
        parameters: None: the defaults.

    Raises:
        As `fit_map`; ConfigError if there is no level.
    """
    levels = _checked_levels(activations, sample_ids)
    stacked = StackedRows([ActivationSource(activations[sigma]) for sigma in levels])
    return fit_map(
        stacked, list(sample_ids) * len(levels), parameters, sigmas=np.repeat(levels, len(sample_ids))
    )


def fit_aligned_map(
    activations: Mapping[float, Any], sample_ids: Sequence[str], parameters: MapParameters | None = None
) -> dict[float, FittedMap]:
    """Fit one map a noise level such that the same sample lies near itself on the next (AlignedUMAP).

    Each level has its own scaler and PCA, and its projector places new activations of that level by
    weighted neighbours, as on any map. umap-learn alone can do this, on the CPU; it finds neighbours
    itself, exactly below 4,096 samples.

    Args:
        activations: by sigma, each (N, *shape) or a reduction, rows in the order of `sample_ids`; two levels or more.
        sample_ids: (N,) unique.
        parameters: None: the defaults.

    Returns:
        A fitted map by sigma, ascending.

    Raises:
        As `fit_map`; ConfigError if there are fewer than two levels.
    """
    chosen = parameters or MapParameters()
    levels = _checked_levels(activations, sample_ids)
    if len(levels) < 2:
        raise ConfigError("an aligned map needs two noise levels or more; fit an ordinary map of one")
    for sigma in levels:
        _check_rows(activations[sigma], sample_ids, chosen)
    with fitting():
        reductions = [_reduce_finite(activations[sigma], sample_ids, chosen) for sigma in levels]
        embeddings = embed_aligned(
            [reduction.points for reduction in reductions],
            n_neighbors=chosen.n_neighbors,
            n_components=chosen.n_components,
            min_dist=chosen.min_dist,
            metric=chosen.metric,
            random_state=chosen.random_state,
        )
        return {
            sigma: _assemble(
                reduction, embedding, _neighbors_of(reduction, chosen), parameters=chosen, sample_ids=sample_ids
            )
            for sigma, reduction, embedding in zip(levels, reductions, embeddings, strict=True)
        }


def _checked_levels(activations: Mapping[float, Any], sample_ids: Sequence[str]) -> list[float]:
    if not activations:
        raise ConfigError("no noise level was given; give activations of at least one")
    for sigma, values in activations.items():
        rows = _num_rows(values)
        if rows != len(sample_ids):
            raise ShapeError(f"at sigma {sigma} there are {rows} rows of activations for {len(sample_ids)} samples")
    return sorted(activations)
