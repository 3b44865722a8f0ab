"""Activations larger than memory: no more of them is read at once than stated, and the answers stay the same."""

import threading

import numpy as np
import pytest

from diffviews.errors import CorruptDataError, ShapeError
from diffviews.processing import blocks, umap_backend
from diffviews.processing.blocks import ActivationSource, StackedRows
from diffviews.processing.fitting import fit_joint_map, fit_map
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.projector import Projector
from diffviews.processing.reduction import reduce_activations

ROWS, COLUMNS = 400, 5000
RANDOM = np.random.default_rng(8)
VALUES = (
    RANDOM.standard_normal((ROWS, 12)) * 2.0 ** -np.arange(12) @ RANDOM.standard_normal((12, COLUMNS))
    + 0.01 * RANDOM.standard_normal((ROWS, COLUMNS))
).astype(np.float16)
PARAMETERS = MapParameters(pca_components=8)
BLOCK = 20
"""Rows read at once, by each thread."""


class Stored:
    """Activations that count how many of their rows were read at once, and by how many threads."""

    def __init__(self, values):
        self._values, self.shape, self.dtype = values, values.shape, values.dtype
        self.most, self.threads = 0, set()

    def rows(self, wanted):
        self.most = max(self.most, len(wanted))
        self.threads.add(threading.get_ident())
        return self._values[wanted]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * COLUMNS * BLOCK)
    monkeypatch.setattr("diffviews.processing.blocks.num_threads", lambda: 3)
    monkeypatch.setattr(
        "diffviews.processing.fitting.embed_neighbors", lambda points, *_, initial, **__: initial.astype(np.float32)
    )


@pytest.fixture
def little_memory(monkeypatch):
    """Hold no more than 50 rows in float32."""
    monkeypatch.setattr(blocks, "HELD_AT_ONCE", 4 * COLUMNS * 50)


def test_what_memory_does_not_hold_is_reduced_block_by_block(little_memory):
    stored = Stored(VALUES)
    with umap_backend.fitting():
        streamed, held = reduce_activations(stored, 8), reduce_activations(VALUES, 8)
    assert stored.most <= 50
    assert len(stored.threads) > 1
    assert streamed.spectrum_rows == 50
    np.testing.assert_allclose(streamed.mean, held.mean, atol=1e-5)
    np.testing.assert_allclose(streamed.explained_variance_ratio, held.explained_variance_ratio, rtol=1e-3)
    cosines = np.abs(np.einsum("ij,ij->j", streamed.points, held.points))
    cosines /= np.linalg.norm(streamed.points, axis=0) * np.linalg.norm(held.points, axis=0)
    assert cosines[:6].min() > 0.999


def test_what_memory_holds_is_read_once_and_reduced_exactly():
    stored = Stored(VALUES)
    with umap_backend.fitting():
        streamed, held = reduce_activations(stored, 8), reduce_activations(VALUES, 8)
    np.testing.assert_array_equal(streamed.points, held.points)
    assert ActivationSource(stored).hold()


def test_joint_map_reads_its_levels_block_by_block(little_memory):
    levels = {0.5: Stored(VALUES), 2.0: Stored(VALUES * np.float16(2))}
    fitted = fit_joint_map(levels, [f"s{row}" for row in range(ROWS)], PARAMETERS)
    assert max(stored.most for stored in levels.values()) <= 50
    assert fitted.spectrum_rows == 50  # as of what is not held
    assert fitted.projector.row_sigmas.tolist() == [0.5] * ROWS + [2.0] * ROWS


def test_stacked_rows_are_those_of_the_parts():
    stacked = StackedRows([ActivationSource(VALUES[:150]), ActivationSource(VALUES[150:])])
    wanted = np.array([399, 0, 149, 150, 151, 149])
    assert stacked.shape == VALUES.shape
    np.testing.assert_array_equal(stacked.rows(wanted), VALUES[wanted])


def test_layers_of_other_widths_are_not_stacked():
    with pytest.raises(ShapeError, match="not of one layer"):
        StackedRows([ActivationSource(VALUES), ActivationSource(VALUES[:, 1:])])


@pytest.fixture
def projector() -> Projector:
    return fit_map(VALUES[:100], [f"s{row}" for row in range(100)], PARAMETERS).projector


def test_stored_activations_are_placed_block_by_block_as_those_in_memory(projector, little_memory):
    stored = Stored(VALUES)
    streamed, held = projector.transform(stored), projector.transform(VALUES)
    assert stored.most == BLOCK
    assert len(stored.threads) > 1
    for name in ("coordinates", "distance", "neighbors", "match"):
        np.testing.assert_array_equal(getattr(streamed, name), getattr(held, name))
    assert streamed.match[:100].tolist() == list(range(100))


def test_values_that_are_not_finite_are_counted_through_all_blocks(projector):
    broken = VALUES.copy()
    broken[3, 7], broken[399, :2] = np.nan, np.inf
    with pytest.raises(CorruptDataError, match=r"1 NaN and 2 infinite values, in 2 of 400 samples: 'row 3', 'row 399'"):
        projector.project(Stored(broken))
