"""Gains over the input: arithmetic, pairs by sample, groups, and what is missing."""

import numpy as np
import pytest

from diffviews.processing.gains import READERS, measure_gains
from diffviews.processing.gains_figure import gains_figure
from diffviews.processing.probes import chosen_by_others

N, DRAWS = 200, 3
FOLDS = np.arange(N) % 5


def answers(rate, seed):
    return np.random.default_rng(seed).random((DRAWS, 2, N)) < rate


@pytest.fixture(scope="module")
def gains():
    layers = {"good": answers(0.9, 0), "alike": answers(0.9, 1), "poor": answers(0.4, 2)}
    inputs = {"all": answers(0.5, 3), "mean": answers(0.6, 4)}
    return measure_gains(layers, inputs, answers(0.8, 5), {"good": answers(0.3, 6)}, FOLDS)


def test_gain_is_over_the_best_form_of_the_input(gains):
    for number, reader in enumerate(READERS):
        own, given = answers(0.9, 0)[:, number], answers(0.6, 4)[:, number]
        row = gains.table.iloc[0]
        assert row[f"knows_{reader}"] == pytest.approx(own.mean())
        assert row[f"knows_{reader}_sd"] == pytest.approx(own.mean(axis=1).std(ddof=1))
        assert row[f"gain_{reader}"] == pytest.approx(own.mean() - given.mean())
        assert row[f"gain_{reader}_low"] < row[f"gain_{reader}"] < row[f"gain_{reader}_high"]
        assert row[f"gain_{reader}_p"] < 1e-3
        assert gains.baselines[f"input_{reader}"] == pytest.approx(given.mean())


def test_layers_not_told_from_the_best_are_one_group(gains):
    assert gains.table["knows_best"].tolist() == [1, 1, 0]
    assert gains.table["knows_best_probe"].tolist() == [1, 1, 0]


def test_pairs_are_by_sample():
    given = answers(0.7, 0)
    worse = given.copy()
    worse[:, :, :10] = False
    certain = measure_gains({"layer": worse}, {"all": given}, given, {}, FOLDS).table.iloc[0]
    shuffled = worse[:, :, np.random.default_rng(1).permutation(N)]
    unsure = measure_gains({"layer": shuffled}, {"all": given}, given, {}, FOLDS).table.iloc[0]
    assert certain["gain_knn"] == pytest.approx(unsure["gain_knn"])
    assert certain["gain_knn_p"] < 0.01 < 0.1 < unsure["gain_knn_p"]
    assert certain["gain_knn_high"] < 0 < unsure["gain_knn_high"]


def test_draws_of_one_sample_are_no_further_questions():
    one = answers(0.6, 0)[:1]
    other = answers(0.7, 1)[:1]
    alone = measure_gains({"layer": other}, {"all": one}, one, {}, FOLDS).table.iloc[0]
    same = {"layer": np.repeat(other, 3, axis=0)}
    repeated = measure_gains(same, {"all": np.repeat(one, 3, axis=0)}, one, {}, FOLDS).table.iloc[0]
    assert repeated["gain_knn_p"] == pytest.approx(alone["gain_knn_p"], abs=0.01)
    assert repeated["gain_knn_low"] == pytest.approx(alone["gain_knn_low"])


def test_what_is_not_known_is_left_out(gains):
    assert {"random_knn", "random_probe"} <= gains.metrics("good").keys()
    assert not {"random_knn", "random_probe"} & gains.metrics("alike").keys()
    assert "gain_knn_holm" not in gains.metrics("good")
    assert gains.metrics("nowhere") == {}


def test_choice_by_other_folds_does_not_flatter():
    gains = [chosen_by_others(np.random.default_rng(seed).random((4, N)) < 0.5, FOLDS).mean() for seed in range(200)]
    assert abs(np.mean(gains) - 0.5) < 0.01
    better = np.stack([answers(0.3, 0)[:, 0], answers(0.9, 1)[:, 0]])
    assert np.array_equal(chosen_by_others(better, FOLDS), better[1])


def test_figure_shows_the_group(gains):
    picture = gains_figure(gains.table, title="gains")
    assert picture.startswith(b"\x89PNG")
    assert picture != gains_figure(gains.table.assign(knows_best=0.0), title="gains")
