"""Rates of exchanges: planted ones lie in their intervals, chance is called chance."""

import numpy as np
import pytest
from scipy.stats import kstest

from diffviews.errors import ShapeError
from diffviews.processing.exchange_rate import exchange_rate, rate_interval


def pairs(random, count, classes):
    donors = np.arange(count) % classes
    recipients = (donors + random.integers(1, classes, count)) % classes
    return donors, recipients


def test_planted_rates_lie_in_their_intervals():
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(100):
        rate, classes, count = random.uniform(0.05, 0.95), random.integers(4, 13), random.integers(60, 300)
        donors, recipients = pairs(random, count, classes)
        landed = np.where(random.random(count) < rate, donors, recipients)
        found = exchange_rate(landed, donors, recipients, landed == donors)
        assert found.own == pytest.approx(1 - found.rate)
        assert found.on_manifold == found.rate
        inside += found.low <= rate <= found.high
    assert inside >= 93


def test_without_effect_the_null_is_the_rate_and_p_is_uniform():
    random = np.random.default_rng(1)
    p_values, gaps = [], []
    for _ in range(100):  # so many pairs of few classes that equal rates are rare
        donors, recipients = pairs(random, 400, 4)
        landed = np.where(random.random(400) < 0.5, recipients, (recipients + random.integers(1, 4, 400)) % 4)
        found = exchange_rate(landed, donors, recipients, landed >= 0, seed=int(random.integers(1 << 30)))
        p_values.append(found.p)
        gaps.append(found.rate - found.null)
    assert kstest(p_values, "uniform").pvalue > 0.01
    assert abs(np.mean(gaps)) < 0.01


def test_idle_exchange_of_few_pairs_of_many_classes_is_not_called_an_effect():
    donors, recipients = pairs(np.random.default_rng(2), 60, 200)
    idle = exchange_rate(recipients, donors, recipients, donors >= 0)
    assert (idle.rate, idle.own, idle.p) == (0.0, 1.0, 1.0)
    strong = exchange_rate(donors, donors, recipients, donors >= 0)
    assert strong.p == 0.001
    assert strong.null < 0.05


def test_interval_of_equal_outcomes_is_not_a_point():
    hits, donors = np.ones(20, bool), np.arange(20) % 5
    interval = rate_interval(hits, donors)
    assert (interval.estimate, interval.high) == (1.0, pytest.approx(1.0))
    assert 0.8 < interval.low < 0.9
    assert rate_interval(hits, np.zeros(20)).low == interval.low
    assert rate_interval(hits[:0], donors[:0]).high == 1.0


def test_interval_is_wider_where_classes_differ():
    donors = np.repeat(np.arange(10), 30)
    alike = rate_interval(np.tile(np.arange(30) < 15, 10), donors)
    apart = rate_interval(donors < 5, donors)
    assert alike.estimate == apart.estimate == 0.5
    assert apart.high - apart.low > 4 * (alike.high - alike.low)


def test_rejects_are_no_class():
    donors, recipients = np.array([0, 1, 2, 0]), np.array([1, 2, 0, 2])
    found = exchange_rate(np.array([-1, 1, -1, 2]), donors, recipients, np.array([False, True, False, True]))
    assert (found.n, found.rate, found.own, found.rejects, found.on_manifold) == (4, 0.25, 0.25, 0.5, 0.5)
    assert exchange_rate(*[np.zeros(0, int)] * 4).n == 0
    with pytest.raises(ShapeError, match="same pairs"):
        exchange_rate(donors, donors[:2], recipients, donors)
