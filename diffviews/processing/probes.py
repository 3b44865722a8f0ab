"""What two simple readers tell of a representation, each asked only about samples that it has not seen.

right = read_classes(activations, classes, stratified_folds(classes))       # (2, N) bool: by k-NN, by a probe
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from diffviews.errors import SampleSetError, ShapeError
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.neighbors import near_neighbors
from diffviews.processing.quality import QUALITY_NEIGHBORS, knn_votes
from diffviews.processing.reduction import reduce_activations

FOLDS = 5
"""Parts of the samples, each of which is asked about by a probe that is fitted to the others."""

PENALTIES = tuple(10.0**power for power in range(-2, 4))
"""Ridge penalties that the inner folds choose from, in units of the samples' mean squared length."""


def read_classes(
    activations: Any, classes: np.ndarray, folds: np.ndarray, maps: MapParameters = MapParameters()
) -> np.ndarray:
    """Return whether k-NN and a probe give each sample's class, (2, N) bool.

    Dividing features by their standard deviations makes neighbours depend on the basis, so that a mere rotation would
    have a gain or a loss. k-NN therefore has them both divided and not, and takes for each fold what is right more
    often about the others.

    Args:
        activations: (N, *shape) float16 or float32.
        classes: (N,) int from 0, −1 for none: such a sample neither votes nor is asked about; its answers are False.
        folds: (N,) int, the same for all that is to be compared.
        maps: metric, number of principal components, and whether features are standardised at all.

    Raises:
        SampleSetError: if all samples are the same.
        FloatingPointError: if a value is NaN or infinite.
    """
    points, gram = representation(activations, maps)
    forms = [points]
    if maps.normalize:
        forms.append(representation(activations, replace(maps, normalize=False))[0])
    knn = [held_out_knn(each, classes, metric=maps.metric) for each in forms]
    return np.stack([chosen_by_others(np.stack(knn), folds), held_out_probe(gram, classes, folds)])


def chosen_by_others(candidates: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return the answers (…, N) of one of several candidates (F, …, N) bool: for each fold, of the one that is right
    most often about the other folds, the first of equally good ones. Choosing by the same samples would flatter.
    """
    result = np.empty(candidates.shape[1:], bool)
    for fold in np.unique(folds):
        own = folds == fold
        best = np.argmax(candidates[..., ~own].reshape(len(candidates), -1).sum(axis=1))
        result[..., own] = candidates[best][..., own]
    return result


def representation(activations: Any, maps: MapParameters = MapParameters()) -> tuple[np.ndarray, np.ndarray]:
    """Return what both readers need of activations, standardised as a map of them is.

    Args:
        activations: (N, *shape) float16 or float32.
        maps: says whether features are standardised, and how many principal components the neighbours have.

    Returns:
        points (N, d) float32 in PCA space, and the Gram matrix z zᵀ (N, N) float64 of the centred, or standardised,
        features.

    Raises:
        SampleSetError: if all samples are the same.
        FloatingPointError: if a value is NaN or infinite.
    """
    reduction = reduce_activations(activations, maps.pca_components, normalize=maps.normalize)
    gram = reduction.gram
    if gram is None:  # fewer features than samples
        z = np.asarray(activations, np.float64).reshape(len(activations), -1)
        z = (z - reduction.mean) / reduction.scale
        gram = z @ z.T
    return reduction.points, gram


def stratified_folds(classes: np.ndarray, folds: int = FOLDS, seed: int = 0) -> np.ndarray:
    """Return the fold of each sample, (N,) int, in which each class has its share, within one sample.

    All representations of the same samples are read with the same folds, so that their answers are pairs.

    Args:
        classes: (N,) class of each sample.
        folds: how many.
        seed: equal seeds give equal folds.
    """
    random, first = np.random.default_rng(seed), 0
    found = np.empty(len(classes), np.int64)
    for name in np.unique(classes):
        members = random.permutation(np.flatnonzero(classes == name))
        found[members] = (first + np.arange(len(members))) % folds
        first += len(members)
    return found


def held_out_knn(points: np.ndarray, classes: np.ndarray, *, metric: str = "euclidean") -> np.ndarray:
    """Return whether the vote of its nearest others gives each sample's class, (N,) bool; itself is left out.

    Args:
        points: (N, d) float.
        classes: (N,) int from 0, −1 for none: such a sample has no vote, and its answer is False.
        metric: of the distances.
    """
    k = min(QUALITY_NEIGHBORS, max(1, (len(points) - 1) // 2))
    votes = knn_votes(near_neighbors(points, k, metric=metric)[0], classes)
    return (votes == classes) & (classes >= 0)


def held_out_probe(
    gram: np.ndarray, classes: np.ndarray, folds: np.ndarray, penalties: Sequence[float] = PENALTIES
) -> np.ndarray:
    """Return whether a linear probe, fitted to the other folds, gives each sample's class, (N,) bool.

    The probe is ridge regression on one ±1 target a class with an unpenalised intercept, the largest answer wins;
    of several penalties each outer fold takes the one that answers most of the inner folds rightly, the stronger of
    equally good ones. In the dual, with K = z zᵀ, A = (K + λI)⁻¹ and P = A − A11ᵀA / 1ᵀA1, the residuals of samples S
    in a fit without them are P_SS⁻¹ (P Y)_S (Cawley & Talbot 2004), so that one inverse a penalty serves all outer and
    inner fits, whatever the number of features.

    Args:
        gram: (N, N) float64 of the samples; any common offset of them does not matter.
        classes: (N,) int from 0, −1 for none: such a sample is not fitted to, and its answer is False.
        folds: (N,) int, in which each sample is held out; at least three.
        penalties: λ, in units of the mean of the Gram matrix's diagonal.

    Raises:
        ShapeError: if the shapes do not fit each other.
        SampleSetError: if fewer than three folds hold samples with a class.
    """
    if not gram.shape == (len(classes), len(classes)) or len(folds) != len(classes):
        raise ShapeError(f"a Gram matrix of {len(classes)} samples in {len(folds)} folds cannot be {gram.shape}")
    rows = np.flatnonzero(classes >= 0)
    names, numbers = np.unique(classes[rows], return_inverse=True)
    parts = [np.flatnonzero(folds[rows] == fold) for fold in np.unique(folds[rows])]
    if len(parts) < 3:
        raise SampleSetError(f"a probe with inner folds needs three folds with labelled samples, not {len(parts)}")
    own = np.asarray(gram, np.float64)[np.ix_(rows, rows)]
    targets = np.where(numbers[:, None] == np.arange(len(names)), 1.0, -1.0)
    right = np.empty((len(penalties), len(rows)), bool)
    inner = np.zeros((len(penalties), len(parts)), np.int64)
    for number, penalty in enumerate(penalties):
        system = _dual(own, penalty * np.trace(own) / len(own))
        weights = system @ targets

        def answers(held_out: np.ndarray, system: np.ndarray = system, weights: np.ndarray = weights) -> np.ndarray:
            from scipy.linalg import solve

            residuals = solve(system[np.ix_(held_out, held_out)], weights[held_out], assume_a="pos")
            return np.asarray(np.argmax(targets[held_out] - residuals, axis=1) == numbers[held_out])

        for part in parts:
            right[number, part] = answers(part)
        # With two folds held out, each is an inner fold of the other one's fit.
        for one, other in combinations(range(len(parts)), 2):
            found = answers(np.concatenate([parts[one], parts[other]]))
            inner[number, other] += np.count_nonzero(found[: len(parts[one])])
            inner[number, one] += np.count_nonzero(found[len(parts[one]) :])
    chosen = len(penalties) - 1 - np.argmax(inner[::-1], axis=0)
    result = np.zeros(len(classes), bool)
    for part, best in zip(parts, chosen, strict=True):
        result[rows[part]] = right[best, part]
    return result


def _dual(gram: np.ndarray, penalty: float) -> np.ndarray:
    """Return P, which gives the dual coefficients P Y of ridge regression with an intercept, (n, n) float64."""
    from scipy.linalg import lapack

    factor, failed = lapack.dpotrf(gram + penalty * np.eye(len(gram)), lower=1)
    if failed:
        raise SampleSetError("all samples have the same activations, so there is nothing to be read from them")
    lower, _ = lapack.dpotri(factor, lower=1)
    inverse = np.tril(lower) + np.tril(lower, -1).T
    sums = inverse.sum(axis=0)
    return np.asarray(inverse - np.outer(sums, sums) / sums.sum())
