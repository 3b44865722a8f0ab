"""Extraction end to end on real digits: what it logs, reuses, refuses, and how it survives a kill."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from diffviews.core.extractor import capture
from diffviews.data.activations import ActivationReader, ActivationWriter
from diffviews.data.samples import SampleSet
from diffviews.data.sources import open_source
from diffviews.errors import (
    AdapterNotFoundError,
    ConfigError,
    CorruptDataError,
    DiskSpaceError,
    JudgeError,
    LayerNotFoundError,
    SampleSetError,
    TrackingError,
)
from diffviews.noise import sample_noise
from diffviews.pipelines.workspace import open_workspace
from diffviews.processing.map_parameters import MapParameters
from diffviews.tracking.notes import NOTE
from diffviews.tracking.schema import Tag
from tests.jobs import embed, extract, metric_series

ROOT = Path(__file__).parents[2]
MEASURES = {
    "trustworthiness", "continuity", "knn_accuracy_activation", "knn_accuracy_map", "silhouette",
    "sampled_effective_rank", "sampled_intrinsic_dimension", "space_samples", "held_out_variance",
    "control_rate", "control_rate_low", "control_rate_high", "control_n", "control_baseline", "control_p",
    "control_global_mean", "control_mixed_means", "control_random_direction", "control_on_manifold",
    "control_on_manifold_baseline", "control_loss_ratio", "control_rejects", "nonfinite",
}  # fmt: skip
SMALL = {"layers": ("midblock",), "sigmas": (2.0,), "max_samples": 60}


def test_every_layer_and_sigma_is_a_finished_child_with_all_measures(workspace, extraction):
    layers = workspace.catalog.layers(extraction.run_id)
    assert [(r.layer, r.sigma) for r in layers] == [
        ("encoder_bottleneck", 0.5), ("encoder_bottleneck", 2.0), ("decoder_block_4", 0.5), ("decoder_block_4", 2.0),
    ]  # fmt: skip
    for record in layers:
        assert record.is_finished
        assert set(record.metrics) >= MEASURES
        assert all(np.isfinite(value) for value in record.metrics.values())
        assert record.model == "edm-digits"
        assert record.dataset == "digits"
        assert record.source_run == record.parent_id == extraction.run_id
        names = set(workspace.folder(record.run_id).names())
        assert {"map.png", "map/points.parquet", "map/projector.safetensors", "activations.zarr/zarr.json"} <= names
        own = pd.read_parquet(workspace.folder(record.run_id).path("control.parquet")).query("mask == 'own'")
        assert len(own) == record.metrics["control_n"] == 10
        assert np.mean(own["masked"] == own["target_class"]) == record.metrics["control_rate"]
        workspace.folder(record.run_id).verify()
    workspace.folder(extraction.run_id).verify()


@pytest.mark.parametrize(("conditioning", "told"), [("label", True), ("uniform", False)])
def test_measures_by_class_are_left_out_where_the_model_was_told_the_class(conditioning, told, own_store):
    workspace = open_workspace()
    outcome = extract(**{**SMALL, "sigmas": (80.0,)}, conditioning=conditioning)
    (layer_run,) = workspace.catalog.layers(outcome.run_id)
    remapped = workspace.catalog.map(embed(layer_run.run_id, MapParameters(n_neighbors=5), workspace).run_id)
    by_class = {"knn_accuracy_activation", "knn_accuracy_map", "silhouette", "silhouette_map"}
    for record in (layer_run, remapped):
        assert by_class & record.metrics.keys() == (set() if told else by_class)
        assert "trustworthiness" in record.metrics
    tags = workspace.catalog.connection.call(lambda client: client.get_run(layer_run.run_id)).data.tags
    assert ("the model was told each sample's class" in tags[NOTE]) == told


def test_nothing_of_the_work_is_left_beside_the_artifacts(workspace, extraction):
    for record in [workspace.catalog.extraction(extraction.run_id), *workspace.catalog.layers(extraction.run_id)]:
        assert not (workspace.folder(record.run_id).root.parent / "work").exists()


def test_pictures_of_all_layers_share_one_key(workspace, extraction):
    for record in workspace.catalog.layers(extraction.run_id):
        listed = workspace.catalog.connection.call(lambda client, r=record: client.list_artifacts(r.run_id, "images"))
        assert all(entry.path.startswith("images/map%") or entry.path.startswith("images/map+") for entry in listed)
        assert listed


def test_variance_curve_is_a_step_metric(workspace, layer_run):
    curve = metric_series(workspace, layer_run.run_id, "pca_held_out_variance")
    assert len(curve) == 50
    assert [step for step, _ in curve] == list(range(50))


def test_parent_holds_the_table_the_similarity_and_the_montage(workspace, extraction):
    folder = workspace.folder(extraction.run_id)
    table = pd.read_csv(folder.path("layers.csv"))
    assert len(table) == 4
    assert set(table.columns) >= MEASURES
    for sigma in ("0.5", "2"):
        cka = pd.read_csv(folder.path(f"cka/{sigma}.csv"), index_col="layer")
        assert list(cka.index) == list(cka.columns) == ["encoder_bottleneck", "decoder_block_4"]
        assert np.allclose(np.diag(cka), 1, atol=1e-5)
        assert 0 < cka.iloc[0, 1] < 0.999
    assert Image.open(folder.path("montage.png")).size[0] > 100


def test_sample_set_of_the_parent_is_the_source(workspace, layer_run):
    logged, source = workspace.samples_of(layer_run), open_source("digits", max_samples=120)
    assert logged.digest == source.digest


def test_stored_activations_are_those_of_the_noised_samples(workspace, layer_run, adapter):
    samples = workspace.samples_of(layer_run)
    chosen = [samples.sample_ids[101], samples.sample_ids[7]]
    own = captured(adapter, layer_run, samples.images_of(chosen), chosen)
    assert np.allclose(workspace.activations(layer_run).rows(chosen), own, atol=2e-2, rtol=2e-3)


def captured(adapter, record, images, ids):
    """Return a layer's output at x0 + sigma · noise(id), unconditional, by a plain hook."""
    x0, seen = adapter.encode(images), {}
    handles = adapter.register_activation_hooks([record.layer], lambda module, inputs, output: seen.update(own=output))
    with torch.no_grad():
        adapter.forward(x0 + record.sigma * sample_noise(ids, x0.shape[1:]), record.sigma)
    for handle in handles:
        handle.remove()
    return seen["own"].numpy()


def test_points_keep_the_order_of_their_sample_ids(workspace, extraction):
    for record in workspace.catalog.layers(extraction.run_id):
        points = pd.read_parquet(workspace.folder(record.run_id).path("map/points.parquet"))
        assert tuple(points["sample_id"]) == workspace.activations(record).sample_ids
        (projector,) = workspace.projectors(record.run_id).values()
        placed = projector.transform(workspace.activations(record).rows(list(points["sample_id"][:5])))
        assert np.allclose(placed.coordinates, points[["x", "y"]][:5], atol=1e-5)


def test_neighbours_of_a_layer_are_those_of_its_activations_and_not_of_its_map(workspace, layer_run):
    (projector,) = workspace.projectors(layer_run.run_id).values()
    points = projector.project(workspace.activations(layer_run).array()).astype(float)
    own = np.linalg.norm(points - points[11], axis=1)
    own[11] = np.inf
    indices, _ = projector.neighbors(11, 5)
    assert list(np.ravel(indices)) == list(np.argsort(own)[:5])
    on_map, _ = projector.neighbors(11, 5, space="map")
    assert list(np.ravel(on_map)) != list(np.ravel(indices))


def test_same_fingerprint_is_reused_and_force_runs_again(experiment):
    first = extract(**SMALL, experiment=experiment)
    assert not first.reused
    again = extract(**SMALL, experiment=experiment)
    assert again.reused
    assert again.run_id == first.run_id
    forced = extract(**SMALL, experiment=experiment, force=True)
    assert forced.run_id != first.run_id
    assert forced.digests == first.digests
    other = extract(**{**SMALL, "sigmas": (1.0,)}, experiment=experiment)
    assert not other.reused
    assert set(other.digests.values()).isdisjoint(first.digests.values())


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"model": "edm-digit"}, AdapterNotFoundError, "did you mean 'edm-digits'"),
        ({"layers": ("mid_block",)}, LayerNotFoundError, "did you mean 'midblock'"),
        ({"layers": ()}, LayerNotFoundError, "no layer is named"),
        ({"dataset": "digit"}, SampleSetError, "digits"),
        ({"dataset": "folder:nowhere"}, SampleSetError, "nowhere"),
        ({"sigmas": ()}, ConfigError, "sigmas"),
        ({"sigmas": (0.0,)}, ConfigError, "sigmas"),
        ({"sigmas": (1.0, 1.0)}, ConfigError, "sigmas"),
        ({"sigmas": (float("inf"),)}, ConfigError, "sigmas"),
        ({"max_samples": 15}, ConfigError, "n_neighbors 15 needs more than 15 samples"),
        ({"batch_size": 0}, ConfigError, "batch_size is 0"),
        ({"checkpoint": "nowhere.safetensors"}, Exception, "nowhere.safetensors"),
    ],
)
def test_impossible_input_is_refused_before_a_run_is_made(own_store, wrong, error, words):
    with pytest.raises(error, match=words):
        extract(**{**SMALL, **wrong})
    assert not (own_store / "mlruns").exists()


def test_judge_is_chosen_logged_compared_and_refused_below_its_floor(workspace, experiment):
    control = {"control_seeds": 1, "control_null_seeds": 0, "control_matched": False, "control_windows": False}
    options = {**SMALL, "max_samples": 120, **control, "experiment": experiment}
    made = extract(**options, judge="knn:encoder_block_3@0.2", second_judge="svc")
    parent = workspace.catalog.run(made.run_id)
    assert parent.params["judge"] == "knn:encoder_block_3@0.2"
    told = {name for name in parent.metrics if name.startswith("judge_")}
    assert told == {
        "judge_accuracy", "judge_rejects", "judge_held_out", "judge_rejects_unmasked", "judge_agreement", "judge_kappa",
        "judge_accuracy_unmasked",
    }  # fmt: skip
    assert parent.metrics["judge_accuracy"] >= 0.9
    (layer,) = workspace.catalog.layers(made.run_id)
    assert 0 <= layer.metrics["control_corrected"] <= 1
    with pytest.raises(JudgeError, match=r"below its floor of 0\.900"):
        extract(**options, judge="knn:midblock@40")


def test_unlabelled_samples_are_refused_where_classes_are_needed(experiment, tmp_path):
    digits = open_source("digits", max_samples=40)
    SampleSet.from_images(digits.images, digits.sample_ids).write_parquet(tmp_path / "bare.parquet")
    bare = {"dataset": f"parquet:{tmp_path}/bare.parquet", "layers": ("midblock",), "sigmas": (2.0,)}
    for wanting in ({"control_seeds": 1}, {"conditioning": "label"}):
        with pytest.raises(ConfigError, match="40 have none"):
            extract(**bare, **wanting, experiment=experiment)
    outcome = extract(**bare, experiment=experiment)
    (record,) = open_workspace().catalog.layers(outcome.run_id)
    assert "knn_accuracy_activation" not in record.metrics


def test_too_small_a_disk_is_refused_before_anything_is_written(experiment, store, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(DiskSpaceError, match=r"131 kB are needed .* only 1 kB free"):
        extract(**SMALL, experiment=experiment)
    (run,) = open_workspace().catalog.extractions(experiment, unfinished=True)
    assert run.status == "FAILED"
    assert "only 1 kB free" in run.error
    assert not list(Path(store).rglob(f"{run.run_id}/**/activations.zarr"))


def test_layer_beyond_float16_is_stored_in_float32(experiment, monkeypatch):
    def with_large_values(*arguments):
        *others, keep = arguments
        louder = {"encoder_block_0": 1e6}
        return capture(*others, lambda layer, own: keep(layer, own * louder.get(layer, 1)))

    monkeypatch.setattr("diffviews.pipelines.plan.capture", with_large_values)
    outcome = extract(**{**SMALL, "layers": ("encoder_block_0", "midblock")}, experiment=experiment)
    workspace = open_workspace()
    first, second = map(workspace.activations, workspace.catalog.layers(outcome.run_id))
    assert (first.dtype, second.dtype) == (np.float32, np.float16)
    assert first.nonfinite == second.nonfinite == 0
    assert np.abs(first.array()).max() > 65504


def test_nan_activations_are_counted_reported_and_not_replaced(experiment, store, monkeypatch):
    def with_nan(adapter, x0, sample_ids, *arguments):
        *others, keep = arguments

        def broken(layer, own):
            own = own.clone()
            own[list(sample_ids).index("digits-0003"), 5] = float("nan")
            return keep(layer, own)

        return capture(adapter, x0, sample_ids, *others, broken)

    monkeypatch.setattr("diffviews.pipelines.plan.capture", with_nan)
    with pytest.raises(CorruptDataError, match=r"16 .*1 .*digits-0003"):
        extract(**SMALL, experiment=experiment, force=True)  # and no row of another test's extraction
    catalog = open_workspace().catalog
    (run,) = catalog.extractions(experiment, unfinished=True)
    assert run.status == "FAILED"
    assert f"{SMALL['layers'][0]} · σ" in run.error
    assert "digits-0003" in run.error
    assert not catalog.layers(run.run_id, unfinished=True)
    (array,) = store.rglob(f"{run.run_id}/work/**/activations.zarr")
    reader = ActivationReader.open(array)
    assert reader.nonfinite == 4 * 4
    assert np.argwhere(np.isnan(reader.rows(["digits-0003"])[0]).all(axis=(1, 2))).ravel().tolist() == [5]


def test_corrupt_chunk_is_named(experiment, store):
    outcome = extract(**SMALL, experiment=experiment)
    workspace = open_workspace()
    (record,) = workspace.catalog.layers(outcome.run_id)
    chunk = workspace.folder(record.run_id).path("activations.zarr/c/0/0/0/0")
    damaged = bytearray(chunk.read_bytes())
    damaged[100] ^= 1
    chunk.write_bytes(damaged)
    with pytest.raises(CorruptDataError, match="c/0/0/0/0"):
        workspace.activations(record).array()
    with pytest.raises(CorruptDataError, match=r"activations\.zarr/c/0"):
        workspace.folder(record.run_id).verify()


def test_interrupted_extraction_is_killed_with_its_reason_and_ctrl_c_still_works(experiment, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("diffviews.pipelines.plan.capture", interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract(**SMALL, experiment=experiment)
    assert signal.getsignal(signal.SIGINT) is before
    (run,) = open_workspace().catalog.extractions(experiment, unfinished=True)
    assert (run.status, run.error) == ("KILLED", "interrupted by the user")


LARGE = {"layers": ("midblock", "decoder_block_7"), "sigmas": (0.5, 2.0), "max_samples": 300, "batch_size": 32}
"""Three chunks of decoder_block_7 at each sigma, so that a kill lands between chunks."""


def start(store, environment, experiment, *words):
    """Start `diffviews extract` in a process of its own."""
    command = [sys.executable, "-m", "diffviews", "extract", "--layers", ",".join(LARGE["layers"]), "--sigmas", "0.5,2"]
    command += ["--max-samples", "300", "--batch-size", "32", "--experiment", experiment, *words]
    return subprocess.Popen(
        command, cwd=store, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_until(process, holds):
    """Wait until something holds while a process runs."""
    deadline = time.monotonic() + 280  # a machine busy with other tests
    while not holds():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def kill(process):
    """End a process the hard way."""
    process.send_signal(signal.SIGKILL)
    process.communicate()


def artifacts_of(store, experiment):
    return store / "mlartifacts" / experiment


def chunks(folder):
    """Return {place of a finished chunk: the file it is}."""
    files = [path for path in folder.rglob("*activations.zarr/c/**/*") if path.is_file() and path.name.isdigit()]
    return {str(path.relative_to(folder)): path.stat().st_ino for path in files}


@pytest.fixture(scope="module")
def straight(store):
    """The digests of an extraction that nothing interrupted."""
    return extract(**LARGE, experiment="straight").digests


def test_full_disk_fails_the_run_with_a_sentence_and_the_resume_loses_nothing(experiment, straight, monkeypatch):
    write, written = ActivationWriter.write, []

    def write_until_full(self, start_row, rows):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(start_row)
        write(self, start_row, rows)

    with monkeypatch.context() as patch:
        patch.setattr(ActivationWriter, "write", write_until_full)
        with pytest.raises(OSError, match="No space left"):
            extract(**LARGE, experiment=experiment)
    (run,) = open_workspace().catalog.extractions(experiment, unfinished=True)
    assert run.status == "FAILED"
    assert "No space left" in run.error
    outcome = extract(**LARGE, experiment=experiment, resume=True)
    assert outcome.run_id == run.run_id
    assert outcome.digests == straight


def test_extraction_has_one_writer_and_killed_twice_resumes_to_the_same_digests(
    experiment, store, straight, command_environment
):
    folder, catalog = artifacts_of(store, experiment), open_workspace().catalog
    killed = start(store, command_environment, experiment)
    wait_until(killed, lambda: len(chunks(folder)) >= 2)
    killed.send_signal(signal.SIGSTOP)
    with pytest.raises(TrackingError, match=rf"is being written by .*:{killed.pid}"):
        extract(**LARGE, experiment=experiment, resume=True)
    kill(killed)
    kept = chunks(folder)
    (parent,) = catalog.extractions(experiment, unfinished=True)

    resumed = start(store, command_environment, experiment, "--resume")
    wait_until(resumed, lambda: any(folder.rglob("map.png")))
    kill(resumed)
    assert kept.items() <= chunks(folder).items()
    assert not catalog.extractions(experiment)

    outcome = extract(**LARGE, experiment=experiment, resume=True)
    assert outcome.run_id == parent.run_id
    assert outcome.digests == straight
    assert len(straight) == 4
    assert [run.status for run in catalog.layers(parent.run_id, unfinished=True)] == ["FINISHED"] * 4
    for run_id in [parent.run_id, *(run.run_id for run in catalog.layers(parent.run_id))]:
        catalog.artifacts(run_id).verify()
    assert extract(**LARGE, experiment=experiment).reused


def test_mlflow_run_makes_the_layer_run_and_then_reuses_it(own_store, command_environment):
    uri = f"sqlite:///{own_store}/tracking.db"
    environment = command_environment | {
        "MLFLOW_TRACKING_URI": uri, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "-e", "extract", "--env-manager", "local"]
    for parameter in ("layers=midblock", "sigmas=2", "max_samples=60"):
        command += ["-P", parameter]
    for _ in range(2):
        done = subprocess.run(command, cwd=own_store, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    from diffviews.tracking.catalog import Catalog

    catalog = Catalog(uri)
    (parent,) = catalog.extractions(unfinished=True)
    (record,) = catalog.layers(parent.run_id)
    assert parent.is_finished
    assert (record.layer, record.sigma) == ("midblock", 2.0)
    catalog.artifacts(record).verify()
    runs = catalog.connection.call(lambda client: client.search_runs([parent.experiment_id]))
    (second,) = [run for run in runs if run.info.run_id not in (parent.run_id, record.run_id)]
    assert second.info.status == "FINISHED"
    assert second.data.tags[Tag.REUSED_RUN] == parent.run_id
    assert catalog.artifacts(record).root.is_relative_to(own_store)


def test_what_layers_know_is_measured_where_it_is_asked_for(experiment):
    layers = ("encoder_block_2", "midblock")
    run = extract(**SMALL | {"layers": layers}, knows=True, knows_samples=50, experiment=experiment)
    workspace = open_workspace()
    records = workspace.catalog.layers(run.run_id)
    for record in records:
        for reader in ("knn", "probe"):
            named = {f"knows_{reader}", f"knows_{reader}_sd", f"gain_{reader}", f"gain_{reader}_p", f"random_{reader}"}
            assert named <= record.metrics.keys()
    assert sum(record.metrics["knows_best"] for record in records) >= 1
    folder = workspace.folder(run.run_id)
    table = pd.read_csv(folder.path("knows/2.csv"))
    assert table["layer"].tolist() == ["encoder_block_2", "midblock"]
    assert table["knows_knn"].tolist() == [pytest.approx(record.metrics["knows_knn"]) for record in records]
    assert Image.open(folder.path("knows/2.png")).size[0] > 100
    parent = workspace.catalog.connection.call(lambda client: client.get_run(run.run_id)).data.metrics
    assert {"input_knn-2", "input_probe-2", "denoised_knn-2", "denoised_probe-2"} <= parent.keys()
    assert record.metrics["gain_knn"] == pytest.approx(record.metrics["knows_knn"] - parent["input_knn-2"])
