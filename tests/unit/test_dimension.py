"""Effective rank and intrinsic dimension: closed forms, known shapes, and one number of samples for all layers."""

import numpy as np
import pytest

from diffviews.processing.dimension import SPACE_ROWS, effective_rank, intrinsic_dimension, space_measures
from diffviews.processing.neighbors import exact_neighbors


@pytest.mark.parametrize(("singular", "rank"), [([1, 1, 1, 1], 4), ([3, 0, 0], 1), ([2, 1, 1], 2**1.5)])
def test_effective_rank_has_its_closed_form(singular, rank):
    assert effective_rank(np.square(np.array(singular, dtype=float))) == pytest.approx(rank)


def cube(dimension, count=1500):
    return np.random.default_rng(dimension).uniform(size=(count, dimension))


def sphere(dimension, count=1500):
    points = np.random.default_rng(dimension).standard_normal((count, dimension + 1))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.mark.parametrize("shape", [cube, sphere])
@pytest.mark.parametrize("dimension", [1, 2, 4])
def test_intrinsic_dimension_of_cubes_and_spheres_is_known(shape, dimension):
    points = shape(dimension)
    wide = points @ np.linalg.qr(np.random.default_rng(0).standard_normal((30, points.shape[1])))[0].T
    distances = exact_neighbors(wide, 2)[1]
    assert intrinsic_dimension(*distances.T) == pytest.approx(dimension, rel=0.12)


@pytest.mark.parametrize("sides", [3, 6])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_intrinsic_dimension_of_directions_does_not_depend_on_the_metric(metric, sides):
    directions = np.random.default_rng(1).normal(size=(2000, sides))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = 1 if metric == "euclidean" else np.random.default_rng(2).uniform(0.5, 2, (2000, 1))
    measured = space_measures((directions * lengths) @ (directions * lengths).T, metric)
    # A sphere has one dimension less than the space it lies in.
    assert measured["sampled_intrinsic_dimension"] == pytest.approx(sides - 1, rel=0.15)


@pytest.mark.parametrize("seed", range(3))
def test_space_is_measured_from_products_as_from_the_samples_themselves(seed):
    random = np.random.default_rng(seed)
    points = random.standard_normal((200, 30)) * random.uniform(0.1, 3, 30) + 5
    measured = space_measures(points @ points.T)
    assert measured["space_samples"] == 200
    assert measured["sampled_effective_rank"] == pytest.approx(effective_rank(np.linalg.eigvalsh(np.cov(points.T))))
    nearest = exact_neighbors(points.astype(np.float32), 2)[1]
    assert measured["sampled_intrinsic_dimension"] == pytest.approx(intrinsic_dimension(*nearest.T), rel=1e-3)


def test_space_of_more_samples_is_that_of_as_many_as_of_fewer():
    points = np.random.default_rng(3).standard_normal((4000, 300))
    few, many = (space_measures(part @ part.T) for part in (points[:SPACE_ROWS], points[: 2 * SPACE_ROWS]))
    assert few["space_samples"] == many["space_samples"] == SPACE_ROWS
    for name in ("sampled_effective_rank", "sampled_intrinsic_dimension"):
        assert many[name] == pytest.approx(few[name], rel=0.1)
    # What made layers of different sample counts look different: the rank that as many samples allow.
    assert effective_rank(np.linalg.eigvalsh(np.cov(points[:200].T))) < 0.7 * few["sampled_effective_rank"]


def test_intrinsic_dimension_ignores_the_largest_ratios():
    share = np.arange(1, 1001) / 1000
    ratios = np.append((1 - share[:-1]) ** (-1 / 3), 1e9)
    ratios[900:] *= 50
    assert intrinsic_dimension(np.ones(1000), ratios) == pytest.approx(3, rel=1e-9)
    assert intrinsic_dimension(np.ones(1000), ratios, discard=0.05) < 2.9


def test_intrinsic_dimension_leaves_out_copies():
    points = cube(2)
    points[:40] = points[40:80]
    assert intrinsic_dimension(*exact_neighbors(points, 2)[1].T) == pytest.approx(2, rel=0.15)
    assert np.isnan(intrinsic_dimension(np.zeros(5), np.zeros(5)))
