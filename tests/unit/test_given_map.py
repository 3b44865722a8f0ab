"""Maps with given coordinates: the coordinates stay, the projector around them is that of an ordinary fit."""

import numpy as np
import pytest

from diffviews.errors import ShapeError
from diffviews.processing.fitting import fit_given_map, fit_map
from diffviews.processing.map_parameters import MapParameters

VALUES = np.random.default_rng(0).normal(size=(30, 3, 4)).astype(np.float32)
IDS = [f"s{row}" for row in range(30)]
SMALL = MapParameters(n_neighbors=5, pca_components=6)


def test_given_map_is_an_ordinary_fit_with_other_coordinates() -> None:
    ordinary = fit_map(VALUES, IDS, SMALL)
    places = ordinary.projector.embedding[:, ::-1] * 2
    given = fit_given_map(VALUES, IDS, places, SMALL)
    np.testing.assert_array_equal(given.projector.embedding, places)
    np.testing.assert_array_equal(given.projector.pca_points, ordinary.projector.pca_points)
    np.testing.assert_array_equal(given.neighbor_indices, ordinary.neighbor_indices)
    query = VALUES[:4] * 0.9
    expected = ordinary.projector.transform(query).coordinates[:, ::-1] * 2
    np.testing.assert_allclose(given.projector.transform(query).coordinates, expected, rtol=1e-5, atol=1e-5)


def test_given_map_takes_three_dimensions_and_noise_levels() -> None:
    places = np.random.default_rng(1).normal(size=(30, 3))
    given = fit_given_map(VALUES, IDS[:15] * 2, places, SMALL, sigmas=[0.5] * 15 + [2.0] * 15)
    assert given.projector.parameters.n_components == 3
    assert given.projector.row_sigmas is not None
    assert len(given.projector) == 30


def test_given_map_needs_a_place_for_each_row() -> None:
    with pytest.raises(ShapeError, match="a row for each of 30"):
        fit_given_map(VALUES, IDS, np.zeros((29, 2)), SMALL)
    with pytest.raises(ShapeError, match="more than once"):
        fit_given_map(VALUES, IDS[:15] * 2, np.zeros((30, 2)), SMALL)
