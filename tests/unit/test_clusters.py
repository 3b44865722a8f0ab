"""Clusters by density: found where they are, numbered by size, described by count."""

import numpy as np
import pandas as pd
import pytest

from diffviews.errors import ConfigError, CorruptDataError
from diffviews.processing.clusters import NONE, describe_clusters, find_clusters


@pytest.fixture
def three_heaps():
    """Heaps of 20, 60 and 40 points far apart, and five points far from everything."""
    rng = np.random.default_rng(0)
    heaps = [rng.normal(centre, 0.2, (size, 3)) for centre, size in ((0, 20), (10, 60), (20, 40))]
    alone = np.array([[100.0, 0, 0], [0, 200, 0], [0, 0, 300], [-400, 0, 0], [0, -500, 0]])
    truth = np.repeat([2, 0, 1, NONE], [20, 60, 40, 5])
    return np.concatenate([*heaps, alone]), truth


def test_clusters_are_the_heaps_numbered_by_size(three_heaps):
    points, truth = three_heaps
    assert (find_clusters(points, 10) == truth).all()


def test_clusters_of_many_points_follow_those_that_take_part(three_heaps):
    points, truth = three_heaps
    found = find_clusters(points[:120], 16, largest=60)
    assert (found == truth[:120]).mean() > 0.95
    assert (find_clusters(points[:120], 16, largest=60) == found).all()


def test_no_point_is_in_a_cluster_where_there_are_too_few(three_heaps):
    assert (find_clusters(three_heaps[0][:7], 10) == NONE).all()
    assert find_clusters(np.zeros((0, 2)), 5).shape == (0,)


def test_impossible_clusters_are_refused(three_heaps):
    with pytest.raises(ConfigError, match="at least 1 points"):
        find_clusters(three_heaps[0], 1)
    with pytest.raises(CorruptDataError, match="NaN or infinite"):
        find_clusters(np.array([[0.0, np.nan]] * 9), 5)


def test_summary_counts_size_majority_purity_and_trust():
    clusters = np.array([0, 0, 0, 0, 1, 1, NONE])
    classes = pd.Categorical(["b", "b", "a", None, "a", "b", "b"], categories=["b", "a"])
    trust = np.array([1.0, 0.5, 0.0, np.nan, 0.25, 0.75, 0.0])
    first, second = describe_clusters(clusters, classes, trust)
    assert (first.number, first.size, first.majority) == (0, 4, "b")
    assert first.purity == pytest.approx(2 / 3)
    assert first.trust == pytest.approx(0.5)
    assert (second.majority, second.purity, second.trust) == ("b", 0.5, 0.5)


def test_summary_without_classes_or_trust_says_nothing_of_them():
    (only,) = describe_clusters(np.array([0, 0, NONE]), [None, None, None])
    assert only.size == 2
    assert only.majority is None
    assert np.isnan([only.purity, only.trust]).all()
    assert describe_clusters(np.array([NONE, NONE]), ["a", "b"]) == ()
