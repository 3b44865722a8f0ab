import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.spatial.distance import pdist
from sklearn.neighbors import NearestNeighbors

from diffviews.errors import CorruptDataError, ShapeError
from diffviews.processing.similarity import (
    MEASURES,
    Similarity,
    centered_gram,
    cka_from_grams,
    cka_p_values,
    compare_grams,
    mutual_knn,
    rsa,
    spanned_gram,
)

RNG = np.random.default_rng(2)
X = RNG.standard_normal((50, 12))
Y = X[:, :5] @ RNG.standard_normal((5, 30)) + 0.7 * RNG.standard_normal((50, 30))


def grams(*layers):
    return {str(number): centered_gram(layer) for number, layer in enumerate(layers)}


def debiased_cka(first, second):
    return cka_from_grams(grams(first, second))[1][0, 1]


def hsic_by_definition(first, second):
    """Song et al. 2012, the sums over pairs, triples and quadruples of different samples, one by one."""
    count, total = len(first), np.zeros(3)
    for i, j in np.ndindex(count, count):
        if i == j:
            continue
        total[0] += first[i, j] * second[i, j]
        for q in set(range(count)) - {i, j}:
            total[1] += first[i, j] * second[i, q]
            for r in set(range(count)) - {i, j, q}:
                total[2] += first[i, j] * second[q, r]
    places = np.array([count, count * (count - 1), count * (count - 1) * (count - 2)]) * (
        np.array([count - 1, count - 2, count - 3])
    )
    pairs, triples, quadruples = total / places
    return pairs + quadruples - 2 * triples


@pytest.mark.parametrize("seed", range(3))
def test_cka_is_its_definition_as_a_u_statistic(seed):
    random = np.random.default_rng(seed)
    count = int(random.integers(5, 10))
    first = random.standard_normal((count, 4)) + 3
    second = first[:, :2] + random.standard_normal((count, 2))
    kernels = first @ first.T, second @ second.T
    cross, own, other = (hsic_by_definition(kernels[a], kernels[b]) for a, b in ((0, 1), (0, 0), (1, 1)))
    assert debiased_cka(first, second) == pytest.approx(cross / np.sqrt(own * other), abs=1e-5)


def test_cka_of_wide_independent_sets_is_zero_and_of_a_rotated_copy_one():
    random = np.random.default_rng(0)
    wide, other = random.standard_normal((2, 1000, 8192), dtype=np.float32)
    gram = centered_gram(wide)
    values = {"wide": gram, "other": centered_gram(other), "rotated": centered_gram(_rotated(wide, random) * 7 + 3)}
    matrix = cka_from_grams(values)[1]
    assert abs(matrix[0, 1]) < 0.02
    assert matrix[0, 2] == pytest.approx(1, abs=1e-6)
    # What the biased estimate makes of the two.
    assert np.vdot(gram, values["other"]) / np.linalg.norm(gram) / np.linalg.norm(values["other"]) > 0.85


def _rotated(rows, random):
    """Reflect rows by ten random mirrors, an orthogonal map that needs no (D, D) matrix."""
    for _ in range(10):
        mirror = random.standard_normal(rows.shape[1], dtype=np.float32)
        mirror /= np.linalg.norm(mirror)
        rows = rows - 2 * np.outer(rows @ mirror, mirror)
    return rows


def test_cka_is_invariant_to_rotation_scale_and_shift_but_not_to_any_linear_map():
    rotation = np.linalg.qr(RNG.standard_normal((12, 12)))[0]
    assert debiased_cka(7.5 * X @ rotation + 100, Y) == pytest.approx(debiased_cka(X, Y), rel=1e-4)
    assert debiased_cka(X * np.geomspace(1, 1000, 12), Y) != pytest.approx(debiased_cka(X, Y), rel=0.05)


@pytest.mark.parametrize("width", [2, 40, 400])
def test_cka_of_independent_layers_is_unbiased_and_as_wide_as_permutations_make_it(width):
    random, count = np.random.default_rng(width), 30
    layers = [random.standard_normal((count, width)) for _ in range(24)]
    matrix = cka_from_grams(grams(*layers))[1]
    values = matrix[np.triu_indices(24, 1)]
    deviation = np.sqrt(2 / (count * (count - 3)))
    assert abs(values.mean()) < 4 * deviation / np.sqrt(24)
    assert values.std() == pytest.approx(deviation, rel=0.25)
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_allclose(np.diag(matrix), 1, atol=1e-6)


def test_p_values_are_uniform_for_independent_layers_and_small_for_alike_ones():
    random = np.random.default_rng(4)
    p_values = []
    for seed in range(200):
        width, skew = random.integers(1, 30, 2), random.uniform(0, 2)
        pair = [random.standard_normal((25, size)) * np.arange(1, size + 1) ** -skew for size in width]
        p_values.append(cka_p_values(grams(*pair), seed=seed)[0, 1])
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    matrix = cka_p_values(grams(X, Y, RNG.standard_normal((50, 9))))
    assert matrix[0, 1] == matrix[1, 0] == 1 / 200
    assert matrix[0, 2] > 0.01


def test_mutual_neighbours_and_rsa_are_those_of_scikit_learn_and_scipy():
    near = [NearestNeighbors(n_neighbors=10).fit(layer).kneighbors(return_distance=False) for layer in (X, Y)]
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*near, strict=True)])
    assert mutual_knn(grams(X, Y))[0, 1] == pytest.approx(shared)
    assert rsa(grams(X, Y))[0, 1] == pytest.approx(stats.spearmanr(pdist(X), pdist(Y)).statistic, abs=1e-4)
    for measure in (mutual_knn, rsa):
        np.testing.assert_allclose(np.diag(measure(grams(X, Y))), 1)


def test_layer_that_does_not_vary_and_too_few_samples_are_undefined():
    similarity = compare_grams(grams(X, np.ones((50, 3))))
    for measure in MEASURES:
        assert np.isnan(similarity.frame(measure).iloc[0, 1])
    assert np.isnan(debiased_cka(X[:3], Y[:3]))


def test_gram_of_projected_samples_is_that_of_the_activations_where_the_axes_span_all():
    scale = RNG.uniform(0.5, 2, 12)
    axes = np.linalg.qr(RNG.standard_normal((12, 12)))[0]
    points = ((X - X.mean(axis=0)) / scale) @ axes.T
    np.testing.assert_allclose(spanned_gram(points, axes, scale), centered_gram(X), atol=1e-4)
    np.testing.assert_allclose(spanned_gram((X - X.mean(axis=0)) / scale, None, scale), centered_gram(X), atol=1e-4)


def test_similarity_is_written_and_read_as_a_table():
    similarity = compare_grams(grams(X, Y))
    again = Similarity.from_table(similarity.table())
    assert again.names == ("0", "1")
    for measure in MEASURES:
        pd.testing.assert_frame_equal(again.frame(measure), similarity.frame(measure))
    with pytest.raises(CorruptDataError, match="lacks"):
        Similarity.from_table(similarity.table().iloc[:-1])
    with pytest.raises(CorruptDataError, match="rsa"):
        Similarity.from_table(similarity.table().drop(columns="rsa"))


def test_layers_of_different_samples_are_refused():
    with pytest.raises(ShapeError, match="same samples"):
        compare_grams(grams(X, Y[:30]))
