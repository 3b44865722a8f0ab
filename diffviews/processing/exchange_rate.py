"""What an exchange between donor and recipient decides: how often the recipient lands in the donor's class."""

from dataclasses import dataclass

import numpy as np

from diffviews.errors import ShapeError
from diffviews.processing.statistics import Interval, cluster_bootstrap, permutation_p, wilson_interval

PERMUTATIONS = 999
LEAST_STRATUM = 4
"""Pairs with the same class of the recipient, on average, from which on donors are permuted among these."""


@dataclass(frozen=True, slots=True)
class ExchangeRate:
    """Of n pairs."""

    n: int
    rate: float
    """Share of recipients that land in the donor's class."""
    low: float
    high: float
    """95 % of it."""
    null: float
    """The same share where donors are permuted among the pairs."""
    p: float
    """How often chance gives at least the rate."""
    own: float
    """Share that lands in the recipient's class."""
    rejects: float
    """Share that is none of the classes."""
    on_manifold: float
    """Share that is as near to a real image as real ones are."""


def rate_interval(hits: np.ndarray, donors: np.ndarray) -> Interval:
    """Return a rate with the wider of two 95 % intervals: cluster bootstrap over donors' classes, and Wilson's.

    Classes are what a rate is to hold beyond; but where every pair has the same outcome, or all donors are of one
    class, a bootstrap knows no spread at all.

    Args:
        hits: (n,) bool.
        donors: (n,) class of each donor.
    """
    binomial = wilson_interval(int(np.count_nonzero(hits)), len(hits))
    if not len(hits):
        return binomial
    over_classes = cluster_bootstrap(hits, donors)
    low, high = np.fmin(binomial.low, over_classes.low), np.fmax(binomial.high, over_classes.high)
    return Interval(float(binomial.estimate), float(low), float(high))


def exchange_rate(
    landed: np.ndarray, donors: np.ndarray, recipients: np.ndarray, near: np.ndarray, *, seed: int = 0
) -> ExchangeRate:
    """Measure pairs whose classes differ.

    Under the null hypothesis where a recipient lands depends on the recipient alone, so that any donor of another
    class than its own would do: donors are permuted among the pairs with the same class of the recipient. With too
    few such pairs (many classes) they are permuted among all; a donor may then be of the recipient's own class, which
    an exchange without effect hits, so that the null is rather too high than too low.

    Args:
        landed: (n,) int64 class in which each recipient landed; -1: rejected.
        donors, recipients: (n,) int64 class of the unpatched donor and recipient.
        near: (n,) bool, whether it is on the manifold.
        seed: equal seeds give equal p-values.

    Raises:
        ShapeError: if the pairs do not go together.
    """
    if not len(landed) == len(donors) == len(recipients) == len(near):
        raise ShapeError(f"{len(landed)}, {len(donors)}, {len(recipients)} and {len(near)} values are not of the same "
                         "pairs; give one each")  # fmt: skip
    hits, count = landed == donors, len(landed)
    interval = rate_interval(hits, donors)
    if not count:
        nan = float("nan")
        return ExchangeRate(0, nan, interval.low, interval.high, nan, nan, nan, nan, nan)
    null = _null_rates(landed, donors, recipients, seed)
    return ExchangeRate(
        n=count,
        rate=float(hits.mean()),
        low=interval.low,
        high=interval.high,
        null=float(null.mean()),
        p=float(permutation_p(hits.mean(), null)),
        own=float((landed == recipients).mean()),
        rejects=float((landed < 0).mean()),
        on_manifold=float(near.mean()),
    )


def _null_rates(landed: np.ndarray, donors: np.ndarray, recipients: np.ndarray, seed: int) -> np.ndarray:
    """Return the rate of each permutation, (PERMUTATIONS,) float64."""
    classes = len(np.unique(recipients))
    strata = recipients if len(recipients) >= LEAST_STRATUM * classes else np.zeros_like(recipients)
    home = np.argsort(strata, kind="stable")
    random = np.random.default_rng(seed)
    rates = np.empty(PERMUTATIONS)
    for draw in range(PERMUTATIONS):
        mixed = np.lexsort((random.random(len(strata)), strata))  # a random order within each stratum
        rates[draw] = np.mean(landed[home] == donors[mixed])
    return rates
