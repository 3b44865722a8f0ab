"""Sketches: which rows they are fitted on, what they keep, and that memory holds them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffviews.adapters.registry import load_adapter
from diffviews.data.activations import ActivationReader
from diffviews.data.samples import SampleSet
from diffviews.data.sources import open_source
from diffviews.errors import ConfigError, CorruptDataError
from diffviews.lightning.projection import Projection, mean_of_sums, store_sum, sums_folder
from diffviews.pipelines import plan as plan_module
from diffviews.pipelines.capture import sketches as sketching
from diffviews.pipelines.capture.arrays import array_path, capture_activations
from diffviews.pipelines.capture.sketches import HELD_OUT, choose_rows, fit_sketches
from diffviews.pipelines.plan import ExtractionPlan
from diffviews.processing.fitting import fit_map
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.neighbors import exact_neighbors
from diffviews.processing.sketch import Sketch, SketchRecord, fit_sketch, reduction_of, sketch_loss
from diffviews.recipes.extraction import ExtractionRecipe

IDS = [f"s{row:04}" for row in range(600)]
RANDOM = np.random.default_rng(5)
BASIS = RANDOM.standard_normal((12, 8 * 4 * 4))
ROWS = (
    RANDOM.standard_normal((600, 12)) @ BASIS + 0.05 * RANDOM.standard_normal((600, 128)) + 30
).astype(np.float16).reshape(600, 8, 4, 4)
PARAMETERS = MapParameters(pca_components=12)


@pytest.fixture(scope="module")
def plan():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    recipe = ExtractionRecipe(
        layers=("encoder_block_2", "midblock", "decoder_block_4"), sigmas=(2.0,), batch_size=64, conditioning="none",
        maps=MapParameters(pca_components=20), storage="sketch",
    )  # fmt: skip
    yield ExtractionPlan(load_adapter("edm-digits", device="cpu"), open_source("digits", max_samples=220), recipe)
    torch.set_num_threads(threads)


def with_recipe(plan, **changes):
    return replace(plan, recipe=replace(plan.recipe, **changes))


def test_all_rows_are_fitted_on_when_they_are_few():
    chosen = choose_rows(IDS, count=600, capacity=900)
    assert chosen.fit.tolist() == list(range(600))
    assert not len(chosen.held_out)


def test_rows_are_drawn_by_id_and_held_out_ones_are_others():
    chosen = choose_rows(IDS, count=200, capacity=10_000)
    assert (len(chosen.fit), len(chosen.held_out)) == (200, 150)
    assert not set(chosen.fit) & set(chosen.held_out)
    assert list(chosen.fit) == sorted(chosen.fit)
    shuffled = IDS[::-1]
    again = choose_rows(shuffled, count=200, capacity=10_000)
    assert {shuffled[row] for row in again.fit} == {IDS[row] for row in chosen.fit}
    assert len(choose_rows(IDS * 9, 200, 10_000).held_out) == HELD_OUT


def test_no_more_rows_are_chosen_than_memory_holds():
    chosen = choose_rows(IDS, count=500, capacity=100)
    assert len(chosen.rows) == 100
    assert len(chosen.fit) > 2 * len(chosen.held_out) > 0


def test_sketch_of_all_rows_gives_the_full_map():
    sketch = fit_sketch(ROWS, PARAMETERS)
    whole = fit_map(ROWS, IDS, PARAMETERS)
    fitted = fit_map(sketch.reduction(sketch.points), IDS, PARAMETERS)
    for name in ("scaler_mean", "scaler_scale", "pca_components", "pca_points", "embedding"):
        np.testing.assert_array_equal(getattr(fitted.projector, name), getattr(whole.projector, name))
    np.testing.assert_array_equal(fitted.eigenvalues, whole.eigenvalues)
    assert sketch.loss == {}


def test_projection_on_the_device_is_the_projectors():
    sketch = fit_sketch(ROWS[:300], PARAMETERS, held_out=ROWS[300:400])
    projection = Projection(sketch, 128, torch.device("cpu"))
    vectors = projection(0, torch.from_numpy(ROWS[400:].astype(np.float32))).numpy()
    expected = sketch.project(ROWS[400:])
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    assert vectors.shape == (200, 12)


@pytest.mark.parametrize("batch", [7, 128, 200, 512])
def test_mean_counts_every_row_once_whatever_the_batches_and_however_often_a_block_is_done(tmp_path, batch):
    rows = torch.from_numpy(ROWS.astype(np.float32))
    projection = Projection(fit_sketch(ROWS[:300], PARAMETERS), 128, torch.device("cpu"))
    array = tmp_path / "a"
    for block in ((0, 256), (256, 512), (256, 512), (512, 600)):  # the second once more, as after a kill
        for start in range(*block, batch):
            stop = min(block[1], start + batch)
            projection(start, torch.zeros(stop - start, 8, 4, 4))
            projection(start, rows[start:stop])  # a layer run twice: its last output counts
            projection.count()
            for chunk, outputs in projection.take_sums(stop, ends_block=stop == block[1]).items():
                store_sum(array, chunk, outputs)
    assert len(list(sums_folder(array).iterdir())) == 5
    expected = ROWS.reshape(600, -1).astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(mean_of_sums(array, 600), expected, rtol=1e-5)


def test_many_small_outputs_are_not_lost_beside_a_large_sum(tmp_path):
    array = tmp_path / "a"
    for chunk, value in enumerate([2.0**30] + [1.0] * 64):
        store_sum(array, chunk, torch.full((1,), value))
    assert mean_of_sums(array, 2)[0] == np.float32((2.0**30 + 64) / 2)


def test_float16_vectors_keep_the_neighbours():
    vectors = fit_sketch(ROWS, PARAMETERS).points
    exact, _ = exact_neighbors(vectors, 15)
    stored, _ = exact_neighbors(vectors.astype(np.float16).astype(np.float32), 15)
    overlap = np.mean([len(np.intersect1d(a, b)) / 15 for a, b in zip(exact, stored, strict=True)])
    assert overlap > 0.99


def test_loss_is_small_where_the_axes_span_the_data_and_large_where_they_do_not():
    classes = (np.arange(600) % 3).astype(np.int64)
    spans = sketch_loss(fit_sketch(ROWS[:300], PARAMETERS), ROWS[300:], classes[300:], k=10)
    few = sketch_loss(fit_sketch(ROWS[:300], replace(PARAMETERS, pca_components=2)), ROWS[300:], classes[300:], k=10)
    assert spans["sketch_variance_captured"] > 0.99
    assert spans["sketch_knn_overlap"] > 0.95
    assert abs(spans["sketch_knn_accuracy_loss"]) < 0.05
    assert few["sketch_variance_captured"] < 0.6
    assert few["sketch_knn_overlap"] < 0.5
    assert "sketch_knn_accuracy_loss" not in sketch_loss(fit_sketch(ROWS, PARAMETERS), ROWS, None, k=3)


def test_fitted_sketch_reads_back_as_it_was(tmp_path):
    for sketch in (fit_sketch(ROWS, PARAMETERS), fit_sketch(ROWS[:300], PARAMETERS, held_out=ROWS[300:])):
        sketch.save(tmp_path / "fit")
        again = Sketch.load(tmp_path / "fit")
        for name in ("mean", "scale", "components", "eigenvalues", "explained_variance_ratio"):
            np.testing.assert_array_equal(getattr(again, name), getattr(sketch, name))
        assert (again.rows, again.spectrum_rows, again.loss) == (sketch.rows, sketch.spectrum_rows, sketch.loss)
        assert (again.points is None) == (sketch.points is None)


@pytest.mark.parametrize("kind", [Sketch, SketchRecord])
def test_damaged_sketch_files_are_named(tmp_path, kind):
    path = tmp_path / "sketch.safetensors"
    for content in (b"", b"no safetensors", SketchRecord("l", 1.0, "m", "d", "x", np.ones((1, 3)))):
        path.write_bytes(content) if isinstance(content, bytes) else content.save(path)
        if kind is SketchRecord and not isinstance(content, bytes):
            assert kind.load(path).layer == "l"
            continue
        with pytest.raises(CorruptDataError, match=r"sketch\.safetensors"):
            kind.load(path)
    fit_sketch(ROWS[:50], PARAMETERS).save(tmp_path / "fit.safetensors")
    with pytest.raises(CorruptDataError, match=r"fit\.safetensors"):
        SketchRecord.load(tmp_path / "fit.safetensors")


def test_other_map_of_a_sketch_takes_fewer_components_and_no_more():
    projector = fit_map(ROWS, IDS, PARAMETERS).projector
    reduction = reduction_of(projector, replace(PARAMETERS, pca_components=5))
    np.testing.assert_array_equal(reduction.points, projector.pca_points[:, :5])
    assert reduction.components.shape == (5, 128)
    for other in ({"pca_components": 13}, {"pca_components": None}, {"normalize": False}):
        with pytest.raises(ConfigError, match="a sketch of 12 components"):
            reduction_of(projector, replace(PARAMETERS, **other))


def digests(arrays):
    return {key: array.digest for key, array in arrays.items()}


def vectors_of(arrays, layer):
    return ActivationReader.open(arrays[layer, 2.0].path).array()


@pytest.fixture(scope="module")
def drawn(plan):
    """The plan, with a sketch fitted on a part of the samples."""
    return with_recipe(plan, sketch_samples=100)


@pytest.fixture(scope="module")
def arrays(drawn, tmp_path_factory):
    return capture_activations(drawn, drawn.keys, tmp_path_factory.mktemp("drawn"), progress=False)


@pytest.fixture(scope="module")
def whole(plan, tmp_path_factory):
    full = with_recipe(plan, storage="full")
    return capture_activations(full, full.keys, tmp_path_factory.mktemp("full"), progress=False)


def test_vectors_are_the_projections_of_the_full_activations(arrays, whole):
    for (layer, _), array in arrays.items():
        sketch, vectors = Sketch.load(array.sketch), vectors_of(arrays, layer)
        assert (vectors.shape, vectors.dtype) == ((220, 20), np.float16)
        expected = sketch.project(vectors_of(whole, layer))
        assert np.abs(vectors - expected).max() < 4e-3 * np.abs(expected).max()
        assert set(sketch.loss) == {"sketch_variance_captured", "sketch_knn_overlap", "sketch_knn_accuracy_loss"}


def test_mean_of_all_is_that_of_the_full_activations(arrays, whole):
    for (layer, _), array in arrays.items():
        mean = array.mean()
        expected = vectors_of(whole, layer).reshape(220, -1).astype(np.float64).mean(axis=0)
        assert np.abs(mean - expected).max() < 1e-3


def test_no_activation_is_written(arrays, drawn):
    folder = next(iter(arrays.values())).path.parents[2]
    size = sum(file.stat().st_size for file in folder.rglob("*/activations.zarr/c/**/*") if file.is_file())
    assert size <= len(drawn.keys) * (256 * 20 * 2 + 4)


def test_resumed_sketch_ends_with_the_same_digest(drawn, arrays, tmp_path):
    first = capture_activations(drawn, drawn.keys[:1], tmp_path, progress=False)
    path = array_path(tmp_path, drawn.keys[0], "float16")
    next(file for file in path.glob("c/**/*") if file.is_file()).unlink()
    (path / "zarr.json").write_text((path / "zarr.json").read_text().replace('"finished": true', '"finished": false'))
    again = capture_activations(drawn, drawn.keys, tmp_path, progress=False)
    assert digests(first).items() <= digests(again).items()
    assert digests(again) == digests(arrays)
    for key, array in again.items():
        np.testing.assert_array_equal(array.mean(), arrays[key].mean())


def test_layers_beyond_the_memory_are_fitted_in_passes_of_their_own_with_the_same_result(
    drawn, arrays, tmp_path, monkeypatch
):
    passes, most = [], []
    fill = sketching._Fit._fill

    def noted(self, activations):
        passes.append(sorted(activations))
        most.append(sum(values.nbytes for values in activations.values()))
        return fill(self, activations)

    monkeypatch.setattr(sketching._Fit, "_fill", noted)
    memory = (100 + 55) * 2 * 4096 + 1000
    monkeypatch.setattr(sketching, "MEMORY", memory)
    limited = capture_activations(drawn, drawn.keys, tmp_path, progress=False)
    assert passes == [["encoder_block_2"], ["midblock"], ["decoder_block_4"]] or passes == [
        ["encoder_block_2", "midblock"], ["decoder_block_4"]
    ]
    assert max(most) <= memory
    assert digests(limited) == digests(arrays)


def test_layer_too_wide_for_the_memory_is_refused_with_the_numbers(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(sketching, "MEMORY", 300_000)
    with pytest.raises(ConfigError, match=r"layer 'decoder_block_4' has 8\.19 kB a sample.*fewer pca_components"):
        capture_activations(drawn, drawn.keys, tmp_path, progress=False)


def test_layer_beyond_float16_is_fitted_and_kept_in_float32(drawn, tmp_path):
    loud = load_adapter("edm-digits", device="cpu")
    with torch.no_grad():
        loud.model.get_submodule(f"model.{loud.model.model.hook_points['decoder_block_4']}").conv1.weight *= 1e6
    louder = replace(drawn, adapter=loud)
    arrays = capture_activations(louder, louder.keys[1:], tmp_path, progress=False)
    assert [vectors_of(arrays, layer).dtype.name for layer in ("midblock", "decoder_block_4")] == ["float16", "float32"]
    assert fit_sketches(louder, dict.fromkeys(louder.keys[1:], "float32"), tmp_path) == set()


def test_nonfinite_activation_is_named_when_it_is_fitted_on(drawn, tmp_path, monkeypatch):
    sample = drawn.samples.sample_ids[choose_rows(drawn.samples.sample_ids, 100, 10_000).fit[3]]
    original = plan_module.capture

    def broken(adapter, x0, ids, given, sigma, layers, keep):
        def with_nan(layer, own):
            own = own.clone()
            if sample in ids:
                own[list(ids).index(sample), 0] = float("nan")
            return keep(layer, own)

        return original(adapter, x0, ids, given, sigma, layers, with_nan)

    monkeypatch.setattr(plan_module, "capture", broken)
    with pytest.raises(CorruptDataError, match=sample):
        capture_activations(drawn, drawn.keys[1:2], tmp_path, progress=False)


@pytest.mark.parametrize("change", [{"maps": MapParameters(pca_components=None)}, {"sketch_samples": 10}])
def test_sketch_without_components_or_samples_to_fit_on_is_refused(plan, change):
    with pytest.raises(ConfigError, match="storage 'sketch'"):
        with_recipe(plan, **change)


def test_storage_is_part_of_the_fingerprint(plan):
    kinds = [plan, with_recipe(plan, storage="full"), with_recipe(plan, sketch_samples=100)]
    assert len({kind.fingerprint() for kind in kinds}) == 3
    assert len({kind.layer_fingerprint("midblock", 2.0) for kind in kinds}) == 3
    full = with_recipe(plan, storage="full")
    assert full.fingerprint() == with_recipe(full, sketch_samples=7).fingerprint()


def test_rows_held_out_are_those_of_the_set_and_order_does_not_matter(drawn):
    turned = SampleSet.take(drawn.samples, np.arange(220)[::-1])
    assert {turned.sample_ids[r] for r in choose_rows(turned.sample_ids, 100, 999).held_out} == {
        drawn.samples.sample_ids[r] for r in choose_rows(drawn.samples.sample_ids, 100, 999).held_out
    }
