import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits
from sklearn.manifold import trustworthiness
from sklearn.metrics import silhouette_samples, silhouette_score
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from diffviews.errors import ShapeError
from diffviews.processing import fitting, quality
from diffviews.processing.fitting import fit_map
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.neighbors import exact_neighbors
from diffviews.processing.quality import knn_accuracy, map_quality

RNG = np.random.default_rng(4)
COUNT = 120
PIXELS = load_digits().data[:COUNT].astype(np.float32)
LABELS = load_digits().target[:COUNT]
IDS = [f"digits-{row}" for row in range(COUNT)]


@pytest.fixture
def fitted(monkeypatch):
    monkeypatch.setattr(fitting, "embed_neighbors", lambda points, *_, initial, **options: initial)
    return fit_map(PIXELS, IDS, MapParameters(pca_components=20))


def test_summary_holds_scikit_learn_values(fitted):
    high, low = fitted.projector.pca_points, fitted.projector.embedding
    summary = map_quality(fitted, LABELS).summary
    assert summary["trustworthiness"] == pytest.approx(trustworthiness(high, low, n_neighbors=10), abs=1e-9)
    assert summary["continuity"] == pytest.approx(trustworthiness(low, high, n_neighbors=10), abs=1e-9)
    assert summary["silhouette"] == pytest.approx(silhouette_score(high, LABELS), abs=1e-5)
    assert summary["silhouette_map"] == pytest.approx(silhouette_score(low, LABELS), abs=1e-5)
    for key, points in (("knn_accuracy_activation", high), ("knn_accuracy_map", low)):
        votes = cross_val_predict(KNeighborsClassifier(10), points, LABELS, cv=LeaveOneOut())
        assert summary[key] == pytest.approx(np.mean(votes == LABELS), abs=1e-12)
    assert summary["quality_points"] == COUNT
    assert summary["nan_count"] == 0
    assert all(isinstance(value, float) and np.isfinite(value) for value in summary.values())


def test_accuracy_in_activation_space_is_not_that_of_the_map(fitted):
    summary = map_quality(fitted, LABELS).summary
    assert summary["knn_accuracy_activation"] > summary["knn_accuracy_map"] + 0.05


def test_points_have_their_preservation_and_distance(fitted):
    per_point = map_quality(fitted).per_point
    high, low = (exact_neighbors(p, 10)[0] for p in (fitted.projector.pca_points, fitted.projector.embedding))
    shares = [len(set(a) & set(b)) / 10 for a, b in zip(high.tolist(), low.tolist(), strict=True)]
    np.testing.assert_allclose(per_point["neighborhood_preservation"], shares, rtol=1e-6)
    distances = exact_neighbors(fitted.projector.pca_points, 15)[1].mean(axis=1)
    np.testing.assert_allclose(per_point["distance_to_data"], distances, rtol=1e-6)
    placed = fitted.projector.transform(PIXELS)
    np.testing.assert_allclose(per_point["distance_to_data"], placed.distance, rtol=1e-4)


def test_variance_of_held_out_samples_is_a_rising_curve_below_that_of_the_fitted_ones(fitted):
    result = map_quality(fitted)
    assert len(result.held_out_variance) == 20
    assert (np.diff(result.held_out_variance) > 0).all()
    assert result.summary["held_out_variance"] == result.held_out_variance[-1] < fitted.explained_variance_ratio.sum()
    assert result.summary["space_samples"] == COUNT


CLASSES = ("knn_accuracy_activation", "knn_accuracy_map", "silhouette", "silhouette_map")


@pytest.mark.parametrize("labels", [None, [None] * COUNT, [3] * COUNT], ids=["none", "unlabelled", "one class"])
def test_measures_by_class_are_absent_without_classes(fitted, labels):
    assert not set(CLASSES) & set(map_quality(fitted, labels).summary)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA], ids=["None", "nan", "NA"])
def test_samples_without_a_class_are_left_out_of_the_accuracy(fitted, missing):
    labels = [missing if row % 3 == 0 else int(label) for row, label in enumerate(LABELS)]
    known = np.arange(COUNT) % 3 != 0
    summary = map_quality(fitted, labels).summary
    high = fitted.projector.pca_points
    votes = exact_neighbors(high, 10)[0]
    right = [
        np.argmax(np.bincount(LABELS[found][known[found]], minlength=10)) == LABELS[row]
        for row, found in enumerate(votes) if known[row]
    ]
    assert summary["knn_accuracy_activation"] == pytest.approx(np.mean(right))


def test_class_zero_is_a_class(fitted):
    both = map_quality(fitted, np.where(LABELS < 5, 0, 1)).summary
    renamed = map_quality(fitted, np.where(LABELS < 5, "low", "up")).summary
    assert both == renamed


def test_labels_must_match_the_samples(fitted):
    with pytest.raises(ShapeError, match="119 labels for 120"):
        map_quality(fitted, LABELS[1:])


def test_large_maps_are_measured_on_evenly_spaced_points(fitted, monkeypatch):
    whole = map_quality(fitted, LABELS).summary
    monkeypatch.setattr(quality, "MAX_POINTS", 60)
    part = map_quality(fitted, LABELS)
    assert part.summary["quality_points"] == 60
    assert part.summary == map_quality(fitted, LABELS).summary
    assert len(part.per_point["distance_to_data"]) == COUNT
    # Each sampled point is still compared with all others, so the values estimate those of the whole.
    for key in ("trustworthiness", "continuity"):
        assert part.summary[key] == pytest.approx(whole[key], abs=0.05)
        assert part.summary[key] != whole[key]
    rows = quality.quality_sample(COUNT)
    for key, points in (("silhouette", fitted.projector.pca_points), ("silhouette_map", fitted.projector.embedding)):
        assert part.summary[key] == pytest.approx(silhouette_samples(points, LABELS)[rows].mean(), abs=1e-5)


@pytest.mark.parametrize(("rows", "elements"), [(1, 1), (7, 7 * 130), (40, 40 * 11), (300, 300 * 1000)])
def test_measures_do_not_depend_on_the_tiles(fitted, monkeypatch, rows, elements):
    whole = map_quality(fitted, LABELS).summary
    monkeypatch.setattr(quality, "TILE_ROWS", rows)
    monkeypatch.setattr(quality, "TILE_ELEMENTS", elements)
    assert map_quality(fitted, LABELS).summary == pytest.approx(whole, rel=1e-9)


def test_small_maps_are_measured_with_fewer_neighbours(monkeypatch):
    monkeypatch.setattr(fitting, "embed_neighbors", lambda points, *_, initial, **options: initial)
    small = fit_map(PIXELS[:6], IDS[:6], MapParameters(n_neighbors=3))
    summary = map_quality(small, LABELS[:6] // 3).summary
    assert summary["trustworthiness"] == pytest.approx(
        trustworthiness(small.projector.pca_points, small.projector.embedding, n_neighbors=2)
    )


def test_knn_accuracy_breaks_ties_like_scikit_learn():
    neighbors = np.array([[1, 2], [0, 2], [0, 1]])
    assert knn_accuracy(neighbors, np.array([0, 0, 1])) == pytest.approx(2 / 3)


def test_samples_without_a_class_do_not_vote_as_class_zero():
    neighbors = np.array([[1, 2], [2, 3], [3, 1], [2, 1], [5, 1], [4, 0]])
    # The neighbours of sample 0, of class 0, have no class: nothing can be said of it.
    classes = np.array([0, -1, -1, -1, 1, 1])
    assert knn_accuracy(neighbors, classes) == pytest.approx(0.5)  # 5 has a vote of each
    assert knn_accuracy(neighbors, np.array([0, -1, -1, -1, 0, 0])) == 1.0
    assert np.isnan(knn_accuracy(np.array([[1], [2], [1]]), np.array([0, -1, -1])))
