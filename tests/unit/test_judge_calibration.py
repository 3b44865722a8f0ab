"""Rates corrected by a planted confusion are the planted rates; agreement is scikit-learn's."""

import logging

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.metrics import cohen_kappa_score

from diffviews.errors import ShapeError
from diffviews.judges.base import HeldOut
from diffviews.judges.calibration import (
    agreement,
    confusion,
    correct_shares,
    corrected_rate,
    nearest_shares,
    shares_of,
)


def planted(rng: np.random.Generator, classes: int, accuracy: float, reject: float = 0.02) -> np.ndarray:
    """Return a confusion whose errors are uneven, (K + 1, K + 1)."""
    matrix = np.zeros((classes + 1, classes + 1))
    matrix[:-1, :-1] = rng.dirichlet(np.full(classes, 0.3), size=classes).T
    matrix[np.arange(classes), np.arange(classes)] = 0
    matrix[:-1, :-1] *= (1 - accuracy - reject) / matrix[:-1, :-1].sum(axis=0)
    matrix[np.arange(classes), np.arange(classes)] = accuracy
    matrix[-1, :-1], matrix[-1, -1] = reject, 1.0
    return matrix


def judged(rng: np.random.Generator, truth: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return verdicts drawn from a confusion's columns."""
    ends = np.cumsum(matrix, axis=0)[:, truth]
    said = (rng.uniform(size=len(truth)) > ends).sum(axis=0)
    return np.where(said == len(matrix) - 1, -1, said)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("classes", "accuracy"), [(2, 0.9), (10, 0.8), (40, 0.6)])
def test_shares_behind_a_known_confusion_are_found(seed: int, classes: int, accuracy: float) -> None:
    rng = np.random.default_rng(seed)
    matrix = planted(rng, classes, accuracy)
    true = rng.dirichlet(np.ones(classes + 1))
    np.testing.assert_allclose(correct_shares(matrix @ true, matrix), true, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_rate_and_confusion_estimated_from_images_are_right_where_the_plain_share_is_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = planted(rng, 10, 0.8)
    truth = np.repeat(np.arange(10), 300)
    held_out = HeldOut(truth, judged(rng, truth, matrix))
    assert held_out.accuracy == pytest.approx(0.8, abs=0.03)
    assert np.abs(confusion(held_out) - matrix).max() < 0.1
    wanted = np.repeat(np.arange(10), 400)
    lands = np.where(rng.uniform(size=len(wanted)) < 0.6, wanted, (wanted + 1) % 10)
    said = judged(rng, lands, matrix)
    assert abs(np.mean(said == wanted) - 0.6) > 0.08
    assert corrected_rate(said, wanted, held_out) == pytest.approx(np.mean(lands == wanted), abs=0.03)


def test_classes_may_have_any_numbers_and_verdicts_beyond_them_count_as_none() -> None:
    held_out = HeldOut(np.array([3, 3, 9, 9]), np.array([3, 3, 9, 9]))
    np.testing.assert_allclose(shares_of(np.array([3, 9, 9, -1, 5, 12]), held_out.classes), [1 / 6, 2 / 6, 3 / 6])
    assert corrected_rate(np.array([3, 3, -1, -1]), np.array([3, 3, 9, 9]), held_out) == pytest.approx(0.5)


def test_confusion_of_few_images_does_not_call_a_class_faultless() -> None:
    truth = np.array([0] * 50 + [1] * 50 + [2])
    said = np.array([0] * 40 + [1] * 10 + [1] * 50 + [2])
    matrix = confusion(HeldOut(truth, said))
    np.testing.assert_allclose(matrix.sum(axis=0), 1)
    assert 0.9 < matrix[2, 2] < 1
    np.testing.assert_array_equal(matrix[:, -1], [0, 0, 0, 1])


@pytest.mark.parametrize("seed", range(3))
def test_corrected_shares_are_shares_the_nearest_to_the_solution(seed: int) -> None:
    values = np.random.default_rng(seed).normal(0.2, 0.6, 5)
    found = nearest_shares(values)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1)
    best = minimize(
        lambda p: np.sum((p - values) ** 2), np.full(5, 0.2), bounds=[(0, 1)] * 5,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1}, method="SLSQP", tol=1e-12,
    )  # fmt: skip
    np.testing.assert_allclose(found, best.x, atol=1e-5)


def test_confusion_that_tells_nothing_is_said(caplog) -> None:
    with caplog.at_level(logging.WARNING, "diffviews"):
        correct_shares(np.array([0.9, 0.05, 0.05]), planted(np.random.default_rng(0), 2, 0.9))
    assert not caplog.records
    blind = np.array([[0.5, 0.49, 0], [0.5, 0.51, 0], [0, 0, 1]])
    with caplog.at_level(logging.WARNING, "diffviews"):
        found = correct_shares(np.array([0.6, 0.4, 0.0]), blind)
    assert "condition number" in caplog.text
    assert found.sum() == pytest.approx(1)


@pytest.mark.parametrize("seed", range(3))
def test_agreement_is_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one = rng.integers(-1, 4, 200)
    two = np.where(rng.uniform(size=200) < 0.7, one, rng.integers(-1, 4, 200))
    both = agreement(one, two)
    assert both.raw == np.mean(one == two)
    assert both.kappa == pytest.approx(cohen_kappa_score(one, two))
    assert agreement(one[:1], one[:1]).kappa == 1


@pytest.mark.parametrize(("first", "second", "classes"), [(0.95, 0.85, 10), (0.7, 0.9, 3), (0.6, 0.6, 100)])
def test_accuracy_is_found_by_agreement_without_knowing_any_class(first: float, second: float, classes: int) -> None:
    rng = np.random.default_rng(classes)
    truth = rng.integers(classes, size=40_000)

    def right_in(share: float) -> np.ndarray:
        wrong = (truth + rng.integers(1, classes, len(truth))) % classes
        return np.where(rng.uniform(size=len(truth)) < share, truth, wrong)

    both = agreement(right_in(first), right_in(second))
    assert both.accuracy(second, classes) == pytest.approx(first, abs=0.015)
    with pytest.raises(ShapeError, match="no better than chance"):
        both.accuracy(1 / classes, classes)


def test_what_does_not_fit_is_refused() -> None:
    held_out = HeldOut(np.array([0, 1]), np.array([0, 1]))
    with pytest.raises(ShapeError, match="do not fit"):
        correct_shares(np.ones(4) / 4, confusion(held_out))
    with pytest.raises(ShapeError, match="must be as many"):
        corrected_rate(np.array([0]), np.array([2]), held_out)
    with pytest.raises(ShapeError, match="same images"):
        agreement(np.zeros(2, int), np.zeros(3, int))
    with pytest.raises(ShapeError, match="as many"):
        HeldOut(np.array([-1]), np.array([0]))
