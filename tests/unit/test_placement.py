import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from sklearn.datasets import load_digits

from diffviews.pipelines.paths import unusual_steps
from diffviews.processing.fitting import fit_map
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.neighbors import exact_neighbors, membership_strengths
from diffviews.processing.placement import geometric_median, percentiles, quantiles_of


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_geometric_median_minimises_the_weighted_distances(seed, dimensions):
    random = np.random.default_rng(seed)
    points, weights = random.standard_normal((20, 15, dimensions)), random.uniform(0.05, 1, (20, 15))
    for place, spots, strengths in zip(geometric_median(points, weights), points, weights, strict=True):

        def cost(at, spots=spots, strengths=strengths):
            return strengths @ np.linalg.norm(spots - at, axis=1)

        best = min(minimize(cost, start, tol=1e-12).fun for start in (spots.mean(axis=0), *spots[:3]))
        assert cost(place) <= best + 1e-6


def test_geometric_median_is_a_point_that_outweighs_the_others_and_lies_with_the_majority():
    spots = np.array([[[0.0, 0], [1, 0], [0, 1], [1, 1]]] * 2)
    found = geometric_median(spots, np.array([[5.0, 1, 1, 1], [1, 1, 1, 1]]))
    np.testing.assert_array_equal(found[0], [0, 0])
    np.testing.assert_allclose(found[1], [0.5, 0.5], atol=1e-9)
    two_clusters = np.concatenate([np.zeros((1, 8, 2)), np.full((1, 7, 2), 10.0)], axis=1)
    np.testing.assert_array_equal(geometric_median(two_clusters, np.ones((1, 15)))[0], [0, 0])
    np.testing.assert_array_equal(geometric_median(np.full((1, 4, 2), 3.0), np.ones((1, 4))), [[3, 3]])


def test_geometric_median_of_a_row_is_the_same_in_any_batch():
    random = np.random.default_rng(1)
    points, weights = random.standard_normal((300, 15, 2)), random.uniform(0.1, 1, (300, 15))
    together = geometric_median(points, weights)
    alone = [geometric_median(points[row : row + 1], weights[row : row + 1])[0] for row in range(0, 300, 17)]
    np.testing.assert_array_equal(together[::17], alone)


def test_held_out_digits_land_among_their_own_more_often_than_at_the_mean_of_their_neighbours():
    pixels, classes = load_digits(return_X_y=True)
    rows, ids = pixels.astype(np.float32), [str(row) for row in range(700)]
    projector = fit_map(rows[:700], ids, MapParameters()).projector
    near, away = exact_neighbors(projector.pca_points, 15, projector.project(rows[700:]))
    weights = membership_strengths(away)[..., None]
    mean = (weights * projector.embedding[near]).sum(axis=1) / weights.sum(axis=1)
    placed, at_mean = (
        np.mean(classes[exact_neighbors(projector.embedding, 1, places)[0][:, 0]] == classes[700:])
        for places in (projector.transform(rows[700:]).coordinates, mean.astype(np.float32))
    )
    assert placed > max(at_mean + 0.01, 0.9)


def test_steps_of_a_path_are_unusual_beyond_either_percentile_and_never_on_an_older_map():
    path = pd.DataFrame({"distance_percentile": [10.0, 99, np.nan, 50], "residual_percentile": [20.0, 1, np.nan, 96]})
    assert unusual_steps(path).tolist() == [False, True, False, True]
    assert unusual_steps(path[[]]).tolist() == [False] * 4


def test_percentile_is_the_share_of_held_out_values_below():
    held_out = np.arange(1.0, 11.0, dtype=np.float32)
    np.testing.assert_allclose(percentiles(np.array([0.5, 1, 5.5, 99]), held_out), [0, 0, 50, 100])
    assert np.isnan(percentiles(np.ones(2), None)).all()
    kept = quantiles_of(np.random.default_rng(0).permutation(20_001).astype(float))
    np.testing.assert_allclose(percentiles(np.array([5000, 19_000]), kept), [25, 95], atol=0.2)
