"""A bucket that fails while a job works: the job ends in one sentence, nothing is half visible, a retry succeeds.

What fails before the work begins is in test_r2, a tracking server that is restarted or lost in test_postgres,
and a worker that is killed in test_worker.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from diffviews.data.storage.store_errors import StoreError
from diffviews.pipelines.workspace import open_workspace
from tests.integration.conftest import ROOT, inside
from tests.jobs import extract
from tests.s3_server import SECRET, Faults, Proxy, fresh_bucket, proxied, raw_client, s3_server, stored_keys, use_store

SMALL: dict[str, Any] = {"layers": ("encoder_bottleneck",), "sigmas": (2.0,), "max_samples": 60}
WORDS = ("--layers", "encoder_bottleneck", "--sigmas", "2", "--max-samples", "60", "--device", "cpu")


@dataclass
class Team:
    """A member's folder, and the bucket behind a proxy that misbehaves when told to."""

    folder: Path
    proxy: Proxy
    server: str

    def misbehave(self, **faults: Any) -> None:
        """Take up other faults, and forget what passed."""
        for name, value in vars(Faults(**faults)).items():
            setattr(self.proxy.faults, name, value)
        self.proxy.clear()
        self.proxy.failed = 0

    def forget(self) -> None:
        """Lose what this machine keeps of finished runs."""
        shutil.rmtree(self.folder / "cache" / "runs", ignore_errors=True)


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    with s3_server() as server, proxied(server) as proxy, inside(folder), pytest.MonkeyPatch.context() as patch:
        fresh_bucket(server)
        use_store(patch, proxy.url)
        patch.setenv("DIFFVIEWS_PROFILE", "r2")
        patch.setenv("DIFFVIEWS_CACHE_DIR", str(folder / "cache"))
        yield Team(folder, proxy, server)


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


@pytest.fixture(autouse=True)
def well_again(team: Team) -> Iterator[None]:
    team.misbehave()
    yield
    team.misbehave()


@pytest.fixture(scope="module")
def requests_of_a_job(team: Team) -> int:
    """How many requests a job sends whose bucket works."""
    team.misbehave()
    extract(**SMALL, experiment="undisturbed")
    return len(team.proxy.requests)


def runs(experiment: str) -> list[Any]:
    """Return all runs of an experiment, in whatever state."""
    tracker = open_workspace(experiment=experiment).tracker
    return list(tracker.connection.call(lambda client: client.search_runs([tracker.experiment_id])))


def check_whole(team: Team, run_id: str, layers: int = 1) -> None:
    """All artifacts of an extraction and its layers are in the bucket as their manifests say."""
    team.forget()
    workspace = open_workspace()
    found = workspace.catalog.layers(run_id)
    assert len(found) == layers
    for whole in (run_id, *[record.run_id for record in found]):
        workspace.folder(whole).verify()


def check_nothing_half_visible(team: Team, experiment: str) -> None:
    """No extraction is listed, and what is FINISHED is whole."""
    team.forget()
    workspace = open_workspace(experiment=experiment)
    assert len(workspace.catalog.extractions(experiment)) == 0
    for run in runs(experiment):
        assert run.info.status in ("FAILED", "RUNNING", "FINISHED")
        if run.info.status == "FINISHED":
            workspace.folder(run.info.run_id).verify()
        else:
            assert workspace.folder(run.info.run_id).manifest() is None


def test_job_and_reading_survive_a_bucket_that_fails_one_request_in_seven(team: Team, experiment: str) -> None:
    team.misbehave(unavailable=0.1, stalled=0.05, cut=0.1)
    layers = ("encoder_bottleneck", "midblock")
    outcome = extract(layers=layers, sigmas=(2.0, 0.5), max_samples=300, experiment=experiment)
    assert team.proxy.failed > 2
    assert team.proxy.puts()
    team.proxy.clear()
    team.proxy.failed = 0
    check_whole(team, outcome.run_id, 4)
    assert team.proxy.failed > 0
    team.misbehave()
    check_whole(team, outcome.run_id, 4)
    assert not [key for key in stored_keys(raw_client(team.server)) if ".part" in key or "incoming" in key]


REVOKED = (403, "AccessDenied"), "revoked, have expired"
DOWN = (503, "SlowDown"), "store answers (SlowDown|503); try again"


@pytest.mark.parametrize(
    ("share", "answer", "sentence"),
    [
        pytest.param(0.3, *REVOKED, id="revoked early"),
        pytest.param(0.9, *REVOKED, id="revoked late", marks=pytest.mark.slow),
        pytest.param(0.3, *DOWN, id="down early", marks=pytest.mark.slow),  # every request is tried again and again
        pytest.param(0.9, *DOWN, id="down late", marks=pytest.mark.slow),
    ],
)
def test_bucket_that_fails_for_good_midway_ends_the_job_and_a_retry_succeeds(
    team: Team, requests_of_a_job: int, experiment: str, share: float, answer: tuple[int, str], sentence: str
) -> None:
    open_workspace(experiment=experiment)
    team.misbehave(passing=int(requests_of_a_job * share), afterwards=answer)
    with pytest.raises(StoreError, match=sentence) as refusal:
        extract(**SMALL, experiment=experiment)
    said = str(refusal.value)
    assert "\n" not in said
    assert SECRET not in said
    team.misbehave()
    failed = [run for run in runs(experiment) if run.info.status == "FAILED"]
    assert failed
    assert all(re.search(sentence, run.data.tags["diffviews.error"]) for run in failed)
    assert "RUNNING" not in {run.info.status for run in runs(experiment)}
    check_nothing_half_visible(team, experiment)
    outcome = extract(**SMALL, experiment=experiment, resume=True)
    assert outcome.run_id in {run.info.run_id for run in failed}
    check_whole(team, outcome.run_id)


def test_job_killed_while_it_uploads_is_resumed_by_the_same_command(team: Team, experiment: str) -> None:
    command = [sys.executable, "-m", "diffviews", "extract", *WORDS, "--experiment", experiment]
    own = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    team.misbehave(hold=threading.Event())
    team.proxy.uploading.clear()
    with subprocess.Popen(command, cwd=team.folder, env=own, stderr=subprocess.PIPE, text=True) as job:
        assert team.proxy.uploading.wait(200), job.poll()
        job.send_signal(signal.SIGKILL)
        assert job.wait(20) == -signal.SIGKILL
    assert team.proxy.faults.hold is not None
    team.proxy.faults.hold.set()
    team.misbehave()
    (left, *_) = open_workspace().catalog.extractions(experiment, unfinished=True)
    assert left.status == "RUNNING"
    check_nothing_half_visible(team, experiment)
    done = subprocess.run(
        [*command, "--resume", "true"], cwd=team.folder, env=own, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    (found,) = open_workspace().catalog.extractions(experiment)
    assert found.run_id == left.run_id
    check_whole(team, found.run_id)
