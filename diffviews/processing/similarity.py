"""How alike layers are, from Gram matrices of the same samples: debiased CKA, mutual neighbours, RSA, and chance.

    grams = {name: centered_gram(activations) for name, activations in layers.items()}
    compare_grams(grams).frame("cka")
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd

from diffviews.errors import CorruptDataError, ShapeError
from diffviews.processing.blocks import ActivationSource
from diffviews.processing.neighbors import shared_counts
from diffviews.processing.statistics import permutation_p

Name = TypeVar("Name", bound=Hashable)
Measure = Literal["cka", "mutual_knn", "rsa", "p_value"]
MEASURES: tuple[Measure, ...] = ("cka", "mutual_knn", "rsa", "p_value")

MUTUAL_NEIGHBORS = 10
"""Size of a neighbourhood of `mutual_knn`; independent layers share k / (N − 1) of it."""

RSA_SAMPLES = 300
"""Of more samples, evenly spaced ones have their distances ranked: 44,850 pairs."""

PERMUTED_SAMPLES, PERMUTATIONS = 256, 199
"""p-values come from so many orders of so many evenly spaced samples: 0.005 is the smallest."""


@dataclass(frozen=True, slots=True, eq=False)
class Similarity:
    """How alike each pair of layers is; NaN where one of the two does not vary."""

    names: tuple[str, ...]
    cka: np.ndarray
    """(L, L) float64 CKA, −1 to 1: about 0 for independent layers, 1 up to rotation and scale."""
    mutual_knn: np.ndarray | None = None
    """(L, L) float64 mean share of a sample's nearest that are its nearest in both layers (Huh et al. 2024)."""
    rsa: np.ndarray | None = None
    """(L, L) float64 Spearman correlation of the samples' distances (Kriegeskorte et al. 2008)."""
    p_value: np.ndarray | None = None
    """(L, L) float64: how often CKA is as high when the samples of one of the two are permuted."""
    debiased: bool = True
    """False for a table of an earlier version, whose CKA of wide layers is high whatever they hold."""

    def frame(self, measure: Measure = "cka") -> pd.DataFrame:
        """Return one measure as a square table by layer; of an earlier version's only CKA is there."""
        values = getattr(self, measure)
        if values is None:
            values = np.full(self.cka.shape, np.nan)
        return pd.DataFrame(values, index=pd.Index(self.names, name="layer"), columns=list(self.names))

    def table(self) -> pd.DataFrame:
        """Return all measures, one row a pair."""
        count = len(self.names)
        pairs = {"left": np.repeat(self.names, count), "right": np.tile(self.names, count)}
        return pd.DataFrame(pairs | {measure: self.frame(measure).to_numpy().ravel() for measure in MEASURES})

    @classmethod
    def from_table(cls, table: pd.DataFrame) -> "Similarity":
        """Return what `table` made a table of.

        Raises:
            CorruptDataError: if columns or pairs are missing.
        """
        try:
            names = tuple(dict.fromkeys(table["left"].astype(str)))
            square = len(names), len(names)
            cka, near, ranks, p_value = (table[measure].to_numpy(np.float64).reshape(square) for measure in MEASURES)
        except (KeyError, ValueError) as error:
            raise CorruptDataError(f"a table of similarities lacks columns or pairs: {error}") from error
        return cls(names, cka, near, ranks, p_value)


def centered_gram(activations: Any) -> np.ndarray:
    """Return x xᵀ of activations (N, *shape) with each feature's mean taken off, (N, N) float32."""
    source = ActivationSource(activations)
    gram = np.zeros((source.num_rows, source.num_rows))
    for span in source.column_spans():
        block = source.columns(span)
        block -= block.mean(axis=0, dtype=np.float64).astype(np.float32)
        gram += block @ block.T
    return gram.astype(np.float32)


def spanned_gram(points: np.ndarray, components: np.ndarray | None, scale: np.ndarray) -> np.ndarray:
    """Return the centred Gram matrix of activations as far as principal axes span them, in the activations' units.

    Args:
        points: (N, d) on the axes; without axes the standardised values.
        components: (d, D) the axes; None: there are none.
        scale: (D,) that each feature was divided by.
    """
    vectors = points.astype(np.float64)
    vectors -= vectors.mean(axis=0)
    if components is None:
        vectors *= scale
        return (vectors @ vectors.T).astype(np.float32)
    axes = components * scale
    return (vectors @ (axes @ axes.T) @ vectors.T).astype(np.float32)


def compare_grams(grams: Mapping[str, np.ndarray], *, seed: int = 0) -> Similarity:
    """Return every measure of every pair of layers, from their centred Gram matrices (N, N) of the same samples.

    Raises:
        ShapeError: if the matrices are not of the same samples.
    """
    names, cka = cka_from_grams(grams)
    return Similarity(tuple(names), cka, mutual_knn(grams), rsa(grams), cka_p_values(grams, seed=seed))


def cka_from_grams(grams: Mapping[Name, np.ndarray]) -> tuple[list[Name], np.ndarray]:
    """Return the names and the debiased linear CKA of every pair of Gram matrices, (L, L) float64.

    CKA = HSIC₁(K, L) / √(HSIC₁(K, K) HSIC₁(L, L)) (Nguyen et al. 2021) with the unbiased estimate
    HSIC₁ = [tr(K̃L̃) + 1ᵀK̃1 1ᵀL̃1 / ((n − 1)(n − 2)) − 2/(n − 2) 1ᵀK̃L̃1] / (n(n − 3)), tildes marking zero
    diagonals (Song et al. 2012): 1 for representations that differ by a rotation and a scale, about 0, above or below,
    for independent ones however wide; the biased estimate (Kornblith et al. 2019) nears 1 with the width. NaN where
    one of them does not vary, or of fewer than 4 samples.

    Raises:
        ShapeError: if the matrices are not of the same samples.
    """
    names, units = list(grams), _units(grams)
    matrix = np.full((len(units), len(units)), np.nan)
    for row, first in enumerate(units):
        for column, second in enumerate(units[: row + 1]):
            matrix[row, column] = matrix[column, row] = np.einsum("ij,ij->", first, second, dtype=np.float64)
    return names, np.clip(matrix, -1.0, 1.0)


def cka_p_values(grams: Mapping[Any, np.ndarray], *, draws: int = PERMUTATIONS, seed: int = 0) -> np.ndarray:
    """Return how often permuted samples are as alike as the layers are, (L, L) float64.

    Of more than PERMUTED_SAMPLES samples evenly spaced ones are compared; CKA of permuted samples has mean 0 and
    variance 2 / (n (n − 3)), whatever the layers.
    """
    units = _units({name: _spaced(gram, PERMUTED_SAMPLES) for name, gram in grams.items()})
    if not units:
        return np.zeros((0, 0))
    stack, random, size = np.stack(units), np.random.default_rng(seed), len(units[0])
    flat = stack.reshape(len(units), -1)
    null = np.empty((draws, len(units), len(units)), np.float32)
    for drawn in null:
        order = random.permutation(size)
        drawn[:] = flat @ stack[:, order[:, None], order].reshape(flat.shape).T
    p_values = permutation_p(flat @ flat.T, null)
    # Which of the two was permuted does not matter: the same orders and their inverses are as likely.
    return np.asarray(np.triu(p_values) + np.triu(p_values, 1).T)


def mutual_knn(grams: Mapping[Any, np.ndarray], k: int = MUTUAL_NEIGHBORS) -> np.ndarray:
    """Return the mean share of a sample's k nearest that are so in both layers (Huh et al. 2024), (L, L) float64."""
    _check_same(grams)
    near = []
    for gram in grams.values():
        distances = _squared_distances(gram)
        np.fill_diagonal(distances, np.inf)
        k = min(k, len(gram) - 1)
        constant = not np.diag(gram).any()
        near.append(None if constant or k < 1 else np.argpartition(distances, k - 1, axis=1)[:, :k])
    return _square(near, lambda first, second: float(shared_counts(first, second).mean() / k))


def rsa(grams: Mapping[Any, np.ndarray]) -> np.ndarray:
    """Return Spearman's correlation of the samples' distances (Kriegeskorte et al. 2008), (L, L) float64."""
    from scipy.stats import rankdata

    _check_same(grams)
    ranks = []
    for gram in grams.values():
        part = _spaced(gram, RSA_SAMPLES)
        order = rankdata(_squared_distances(part)[np.triu_indices(len(part), 1)])
        order -= order.mean() if len(order) else 0
        length = np.linalg.norm(order)
        ranks.append(order / length if length > 0 else None)
    return _square(ranks, lambda first, second: float(first @ second))


def _square(parts: list[Any], measure: Any) -> np.ndarray:
    """Return a measure of every pair, (L, L) float64; NaN where a part is None."""
    matrix = np.full((len(parts), len(parts)), np.nan)
    for row, first in enumerate(parts):
        for column, second in enumerate(parts[: row + 1]):
            if first is not None and second is not None:
                matrix[row, column] = matrix[column, row] = measure(first, second)
    return matrix


def _units(grams: Mapping[Any, np.ndarray]) -> list[np.ndarray]:
    """Return each Gram matrix U-centred and of length 1, float32: HSIC₁ is n (n − 3) times less than their product.

    U-centring takes off what a sample's row and column have in common such that off the zero diagonal every row sums
    to 0 (Székely & Rizzo 2014).
    """
    _check_same(grams)
    return [_unit(gram) for gram in grams.values()]


def _unit(gram: np.ndarray) -> np.ndarray:
    count = len(gram)
    if count < 4:
        return np.full(gram.shape, np.nan, np.float32)
    centred = gram.astype(np.float64)
    np.fill_diagonal(centred, 0.0)
    sums = centred.sum(axis=1)
    shared = sums / (count - 2) - sums.sum() / (2 * (count - 1) * (count - 2))
    centred -= shared[:, None]
    centred -= shared
    np.fill_diagonal(centred, 0.0)
    length = np.linalg.norm(centred)
    if not length > 0:
        return np.full(gram.shape, np.nan, np.float32)
    return (centred / length).astype(np.float32)


def _check_same(grams: Mapping[Any, np.ndarray]) -> None:
    sizes = {gram.shape for gram in grams.values()}
    if len(sizes) > 1:
        raise ShapeError(f"layers are compared on the same samples, but their Gram matrices are {sorted(sizes)}")


def _spaced(gram: np.ndarray, most: int) -> np.ndarray:
    """Return the Gram matrix of all samples, or of `most` evenly spaced ones."""
    rows = np.linspace(0, len(gram) - 1, min(len(gram), most)).astype(int)
    return gram[rows[:, None], rows]


def _squared_distances(gram: np.ndarray) -> np.ndarray:
    own = np.diag(gram).astype(np.float64)
    return np.maximum(own[:, None] + own - 2.0 * gram, 0.0)
