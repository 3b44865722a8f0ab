import json
import logging

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from diffviews.errors import ConfigError, CorruptDataError, SampleSetError, ShapeError
from diffviews.processing import fitting
from diffviews.processing.projector import Projector
from diffviews.processing.umap import compute_umap, load_dataset_activations, save_embeddings

PIXELS = load_digits().data[:80].astype(np.float32)


@pytest.fixture(autouse=True)
def no_descent(monkeypatch):
    """Leave out UMAP: the map is where its descent would start."""
    monkeypatch.setattr(fitting, "embed_neighbors", lambda points, *_, initial, **options: initial)


def test_compute_umap_returns_the_map_and_what_made_it():
    embeddings, reducer, scaler, pca = compute_umap(PIXELS, n_neighbors=5, n_components=3, pca_components=10)
    assert embeddings.shape == (80, 3)
    np.testing.assert_array_equal(reducer.embedding_, embeddings)
    expected_scaler = StandardScaler().fit(PIXELS)
    scaled = scaler.transform(PIXELS)
    np.testing.assert_allclose(scaled, expected_scaler.transform(PIXELS), atol=1e-4)
    expected = PCA(10, svd_solver="full").fit(scaled)
    np.testing.assert_allclose(pca.transform(scaled), expected.transform(scaled), atol=2e-3)
    np.testing.assert_allclose(pca.explained_variance_ratio_, expected.explained_variance_ratio_, rtol=1e-3)
    np.testing.assert_array_equal(reducer.transform(pca.transform(scaled)), embeddings)


def test_compute_umap_uses_no_pca_unless_asked():
    embeddings, reducer, scaler, pca = compute_umap(PIXELS)
    assert pca is None
    assert reducer.projector.pca_points.shape == PIXELS.shape
    np.testing.assert_array_equal(reducer.transform(scaler.transform(PIXELS)), embeddings)


def test_compute_umap_without_normalize_has_no_scaler():
    embeddings, reducer, scaler, pca = compute_umap(PIXELS, normalize=False, pca_components=10)
    assert scaler is None
    np.testing.assert_array_equal(reducer.transform(pca.transform(PIXELS)), embeddings)
    np.testing.assert_allclose(pca.transform(PIXELS), PCA(10, svd_solver="full").fit_transform(PIXELS), atol=1e-3)


def test_compute_umap_takes_the_documented_arguments_in_order():
    _, reducer, _, _ = compute_umap(PIXELS, 7, 0.25, "cosine", 2, 9, True, 6)
    parameters = reducer.projector.parameters
    assert (parameters.n_neighbors, parameters.min_dist, parameters.metric) == (7, 0.25, "cosine")
    assert (parameters.n_components, parameters.random_state, parameters.pca_components) == (2, 9, 6)


def test_compute_umap_without_a_seed_draws_one():
    seeds = {compute_umap(PIXELS, random_state=None)[1].projector.parameters.random_state for _ in range(3)}
    assert len(seeds) == 3


def test_saved_map_is_table_parameters_and_projector_without_pickle(tmp_path):
    embeddings, reducer, scaler, pca = compute_umap(PIXELS, pca_components=10)
    table = pd.DataFrame({"sample_id": [f"s{i}" for i in range(80)], "class_label": 3}, index=range(500, 580))
    save_embeddings(embeddings, table, tmp_path / "new" / "map.csv", {"n_neighbors": 15}, reducer, scaler, pca)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["map.csv", "map.json", "map.safetensors"]
    read = pd.read_csv(tmp_path / "new" / "map.csv")
    assert list(read.columns) == ["sample_id", "class_label", "umap_x", "umap_y"]
    np.testing.assert_allclose(read[["umap_x", "umap_y"]], embeddings, rtol=1e-6)
    assert json.loads((tmp_path / "new" / "map.json").read_text()) == {"n_neighbors": 15}
    projector = Projector.load(tmp_path / "new" / "map.safetensors")
    np.testing.assert_array_equal(projector.transform(PIXELS).coordinates, embeddings)
    assert "umap_x" not in table


def test_saving_refuses_what_does_not_fit(tmp_path):
    with pytest.raises(ShapeError, match="79 rows of metadata for 80"):
        save_embeddings(np.zeros((80, 2)), pd.DataFrame({"a": range(79)}), tmp_path / "m.csv", {})
    with pytest.raises(ConfigError, match="JSON"):
        save_embeddings(np.zeros((1, 2)), pd.DataFrame({"a": [1]}), tmp_path / "m.csv", {"a": object()})
    with pytest.raises(ConfigError, match="object cannot be saved"):
        save_embeddings(np.zeros((1, 2)), pd.DataFrame({"a": [1]}), tmp_path / "m.csv", {}, object())
    assert not list(tmp_path.iterdir())


class OldDataset:
    """An older data set on disk: two layers, in batches or per sample."""

    def __init__(self, root, count=7):
        self.root, self.count = root, count
        self.folder, self.metadata = root / "activations" / "set", root / "metadata" / "set" / "dataset_info.json"
        self.folder.mkdir(parents=True)
        self.metadata.parent.mkdir(parents=True)
        rng = np.random.default_rng(0)
        self.layers = {"mid": rng.standard_normal((count, 4, 2, 2)), "enc": rng.standard_normal((count, 6))}
        parts = [self.layers["enc"], self.layers["mid"].reshape(count, -1)]
        self.flat = np.concatenate(parts, axis=1).astype(np.float32)

    def rows(self, start, stop):
        return {name: values[start:stop] for name, values in self.layers.items()}

    def describe(self, samples):
        self.metadata.write_text(json.dumps({"samples": samples}))

    def per_sample(self):
        for row in range(self.count):
            np.savez(self.folder / f"sample_{row}.npz", **self.rows(row, row + 1))
        self.describe([{"sample_id": f"sample_{row}", "class_label": row} for row in range(self.count)])

    def in_batches(self, ending=".npz", size=4):
        samples = []
        for start in range(0, self.count, size):
            name = f"batch_{start // size}"
            if ending == ".npz":
                np.savez(self.folder / name, **self.rows(start, start + size))
            else:
                np.save(self.folder / name, self.flat[start : start + size])
            samples += [
                {"sample_id": f"sample_{row}", "activation_path": f"activations/set/{name}", "batch_index": row - start}
                for row in range(start, min(start + size, self.count))
            ]
        # Not in the order of the files.
        self.describe([samples[row] for row in self.order()])

    def order(self):
        return np.random.default_rng(1).permutation(self.count)

    def load(self, **options):
        return load_dataset_activations(self.folder, self.metadata, **options)


@pytest.fixture
def old(tmp_path):
    return OldDataset(tmp_path / "data")


@pytest.mark.parametrize("options", [{}, {"low_memory": True}, {"batch_size": 2, "use_mmap": False}], ids=str)
def test_files_of_single_samples_are_read_with_sorted_layers(old, options):
    old.per_sample()
    matrix, table = old.load(**options)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, old.flat)
    assert table["class_label"].tolist() == list(range(7))


@pytest.mark.parametrize("ending", [".npz", ".npy"])
@pytest.mark.parametrize("low_memory", [False, True])
def test_rows_of_batches_follow_the_table(old, ending, low_memory):
    old.in_batches(ending)
    matrix, table = old.load(low_memory=low_memory)
    rows = [int(name.removeprefix("sample_")) for name in table["sample_id"]]
    assert rows == old.order().tolist()
    np.testing.assert_array_equal(matrix, old.flat[rows])


def test_one_matrix_of_all_samples_is_used(old):
    old.per_sample()
    for path in old.folder.glob("*.npz"):
        path.unlink()
    np.save(old.folder / "all.npy", old.flat)
    np.testing.assert_array_equal(old.load(max_samples=5)[0], old.flat[:5])


def test_matrix_that_names_its_rows_is_read_by_them(old):
    old.describe([{"sample_id": f"sample_{row}"} for row in range(old.count)])
    order = old.order()
    np.save(old.folder / "all.npy", old.flat[order])
    named = [f"sample_{row}" for row in order]
    (old.folder / "all.npy.json").write_text(json.dumps({"sample_ids": named}))
    np.testing.assert_array_equal(old.load()[0], old.flat)
    np.testing.assert_array_equal(old.load(max_samples=3)[0], old.flat[:3])
    (old.folder / "all.npy.json").write_text(json.dumps({"sample_ids": [*named[1:], "other"]}))
    with pytest.raises(CorruptDataError, match="names no row for sample"):
        old.load()


def test_max_samples_limits_matrix_and_table(old):
    old.in_batches()
    matrix, table = old.load(max_samples=3)
    assert len(matrix) == len(table) == 3


def test_missing_files_are_left_out_of_matrix_and_table_and_logged(old, caplog):
    old.per_sample()
    (old.folder / "sample_2.npz").unlink()
    with caplog.at_level(logging.WARNING):
        matrix, table = old.load()
    assert "1 of 7 samples have no activation file: sample_2" in caplog.text
    assert table["class_label"].tolist() == [0, 1, 3, 4, 5, 6]
    np.testing.assert_array_equal(matrix, np.delete(old.flat, 2, axis=0))


def test_nan_is_logged_and_left_as_it_is(old, caplog):
    old.layers["enc"][2, 1] = np.nan
    old.per_sample()
    with caplog.at_level(logging.WARNING):
        matrix, _ = old.load()
    assert "1 values" in caplog.text
    assert np.isnan(matrix[2, 1])


def test_no_file_at_all_is_an_error(old):
    old.describe([{"sample_id": "sample_0"}])
    with pytest.raises(SampleSetError, match="none of the 1 samples"):
        old.load()


@pytest.mark.parametrize(
    "sample",
    [
        {"sample_id": "../../../secret"},
        {"sample_id": "a", "activation_path": "../secret"},
        {"sample_id": "a", "activation_path": "/secret"},
    ],
    ids=str,
)
def test_files_outside_the_data_set_are_never_opened(old, sample):
    np.savez(old.root.parent / "secret.npz", enc=np.ones((1, 6)))
    old.describe([sample])
    with pytest.raises(SampleSetError, match="lies outside"):
        old.load()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"samples": []}', '{"samples": [{}]}', '{"samples": 3}'])
def test_malformed_metadata_is_named(old, text):
    old.metadata.write_text(text)
    with pytest.raises(SampleSetError, match=r"dataset_info\.json"):
        old.load()


def test_damaged_files_are_named(old):
    old.per_sample()
    path = old.folder / "sample_3.npz"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CorruptDataError, match=r"sample_3\.npz"):
        old.load()


def test_pickled_arrays_are_never_loaded(old):
    old.per_sample()
    np.savez(old.folder / "sample_3.npz", enc=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CorruptDataError, match=r"sample_3\.npz"):
        old.load()


def test_batch_index_beyond_the_file_is_named(old):
    old.in_batches()
    samples = json.loads(old.metadata.read_text())["samples"]
    samples[0]["batch_index"] = 99
    old.describe(samples)
    with pytest.raises(CorruptDataError, match="row 99"):
        old.load()
