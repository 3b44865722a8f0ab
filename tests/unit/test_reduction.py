import tracemalloc

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from diffviews.errors import SampleSetError, ShapeError
from diffviews.processing import reduction, umap_backend
from diffviews.processing.blocks import ActivationSource
from diffviews.processing.reduction import reduce_activations, symmetric_spectrum

SHAPES = {"wide": (60, 200), "tall": (200, 40), "square": (50, 50)}


def activations(rows, columns, seed=0, weakest=0.5):
    rng = np.random.default_rng(seed)
    strengths = np.geomspace(8, weakest, min(rows, columns))
    mixed = rng.standard_normal((rows, len(strengths))) * strengths @ rng.standard_normal((len(strengths), columns))
    values = (3 + mixed * rng.uniform(0.1, 10, columns)).astype(np.float32)
    values[:, 3] = 1.7
    return values


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("normalize", [True, False])
def test_reduction_equals_scikit_learn_signs_included(shape, normalize):
    values = activations(*shape)
    found = reduce_activations(values, 8, normalize=normalize)
    scaled = values.astype(np.float64)
    if normalize:
        scaler = StandardScaler().fit(scaled)
        scaled = scaler.transform(scaled)
        np.testing.assert_allclose(found.mean, scaler.mean_, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.scale, scaler.scale_, rtol=1e-5)
        assert found.scale[3] == 1
    pca = PCA(8, svd_solver="full").fit(scaled)
    expected = pca.transform(scaled)
    np.testing.assert_allclose(found.points, expected, atol=2e-4 * np.abs(expected).max())
    np.testing.assert_allclose(found.components, pca.components_, atol=2e-4)
    np.testing.assert_allclose(found.explained_variance_ratio, pca.explained_variance_ratio_, rtol=1e-4)
    full = PCA(svd_solver="full").fit(scaled).explained_variance_
    np.testing.assert_allclose(found.eigenvalues[: len(full)], full, atol=1e-5 * full[0])
    assert found.spectrum_rows == len(values)


def test_reduction_of_float16_images_equals_that_of_flat_float32():
    values = activations(40, 96).astype(np.float16)
    flat = reduce_activations(values.astype(np.float32), 5)
    shaped = reduce_activations(values.reshape(40, 6, 4, 4), 5)
    np.testing.assert_array_equal(flat.points, shaped.points)


class Reader:
    """Rows by number and nothing else, as a stored layer gives them."""

    def __init__(self, values):
        self._values, self.shape, self.dtype = values, values.shape, values.dtype

    def rows(self, numbers):
        return self._values[np.asarray(numbers)]


class Sliced:
    """Row slices and nothing else, as a Zarr array gives them."""

    def __init__(self, values):
        self._values, self.shape, self.dtype = values, values.shape, values.dtype

    def __getitem__(self, part):
        assert isinstance(part, slice)
        return self._values[part]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("kind", [Reader, Sliced])
def test_reduction_reads_any_source_alike(monkeypatch, shape, kind):
    monkeypatch.setattr("diffviews.processing.blocks.BLOCK_BYTES", 4 * 17 * max(shape))
    values = activations(*shape).reshape(shape[0], -1, 2)
    np.testing.assert_array_equal(reduce_activations(kind(values), 5).points, reduce_activations(values, 5).points)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_reduction_does_not_depend_on_the_block_size(monkeypatch, shape):
    values = activations(*shape)
    whole = reduce_activations(values, 5)
    monkeypatch.setattr("diffviews.processing.blocks.BLOCK_BYTES", 4 * 13 * max(shape))
    in_blocks = reduce_activations(values, 5)
    np.testing.assert_allclose(whole.points, in_blocks.points, atol=1e-4 * np.abs(whole.points).max())


def test_reduction_without_pca_is_the_standardised_data():
    values = activations(30, 50)
    found = reduce_activations(values, None)
    expected = StandardScaler().fit_transform(values.astype(np.float64))
    np.testing.assert_allclose(found.points, expected, atol=1e-4)
    assert found.components is None
    assert found.leading.shape == (30, 3)


def test_reduction_keeps_no_axis_without_variance():
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((40, 2)) @ rng.standard_normal((2, 90))).astype(np.float32)
    found = reduce_activations(values, 20)
    assert found.points.shape == (40, 2)
    assert found.explained_variance_ratio.sum() == pytest.approx(1)


@pytest.mark.parametrize("shape", [(300, 260), (260, 300)])
def test_reduction_of_very_large_data_is_close_to_exact(monkeypatch, shape):
    values = activations(*shape, weakest=1e-4)
    exact = reduce_activations(values, 6)
    monkeypatch.setattr(reduction, "EXACT_SIDE", 100)
    monkeypatch.setattr(reduction, "SPECTRUM_ROWS", 90)
    found = reduce_activations(values, 6)
    assert found.spectrum_rows == 90
    np.testing.assert_allclose(found.points, exact.points, atol=5e-3 * np.abs(exact.points).max())
    np.testing.assert_allclose(found.explained_variance_ratio, exact.explained_variance_ratio, rtol=1e-2)


@pytest.mark.parametrize("size", [1, 2, 3, 40])
def test_spectrum_is_that_of_a_full_decomposition(size):
    root = np.random.default_rng(size).standard_normal((size, size))
    matrix = root @ root.T
    values, vectors = symmetric_spectrum(matrix, min(4, size))
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix)[::-1], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(matrix @ vectors, vectors * values[: vectors.shape[1]], atol=1e-9 * values[0])
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(vectors.shape[1]), atol=1e-9)


def test_reduction_of_identical_samples_is_refused():
    for shape in ((5, 9), (9, 5)):
        with pytest.raises(SampleSetError, match="same activations"):
            reduce_activations(np.full(shape, 0.3, np.float32), 2)


@pytest.mark.parametrize(
    "values", [np.zeros((4,)), np.zeros((0, 3)), np.zeros((3, 0)), np.zeros((3, 3), np.int64)]
)
def test_activations_of_impossible_shape_or_dtype_are_refused(values):
    with pytest.raises(ShapeError, match="activations are"):
        ActivationSource(values)


def test_reduction_of_a_wide_memory_map_never_holds_a_float64_copy(tmp_path):
    rows, columns = 1168, 49152
    rng = np.random.default_rng(0)
    values = np.memmap(tmp_path / "activations.bin", np.float16, "w+", shape=(rows, columns))
    pattern = rng.standard_normal(columns + rows).astype(np.float16)
    for row in range(rows):
        values[row] = pattern[row : row + columns] * np.float16(1 + row % 7)
    values.flush()
    tracemalloc.start()
    found = reduce_activations(values, 50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.points.shape == (rows, 50)
    assert peak <= 1.3 * 4 * rows * columns


@pytest.mark.parametrize("shape", [(60, 700), (700, 60)], ids=["wide", "tall"])
def test_reduction_has_the_same_bits_on_any_number_of_threads(shape, monkeypatch):
    values = activations(*shape)
    monkeypatch.setattr("diffviews.processing.blocks.BLOCK_BYTES", 16_000)  # many blocks
    found = []
    for threads in (1, 3):
        monkeypatch.setattr("diffviews.processing.blocks.num_threads", lambda threads=threads: threads)
        with umap_backend.fitting():
            found.append(reduce_activations(values, 10))
    np.testing.assert_array_equal(found[0].points, found[1].points)
    np.testing.assert_array_equal(found[0].components, found[1].components)
    np.testing.assert_array_equal(found[0].eigenvalues, found[1].eigenvalues)
