"""Laying two maps over each other, against closed forms and SciPy."""

import numpy as np
import pytest
from scipy.spatial import procrustes

from diffviews.errors import ShapeError
from diffviews.processing.procrustes import overlay


@pytest.fixture
def points():
    return np.random.default_rng(0).normal(size=(50, 2)) * [3, 1] + 5


def test_overlay_finds_any_rotation_mirroring_place_and_size(points):
    angle = 2.1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([1, -1])
    found = overlay(points, 7 * points @ turn - 40)
    assert found.agreement == pytest.approx(1)
    assert found.second == pytest.approx(found.first)
    assert found.first.mean(axis=0) == pytest.approx([0, 0])
    assert np.linalg.norm(found.first) == pytest.approx(np.sqrt(50))


def test_overlay_agrees_with_scipy(points):
    other = points[:, ::-1] + np.random.default_rng(1).normal(size=points.shape)
    found = overlay(points, other)
    _, _, disparity = procrustes(points, other)
    assert 1 - found.agreement**2 == pytest.approx(disparity)


def test_overlay_of_other_samples_is_refused_and_one_point_stays(points):
    with pytest.raises(ShapeError, match=r"50, 2.*49, 2"):
        overlay(points, points[:-1])
    assert (overlay(points, np.ones_like(points)).second == 0).all()
