"""A team's bucket end to end: runs on S3, partial reads, layers from the nearest place, and no secret anywhere."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from diffviews.data.storage.shared_layers import SharedLayers
from diffviews.data.storage.store_errors import ObjectNotFoundError, StoreError
from diffviews.errors import ConfigError
from diffviews.pipelines import extract as extract_module
from diffviews.pipelines.capture import layer_array
from diffviews.pipelines.generate import generate
from diffviews.pipelines.layers.nearest import LayerOpener, OpenedLayer
from diffviews.pipelines.legacy import layer as legacy_layer
from diffviews.pipelines.workspace import open_workspace
from diffviews.recipes import GenerationRecipe, Sampling
from tests.integration.conftest import ROOT, inside
from tests.jobs import open_layer
from tests.s3_server import (
    BUCKET,
    KEY,
    SECRET,
    Proxy,
    fresh_bucket,
    proxied,
    raw_client,
    s3_server,
    stored_keys,
    use_store,
)

LAYER, SIGMA, SAMPLES = "decoder_block_7", 2.0, 260
"""A layer whose activations take three chunks."""


@dataclass
class Team:
    """A team's bucket behind a counting proxy, and one member's folder."""

    folder: Path
    proxy: Proxy
    server: str

    def forget(self) -> None:
        """Lose everything on this machine but the tracking database."""
        shutil.rmtree(self.folder / "cache", ignore_errors=True)

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a process of its own."""
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
        return subprocess.run(
            [sys.executable, "-m", "diffviews", *words],
            env=dict(os.environ) | own | environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    def stored(self) -> list[str]:
        return stored_keys(raw_client(self.server))


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    with s3_server() as server, proxied(server) as proxy, inside(folder), pytest.MonkeyPatch.context() as patch:
        fresh_bucket(server)
        use_store(patch, proxy.url)
        patch.setenv("DIFFVIEWS_PROFILE", "r2")
        patch.setenv("DIFFVIEWS_CACHE_DIR", str(folder / "cache"))
        yield Team(folder, proxy, server)


@pytest.fixture(scope="module")
def logged(team: Team) -> subprocess.CompletedProcess[str]:
    """The command that logs one layer to the bucket."""
    answer = team.run(
        "extract", "--layers", LAYER, "--sigmas", str(SIGMA), "--max-samples", str(SAMPLES), "--device", "cpu"
    )
    assert answer.returncode == 0, answer.stderr
    return answer


@pytest.fixture(scope="module")
def layer_run_id(logged: subprocess.CompletedProcess[str]) -> str:
    (layer,) = open_workspace().catalog.layers(logged.stdout.split()[1])
    return layer.run_id


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was computed since: 'capture' and 'fit'."""
    done: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            done.append(name)
            return function(*arguments, **options)

        return call

    for module, function, name in (
        (extract_module, "capture_activations", "capture"),
        (layer_array, "fit_map", "fit"),
        (legacy_layer, "fit_given_map", "fit"),
    ):
        monkeypatch.setattr(module, function, counted(name, getattr(module, function)))
    return done


def opened(**options: Any) -> OpenedLayer:
    """Open the layer as a process would that has just started."""
    opener = LayerOpener.of_profile(experiment=options.pop("experiment", None))
    chosen = {"layer": LAYER, "sigma": SIGMA, "max_samples": SAMPLES, "device": "cpu"} | options
    layer = open_layer(opener=opener, **chosen)
    assert opener.flush(60)
    return layer


def test_extraction_is_logged_to_the_bucket(team: Team, layer_run_id: str) -> None:
    assert all(key.startswith("mlflow/diffviews/") for key in team.stored())
    record = open_workspace().catalog.layer(layer_run_id)
    assert record.artifact_uri.startswith(f"s3://{BUCKET}/mlflow/diffviews/")
    open_workspace().catalog.artifacts(record).verify()
    assert (team.folder / "mlflow.db").is_file()
    assert not (team.folder / "mlartifacts").exists()


def test_masked_generation_fetches_only_the_chunks_of_its_five_samples(team: Team, layer_run_id: str) -> None:
    reader = open_workspace().activations(open_workspace().catalog.layer(layer_run_id))
    assert reader.num_chunks == 3
    ids = ",".join(reader.sample_ids[row] for row in (1, 7, 20, 257, 259))  # of the first chunk and the last
    team.forget()
    team.proxy.clear()
    answer = team.run(
        "generate", "--layer_run", layer_run_id, "--sample_ids", ids, "--num_steps", "3", "--class_label", "3",
        "--seed", "0", "--device", "cpu",
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    fetched = {key.rpartition("activations.zarr/")[2] for key in team.proxy.gets("activations.zarr")}
    assert fetched == {"zarr.json", "c/0/0/0/0", "c/2/0/0/0"}
    assert open_workspace().catalog.generations(layer_run_id)


def test_layer_opens_from_the_nearest_place_and_is_computed_once(
    team: Team, layer_run_id: str, computed: list[str]
) -> None:
    team.forget()
    with opened() as first:
        assert (first.origin, first.run_id) == ("run", layer_run_id)
        points, activations = first.points(), first.activations().rows([5])
        placed = first.projector().transform(activations)
        fingerprint = first.fingerprint
    prefix = f"data/edm-digits/layer_cache/v2/{fingerprint}/"
    stored = {key.removeprefix(prefix) for key in team.stored() if key.startswith(prefix)}
    assert {"entry.json", "samples.parquet", "map/points.parquet", "map/projector.safetensors"} <= stored
    assert "activations.zarr/c/2/0/0/0" in stored
    assert not any(name.endswith((".pkl", ".pickle")) for name in stored)

    team.proxy.clear()
    with opened() as second:
        assert second.origin == "local"
    assert team.proxy.requests == []

    team.forget()
    with opened() as third:
        assert third.origin == "shared"
        assert third.run_id == layer_run_id
        pd.testing.assert_frame_equal(third.points(), points)
        np.testing.assert_array_equal(third.projector().transform(activations).coordinates, placed.coordinates)
        assert third.samples().sample_ids == third.activations().sample_ids
    assert computed == []


def test_colleague_without_the_run_gets_one_from_the_bucket(team: Team, computed: list[str]) -> None:
    opened().close()  # in the bucket now at the latest
    team.forget()
    with opened(experiment="colleague") as layer:
        assert layer.origin == "shared"
        run_id = layer.run_id
    assert computed == []
    workspace = open_workspace(experiment="colleague")
    record = workspace.catalog.layer(run_id)
    assert (record.layer, record.sigma, record.fingerprint) == (LAYER, SIGMA, layer.fingerprint)
    assert record.metrics["trustworthiness"] > 0.5
    assert [parent.run_id for parent in workspace.catalog.extractions("colleague")] == [record.parent_id]
    workspace.catalog.artifacts(record).verify()
    chosen = workspace.samples_of(record).sample_ids[:3]
    recipe = GenerationRecipe(layer_run=run_id, sample_ids=chosen, sampling=Sampling(num_steps=2))
    assert generate(recipe, workspace, device="cpu").path is not None


def test_nowhere_found_it_is_extracted_once(team: Team, computed: list[str]) -> None:
    options = {"experiment": "alone", "layer": "midblock", "max_samples": 40}
    with opened(**options) as layer:
        assert layer.origin == "extraction"
    assert computed == ["capture", "fit"]
    team.forget()
    with opened(**options) as again:
        assert again.origin == "shared"
        assert again.run_id == layer.run_id
    assert computed == ["capture", "fit"]


def legacy_files(folder: Path, ids: list[str], **stated: Any) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"sample_id": ids, "umap_x": rng.normal(size=len(ids)), "umap_y": rng.normal(size=len(ids))})
    table.to_csv(folder / "midblock.csv", index=False)
    (folder / "midblock.json").write_text(json.dumps({"n_neighbors": 15, **stated}))
    np.save(folder / "midblock.npy", rng.normal(size=(len(ids), 64 * 4 * 4)).astype(np.float16))
    return folder


def test_legacy_cache_is_read_once_into_a_run_and_fitted_once(
    team: Team, tmp_path: Path, computed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    from diffviews.data.r2_cache import R2LayerCache
    from diffviews.data.sources import open_source

    caplog.set_level(logging.INFO)
    options = {"experiment": "older", "layer": "midblock", "max_samples": 40, "conditioning": "label"}
    ids = list(open_source("digits", max_samples=40, resolution=16).sample_ids)
    made = legacy_files(tmp_path / "made", ids[::-1], sigma=SIGMA)
    assert R2LayerCache().upload_layer("edm-digits", "midblock", made)
    with opened(**options) as layer:
        assert layer.origin == "legacy"
        recorded = pd.read_csv(made / "midblock.csv")
        assert list(layer.points()["sample_id"]) == list(recorded["sample_id"])
        np.testing.assert_allclose(layer.points()["x"], recorded["umap_x"], rtol=1e-6)
        values = np.load(made / "midblock.npy")
        np.testing.assert_array_equal(layer.activations().rows([ids[0]]).ravel(), values[-1])
        assert layer.run_id is not None
    assert computed == ["fit"]
    for forget in (False, True):
        if forget:
            team.forget()
        with opened(**options) as again:
            assert again.origin == ("shared" if forget else "local")
            pd.testing.assert_frame_equal(again.points(), layer.points() if not forget else again.points())
    assert computed == ["fit"]
    other = legacy_files(tmp_path / "other", ids, sigma=0.5)
    assert R2LayerCache().upload_layer("edm-digits", "midblock", other)
    with opened(**options) as extracted:
        assert extracted.origin == "extraction"
    assert "is not used: it is of sigma" in caplog.text
    for ending in (".csv", ".json", ".npy"):
        raw_client(team.server).delete_object(Bucket=BUCKET, Key=f"data/edm-digits/layer_cache/midblock{ending}")


def test_bucket_that_is_down_leaves_everything_local_working(
    team: Team, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DIFFVIEWS_PROFILE", "local")
    monkeypatch.setenv("DIFFVIEWS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    opener = LayerOpener.of_profile()
    options: dict[str, Any] = {"layer": "midblock", "max_samples": 40, "device": "cpu", "opener": opener}
    with open_layer(**options) as layer:
        assert layer.origin == "extraction"
    assert not opener.flush(60)
    assert "cannot be reached" in caplog.text
    with open_layer(**options) as layer:
        assert layer.origin == "local"
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", team.proxy.url)
    back = LayerOpener.of_profile()
    with open_layer(**{**options, "opener": back}) as layer:
        assert back.flush(60)  # what failed before is sent now
    assert SharedLayers.configured().find("edm-digits", layer.fingerprint) is not None


@pytest.mark.parametrize(
    ("environment", "error", "sentence"),
    [
        ({"R2_ACCESS_KEY_ID": "", "R2_SECRET_ACCESS_KEY": ""}, StoreError, "needs credentials; set AWS_ACCESS_KEY_ID"),
        ({"MLFLOW_S3_ENDPOINT_URL": ""}, ConfigError, "R2_ACCOUNT_ID, which is not set"),
        ({"R2_BUCKET_NAME": "nowhere"}, ObjectNotFoundError, "no bucket 'nowhere'; create it"),
        ({"MLFLOW_S3_ENDPOINT_URL": "http://127.0.0.1:9"}, StoreError, "cannot be reached"),
        ({"refuse": "InvalidAccessKeyId"}, StoreError, "does not know the keys"),
        ({"refuse": "AccessDenied"}, StoreError, "revoked"),
    ],
)
def test_job_ends_before_its_work_when_the_bucket_cannot_be_used(
    team: Team, environment: dict[str, str], error: type[Exception], sentence: str
) -> None:
    with inside(team.folder), pytest.MonkeyPatch.context() as patch:
        use_store(patch, team.proxy.url)
        code = environment.get("refuse")
        for name, value in environment.items():
            patch.setenv(name, value)
        team.proxy.faults.refuse = {"GET": (403, code)} if code else {}
        try:
            with pytest.raises(error, match=sentence) as caught:
                open_workspace("r2")
        finally:
            team.proxy.faults.refuse = {}
        assert SECRET not in str(caught.value)


def test_secrets_turn_up_nowhere(team: Team, logged: subprocess.CompletedProcess[str], layer_run_id: str) -> None:
    seen = {"output": (logged.stdout + logged.stderr).encode()}
    seen |= {str(path): path.read_bytes() for path in team.folder.rglob("*") if path.is_file()}
    client = raw_client(team.server)
    seen |= {key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in team.stored()}
    assert any(name.endswith("mlflow.db") for name in seen)
    for secret in (SECRET, KEY):
        assert [name for name, content in seen.items() if secret.encode() in content] == []
        assert not any(secret in name for name in seen)
    for method, path, headers in team.proxy.requests:
        assert SECRET not in f"{method} {path} {headers}"
