"""How much neighbourhoods differ between two spaces, against brute force."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from diffviews.errors import SelectionError, ShapeError
from diffviews.processing import neighbors
from diffviews.processing.neighbors import neighborhood_change, shared_counts


def brute_force(first, second, k, metrics=("euclidean", "euclidean")):
    changes = []
    gaps = [cdist(points, points, metric) for points, metric in zip((first, second), metrics, strict=True)]
    for row in range(len(first)):
        near = [set([i for i in np.argsort(g[row], kind="stable") if i != row][:k]) for g in gaps]
        changes.append(len(near[0] - near[1]) / k)
    return np.array(changes)


@pytest.fixture
def spaces():
    rng = np.random.default_rng(3)
    first = rng.normal(size=(120, 7))
    return first, first[:, :5] + rng.normal(0, 0.6, (120, 5))


@pytest.mark.parametrize("k", [1, 5, 20, 119])
def test_change_is_that_of_brute_force(spaces, k):
    assert neighborhood_change(*spaces, k) == pytest.approx(brute_force(*spaces, k))


def test_change_does_not_depend_on_the_order_of_the_spaces(spaces):
    first, second = spaces
    assert (neighborhood_change(first, second, 9) == neighborhood_change(second, first, 9)).all()


def test_change_is_zero_under_rotation_and_scale_and_one_when_no_neighbour_is_shared():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(60, 3))
    turned = 5 * points @ np.linalg.qr(rng.normal(size=(3, 3)))[0] + 2
    assert (neighborhood_change(points, turned, 6) == 0).all()
    line = np.arange(8.0)[:, None]
    apart = np.array([0, 40, 1, 41, 2, 42, 3, 43.0])[:, None]  # neighbours on the line are far apart here
    inner = neighborhood_change(line, apart, 1)[1:-1]
    assert (inner == 1).all()


def test_change_uses_each_spaces_metric(spaces):
    metrics = ("cosine", "manhattan")
    expected = brute_force(*spaces, 6, ("cosine", "cityblock"))
    assert neighborhood_change(*spaces, 6, metrics=metrics) == pytest.approx(expected)
    assert (neighborhood_change(*spaces, 6) != expected).any()


def test_change_of_some_rows_is_that_among_all_samples(spaces, monkeypatch):
    monkeypatch.setattr(neighbors, "BLOCK_ELEMENTS", 500)  # several blocks
    rows = [7, 0, 119, 50]
    assert neighborhood_change(*spaces, 10, rows=rows) == pytest.approx(brute_force(*spaces, 10)[rows])


def test_change_leaves_the_sample_itself_out_among_copies():
    rng = np.random.default_rng(1)
    points = np.concatenate([np.zeros((6, 2)), rng.normal(5, 1, (30, 2))])
    other = rng.normal(size=(36, 2))
    expected = brute_force(points, other, 3)
    assert neighborhood_change(points, other, 3) == pytest.approx(expected)
    assert neighborhood_change(points, other, 3, rows=range(35)) == pytest.approx(expected[:35])


def test_shared_counts_counts_common_entries_by_row():
    first, second = np.array([[1, 2, 3], [4, 5, 6]]), np.array([[3, 9, 1], [7, 8, 9]])
    assert shared_counts(first, second).tolist() == [2, 0]


def test_change_refuses_different_samples_and_impossible_k(spaces):
    first, second = spaces
    with pytest.raises(ShapeError, match="120 and 119"):
        neighborhood_change(first, second[:-1], 5)
    with pytest.raises(SelectionError, match="119 other samples"):
        neighborhood_change(first, second, 120)
    with pytest.raises(SelectionError, match="at least 1"):
        neighborhood_change(first, second, 0)
