"""How far a judge may be believed: rates corrected by its confusion, and two judges on the same images.

    held_out = judge.held_out
    observed = shares_of(verdicts.labels, held_out.classes)
    shares = correct_shares(observed, confusion(held_out))     # of the classes, and of none
    rate = corrected_rate(verdicts.labels, wanted, held_out)   # such as a control rate
    both = agreement(first.classify(images).labels, second.classify(images).labels)
"""

import logging
from dataclasses import dataclass

import numpy as np

from diffviews.errors import ShapeError
from diffviews.judges.base import HeldOut

ILL_CONDITIONED = 10.0
"""Condition number of a confusion from which on correcting multiplies errors so much that it is said."""

logger = logging.getLogger(__name__)


def confusion(held_out: HeldOut) -> np.ndarray:
    """Return the probability of each verdict given the truth, (K + 1, K + 1) float64, columns adding up to 1.

    Column j: the verdicts on images of the j-th class, ascending; the last row: rejected; the last column: images of
    none of the classes, of which a judge is taken to reject every one. A class has one further image spread as the
    errors of all classes are, so that few images of a class do not make it faultless.
    """
    classes = held_out.classes
    count = len(classes)
    truth, said = np.searchsorted(classes, held_out.truth), _numbers(held_out.said, classes)
    counts = np.zeros((count + 1, count))
    np.add.at(counts, (said, truth), 1.0)
    right, rejected = held_out.accuracy, held_out.rejects
    usual = np.full((count + 1, count), (1 - right - rejected) / max(count - 1, 1))
    usual[-1] = rejected
    usual[np.arange(count), np.arange(count)] = right
    usual /= usual.sum(axis=0)
    matrix = np.zeros((count + 1, count + 1))
    matrix[:, :-1] = (counts + usual) / (counts.sum(axis=0) + 1)
    matrix[-1, -1] = 1.0
    return matrix


def correct_shares(observed: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the true shares of the classes behind those that a judge found: Rogan and Gladen 1978 for K classes.

    Solves `matrix @ true = observed` and goes to the nearest shares, none negative and adding up to 1.

    Args:
        observed: shares of the K classes and of the rejected images, (K + 1,), adding up to 1.
        matrix: probability of each verdict given the truth, (K + 1, K + 1), of `confusion`.

    Raises:
        ShapeError: if they do not fit each other.
    """
    return nearest_shares(_solved(observed, matrix))


def corrected_rate(said: np.ndarray, wanted: np.ndarray, held_out: HeldOut) -> float:
    """Return the share of images that are of the class wanted, corrected for the judge's confusion, 0 to 1.

    Of the images for which one class is wanted, the verdicts' shares are solved for the true ones; what counts is
    the mean of the wanted class's, cut to 0 … 1 in the end alone, so that cutting does not shift it.

    Args:
        said: classes that the judge gave, (N,) int64; -1: rejected.
        wanted: class wanted of each image, (N,) int64.
        held_out: how the judge does on images whose class is known.

    Raises:
        ShapeError: if there are not as many, or a class is wanted that the judge was not measured on.
    """
    classes = held_out.classes
    if len(said) != len(wanted) or not len(said) or not np.isin(wanted, classes).all():
        raise ShapeError(f"{len(said)} verdicts and {len(wanted)} classes wanted must be as many, all measured")
    asked, counts = np.unique(wanted, return_counts=True)
    observed = np.stack([shares_of(said[wanted == label], classes) for label in asked], axis=1)
    true = _solved(observed, confusion(held_out))[np.searchsorted(classes, asked), np.arange(len(asked))]
    return float(np.clip(np.average(true, weights=counts), 0.0, 1.0))


def shares_of(said: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the share of each class among verdicts, and of those rejected or of another class, (K + 1,) float64."""
    return np.bincount(_numbers(said, classes), minlength=len(classes) + 1) / max(len(said), 1)


def nearest_shares(values: np.ndarray) -> np.ndarray:
    """Return the shares, none negative and adding up to 1, nearest to some values (K,) (Duchi et al. 2008)."""
    descending = np.sort(values)[::-1]
    excess = (np.cumsum(descending) - 1) / np.arange(1, len(values) + 1)
    return np.maximum(values - excess[np.flatnonzero(descending > excess)[-1]], 0.0)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two judges agree on the same images, a rejection being a class of its own."""

    count: int
    """Images."""
    raw: float
    """Share on which both say the same."""
    kappa: float
    """Cohen's κ: what of the agreement beyond chance there is; 1 where both say one thing of all."""

    def accuracy(self, other: float, classes: int) -> float:
        """Return how often the first judge is right on these images, whose classes nobody knows, 0 to 1.

        With independent errors that are spread evenly, judges right in shares a and b agree on a b + (1 − a)(1 − b) /
        (K − 1). Errors of the same images in common make it too high.

        Args:
            other: held-out accuracy of the second judge, above chance.
            classes: how many classes there are, two or more.

        Raises:
            ShapeError: if the other judge is no better than chance, which agreement says nothing by.
        """
        chance = (1 - other) / (classes - 1)
        if other <= chance:
            raise ShapeError(f"a judge right on {other:.3f} among {classes} classes is no better than chance")
        return float(np.clip((self.raw - chance) / (other - chance), 0.0, 1.0))


def agreement(first: np.ndarray, second: np.ndarray) -> Agreement:
    """Return how two judges agree on the same images, by the labels (N,) that each gave.

    Raises:
        ShapeError: if there are not as many, or none.
    """
    if len(first) != len(second) or not len(first):
        raise ShapeError(f"{len(first)} and {len(second)} verdicts cannot agree; judge the same images")
    raw = float(np.mean(first == second))
    labels = np.union1d(first, second)
    chance = float(np.sum([np.mean(first == label) * np.mean(second == label) for label in labels]))
    return Agreement(len(first), raw, 1.0 if chance == 1 else (raw - chance) / (1 - chance))


def _solved(observed: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    if matrix.shape != (len(observed), len(observed)):
        raise ShapeError(f"{len(observed)} shares do not fit a confusion of {matrix.shape}")
    condition = float(np.linalg.cond(matrix))
    if condition > ILL_CONDITIONED:
        logger.warning(
            "the judge confuses classes so much (condition number %.3g, usual is up to %g) that corrected rates are "
            "uncertain; take a better judge, or fewer classes", condition, ILL_CONDITIONED,
        )  # fmt: skip
    return np.linalg.lstsq(matrix, observed, rcond=None)[0]


def _numbers(said: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the number of each verdict's class among `classes`, K for one rejected or of another class."""
    place = np.minimum(np.searchsorted(classes, said), len(classes) - 1)
    return np.where(classes[place] == said, place, len(classes))
