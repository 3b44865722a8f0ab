import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import pairwise_distances as reference_distances

from diffviews.errors import ConfigError, SelectionError
from diffviews.processing import candidates, neighbors
from diffviews.processing.neighbors import METRICS, exact_neighbors, membership_strengths

RNG = np.random.default_rng(5)


def brute_force(points, k, queries=None, metric="euclidean"):
    table = reference_distances(points if queries is None else queries, points, metric=metric)
    if queries is None:
        np.fill_diagonal(table, np.inf)
    order = np.argsort(table, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(table, order, axis=1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("own", [True, False])
def test_neighbors_are_those_of_brute_force(metric, own):
    points = RNG.standard_normal((90, 7))
    queries = None if own else RNG.standard_normal((11, 7))
    indices, distances = exact_neighbors(points, 6, queries, metric=metric)
    expected, expected_distances = brute_force(points, 6, queries, metric)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(distances, expected_distances, atol=1e-12)


def test_neighbors_do_not_depend_on_the_block_size(monkeypatch):
    points = RNG.standard_normal((80, 5)).astype(np.float32)
    whole = exact_neighbors(points, 4)
    monkeypatch.setattr(neighbors, "BLOCK_ELEMENTS", 81)
    in_blocks = exact_neighbors(points, 4)
    np.testing.assert_array_equal(whole[0], in_blocks[0])
    np.testing.assert_array_equal(whole[1], in_blocks[1])


def test_neighbors_of_wide_points_are_exact():
    points = RNG.standard_normal((60, 700)).astype(np.float32)
    expected, distances = brute_force(points.astype(np.float64), 5)
    found = exact_neighbors(points, 5)
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_allclose(found[1], distances, rtol=1e-12)


def test_neighbors_far_from_the_origin_lose_no_digits():
    points = 1e7 + 1e-3 * RNG.standard_normal((50, 3))
    np.testing.assert_allclose(exact_neighbors(points, 3)[1], brute_force(points - 1e7, 3)[1], rtol=1e-5)


def test_neighbors_leave_out_the_point_itself_even_among_copies():
    points = np.zeros((6, 2))
    indices, distances = exact_neighbors(points, 5)
    assert all(row not in found for row, found in enumerate(indices.tolist()))
    assert (distances == 0).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=4, max_size=20), st.integers(1, 3))
def test_neighbors_with_many_ties_have_the_right_distances(values, k):
    points = np.array(values, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(exact_neighbors(points, k)[1], brute_force(points, k)[1])


@pytest.mark.parametrize("devices", [1, 3])
def test_neighbors_by_torch_are_the_same_and_every_device_has_its_turn(monkeypatch, devices):
    points = RNG.standard_normal((70, 6)).astype(np.float32)
    expected = exact_neighbors(points, 5)
    asked, given_to = [], []
    by_torch = candidates._torch_finder

    def on_cpu(*args):
        asked.append(args[-1])
        return by_torch(*args[:-1], ["cpu"] * len(args[-1]))

    def turns(copies):
        for number in itertools.cycle(range(len(copies))):
            given_to.append(number)
            yield copies[number]

    monkeypatch.setattr(candidates, "GPU_PAIRS", 0)
    monkeypatch.setattr(candidates, "cuda_devices", lambda: [f"cuda:{number}" for number in range(devices)])
    monkeypatch.setattr(candidates, "_torch_finder", on_cpu)
    monkeypatch.setattr(candidates, "cycle", turns)
    monkeypatch.setattr(neighbors, "BLOCK_ELEMENTS", 10 * 13 * 6)
    monkeypatch.setattr("diffviews.processing.blocks.num_threads", lambda: 1)
    found = exact_neighbors(points, 5)
    assert asked == [[f"cuda:{number}" for number in range(devices)]]
    assert given_to == [turn % devices for turn in range(7)]
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("dimensions", [2, 9])
def test_neighbors_of_many_points_are_those_of_brute_force(dimensions):
    points = RNG.standard_normal((3000, dimensions)).astype(np.float32)
    expected, distances = brute_force(points.astype(np.float64), 15)
    found = exact_neighbors(points, 15)
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_allclose(found[1], distances, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spread", [1e-4, 0.2, 0.4])
def test_neighbors_that_rounding_could_hide_are_found(spread):
    """Two bunches far apart: in float32 the scores within a bunch are off by as much as they differ, or more."""
    bunches = np.repeat([[0.0] * 8, [1e3] * 8], 150, axis=0)
    points = bunches + spread * np.random.default_rng(5).standard_normal(bunches.shape)
    expected, _ = brute_force(points[:150], 3)
    np.testing.assert_array_equal(exact_neighbors(points, 3)[0][:150], expected)


@pytest.mark.parametrize("dimensions", [2, 6])
def test_neighbors_equally_far_come_by_index(dimensions):
    points = np.zeros((60, dimensions), np.float32)
    found = exact_neighbors(points, 3)[0]
    assert found[10].tolist() == [0, 1, 2]
    assert found[1].tolist() == [0, 2, 3]


@pytest.mark.parametrize(("k", "sentence"), [(5, "only 4 other samples"), (0, "at least 1")])
def test_neighbors_beyond_the_set_are_refused(k, sentence):
    with pytest.raises(SelectionError, match=sentence):
        exact_neighbors(np.eye(5), k)


def test_neighbors_by_an_unknown_metric_are_refused():
    with pytest.raises(ConfigError, match="euclidean"):
        exact_neighbors(np.eye(5), 2, metric="edit")


def test_membership_strengths_sum_to_log2_k():
    distances = np.sort(RNG.uniform(1, 4, (40, 15)), axis=1)
    weights = membership_strengths(distances)
    np.testing.assert_allclose(weights.sum(axis=1), np.log2(15), rtol=1e-9)
    assert (weights[:, 0] == 1).all()
    assert (np.diff(weights, axis=1) <= 0).all()


@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_membership_strengths_of_one_near_and_equally_far_have_their_closed_form(offset):
    distances = offset + np.array([[0.0] + [2.5] * 7])
    expected = (np.log2(8) - 1) / 7
    np.testing.assert_allclose(membership_strengths(distances)[0, 1:], expected, rtol=1e-9)


def test_membership_strengths_do_not_depend_on_the_scale():
    distances = np.sort(RNG.uniform(0, 1, (5, 10)), axis=1)
    np.testing.assert_allclose(membership_strengths(distances * 1e6), membership_strengths(distances), rtol=1e-6)


def test_membership_strengths_of_equally_near_points_are_equal():
    np.testing.assert_array_equal(membership_strengths(np.full((2, 5), 3.0)), np.ones((2, 5)))
