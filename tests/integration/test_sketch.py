"""Sketch mode end to end: its runs hold no activations, and all that is done with them works or says why not."""

import logging
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from diffviews.data.storage.cache import Cache
from diffviews.errors import ConfigError, SelectionError, ShapeError
from diffviews.pipelines.generate import generate
from diffviews.pipelines.layers.alike import compare_layers
from diffviews.pipelines.layers.nearest import OpenedLayer, fill_from_run, log_entry
from diffviews.pipelines.masks import interventions_of
from diffviews.pipelines.replay import replay
from diffviews.pipelines.workspace import open_workspace
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.sketch import SKETCH_FILE
from diffviews.recipes import GenerationRecipe, Sampling
from diffviews.tracking.schema import MapKind
from tests.jobs import embed, extract

OPTIONS = {
    "layers": ("encoder_bottleneck", "decoder_block_4"), "sigmas": (2.0, 0.5), "max_samples": 120,
    "control_seeds": 1, "control_null_seeds": 1, "control_windows": False, "control_matched": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def sketched(workspace):
    """The extraction of the shared store once more, as a sketch fitted on all its samples."""
    return extract(**OPTIONS, storage="sketch", experiment="sketched")


@pytest.fixture(scope="module")
def drawn(workspace):
    """The same fitted on sixty of the samples."""
    return extract(
        **{**OPTIONS, "control_seeds": 0}, storage="sketch", sketch_samples=60, experiment="drawn",
        maps=MapParameters(pca_components=20),
    )  # fmt: skip


def layer_of(workspace, outcome, layer="decoder_block_4", sigma=2.0):
    found = workspace.catalog.layers(outcome.run_id)
    return next(record for record in found if (record.layer, record.sigma) == (layer, sigma))


def test_sketch_of_few_samples_is_the_full_extraction_without_its_activations(workspace, extraction, sketched):
    assert sketched.run_id != extraction.run_id
    for full, record in zip(
        workspace.catalog.layers(extraction.run_id), workspace.catalog.layers(sketched.run_id), strict=True
    ):
        (whole,), (kept,) = (workspace.projectors(run.run_id).values() for run in (full, record))
        for name in ("scaler_mean", "scaler_scale", "pca_components", "pca_points", "embedding"):
            np.testing.assert_allclose(getattr(kept, name), getattr(whole, name), atol=1e-5, rtol=1e-5)
        measured = set(full.metrics) - {"nonfinite", "control_p", "control_rate_low", "control_rate_high"}
        assert {name: record.metrics[name] for name in measured} == pytest.approx(
            {name: full.metrics[name] for name in measured}, abs=0.101  # control rates count single images
        )
        names = workspace.folder(record.run_id).names()
        assert SKETCH_FILE in names
        assert not [name for name in names if name.startswith(("activations.zarr", "sketch.zarr"))]
        workspace.folder(record.run_id).verify()


def test_loss_on_held_out_samples_is_a_metric_of_each_layer_run(workspace, drawn):
    for record in workspace.catalog.layers(drawn.run_id):
        assert record.metrics["sketch_rows"] == 60
        assert 0.5 < record.metrics["sketch_variance_captured"] < 1
        assert 0.5 < record.metrics["sketch_knn_overlap"] <= 1
        assert abs(record.metrics["sketch_knn_accuracy_loss"]) < 0.3


@pytest.mark.parametrize("mode", ["replace", "add"])
@pytest.mark.parametrize("which", ["sketched", "drawn"])
def test_mask_captured_anew_is_the_stored_one(workspace, adapter, extraction, request, which, mode):
    outcome = request.getfixturevalue(which)
    ids = workspace.samples_of(layer_of(workspace, extraction)).of_classes([3]).sample_ids[4::-1]
    targets = []
    for run in (extraction, outcome):
        layer, layers = layer_of(workspace, run), ("decoder_block_4", "encoder_bottleneck")
        recipe = GenerationRecipe(layer_run=layer.run_id, sample_ids=ids, mode=mode, layers=layers)
        made = interventions_of(recipe, layer, adapter, workspace)
        targets.append({item.layer: item.target.at(2.0) for item in made})
    stored, anew = targets
    assert set(anew) == set(stored) == {"decoder_block_4", "encoder_bottleneck"}
    for layer, value in stored.items():
        assert anew[layer].shape == value.shape
        assert (anew[layer] - value).abs().max() < 2e-3 * value.abs().max()


def test_generation_from_a_sketch_is_logged_and_replayed(workspace, adapter, drawn):
    record = layer_of(workspace, drawn)
    ids = workspace.samples_of(record).of_classes([3]).sample_ids[:5]
    recipe = GenerationRecipe(layer_run=record.run_id, sample_ids=ids, num_samples=1, sampling=Sampling(num_steps=3))
    outcome = generate(recipe, workspace, adapter=adapter)
    assert outcome.path is not None
    replay(outcome.run_id, open_workspace(), device="cpu")


def test_mask_of_unknown_samples_or_other_weights_is_refused(workspace, adapter, drawn, monkeypatch):
    recipe = GenerationRecipe(layer_run=layer_of(workspace, drawn).run_id, sample_ids=("digits-9999",))
    with pytest.raises(SelectionError, match="digits-9999"):
        interventions_of(recipe, layer_of(workspace, drawn), adapter, workspace)
    monkeypatch.setattr(adapter, "digest", lambda: "other", raising=False)
    with pytest.raises(ShapeError, match="captured from other weights"):
        interventions_of(recipe, layer_of(workspace, drawn), adapter, workspace)


def test_similarity_of_sketched_layers_is_near_that_of_their_activations(workspace, extraction, sketched):
    for sigma in ("0.5", "2"):
        whole, kept = (
            pd.read_csv(workspace.folder(run.run_id).path(f"cka/{sigma}.csv"), index_col="layer")
            for run in (extraction, sketched)
        )
        assert list(kept.index) == list(whole.index)
        assert np.abs(kept.to_numpy() - whole.to_numpy()).max() < 0.05


def test_layers_of_several_extractions_are_compared_on_the_samples_they_share(workspace, extraction, sketched):
    records = [layer_of(workspace, run) for run in (extraction, sketched)]
    records.append(next(r for r in workspace.catalog.layers(extraction.run_id) if r.layer != records[0].layer))
    similarity = compare_layers(workspace, records)
    assert [name.split(" · ")[1] for name in similarity.names] == [record.parent_id for record in records]
    assert similarity.cka[0, 1] > 0.95
    assert similarity.mutual_knn[0, 1] > 0.6
    assert similarity.cka[0, 2] < similarity.cka[0, 1]
    logged = pd.read_csv(workspace.folder(extraction.run_id).path("similarity/2.csv"))
    assert similarity.cka[0, 2] == pytest.approx(logged["cka"][1], abs=1e-5) or records[2].sigma != 2.0
    with pytest.raises(SelectionError, match="share 0 samples"):
        compare_layers(workspace, [])


def test_further_maps_of_a_sketch_are_single_or_aligned_and_not_joint(workspace, drawn):
    record, parameters = layer_of(workspace, drawn), MapParameters(n_neighbors=10, pca_components=12)
    single = embed(record.run_id, parameters, workspace)
    (projector,) = workspace.projectors(single.run_id).values()
    (own,) = workspace.projectors(record.run_id).values()
    np.testing.assert_array_equal(projector.pca_points, own.pca_points[:, :12])
    aligned = embed(record.run_id, replace(parameters, pca_components=20), workspace, kind=MapKind.ALIGNED)
    assert set(workspace.projectors(aligned.run_id)) == {0.5, 2.0}
    with pytest.raises(ConfigError, match="joint map needs the same for all; make an aligned map"):
        embed(record.run_id, parameters, workspace, kind=MapKind.JOINT)
    with pytest.raises(ConfigError, match="a sketch of 20 components"):
        embed(record.run_id, MapParameters(pca_components=50), workspace)


def test_activations_of_a_sketch_are_refused_in_a_sentence(workspace, drawn):
    with pytest.raises(ConfigError, match="keeps a sketch and no activations; extract it with storage full"):
        workspace.activations(layer_of(workspace, drawn))


def test_sketched_layer_goes_through_the_cache_into_a_run_of_its_own(workspace, drawn, store, tmp_path):
    record, cache = layer_of(workspace, drawn), Cache(tmp_path / "cache")
    entry = cache.add(record.fingerprint, partial(fill_from_run, workspace, record.run_id))
    with OpenedLayer(entry.folder, entry.manifest, entry.lease, "run", record.run_id) as opened:
        elsewhere = open_workspace(experiment="elsewhere")
        logged = elsewhere.catalog.layer(log_entry(elsewhere, opened))
        assert tuple(opened.points()["sample_id"]) == opened.samples().sample_ids
    assert elsewhere.sketch(logged).digest == workspace.sketch(record).digest
    np.testing.assert_array_equal(elsewhere.sketch(logged).mean, workspace.sketch(record).mean)
    with pytest.raises(ConfigError, match="keeps a sketch"):
        elsewhere.activations(logged)


def test_announced_bytes_are_those_of_the_vectors(experiment, caplog):
    caplog.set_level(logging.INFO, "diffviews.pipelines.capture")
    extract(layers=("decoder_block_4",), sigmas=(2.0,), max_samples=60, storage="sketch", experiment=experiment)
    said = [record.getMessage() for record in caplog.records if "to be written" in record.getMessage()]
    assert said == ["60 samples × 1 layer runs: 12.8 kB of vectors, 12.8 kB of them still to be written"]


def test_same_sketch_is_reused_and_another_fit_is_not(drawn):
    again = extract(
        **{**OPTIONS, "control_seeds": 0}, storage="sketch", sketch_samples=60, experiment="drawn",
        maps=MapParameters(pca_components=20),
    )  # fmt: skip
    assert (again.reused, again.run_id) == (True, drawn.run_id)


KILLED = {"layers": ("midblock", "decoder_block_7"), "sigmas": (0.5, 2.0), "max_samples": 200}


@pytest.mark.slow
@pytest.mark.parametrize("written", ["fitted-sketch.safetensors", "sums"])
def test_killed_sketch_resumes_to_the_digests_of_an_uninterrupted_one(store, command_environment, written):
    experiment = f"killed-{written.partition('.')[0]}"
    maps = MapParameters(pca_components=20)
    words = ["--layers", "midblock,decoder_block_7", "--sigmas", "0.5,2", "--max-samples", "200", "--storage", "sketch"]
    words += ["--sketch-samples", "60", "--pca-components", "20", "--batch-size", "16", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "diffviews", "extract", *words, "--experiment", experiment],
        cwd=store, env=command_environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    folder, deadline = store / "mlartifacts" / experiment, time.monotonic() + 120
    while not any(folder.rglob(written)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.communicate()
    (parent,) = open_workspace().catalog.extractions(experiment, unfinished=True)
    assert not parent.is_finished
    options = {**KILLED, "storage": "sketch", "sketch_samples": 60, "maps": maps, "batch_size": 16, "device": "cpu"}
    outcome = extract(**options, experiment=experiment, resume=True)
    straight = extract(**options, experiment=f"{experiment}-straight", force=True)
    assert outcome.run_id == parent.run_id
    assert outcome.digests == straight.digests
