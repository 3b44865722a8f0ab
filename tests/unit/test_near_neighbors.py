import numpy as np
import pytest

from diffviews.errors import ConfigError, SelectionError
from diffviews.processing import fitting
from diffviews.processing import neighbors as subject
from diffviews.processing.blocks import in_order, num_threads
from diffviews.processing.fitting import fit_aligned_map, fit_given_map, fit_map
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.neighbors import exact_neighbors, near_neighbors
from diffviews.processing.quality import map_quality

POINTS = np.random.default_rng(3).standard_normal((400, 6)).astype(np.float32)


def test_few_points_have_exact_neighbours():
    found, expected = near_neighbors(POINTS, 5), exact_neighbors(POINTS, 5)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.slow  # the descent is compiled first
def test_many_points_have_nearly_the_same_neighbours_every_time_alike(monkeypatch):
    expected, away = exact_neighbors(POINTS, 8)
    monkeypatch.setattr(subject, "EXACT_POINTS", 100)
    indices, distances = near_neighbors(POINTS, 8)
    same = [len(set(a) & set(b)) / 8 for a, b in zip(indices.tolist(), expected.tolist(), strict=True)]
    assert np.mean(same) > 0.97
    agree = indices == expected
    np.testing.assert_allclose(distances[agree], away[agree], rtol=1e-9)
    np.testing.assert_array_equal(near_neighbors(POINTS, 8)[0], indices)


def without_descent(points, k, metric, random_state):
    """Return what a descent returns, (N, k + 1): each point first, here found exactly, and one row without itself."""
    found = exact_neighbors(points, k, metric=metric)[0]
    graph = np.concatenate([np.arange(len(points))[:, None], found], axis=1).astype(np.int32)
    graph[7] = np.roll(graph[7], 1)
    graph[7][1] = graph[7][0]
    return graph


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_what_a_descent_found_loses_the_point_itself_and_gets_exact_distances(monkeypatch, metric):
    expected, away = exact_neighbors(POINTS, 8, metric=metric)
    monkeypatch.setattr(subject, "EXACT_POINTS", 100)
    monkeypatch.setattr(subject, "_descended", without_descent)
    indices, distances = near_neighbors(POINTS, 8, metric=metric)
    assert all(row not in found for row, found in enumerate(indices.tolist()))
    others = np.arange(len(POINTS)) != 7
    np.testing.assert_array_equal(indices[others], expected[others])
    np.testing.assert_allclose(distances[others], away[others], rtol=1e-9, atol=1e-12)
    assert (np.diff(distances, axis=1) >= 0).all()


def test_approximate_neighbours_refuse_what_exact_ones_refuse(monkeypatch):
    monkeypatch.setattr(subject, "EXACT_POINTS", 100)
    with pytest.raises(SelectionError, match="399 other samples"):
        near_neighbors(POINTS, 400)
    with pytest.raises(ConfigError, match="euclidean"):
        near_neighbors(POINTS, 3, metric="edit")


def test_map_beyond_the_exact_size_is_fitted_on_approximate_neighbours(monkeypatch):
    used = []
    monkeypatch.setattr(subject, "EXACT_POINTS", 100)
    monkeypatch.setattr(subject, "_descended", lambda *args: used.append(args) or without_descent(*args))
    fitted = fit_map(POINTS, [str(row) for row in range(len(POINTS))])
    assert len(used) == 1
    assert fitted.neighbor_indices.shape == (400, 15)


def test_every_kind_of_map_finds_approximate_neighbours_by_its_own_seed(monkeypatch):
    seeds = []
    monkeypatch.setattr(subject, "EXACT_POINTS", 100)
    monkeypatch.setattr(subject, "_descended", lambda *args: seeds.append(args[-1]) or without_descent(*args))
    monkeypatch.setattr(fitting, "embed_aligned", lambda points, **_: [part[:, :2] for part in points])
    ids, parameters = [str(row) for row in range(len(POINTS))], MapParameters(n_neighbors=8, random_state=7)
    aligned = fit_aligned_map({0.5: POINTS, 2.0: POINTS}, ids, parameters)
    map_quality(aligned[0.5])  # measured on 10 neighbours, which the fit did not look for
    fit_given_map(POINTS, ids, POINTS[:, :2], parameters)
    assert seeds == [7] * 4


@pytest.mark.parametrize("threads", ["1", "3"])
def test_blocks_worked_on_by_threads_arrive_in_order(monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert list(in_order(lambda item: item**2, iter(range(20)))) == [item**2 for item in range(20)]


def test_blocks_are_drawn_only_when_a_thread_is_free(monkeypatch):
    monkeypatch.setattr("diffviews.processing.blocks.num_threads", lambda: 3)
    drawn = []

    def blocks():
        for item in range(20):
            drawn.append(item)
            yield item

    results = in_order(lambda item: item, blocks())
    next(results)
    assert len(drawn) == 3


def test_a_failure_in_a_block_reaches_the_caller(monkeypatch):
    monkeypatch.setattr("diffviews.processing.blocks.num_threads", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda item: 1 // item, [2, 1, 0, 3]))


def test_threads_are_no_more_than_asked_for(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert num_threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert num_threads() >= 1
