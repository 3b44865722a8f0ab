import numpy as np
import pytest

from diffviews.errors import ShapeError
from diffviews.processing.similarity import centered_gram, cka_from_grams

RNG = np.random.default_rng(2)
X = RNG.standard_normal((50, 12))
Y = X[:, :5] @ RNG.standard_normal((5, 30)) + 0.7 * RNG.standard_normal((50, 30))


def linear_cka(first, second):
    return cka_from_grams({"first": centered_gram(first), "second": centered_gram(second)})[1][0, 1]


def by_definition(first, second):
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    cross = np.linalg.norm(second.T @ first) ** 2
    return cross / (np.linalg.norm(first.T @ first) * np.linalg.norm(second.T @ second))


def test_cka_is_its_definition():
    assert linear_cka(X, Y) == pytest.approx(by_definition(X, Y), rel=1e-5)
    assert 0.1 < linear_cka(X, Y) < 0.9


def test_cka_with_itself_is_one():
    assert linear_cka(X, X) == pytest.approx(1, abs=1e-6)


def test_cka_is_invariant_to_rotation_scale_and_shift_but_not_to_any_linear_map():
    rotation = np.linalg.qr(RNG.standard_normal((12, 12)))[0]
    assert linear_cka(7.5 * X @ rotation + 100, Y) == pytest.approx(linear_cka(X, Y), rel=1e-4)
    assert linear_cka(X * np.geomspace(1, 1000, 12), Y) != pytest.approx(linear_cka(X, Y), rel=0.05)


def test_cka_of_independent_directions_is_zero():
    waves = np.cos(np.outer(np.arange(64) + 0.5, np.arange(1, 5)) * np.pi / 64)
    assert linear_cka(waves[:, :2], waves[:, 2:]) == pytest.approx(0, abs=1e-9)


def test_cka_of_a_layer_that_does_not_vary_is_undefined():
    assert np.isnan(linear_cka(X, np.ones((50, 3))))


def test_cka_matrix_is_made_from_grams_alone():
    shaped = X.reshape(50, 3, 2, 2).astype(np.float32)
    names, matrix = cka_from_grams({"a": centered_gram(shaped), "b": centered_gram(Y)})
    assert names == ["a", "b"]
    assert matrix[0, 1] == pytest.approx(by_definition(X, Y), rel=1e-5)
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_allclose(np.diag(matrix), 1, atol=1e-6)


def test_cka_of_different_samples_is_refused():
    with pytest.raises(ShapeError, match="same samples"):
        linear_cka(X, Y[:30])
