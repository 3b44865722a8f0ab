"""StandardScaler and PCA of a wide matrix, by its smaller side, in float32 blocks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np

from diffviews.errors import SampleSetError
from diffviews.processing import blocks
from diffviews.processing.blocks import ActivationSource, in_order

T = TypeVar("T")

EXACT_SIDE = 4096
"""Up to this many rows or columns, whichever are fewer, the eigenvalue problem is solved exactly."""

SPECTRUM_ROWS = 2048
"""Beyond that the spectrum is that of this many evenly spaced rows."""

OVERSAMPLING, POWER_ITERATIONS = 20, 4
"""Of the randomised range finder beyond EXACT_SIDE (Halko et al. 2011, Alg. 4.4)."""

LEADING = 3
"""Components computed when none are asked for: where a map's descent starts."""


@dataclass(frozen=True, slots=True, eq=False)
class PrincipalAxes:
    """A fitted scaler and PCA."""

    mean: np.ndarray
    """(D,) float32 of each feature."""
    scale: np.ndarray
    """(D,) float32 that each feature is divided by; 1 for one that does not vary, as in scikit-learn."""
    components: np.ndarray | None
    """(d, D) float32, orthonormal, the largest loading of each positive; None: no PCA."""
    eigenvalues: np.ndarray
    """Variances along all principal axes, descending, float64."""
    explained_variance_ratio: np.ndarray
    """(d,) float64 share of the total variance; without PCA of all axes known."""
    spectrum_rows: int
    """Number of rows that `eigenvalues` were computed from: all, or fewer for very large data."""
    held_out_distances: np.ndarray | None = field(default=None, kw_only=True)
    """(h,) float32 ascending: of samples that the axes were not fitted to, the mean distance to the nearest others in
    PCA space; None where they are too many for that, or without PCA."""
    held_out_residuals: np.ndarray | None = field(default=None, kw_only=True)
    """(h,) float32 ascending: of samples that the axes were not fitted to, the length off them."""
    held_out_variance: np.ndarray | None = field(default=None, kw_only=True)
    """(d,) float64: cumulative share of those samples' variance along the first 1 … d axes."""
    space: dict[str, float] = field(default_factory=dict, kw_only=True)
    """How large the layer's own space is, as `dimension.space_measures` says."""

    def with_points(self, points: np.ndarray, leading: np.ndarray | None = None) -> "Reduction":
        """Return it with points (N, d) that it makes of data, and their first principal coordinates if they differ."""
        own = {each.name: getattr(self, each.name) for each in fields(PrincipalAxes)}
        leading = points if leading is None else leading
        return Reduction(**own, points=points, leading=np.ascontiguousarray(leading[:, :LEADING]))


@dataclass(frozen=True, slots=True, eq=False)
class Reduction(PrincipalAxes):
    """A fitted scaler and PCA, and the points they make of data."""

    points: np.ndarray
    """(N, d) float32; without PCA (N, D)."""
    leading: np.ndarray
    """(N, ≤ 3) float32 first principal coordinates."""
    gram: np.ndarray | None = field(default=None, kw_only=True)
    """(N, N) float64 of the standardised samples, where the axes come from it; let go of before a map is made."""


@dataclass(frozen=True, slots=True, eq=False)
class _Axes:
    """Principal axes (k, D), the data's coordinates on them (N, k), and the spectrum."""

    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray
    points: np.ndarray
    eigenvalues: np.ndarray
    total: float
    spectrum_rows: int
    gram: np.ndarray | None = None


def reduce_activations(activations: Any, components: int | None = 50, *, normalize: bool = True) -> Reduction:
    """Standardise each feature and project on the principal components.

    z = (x − mean) / scale, points = z Vᵀ, by whichever is smaller of the Gram matrix z zᵀ and the
    covariance zᵀ z. Products are float32, their sums over blocks float64; no more of the data is
    held than one block, or one copy in its own dtype if it is no array. Call it inside
    `umap_backend.fitting` to get the same bits whatever the number of cores.

    Args:
        activations: (N, *shape) float16 or float32; see ActivationSource. All finite.
        components: number of components, at most min(N − 1, D) are kept; None: no PCA.
        normalize: divide by the standard deviation; False: only the mean is taken off.

    Raises:
        ShapeError: if the activations are empty or no floats.
        SampleSetError: if all samples are the same.
        FloatingPointError: if a value is NaN or infinite, or its square is beyond float32.
    """
    source = ActivationSource(activations)
    wanted = LEADING if components is None else max(components, LEADING)
    axes = _principal_axes(source, min(wanted, max(source.num_rows - 1, 1), source.num_columns), normalize)
    if components is None:
        kept, points = None, _projected(source, None, axes.mean, axes.scale)
        ratio = axes.eigenvalues / axes.eigenvalues.sum()
    else:
        kept, points = axes.components[:components], np.ascontiguousarray(axes.points[:, :components])
        ratio = np.var(points, axis=0, dtype=np.float64, ddof=1) / axes.total
    fitted = PrincipalAxes(axes.mean, axes.scale, kept, axes.eigenvalues, ratio, axes.spectrum_rows)
    return replace(fitted.with_points(points, axes.points), gram=axes.gram)


def _principal_axes(source: ActivationSource, count: int, normalize: bool) -> _Axes:
    if source.hold() and source.num_rows <= min(source.num_columns, EXACT_SIDE):
        return _axes_by_gram(source, count, normalize)
    mean, scale, variance = _moments(source, normalize)
    _require_variance(variance, source.num_rows)
    if source.num_columns <= EXACT_SIDE:
        components, eigenvalues = _covariance_axes(source, count, mean, scale)
        rows = source.num_rows
    else:
        components = _randomised_axes(source, count, mean, scale)
        rows = min(SPECTRUM_ROWS, source.num_rows, max(2, blocks.HELD_AT_ONCE // (4 * source.num_columns)))
        spaced = np.linspace(0, source.num_rows - 1, rows).astype(np.int64)
        eigenvalues = _axes_by_gram(ActivationSource(source.selected(spaced)), 1, normalize).eigenvalues
    points = _projected(source, components, mean, scale)
    total = float((variance / scale.astype(np.float64) ** 2).sum()) * source.num_rows / (source.num_rows - 1)
    return _Axes(mean, scale, components, points, eigenvalues, total, rows)


def _axes_by_gram(source: ActivationSource, count: int, normalize: bool) -> _Axes:
    """Axes of a wide matrix from z zᵀ (N, N): two passes over blocks of columns."""
    rows, columns = source.num_rows, source.num_columns
    mean, scale = np.empty(columns, np.float32), np.ones(columns, np.float32)

    def standardised_gram(part: slice) -> np.ndarray:
        block = source.columns(part)
        mean[part], variance = _center(block)
        if normalize:
            scale[part] = _scale(variance)
            block /= scale[part]
        return block @ block.T

    gram = np.zeros((rows, rows))
    for product in in_order(standardised_gram, source.column_spans()):
        gram += product
    _require_variance(np.array([np.trace(gram)]), rows)
    values, vectors = symmetric_spectrum(gram, count)
    kept = _significant(values, count)
    vectors = vectors[:, :kept].astype(np.float32)
    components = np.empty((kept, columns), np.float32)

    def projected(part: slice) -> np.ndarray:
        block = source.columns(part)
        block -= mean[part]
        block /= scale[part]
        components[:, part] = vectors.T @ block
        return block @ components[:, part].T

    points = np.zeros((rows, kept))
    for product in in_order(projected, source.column_spans()):
        points += product
    lengths = _orient(components)
    points *= lengths
    eigenvalues = np.maximum(values, 0.0) / (rows - 1)
    total = float(eigenvalues.sum())
    return _Axes(mean, scale, components, points.astype(np.float32), eigenvalues, total, rows, gram)


def _covariance_axes(
    source: ActivationSource, count: int, mean: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Axes and spectrum of a tall matrix from zᵀ z (D, D): one pass over blocks of rows."""
    covariance = np.zeros((source.num_columns, source.num_columns))
    for product in _of_standardised(source, mean, scale, lambda _, block: block.T @ block):
        covariance += product
    values, vectors = symmetric_spectrum(covariance, count)
    components = np.ascontiguousarray(vectors[:, : _significant(values, count)].T, dtype=np.float32)
    _orient(components)
    return components, np.maximum(values, 0.0) / (source.num_rows - 1)


def _randomised_axes(
    source: ActivationSource, count: int, mean: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    """Approximate axes by subspace iteration (Halko et al. 2011, Alg. 4.4); one pass a product."""
    width = min(count + OVERSAMPLING, source.num_rows, source.num_columns)
    basis = np.random.default_rng(0).standard_normal((source.num_columns, width)).astype(np.float32)

    def squared(_: int, block: np.ndarray) -> np.ndarray:
        return block.T @ (block @ basis)

    for _ in range(POWER_ITERATIONS):
        total = np.zeros(basis.shape)
        for product in _of_standardised(source, mean, scale, squared):
            total += product
        basis = np.linalg.qr(total.astype(np.float32))[0]
    # Rayleigh–Ritz: the axes of the data within the subspace.
    inside = _projected(source, basis.T, mean, scale).astype(np.float64)
    values, vectors = symmetric_spectrum(inside.T @ inside, count)
    components = np.ascontiguousarray((basis @ vectors[:, : _significant(values, count)]).T, dtype=np.float32)
    _orient(components)
    return components


def symmetric_spectrum(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return all eigenvalues, descending, and the eigenvectors (n, count) of the largest.

    The costly step, the reduction to tridiagonal form, is done once for both; scipy's `eigh` would do
    it twice or compute all vectors.

    Args:
        matrix: (n, n) float64 symmetric; only its lower half is read.
        count: number of eigenvectors, at most n.
    """
    from scipy.linalg import eigh_tridiagonal, eigvalsh_tridiagonal, lapack

    size = len(matrix)
    if size <= 2:
        values, vectors = np.linalg.eigh(matrix)
        return values[::-1], vectors[:, ::-1][:, :count]
    work = int(lapack.dsytrd_lwork(size, lower=1)[0])
    reflectors, diagonal, beside, tau, _ = lapack.dsytrd(np.asfortranarray(matrix), lower=1, lwork=work)
    values = eigvalsh_tridiagonal(diagonal, beside, lapack_driver="sterf")
    _, vectors = eigh_tridiagonal(diagonal, beside, select="i", select_range=(size - count, size - 1))
    vectors = np.asfortranarray(vectors[:, ::-1])
    turned, _, _ = lapack.dormqr(
        "L", "N", np.asfortranarray(reflectors[1:, :-1]), tau, np.asfortranarray(vectors[1:]), 64 * max(count, 1)
    )
    vectors[1:] = turned
    return values[::-1], vectors


def _moments(source: ActivationSource, normalize: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, scale (float32) and variance (float64) of each feature, merging blocks (Chan et al. 1979)."""
    seen, mean, squares = 0, np.zeros(source.num_columns), np.zeros(source.num_columns)

    def of_rows(span: tuple[int, int]) -> tuple[int, np.ndarray, np.ndarray]:
        return span[1] - span[0], *_center(source.rows(*span))

    for count, block_mean, variance in in_order(of_rows, source.row_spans()):
        gap = block_mean - mean
        mean += gap * (count / (seen + count))
        squares += variance * count + gap**2 * (seen * count / (seen + count))
        seen += count
    variance = squares / seen
    scale = _scale(variance) if normalize else np.ones(source.num_columns, np.float32)
    return mean.astype(np.float32), scale, variance


def _center(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take the mean off each column in place; return the means and the variances, both float64.

    Starting from the first row's values makes the variance of a constant column exactly 0.
    """
    pilot = block[0].copy()
    squares = np.zeros(block.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        block -= pilot
        shift = block.mean(axis=0, dtype=np.float64)
        block -= shift.astype(np.float32)
        for start in range(0, len(block), 256):
            part = block[start : start + 256]
            squares += np.einsum("ij,ij->j", part, part)
    if not np.isfinite(squares).all():
        raise FloatingPointError("activations are not finite, or too large for float32 arithmetic")
    return pilot + shift, squares / len(block)


def _scale(variance: np.ndarray) -> np.ndarray:
    deviation = np.sqrt(variance).astype(np.float32)
    return np.where(deviation > 0, deviation, np.float32(1))


def _require_variance(variance: np.ndarray, rows: int) -> None:
    if not variance.sum() > 0:
        raise SampleSetError(f"all {rows} samples have the same activations, so there is nothing to map")


def _significant(values: np.ndarray, count: int) -> int:
    """Return how many of the largest eigenvalues float32 products can tell from zero, at least 1."""
    return max(1, int(np.count_nonzero(values[:count] > values[0] * np.finfo(np.float32).eps)))


def _orient(components: np.ndarray) -> np.ndarray:
    """Scale each component to length 1 with its largest loading positive, in place; return the factors."""
    largest = np.argmax(np.abs(components), axis=1)
    signs = np.where(components[np.arange(len(components)), largest] < 0, -1.0, 1.0)
    factors = signs / np.sqrt(np.einsum("ij,ij->i", components, components, dtype=np.float64))
    components *= factors[:, None].astype(np.float32)
    return factors


def _of_standardised(
    source: ActivationSource, mean: np.ndarray, scale: np.ndarray, work: Callable[[int, np.ndarray], T]
) -> Iterator[T]:
    """Yield `work(first row, standardised rows)` of one block of rows after another."""

    def of_rows(span: tuple[int, int]) -> T:
        block = source.rows(*span)
        block -= mean
        block /= scale
        return work(span[0], block)

    yield from in_order(of_rows, source.row_spans())


def _projected(
    source: ActivationSource, components: np.ndarray | None, mean: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    """Return the standardised rows, on the components where there are some."""
    columns = source.num_columns if components is None else len(components)
    result = np.empty((source.num_rows, columns), np.float32)
    for start, block in _of_standardised(
        source, mean, scale, lambda start, block: (start, block if components is None else block @ components.T)
    ):
        result[start : start + len(block)] = block
    return result
