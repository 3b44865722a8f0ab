"""The digits demo whole, by the command, in a team's stores; and the dashboard's data with nothing kept locally."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from diffviews.adapters.registry import load_adapter
from diffviews.pipelines.workspace import open_workspace
from panel_app.data import DataStore
from panel_app.library import LoggedRuns
from tests.integration.conftest import ROOT, inside
from tests.s3_server import BUCKET, Proxy, fresh_bucket, proxied, s3_server, use_store
from tests.team_servers import FOREIGN

SMALL = ("--max-samples", "40", "--control-seeds", "0")
"""Every layer, both sigmas, the masked generation; few digits, no control rates."""
STORES = ("bucket and server", "bucket", "server")

pytestmark = pytest.mark.slow  # three demos; test_demo has the pipeline, test_r2 and test_tracking_server the stores


@dataclass(frozen=True)
class Team:
    """One deployment, in whose environment the tests run."""

    folder: Path
    proxy: Proxy | None
    """Before the bucket; None where the server keeps the artifacts."""

    def demo(self, *options: str) -> None:
        """Run the demo's whole pipeline as the command does."""
        done = subprocess.run(
            [sys.executable, "-m", "diffviews", "demo", "--serve", "false", "--device", "cpu", *options],
            capture_output=True, text=True, timeout=900, cwd=self.folder,
        )  # fmt: skip
        sys.stdout.write(done.stderr)
        assert done.returncode == 0, done.stderr

    def forget(self) -> None:
        """Lose what this machine keeps of the runs."""
        shutil.rmtree(self.folder / "cache", ignore_errors=True)


@pytest.fixture(scope="module", params=STORES)
def team(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("member")
    with s3_server() as s3, proxied(s3) as proxy, inside(folder), pytest.MonkeyPatch.context() as patch:
        fresh_bucket(s3)
        for name in (*FOREIGN, "AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS"):
            patch.setenv(name, "")  # so that what a profile sets is taken back
            patch.delenv(name)
        if "bucket" in request.param:
            use_store(patch, proxy.url)
        if "server" in request.param:
            patch.setenv("DIFFVIEWS_TRACKING_SERVER", request.getfixturevalue("server").address)
        own = {
            "DIFFVIEWS_PROFILE": "r2" if "bucket" in request.param else "server",
            "DIFFVIEWS_CACHE_DIR": str(folder / "cache"),
            "MLFLOW_EXPERIMENT_NAME": request.param,
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        for name, value in own.items():
            patch.setenv(name, value)
        yield Team(folder, proxy if "bucket" in request.param else None)


def check_demo(team: Team, samples: int) -> None:
    """Every layer at both sigmas, the comparisons and the generation are there, whole, and nothing lies here."""
    workspace, experiment = open_workspace(), os.environ["MLFLOW_EXPERIMENT_NAME"]
    (parent,) = workspace.catalog.extractions(experiment)
    layers = workspace.catalog.layers(parent.run_id)
    hooks = load_adapter("edm-digits", device="cpu").hookable_layers
    assert {(record.layer, record.sigma) for record in layers} == {(h, s) for h in hooks for s in (2.0, 5.0)}
    (generation,) = workspace.catalog.generations(experiment=experiment)
    team.forget()
    for record in (parent, *layers, generation):
        assert record.artifact_uri.startswith(f"s3://{BUCKET}/" if team.proxy else "mlflow-artifacts:/")
        workspace.catalog.artifacts(record).verify()
    assert len(pd.read_csv(workspace.folder(parent.run_id).path("cka/2.csv"), index_col="layer")) == len(hooks)
    assert len(workspace.samples_of(layers[0])) == samples
    assert not (team.folder / "mlartifacts").exists()
    assert (team.folder / "mlflow.db").exists() == ("DIFFVIEWS_TRACKING_SERVER" not in os.environ)


@pytest.fixture(scope="module")
def small(team: Team) -> Team:
    """A deployment that has had the demo on few digits."""
    team.demo(*SMALL)
    return team


def test_demo_on_few_digits_is_whole_in_a_teams_store(small: Team) -> None:
    check_demo(small, 40)


def test_dashboards_data_opens_with_the_cache_deleted_and_is_fetched_once(small: Team) -> None:
    small.forget()
    experiment = os.environ["MLFLOW_EXPERIMENT_NAME"]
    library = LoggedRuns(open_workspace(check_artifacts=False))
    (parent,) = library.extractions(experiment)
    record = library.layers(parent.run_id)[0]
    opened = DataStore(library).open(record)
    assert len(opened.table) == len(opened.samples) == 40
    assert opened.thumbnail(opened.sample_at(0)).startswith("data:image/png")
    if small.proxy is not None:
        fetched = small.proxy.gets()
        small.proxy.clear()
    again = DataStore(LoggedRuns(open_workspace(check_artifacts=False))).open(record)
    pd.testing.assert_frame_equal(again.table, opened.table)
    if small.proxy is not None:
        assert fetched
        assert small.proxy.requests == []


@pytest.mark.timeout(1200)
def test_demo_on_all_digits_is_whole_in_a_teams_store(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", os.environ["MLFLOW_EXPERIMENT_NAME"] + ", all digits")
    team.demo()
    check_demo(team, 1797)
