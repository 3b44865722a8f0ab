"""Placing new activations on an existing map, in any process.

    fit_map(activations, sample_ids).projector.save(path)
    placement = Projector.load(path).transform(new_activations)
"""

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from diffviews.errors import ConfigError, CorruptDataError, SelectionError, ShapeError
from diffviews.processing.blocks import ActivationSource, in_order
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.neighbors import exact_neighbors, membership_strengths
from diffviews.processing.placement import Placement, geometric_median, percentiles
from diffviews.processing.projector_file import read_projector, shape_problem, write_projector

__all__ = ["MapParameters", "Placement", "Projector"]

SAME_POINT = 1e-5
"""Two points are one sample if they are this close, relative to the points' root mean square length: far
below any neighbour's distance, well above the rounding of a float32 projection."""

FLOAT16_ROUNDING = 2.0**-11
"""Relative error by which a stored float16 may be off: a sample that is captured again has lost nothing yet."""

SUM_LENGTH = 1024
"""Features summed at a time in a projection."""

Space = Literal["activation", "map"]

_DTYPES = {
    "scaler_mean": np.float32,
    "scaler_scale": np.float32,
    "pca_components": np.float32,
    "pca_points": np.float32,
    "embedding": np.float32,
    "row_sigmas": np.float64,
    "held_out_distances": np.float32,
    "held_out_residuals": np.float32,
}


@dataclass(frozen=True, slots=True, eq=False)
class Projector:
    """A fitted scaler, PCA and map as plain, read-only arrays; it neither refits nor changes.

    A new activation is placed at the geometric median of its nearest samples' coordinates, weighted by UMAP's
    membership strengths (McInnes et al. 2018, Alg. 3); a sample of the map keeps its own coordinates.
    """

    scaler_mean: np.ndarray
    """(D,) float32."""
    scaler_scale: np.ndarray
    """(D,) float32."""
    pca_components: np.ndarray | None
    """(d, D) float32; None: no PCA."""
    pca_points: np.ndarray
    """(N, d) float32: the samples in PCA space, (N, D) standardised without PCA."""
    embedding: np.ndarray
    """(N, n) float32: the samples on the map."""
    parameters: MapParameters
    sample_ids: tuple[str, ...]
    """Row i is sample_ids[i]."""
    row_sigmas: np.ndarray | None = None
    """(N,) float64 noise level of each row of a joint map, where an id occurs once a level."""
    held_out_distances: np.ndarray | None = None
    """(h,) float32 ascending: how far from the data samples lie that no part of the map was fitted to; None in maps of
    earlier versions."""
    held_out_residuals: np.ndarray | None = None
    """(h,) float32 ascending: how far such samples lie off the principal axes; None also without PCA."""

    def __post_init__(self) -> None:
        for name, dtype in _DTYPES.items():
            if getattr(self, name) is not None:
                array = np.ascontiguousarray(getattr(self, name), dtype=dtype).view()
                array.flags.writeable = False
                object.__setattr__(self, name, array)
        object.__setattr__(self, "sample_ids", tuple(self.sample_ids))
        problem = self._problem()
        if problem:
            raise ShapeError(f"a projector's arrays do not fit together: {problem}")

    def __len__(self) -> int:
        return len(self.sample_ids)

    @property
    def num_features(self) -> int:
        """Number of values of one activation."""
        return len(self.scaler_mean)

    @property
    def num_neighbors(self) -> int:
        """Number of neighbours that place a point and that its distance to the data is the mean over."""
        return min(self.parameters.n_neighbors, len(self) - 1)

    def project(self, activations: Any) -> np.ndarray:
        """Return activations (M, *shape) in PCA space, (M, d) float32.

        Args:
            activations: array, memory map, Zarr or stored layer; read, block by block, by the threads that work
                on the blocks, so that it may be larger than memory.

        Raises:
            ShapeError: if they are not of the mapped layer's size.
            CorruptDataError: if a value is NaN or infinite.
        """
        return self._project(activations)[0]

    def _project(self, activations: Any, *, lengths: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return activations in PCA space, and if wanted the length of each before it was centred, and off the axes."""
        source, axes = self._source(activations), self.pca_components
        points = np.empty((source.num_rows, self.pca_points.shape[1]), np.float32)
        length, residual = np.zeros((2, source.num_rows if lengths else 0))
        centre = self.scaler_mean / self.scaler_scale

        def of_rows(span: tuple[int, int]) -> bool:
            block = source.rows(*span)
            if not np.isfinite(block).all():
                return False
            block -= self.scaler_mean
            block /= self.scaler_scale
            points[slice(*span)] = block if axes is None else _on_axes(block, axes)
            if lengths:
                length[slice(*span)] = np.linalg.norm(block + centre, axis=1)
                residual[slice(*span)] = 0.0 if axes is None else _off_axes(block, points[slice(*span)])
            return True

        if not all(in_order(of_rows, source.row_spans())):
            source.require_finite([f"row {row}" for row in range(source.num_rows)])
        return points, length, residual

    def transform(self, activations: Any) -> Placement:
        """Place activations (M, *shape) on the map, each for itself.

        Raises:
            ShapeError: if they are not of the mapped layer's size.
            CorruptDataError: if a value is NaN or infinite.
        """
        points, length, residual = self._project(activations, lengths=True)
        return self._place(points, FLOAT16_ROUNDING * length, residual.astype(np.float32))

    def neighbors(
        self, query: int | np.integer | Any, k: int, space: Space = "activation"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the k samples nearest to one, as (k,) int64 rows and (k,) float64 distances.

        Args:
            query: a row of this map, which is left out of the answer; or one activation (*shape); on
                the map, a place (n,).
            k: number of neighbours.
            space: 'activation' compares in PCA space, 'map' on the map.

        Raises:
            SelectionError: if there are fewer than k other samples, or no such row.
            ShapeError: if the query is not of the right size.
        """
        if space not in ("activation", "map"):
            raise ConfigError(f"space {space!r} is not one of: activation, map")
        points = self.pca_points if space == "activation" else self.embedding
        metric = self.parameters.metric if space == "activation" else "euclidean"
        if not isinstance(query, int | np.integer):
            indices, distances = exact_neighbors(points, k, self._query_point(query, space), metric=metric)
        elif 0 <= query < len(self):
            indices, distances = exact_neighbors(points, k, rows=[int(query)], metric=metric)
        else:
            raise SelectionError(f"row {query} is not one of the map's rows 0 … {len(self) - 1}")
        return indices[0], distances[0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as one safetensors file, whole or not at all; answers after `load` are the same."""
        arrays = {name: getattr(self, name) for name in _DTYPES}
        write_projector(Path(path), arrays, self.parameters, self.sample_ids)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a saved projector.

        Raises:
            CorruptDataError: if the file is missing, truncated or no projector; it is named.
            SchemaVersionError: if another version of the format wrote it.
        """
        parts = read_projector(Path(path))
        try:
            return cls(**parts)
        except ShapeError as error:
            raise CorruptDataError(f"{path} is damaged: {error}") from error

    def _place(self, points: np.ndarray, rounding: np.ndarray, residual: np.ndarray) -> Placement:
        """Place points, (M, d), each `residual` off the axes and at most `rounding` from its stored self."""
        k = self.num_neighbors
        indices, distances = exact_neighbors(self.pca_points, k + 1, points, metric=self.parameters.metric)
        same = self._is_sample(points, indices, rounding)
        placed = geometric_median(self.embedding[indices[:, :k]], membership_strengths(distances[:, :k]))
        coordinates = np.where(same[:, None], self.embedding[indices[:, 0]], placed.astype(np.float32))
        # Of a sample's own neighbours it is not one itself.
        others = np.where(same[:, None], indices[:, 1:], indices[:, :k])
        away = np.where(same[:, None], distances[:, 1:], distances[:, :k]).mean(axis=1).astype(np.float32)
        return Placement(
            coordinates,
            away,
            residual,
            percentiles(away, self.held_out_distances),
            percentiles(residual, self.held_out_residuals),
            neighbors=others,
            match=np.where(same, indices[:, 0], -1),
        )

    def _is_sample(self, points: np.ndarray, indices: np.ndarray, rounding: np.ndarray) -> np.ndarray:
        """Say which points are their nearest sample: as near as rounding puts them, and clearly nearer than any other.

        The axes are orthonormal, so a point is no farther from its stored self than its activations were rounded.
        """
        away, next_away = (np.linalg.norm(points - self.pca_points[indices[:, i]], axis=1) for i in (0, 1))
        mean_square = np.einsum("ij,ij->", self.pca_points, self.pca_points, dtype=np.float64) / len(self)
        return (away <= SAME_POINT * np.sqrt(mean_square)) | ((away <= rounding) & (away <= next_away / 2))

    def _query_point(self, query: Any, space: Space) -> np.ndarray:
        if space == "activation":
            return self.project(np.asarray(query, dtype=np.float32)[None])
        place = np.asarray(query, dtype=np.float32).reshape(1, -1)
        if place.shape[1] != self.embedding.shape[1]:
            raise ShapeError(f"a place on this map has {self.embedding.shape[1]} coordinates, not {place.shape[1]}")
        return place

    def _source(self, activations: Any) -> ActivationSource:
        rows = activations if hasattr(activations, "shape") else np.asarray(activations)
        if len(rows.shape) < 2 or prod(rows.shape[1:]) != self.num_features:
            raise ShapeError(
                f"this map places activations of {self.num_features} values each, (M, {self.num_features}) or "
                f"(M, *layer shape), but these are {tuple(rows.shape)}"
            )
        return ActivationSource(rows)

    def _problem(self) -> str:
        """Return what does not fit, or ''."""
        arrays = {name: getattr(self, name) for name in _DTYPES}
        shapes = {name: array.shape for name, array in arrays.items() if array is not None}
        problem = shape_problem(shapes, len(self), self.parameters.n_components)
        if problem:
            return problem
        levels = [0.0] * len(self) if self.row_sigmas is None else self.row_sigmas.tolist()
        unique = len(set(zip(self.sample_ids, levels, strict=True)))
        return "" if unique == len(self) else f"{len(self) - unique} of its sample ids occur more than once"


def _off_axes(block: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return how long what the axes leave of each standardised row is, (m,) float64."""
    whole, kept = (np.einsum("ij,ij->i", rows, rows, dtype=np.float64) for rows in (block, points))
    return np.sqrt(np.maximum(whole - kept, 0.0))


def _on_axes(block: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Return block · axesᵀ, the same bits for a row in any batch and on any number of cores.

    BLAS would order the sums by the size of the batch and the number of threads.
    """
    result = np.zeros((len(block), len(axes)), np.float32)
    for start in range(0, axes.shape[1], SUM_LENGTH):
        part = slice(start, start + SUM_LENGTH)
        result += np.einsum("mk,dk->md", block[:, part], axes[:, part])
    return result
