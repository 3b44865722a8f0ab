"""A group against the rest: counts, odds, Fisher's test and its correction, by closed forms."""

from math import comb, log2

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control

from diffviews.errors import SelectionError, ShapeError
from diffviews.processing.enrichment import (
    cohens_d,
    compare_numbers,
    enrich_values,
    enrich_words,
    words_of,
)


def fisher(a, b, c, d):
    """Two-sided p of a 2 × 2 table, summed over all tables of its margins that are no likelier."""
    k, size, total = a + c, a + b, a + b + c + d

    def chance(x):
        return comb(k, x) * comb(total - k, size - x) / comb(total, size)

    likelihoods = [chance(x) for x in range(max(0, size - (total - k)), min(k, size) + 1)]
    return sum(p for p in likelihoods if p <= chance(a) * (1 + 1e-9))


@pytest.fixture
def tasting():
    """A group of 4 of 8: three cats and a dog inside, one cat and three dogs outside (Fisher's tea lady)."""
    member = np.array([True] * 4 + [False] * 4)
    return member, ["cat", "cat", "cat", "dog", "cat", "dog", "dog", "dog"]


def test_enrichment_of_the_tea_tasting_table_has_fishers_p(tasting):
    rows = {row.value: row for row in enrich_values(*tasting)}
    cat = rows["cat"]
    assert (cat.inside, cat.outside, cat.share, cat.share_elsewhere) == (3, 1, 0.75, 0.25)
    assert cat.odds_ratio == 9
    assert cat.p == pytest.approx(34 / 70)  # (16 + 1 + 16 + 1) / C(8, 4)
    assert cat.log2_fold == pytest.approx(log2((3.5 / 5) / (1.5 / 5)))
    assert rows["dog"].odds_ratio == pytest.approx(1 / 9)
    assert rows["dog"].log2_fold == pytest.approx(-cat.log2_fold)


def test_fold_of_a_group_of_one_is_negative_for_what_it_lacks():
    values = ["cat", *["cat", "dog"] * 9, "dog"]
    rows = {row.value: row for row in enrich_values(np.arange(len(values)) == 0, values)}
    assert rows["cat"].log2_fold > 0 > rows["dog"].log2_fold
    assert rows["dog"].log2_fold == pytest.approx(log2(0.5 / 2) - log2(10.5 / 20))


def test_p_is_the_sum_over_tables_that_are_no_likelier():
    rng = np.random.default_rng(3)
    member = np.arange(60) < 17
    values = rng.choice(["a", "b", "c", "d"], 60, p=[0.5, 0.3, 0.15, 0.05])
    for row in enrich_values(member, values):
        a, c = row.inside, row.outside
        assert (a, c) == (int((values[member] == row.value).sum()), int((values[~member] == row.value).sum()))
        assert row.p == pytest.approx(fisher(a, 17 - a, c, 43 - c), rel=1e-6)


def test_value_that_only_the_group_has_comes_first_with_infinite_odds():
    member = np.array([True] * 5 + [False] * 15)
    first, *others = enrich_values(member, ["own"] * 5 + ["x"] * 10 + ["y"] * 5)
    assert first.value == "own"
    assert first.odds_ratio == float("inf")
    assert first.p == pytest.approx(1 / comb(20, 5))
    assert np.isfinite(first.log2_fold)
    assert [row.odds_ratio for row in others] == [0, 0]


def test_missing_values_count_as_samples_without_the_value():
    member = np.array([True, True, False, False])
    (row,) = enrich_values(member, ["a", None, "a", float("nan")])
    assert (row.inside, row.outside, row.share, row.share_elsewhere) == (1, 1, 0.5, 0.5)
    assert row.p == 1


def test_q_is_corrected_over_all_values():
    member = np.array([True] * 5 + [False] * 15)
    rows = enrich_values(member, ["own"] * 5 + ["x"] * 10 + ["y"] * 5)
    assert [row.q for row in rows] == pytest.approx(false_discovery_control([row.p for row in rows]))
    assert rows[0].q == pytest.approx(3 * rows[0].p)


def test_words_count_once_a_text_and_stop_words_never():
    assert words_of("The dog, the DOG and a 3-legged cat's x") == {"dog", "3-legged", "cat's"}
    assert words_of(None) == words_of("") == frozenset()
    member = np.array([True, True, False, False])
    rows = {r.value: r for r in enrich_words(member, ["a dog dog", "the dog", "a cat on a mat", "one cat, no dog"])}
    assert set(rows) == {"dog", "cat"}  # "mat" occurs once
    assert (rows["dog"].inside, rows["dog"].outside) == (2, 1)
    assert rows["dog"].p == pytest.approx(fisher(2, 0, 1, 1))


def test_effect_is_the_difference_in_pooled_standard_deviations():
    assert cohens_d(np.array([3.0, 5.0]), np.array([0.0, 2.0])) == pytest.approx(3 / np.sqrt(2))
    assert np.isnan(cohens_d(np.array([1.0, 1.0]), np.array([2.0, 2.0])))
    assert np.isnan(cohens_d(np.array([1.0]), np.array([2.0])))


def test_numbers_are_compared_without_those_that_are_not_finite_largest_effect_first():
    member = np.array([True, True, True, False, False, False])
    columns = pd.DataFrame(
        {
            "same": [1.0, 2, 3, 1, 2, 3],
            "far": [10.0, 12, np.nan, 0, 2, np.inf],
            "flat": [1.0] * 6,
            "empty": [np.nan] * 6,
        }
    )
    far, same, flat = compare_numbers(member, columns)
    assert (far.column, far.mean, far.mean_elsewhere) == ("far", 11, 1)
    assert far.effect == pytest.approx(10 / np.sqrt(2))
    assert (same.column, same.effect) == ("same", 0)
    assert flat.column == "flat"
    assert np.isnan(flat.effect)


@pytest.mark.parametrize(("member", "reason"), [([False] * 3, "no sample"), ([True] * 3, "no rest")])
def test_group_without_samples_or_without_a_rest_is_refused(member, reason):
    for compare in (enrich_values, enrich_words):
        with pytest.raises(SelectionError, match=reason):
            compare(np.array(member), ["a", "b", "c"])
    with pytest.raises(SelectionError, match=reason):
        compare_numbers(np.array(member), pd.DataFrame({"x": [1.0, 2, 3]}))


def test_marks_of_another_length_are_refused():
    with pytest.raises(ShapeError, match="2 marks for 3 samples"):
        enrich_values(np.array([True, False]), ["a", "b", "c"])
