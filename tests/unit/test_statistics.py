"""Tests and intervals against closed forms, scipy, and their own promise: uniform p-values, intervals that cover."""

import numpy as np
import pytest
from scipy import stats

from diffviews.errors import ConfigError, ShapeError
from diffviews.processing.statistics import (
    best_group,
    cluster_bootstrap,
    holm,
    mcnemar,
    permutation_p,
    permutation_test,
    sign_flip_test,
    wilson_interval,
)


def answers(both, first_only, second_only, neither=3):
    counts = [both, first_only, second_only, neither]
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


@pytest.mark.parametrize("seed", range(4))
def test_mcnemar_is_the_binomial_test_of_the_questions_that_differ(seed):
    only, other, both = np.random.default_rng(seed).integers(0, 30, 3)
    test = mcnemar(*answers(both, only, other))
    assert (test.first_only, test.second_only) == (only, other)
    assert test.exact == pytest.approx(stats.binomtest(int(only), int(only + other), 0.5).pvalue)
    assert test.mid_p == pytest.approx(mcnemar(*answers(0, other, only)).mid_p)
    # The mid-p of a two-sided test: what is less likely counts whole, what is as likely counts half.
    chances = stats.binom.pmf(np.arange(only + other + 1), only + other, 0.5)
    same = np.isclose(chances, chances[only], rtol=1e-9)
    assert test.mid_p == pytest.approx(chances[(chances < chances[only]) & ~same].sum() + chances[same].sum() / 2
                                       if only != other else 1 - chances[only] / 2)  # fmt: skip


def test_mcnemar_of_equal_answers_shows_nothing_and_of_other_questions_is_refused():
    test = mcnemar(*answers(5, 0, 0))
    assert (test.exact, test.mid_p) == (1, 1)
    with pytest.raises(ShapeError, match="same questions"):
        mcnemar([True, False], [True])


def test_mcnemar_mid_p_keeps_its_level_and_exact_never_exceeds_it():
    random = np.random.default_rng(5)
    tests = [mcnemar(*answers(20, only, 60 - only)) for only in random.binomial(60, 0.5, 2000)]
    assert np.mean([test.mid_p <= 0.05 for test in tests]) == pytest.approx(0.05, abs=0.02)
    assert np.mean([test.exact <= 0.05 for test in tests]) <= 0.055


@pytest.mark.parametrize("seed", range(3))
def test_holm_adjusts_as_its_step_down_definition(seed):
    p_values = np.random.default_rng(seed).uniform(0, 0.1, 7)
    order = np.argsort(p_values)
    expected = np.empty(7)
    for place, own in enumerate(order):
        expected[own] = min(1, max((7 - before) * p_values[order[before]] for before in range(place + 1)))
    np.testing.assert_allclose(holm(p_values), expected)
    with_gap = holm([p_values[0], np.nan, p_values[1]])
    assert np.isnan(with_gap[1])
    np.testing.assert_allclose(with_gap[[0, 2]], holm(p_values[:2]))


def test_holm_makes_a_false_difference_among_many_as_rare_as_promised():
    families = np.random.default_rng(1).uniform(size=(2000, 10))
    assert np.mean([holm(family).min() < 0.05 for family in families]) == pytest.approx(0.05, abs=0.015)
    with pytest.raises(ConfigError, match=r"1\.5"):
        holm([0.2, 1.5])


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (10, 10), (3, 17), (480, 1000)])
def test_wilson_interval_is_scipys(hits, count):
    interval = wilson_interval(hits, count)
    expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert interval.estimate == hits / count


def test_wilson_interval_takes_arrays_and_no_trials():
    interval = wilson_interval(np.array([0, 4]), np.array([0, 8]))
    assert np.isnan(interval.estimate[0])
    assert (interval.low[0], interval.high[0]) == pytest.approx((0, 1))
    with pytest.raises(ConfigError, match="3 successes of 2"):
        wilson_interval(3, 2)


@pytest.mark.parametrize(("classes", "spread"), [(10, 0.2), (6, 0.05), (40, 0.3)])
def test_cluster_bootstrap_covers_the_rate_where_an_interval_of_samples_does_not(classes, spread):
    random, covered, naive = np.random.default_rng(classes), 0, 0
    for number in range(400):
        sizes = random.integers(5, 40, classes)
        rates = np.clip(0.5 + random.normal(0, spread, classes), 0, 1)
        members = np.repeat(np.arange(classes), sizes)
        hits = random.random(len(members)) < rates[members]
        interval = cluster_bootstrap(hits, members, draws=400, seed=number)
        covered += interval.low <= 0.5 <= interval.high
        plain = wilson_interval(hits.sum(), len(hits))
        naive += plain.low <= 0.5 <= plain.high
    assert 0.92 <= covered / 400 <= 0.985
    if spread > 0.1:
        assert naive / 400 < 0.75


def test_cluster_bootstrap_is_seeded_vectorised_and_weighs_samples():
    random = np.random.default_rng(3)
    values, members = random.normal(size=(60, 2, 3)), random.integers(0, 8, 60).astype(str)
    whole, again = (cluster_bootstrap(values, members, seed=4) for _ in range(2))
    np.testing.assert_allclose(whole.estimate, values.mean(axis=0))
    np.testing.assert_array_equal(whole.low, again.low)
    one = cluster_bootstrap(values[:, 1, 2], members, seed=4)
    assert (one.low, one.high) == pytest.approx((whole.low[1, 2], whole.high[1, 2]))
    assert (whole.low < whole.estimate).all()
    assert (whole.estimate < whole.high).all()


def test_cluster_bootstrap_of_a_single_class_has_no_ends():
    interval = cluster_bootstrap(np.arange(4), ["a"] * 4)
    assert interval.estimate == 1.5
    assert np.isnan([interval.low, interval.high]).all()
    with pytest.raises(ShapeError, match="3 clusters"):
        cluster_bootstrap(np.arange(4), [1, 2, 3])


def correlation_p(seed, slope=0.0, count=30):
    random = np.random.default_rng(seed)
    first = random.normal(size=count)
    second = slope * first + random.normal(size=count)
    return permutation_test(lambda order: first @ second[order], count, draws=199, two_sided=True, seed=seed)


def test_permutation_p_values_are_uniform_without_an_effect_and_small_with_one():
    assert stats.kstest([correlation_p(seed) for seed in range(200)], "uniform").pvalue > 0.01
    assert np.median([correlation_p(seed, slope=1) for seed in range(20)]) <= 0.01


def test_permutation_p_counts_the_observation_itself():
    assert permutation_p(5.0, np.arange(4.0)) == 1 / 5
    assert permutation_p(2.0, np.arange(4.0)) == 3 / 5
    np.testing.assert_allclose(permutation_p([np.nan, -3.0], np.zeros((9, 2)), two_sided=True), [np.nan, 0.1])


def test_sign_flips_are_uniform_without_an_effect_and_find_one():
    draws = np.random.default_rng(8).normal(size=(200, 25))
    p_values = [sign_flip_test(row, draws=199, seed=number) for number, row in enumerate(draws)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert sign_flip_test(draws[0] + 2) == 1 / 1000
    assert sign_flip_test(np.zeros(5)) == 1


@pytest.mark.parametrize("draws", [None, 3])
def test_best_group_holds_equals_and_leaves_out_what_is_worse(draws):
    random = np.random.default_rng(2)
    rates = np.array([0.6, 0.9, 0.9, 0.75])
    shape = (4, 400) if draws is None else (4, 400, draws)
    right = random.random(shape) < rates.reshape(4, *[1] * (len(shape) - 1))
    group = best_group(right if draws is None else right.mean(axis=2))
    assert group.members.tolist() == [False, True, True, False]
    assert group.best in (1, 2)
    assert group.p_values[group.best] == 1


def test_best_group_of_equals_is_all_of_them_nearly_always():
    random = np.random.default_rng(6)
    whole = [best_group(random.random((5, 200)) < 0.7).members.all() for _ in range(100)]
    assert np.mean(whole) > 0.85
    with pytest.raises(ShapeError, match=r"\(0, 4\)"):
        best_group(np.zeros((0, 4), bool))
