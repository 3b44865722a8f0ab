"""What k-NN and a linear probe read: against scikit-learn, chance, and samples without a class."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier

from diffviews.errors import SampleSetError, ShapeError
from diffviews.processing.gains import measure_gains
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.probes import (
    FOLDS,
    PENALTIES,
    held_out_knn,
    held_out_probe,
    read_classes,
    representation,
    stratified_folds,
)


def clouds(seed, *, samples=150, features=40, classes=4, spread=2.5):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, samples)
    values = random.standard_normal((classes, features))[labels] + spread * random.standard_normal((samples, features))
    return (values * random.uniform(0.1, 10, features) + 7).astype(np.float32), labels


def nested_ridge(values, classes, folds, penalties):
    """Return what the probe is, spelled out: a fit for each outer fold, inner fold and penalty."""
    right = np.zeros(len(classes), bool)
    for outer in range(FOLDS):
        scores = [
            sum(
                np.count_nonzero(
                    RidgeClassifier(alpha=penalty)
                    .fit(values[(folds != outer) & (folds != inner)], classes[(folds != outer) & (folds != inner)])
                    .predict(values[folds == inner])
                    == classes[folds == inner]
                )
                for inner in set(range(FOLDS)) - {outer}
            )
            for penalty in penalties
        ]
        best = max(range(len(penalties)), key=lambda number: (scores[number], number))
        fitted = RidgeClassifier(alpha=penalties[best]).fit(values[folds != outer], classes[folds != outer])
        right[folds == outer] = fitted.predict(values[folds == outer]) == classes[folds == outer]
    return right


@pytest.mark.parametrize(("seed", "features"), [(0, 20), (1, 60), (2, 400)])
def test_probe_is_ridge_regression_with_nested_folds(seed, features):
    values, classes = clouds(seed, features=features)
    folds, (_, gram) = stratified_folds(classes), representation(values)
    z = (values - values.mean(0, dtype=np.float64)) / values.std(0, dtype=np.float64)
    penalties = np.array(PENALTIES) * np.trace(gram) / len(gram)
    assert np.allclose(gram, z @ z.T, atol=1e-3 * features)
    assert np.array_equal(held_out_probe(gram, classes, folds), nested_ridge(z, classes, folds, penalties))


@pytest.mark.parametrize("seed", range(3))
def test_knn_is_the_vote_of_the_ten_nearest_others(seed):
    values, classes = clouds(seed)
    points, _ = representation(values, MapParameters(pca_components=8))
    others = [np.delete(np.arange(len(points)), row) for row in range(len(points))]
    expected = [
        KNeighborsClassifier(10).fit(points[rest], classes[rest]).predict(points[[row]])[0] == classes[row]
        for row, rest in enumerate(others)
    ]
    assert held_out_knn(points, classes).tolist() == expected


def test_samples_without_a_class_neither_ask_nor_answer():
    values, classes = clouds(3, samples=120)
    unlabelled = np.zeros(120, bool)
    unlabelled[::4] = True
    partial, folds = np.where(unlabelled, -1, classes), stratified_folds(classes)
    points, gram = representation(values)
    without = representation(values[~unlabelled])
    assert not held_out_knn(points, partial)[unlabelled].any()
    assert not held_out_probe(gram, partial, folds)[unlabelled].any()
    # Only how features are standardised is another matter without them.
    own = gram[np.ix_(~unlabelled, ~unlabelled)]
    alone = held_out_probe(own, classes[~unlabelled], folds[~unlabelled])
    assert np.array_equal(held_out_probe(gram, partial, folds)[~unlabelled], alone)
    assert abs(held_out_knn(points, partial).sum() - held_out_knn(without[0], classes[~unlabelled]).sum()) < 40


def test_every_class_has_its_share_of_every_fold():
    classes = np.repeat([0, 1, 2, 3], [50, 23, 7, 1])
    folds = stratified_folds(classes)
    for name in range(4):
        shares = np.bincount(folds[classes == name], minlength=FOLDS)
        assert shares.max() - shares.min() <= 1
    assert np.array_equal(folds, stratified_folds(classes))
    assert not np.array_equal(folds, stratified_folds(classes, seed=1))


def test_random_classes_are_read_by_chance_and_differences_of_two_are_rarely_significant():
    p_values, right = [], 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        classes = random.integers(0, 2, 60)
        folds, read = stratified_folds(classes), []
        for values in random.standard_normal((2, 60, 12)).astype(np.float32):
            read.append(read_classes(values, classes, folds)[None])
        gains = measure_gains({"layer": read[0]}, {"all": read[1]}, read[1], {}, folds)
        p_values += [gains.table["gain_knn_p"][0], gains.table["gain_probe_p"][0]]
        right += int(read[1][0, 1].sum())
    for level in (0.05, 0.2, 0.5):  # sums of few signs are equal now and then, which has p = 1
        below = sum(p <= level for p in p_values)
        assert binomtest(below, len(p_values), level, alternative="greater").pvalue > 0.01
        assert below > 0.5 * level * len(p_values)
    assert abs(right / 3600 - 0.5) < 0.05


def test_what_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match="Gram matrix of 4 samples"):
        held_out_probe(np.eye(3), np.arange(4), np.arange(4))
    with pytest.raises(SampleSetError, match="three folds"):
        held_out_probe(np.eye(4), np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]))
