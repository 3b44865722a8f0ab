"""Extraction end to end on real digits: what it logs, reuses, refuses, and how it survives a kill."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from diffviews.adapters.registry import load_adapter
from diffviews.errors import ConfigError, DiskSpaceError, LayerNotFoundError
from diffviews.noise import sample_noise
from diffviews.pipelines.extract import extract

MEASURES = {
    "trustworthiness", "continuity", "knn_accuracy_activation", "knn_accuracy_map", "silhouette",
    "effective_rank", "intrinsic_dimension", "control_rate", "control_baseline", "nonfinite",
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
        names = set(workspace.folder(record.run_id).names())
        assert {"map.png", "map/points.parquet", "map/projector.safetensors", "activations.zarr/zarr.json"} <= names
        workspace.folder(record.run_id).verify()


def test_pictures_of_all_layers_share_one_key(workspace, extraction):
    for record in workspace.catalog.layers(extraction.run_id):
        listed = workspace.catalog.connection.call(lambda client, r=record: client.list_artifacts(r.run_id, "images"))
        assert all(entry.path.startswith("images/map%") or entry.path.startswith("images/map+") for entry in listed)
        assert listed


def test_variance_curve_is_a_step_metric(workspace, extraction):
    curve = workspace.catalog.metric_series(
        workspace.catalog.layers(extraction.run_id)[0].run_id, "pca_explained_variance"
    )
    assert len(curve) == 50
    assert [step for step, _ in curve] == list(range(50))


def test_parent_holds_the_table_the_similarity_and_the_montage(workspace, extraction):
    folder = workspace.folder(extraction.run_id)
    table = pd.read_csv(folder.path("layers.csv"))
    assert len(table) == 4
    assert MEASURES <= set(table.columns)
    for sigma in ("0.5", "2"):
        cka = pd.read_csv(folder.path(f"cka/{sigma}.csv"), index_col="layer")
        assert list(cka.index) == list(cka.columns) == ["encoder_bottleneck", "decoder_block_4"]
        assert np.allclose(np.diag(cka), 1, atol=1e-5)
    assert Image.open(folder.path("montage.png")).size[0] > 100


def test_stored_activations_are_those_of_the_noised_samples(workspace, extraction):
    record = workspace.catalog.layers(extraction.run_id)[1]
    samples = workspace.samples_of(record)
    chosen = [samples.sample_ids[7], samples.sample_ids[101]]
    adapter = load_adapter("edm-digits", device="cpu")
    x0 = adapter.encode(samples.images_of(chosen))
    seen = {}
    handles = adapter.register_activation_hooks([record.layer], lambda m, i, o: seen.update(own=o))
    with torch.no_grad():
        adapter.forward(x0 + record.sigma * sample_noise(chosen, x0.shape[1:]), record.sigma)
    for handle in handles:
        handle.remove()
    stored = workspace.activations(record).rows(chosen)
    assert np.allclose(stored, seen["own"].numpy(), atol=2e-2, rtol=2e-3)


def test_points_keep_the_order_of_their_sample_ids(workspace, extraction):
    for record in workspace.catalog.layers(extraction.run_id):
        points = pd.read_parquet(workspace.folder(record.run_id).path("map/points.parquet"))
        assert tuple(points["sample_id"]) == workspace.activations(record).sample_ids
        (projector,) = workspace.projectors(record.run_id).values()
        placed = projector.transform(workspace.activations(record).rows(list(points["sample_id"][:5])))
        assert np.allclose(placed.coordinates, points[["x", "y"]][:5], atol=1e-5)


def test_same_fingerprint_is_reused_and_force_runs_again(store):
    first = extract(**SMALL)
    assert not first.reused
    again = extract(**SMALL)
    assert again.reused
    assert again.run_id == first.run_id
    forced = extract(**SMALL, force=True)
    assert forced.run_id != first.run_id
    assert forced.digests == first.digests


def test_unknown_layer_offers_the_nearest(store):
    with pytest.raises(LayerNotFoundError, match="did you mean 'midblock'"):
        extract(layers=("mid_block",))


@pytest.mark.parametrize("sigmas", [(), (0.0,), (1.0, 1.0), (float("inf"),), (-1.0,)])
def test_impossible_sigmas_are_refused(store, sigmas):
    with pytest.raises(ConfigError, match="sigmas"):
        extract(layers=("midblock",), sigmas=sigmas)


def test_too_small_a_disk_is_refused_before_anything_is_written(store, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(DiskSpaceError, match="1 kB free"):
        extract(**{**SMALL, "max_samples": 61})


def test_a_layer_beyond_float16_is_stored_in_float32(store, tmp_path):
    adapter = load_adapter("edm-digits", device="cpu")
    from safetensors.torch import save_file

    weights = {name: tensor.clone() for name, tensor in adapter.model.state_dict().items()}
    weights["model.enc.16x16_conv.weight"] *= 1e6
    path = tmp_path / "large.safetensors"
    config = {key: value for key, value in adapter.config.items() if key not in ("sigma_min", "sigma_max")}
    save_file(weights, path, metadata={"config": json.dumps(config)})
    outcome = extract(checkpoint=str(path), layers=("encoder_block_0",), sigmas=(2.0,), max_samples=60)
    from diffviews.pipelines.workspace import open_workspace

    workspace = open_workspace()
    (record,) = workspace.catalog.layers(outcome.run_id)
    reader = workspace.activations(record)
    assert reader.dtype == np.float32
    assert reader.nonfinite == 0
    assert np.abs(reader.array()).max() > 65504


def start(store, *words):
    """Start `diffviews extract` in a process of its own."""
    command = [sys.executable, "-m", "diffviews", "extract", "--layers", "all", "--sigmas", "0.5,2", *words]
    return subprocess.Popen(
        [*command, "--max-samples", "400", "--batch-size", "32"], cwd=store, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_killed_extraction_resumes_to_the_same_digests(tmp_path):
    straight = tmp_path / "straight"
    straight.mkdir()
    whole = start(straight, "--sigmas", "0.5,2")
    killed_store = tmp_path / "killed"
    killed_store.mkdir()
    assert whole.wait(240) == 0, whole.stdout.read().decode()
    killed = start(killed_store)
    deadline = time.monotonic() + 120
    while not list(killed_store.rglob("activations.zarr/c/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not digests(killed_store, finished_only=True)
    resumed = start(killed_store, "--resume")
    output = resumed.communicate(timeout=240)[0].decode()
    assert resumed.returncode == 0, output
    assert "going on with run" in output
    assert digests(killed_store) == digests(straight) != {}


def digests(store, finished_only=False):
    """Return {layer@sigma: digest} of the newest finished extraction in a store, from a process of its own."""
    script = (
        "import json\nfrom diffviews.pipelines.workspace import open_workspace\nw = open_workspace()\n"
        "runs = w.catalog.extractions()\n"
        "print(json.dumps({f'{r.layer}@{r.sigma}': w.activations(r).digest"
        " for r in (w.catalog.layers(runs[0].run_id) if runs else [])}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=store, capture_output=True, check=True)
    return json.load(io.BytesIO(done.stdout))
