"""Whether a difference is one: paired tests, intervals of rates, and which layers cannot be told from the best."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffviews.errors import ConfigError, ShapeError

SIGNIFICANT = 0.05
"""A p-value below it is called a difference."""

_FLIPS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class McNemar:
    """McNemar's test of two ways to answer the same questions."""

    first_only: int
    """Questions that the first alone answered rightly."""
    second_only: int
    exact: float
    """Two-sided binomial p-value: never too small."""
    mid_p: float
    """The same with half of the observed outcome's probability: near its nominal level (Fagerland et al. 2013)."""


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """An estimate and where it may lie; numbers, or arrays of one shape."""

    estimate: Any
    low: Any
    high: Any


@dataclass(frozen=True, slots=True, eq=False)
class BestGroup:
    """The best of several, and those that are not told from it."""

    best: int
    p_values: np.ndarray
    """(L,) float64 of each against the best, adjusted by Holm's method; 1 for the best itself."""
    members: np.ndarray
    """(L,) bool: the best, and what is not significantly worse."""


def mcnemar(first: Sequence[bool] | np.ndarray, second: Sequence[bool] | np.ndarray) -> McNemar:
    """Test whether two ways are right equally often, from the questions on which they differ (McNemar 1947).

    Under the null hypothesis `first_only` is binomial with n = first_only + second_only and p = ½.

    Args:
        first, second: (N,) bool, whether each answered the same question rightly.

    Raises:
        ShapeError: if they are not of the same questions.
    """
    from scipy.stats import binom

    right, other = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if right.shape != other.shape or right.ndim != 1:
        raise ShapeError(f"McNemar's test pairs answers to the same questions, but these are {right.shape} and "
                         f"{other.shape}; give two of shape (N,)")  # fmt: skip
    only, others = int((right & ~other).sum()), int((~right & other).sum())
    total, fewer = only + others, min(only, others)
    exact = min(1.0, 2 * float(binom.cdf(fewer, total, 0.5)))
    own = float(binom.pmf(fewer, total, 0.5))
    mid = 1 - own / 2 if only == others else 2 * float(binom.cdf(fewer, total, 0.5)) - own
    return McNemar(only, others, exact, mid if total else 1.0)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return p-values adjusted for their number by the step-down method of Holm (1979).

    p̃₍ᵢ₎ = max_{j ≤ i} min(1, (m − j + 1) p₍ⱼ₎): whichever is below α, the chance of any false one is below α.

    Args:
        p_values: (m,) 0 to 1; NaN for what was not tested, which stays NaN and does not count.

    Raises:
        ConfigError: if one is not from 0 to 1.
    """
    values = np.array(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(values))
    wrong = values[tested][(values[tested] < 0) | (values[tested] > 1)]
    if len(wrong):
        raise ConfigError(f"a p-value is from 0 to 1, not {wrong[0]}")
    order = tested[np.argsort(values[tested], kind="stable")]
    steps = np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1))
    values[order] = np.minimum(steps, 1.0)
    return values


def wilson_interval(
    successes: int | np.ndarray, trials: int | np.ndarray, *, confidence: float = 0.95
) -> Interval:
    """Return a binomial rate with the interval of Wilson (1927), which holds for few trials and rates of 0 and 1.

    (p̂ + z²/2n ± z √(p̂(1 − p̂)/n + z²/4n²)) / (1 + z²/n).

    Args:
        successes, trials: numbers or arrays that broadcast; without trials everything is NaN but the interval [0, 1].
        confidence: share of such intervals that hold the rate.

    Raises:
        ConfigError: if there are more successes than trials, or fewer than none.
    """
    from scipy.special import ndtri

    hits, count = np.broadcast_arrays(np.asarray(successes, np.float64), np.asarray(trials, np.float64))
    if ((hits < 0) | (hits > count)).any():
        raise ConfigError(f"{successes} successes of {trials} trials are impossible; give 0 to as many as the trials")
    z2 = float(ndtri((1 + confidence) / 2)) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = hits / count
    # Multiplied by n, so that no trials are no division by zero.
    middle, width = hits + z2 / 2, np.sqrt(z2) * np.sqrt(hits * (1 - np.nan_to_num(rate)) + z2 / 4)
    return Interval(rate[()], ((middle - width) / (count + z2))[()], ((middle + width) / (count + z2))[()])


def cluster_bootstrap(
    values: np.ndarray,
    clusters: Sequence[Any] | np.ndarray,
    *,
    draws: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean over all samples with a bootstrap interval that draws whole clusters, such as classes.

    Samples of a class share what is peculiar to it, so classes are what is drawn with replacement, each with all its
    samples. Of few clusters a percentile interval is too short: its tails are those that make it as long as
    Student's, Φ(−√(C/(C − 1)) t_{C−1}) (Hesterberg 2015, the expanded percentile interval).

    Args:
        values: (N,) or (N, …) float or bool; of a paired difference, the differences.
        clusters: (N,) which cluster each belongs to.
        draws: of the bootstrap.
        confidence: share of such intervals that hold the mean.
        seed: equal seeds give equal intervals.

    Returns:
        Mean and ends, numbers or arrays of the shape of one value; with a single cluster the ends are NaN.

    Raises:
        ShapeError: if there is not one cluster a value, or no value.
    """
    from scipy.special import ndtr, stdtrit

    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim == 0 or not len(rows) or len(rows) != len(clusters):
        raise ShapeError(f"{len(clusters)} clusters were named for values of shape {rows.shape}; give one for each row")
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    count = len(names)
    flat = rows.reshape(len(rows), -1)
    sums = np.stack([np.bincount(member, column, minlength=count) for column in flat.T], axis=1)
    sizes = np.bincount(member, minlength=count)
    mean = (sums.sum(axis=0) / len(rows)).reshape(rows.shape[1:])
    if count == 1:
        nowhere = np.full(mean.shape, np.nan)[()]
        return Interval(mean[()], nowhere, nowhere)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    means = (drawn @ sums) / (drawn @ sizes)[:, None]
    student = float(stdtrit(count - 1, (1 + confidence) / 2))
    tail = float(ndtr(-student * np.sqrt(count / (count - 1))))
    low, high = (end.reshape(mean.shape)[()] for end in np.quantile(means, (tail, 1 - tail), axis=0))
    return Interval(mean[()], low, high)


def permutation_p(observed: Any, null: np.ndarray, *, two_sided: bool = False) -> Any:
    """Return how often chance gives at least what was observed, (1 + #{null ≥ observed}) / (1 + draws).

    Counting the observation itself keeps the test valid, and no p-value is 0 (Phipson & Smyth 2010).

    Args:
        observed: a number, or an array (…).
        null: (draws, …) the same under random permutations.
        two_sided: compare sizes without their signs.

    Returns:
        A number, or an array (…); NaN where the observation is.
    """
    seen, drawn = np.asarray(observed, dtype=np.float64), np.asarray(null, dtype=np.float64)
    if two_sided:
        seen, drawn = np.abs(seen), np.abs(drawn)
    # A permutation that changes nothing may differ by rounding.
    reached = np.count_nonzero(drawn >= seen - 1e-12 * np.abs(seen), axis=0)
    return np.where(np.isnan(seen), np.nan, (1 + reached) / (1 + len(drawn)))[()]


def permutation_test(
    statistic: Callable[[np.ndarray], Any], count: int, *, draws: int = 999, two_sided: bool = False, seed: int = 0
) -> Any:
    """Return the permutation p-value of a statistic.

    Args:
        statistic: of an order (count,) int64 of what is permuted; called with the given order first.
        count: what is permuted.
        draws: random orders.
        two_sided: compare sizes without their signs.
        seed: equal seeds give equal p-values.

    Returns:
        A p-value, or an array of the statistic's shape.
    """
    random = np.random.default_rng(seed)
    observed = statistic(np.arange(count))
    return permutation_p(observed, np.stack([statistic(random.permutation(count)) for _ in range(draws)]),
                         two_sided=two_sided)  # fmt: skip


def sign_flip_test(differences: np.ndarray, *, draws: int = 999, seed: int = 0) -> float:
    """Return the two-sided p-value of paired differences (N,) being symmetric about 0 (Fisher 1935).

    For scores that are no plain right or wrong, such as a sample's accuracy over several noise draws.
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[values != 0]
    random = np.random.default_rng(seed)
    null = np.empty(draws)
    for start in range(0, draws, _FLIPS_AT_ONCE):
        part = null[start : start + _FLIPS_AT_ONCE]
        part[:] = random.choice([-1.0, 1.0], (len(part), len(values))) @ values
    return float(permutation_p(values.sum(), null, two_sided=True))


def best_group(scores: np.ndarray, *, significance: float = SIGNIFICANT) -> BestGroup:
    """Return which of several is best, and which are not distinguishable from it (Holm).

    Each is compared with the best on the same questions: by McNemar's mid-p where the scores are bool, else by sign
    flips.

    Args:
        scores: (L, N) bool, whether each was right, or float, such as its accuracy over noise draws.
        significance: adjusted p-values below it tell one from the best.

    Raises:
        ShapeError: if there is nothing to compare.
    """
    rows = np.asarray(scores)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ShapeError(f"scores are (layers, samples) and not empty, but these are {rows.shape}")
    best = int(np.argmax(rows.mean(axis=1)))
    others = [number for number in range(len(rows)) if number != best]
    p_values = np.ones(len(rows))
    p_values[others] = holm([_paired_p(rows[best], rows[number]) for number in others])
    return BestGroup(best, p_values, p_values >= significance)


def _paired_p(first: np.ndarray, second: np.ndarray) -> float:
    if first.dtype == bool:
        return mcnemar(first, second).mid_p
    # The smallest p-value of n draws is 1 / (n + 1): Holm's method needs it well below α over the number compared.
    return sign_flip_test(first - second, draws=9999)
