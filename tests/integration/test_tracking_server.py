"""Tracking over a real server and among real processes: sockets, signals and `mlflow run`."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from diffviews.errors import CorruptDataError, TrackingError
from diffviews.tracking.catalog import Catalog
from diffviews.tracking.connection import Connection
from diffviews.tracking.runs import Tracker
from diffviews.tracking.schema import RunTags, Tag, fingerprint
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
ABOUT = RunTags(model="edm-digits", dataset="digits")
VARIABLES = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_URI")


def environment(**extra):
    """Return the environment for a program of ours, without what MLflow may have left in it."""
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return kept | quiet | {"PYTHONPATH": str(ROOT)} | extra


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Start `mlflow server` with proxied artifacts; yield its address and its artifact folder."""
    root, port = tmp_path_factory.mktemp("server"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{root}/mlflow.db", "--workers", "1"]
    command += ["--serve-artifacts", "--artifacts-destination", str(root / "artifacts")]
    with (root / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment(), stdout=log, stderr=log, start_new_session=True)
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 90
    try:
        while True:
            assert process.poll() is None, (root / "log").read_text()
            assert time.monotonic() < deadline, (root / "log").read_text()
            with contextlib.suppress(urllib.error.URLError, OSError):
                first = f"{address}/api/2.0/mlflow/experiments/get?experiment_id=0"
                urllib.request.urlopen(first, timeout=60).close()
                break
            time.sleep(0.2)
        yield address, root / "artifacts"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(15)


@pytest.fixture(autouse=True)
def own_cache_and_patience(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFVIEWS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # a machine busy with other tests
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_run_on_a_server_is_logged_listed_and_read_back(server, tmp_path):
    tracker = Tracker(server[0])
    with tracker.start("extract", "job", ABOUT, params={"a": 1}) as job:
        about = RunTags(layer="midblock", layer_index=3, sigma=0.5, fingerprint=fingerprint(server=1))
        with tracker.start("layer", "midblock", about, parent=job) as run:
            run.log_metrics({f"m{i}": i for i in range(1100)})
            run.log_artifact_bytes(b"chunk", "activations.zarr/c/0/0")
            run.log_text("points", "map/points.csv")
    assert not run.staging.parent.exists()
    catalog = Catalog(server[0])
    (layer,) = catalog.layers(job.run_id)
    assert (layer.layer, layer.sigma, layer.model, len(layer.metrics)) == ("midblock", 0.5, "edm-digits", 1100)
    folder = catalog.artifacts(layer)
    folder.verify()
    assert folder.names() == ("activations.zarr/c/0/0", "map/points.csv")
    assert folder.fetcher("activations.zarr")("c/0/0") == b"chunk"
    assert folder.fetch("activations.zarr/c/1/0") is None
    assert folder.path("map/points.csv").is_relative_to(tmp_path / "cache" / "runs" / run.run_id)
    assert tracker.find_finished(about.fingerprint) == run.run_id


def test_artifact_damaged_on_the_server_is_named(server):
    with Tracker(server[0]).start("extract", "job", ABOUT) as run:
        run.log_text("good", "a.txt")
    (stored,) = server[1].rglob(f"{run.run_id}/artifacts/a.txt")
    stored.write_text("bad!")
    with pytest.raises(CorruptDataError, match=r"'a\.txt' of run"):
        Catalog(server[0]).artifacts(run.run_id).fetch("a.txt")


def test_failed_run_on_a_server_is_resumed_with_what_it_had_published(server):
    tracker = Tracker(server[0])
    run = tracker.start("train", "job", ABOUT)
    run.log_text("1", "samples/deep/1.txt")
    run.publish()
    run.log_text("2", "samples/2.txt")
    with pytest.raises(ValueError, match="stop"), run:
        raise ValueError("stop")
    assert Catalog(server[0]).artifacts(run.run_id).manifest() is None
    with tracker.resume(run.run_id) as resumed:
        resumed.log_text("3", "samples/3.txt")
    folder = Catalog(server[0]).artifacts(run.run_id)
    folder.verify()
    assert folder.names() == ("samples/2.txt", "samples/3.txt", "samples/deep/1.txt")


def test_server_that_is_down_is_reported_soon_with_its_address_and_the_remedy(monkeypatch):
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    began = time.monotonic()
    with pytest.raises(TrackingError, match=f"{address} cannot be reached; start it"):
        Tracker(address).start("extract", "job", ABOUT)
    assert time.monotonic() - began < 15


def test_server_that_never_answers_is_reported_and_not_asked_twice(monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    before = dict(os.environ)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(TrackingError, match=f"{address} did not answer within 1 s"):
            Connection(address, timeout=1).call(lambda client: client.create_run("0"))
        assert time.monotonic() - began < 5
        silent.settimeout(0.5)
        silent.accept()[0].close()
        with pytest.raises(TimeoutError):
            silent.accept()
    unset = {name for name in os.environ if name.startswith("MLFLOW_")} - set(before)
    assert unset == set()


class Wire:
    """A TCP connection to a server that can be cut."""

    def __init__(self, target):
        self._target, self._ends, self.whole = target, [], True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._ends += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def cut(self):
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def test_server_lost_during_a_run_loses_nothing_and_the_run_can_be_resumed(server, caplog):
    host, port = server[0].removeprefix("http://").split(":")
    wire = Wire((host, int(port)))
    tracker = Tracker(wire.address)
    tracker.connection._patience = 1.0
    run = tracker.start("extract", "job", ABOUT)
    run.log_text("precious", "a.txt")
    with pytest.raises(TrackingError, match="cannot be reached"), run:
        wire.cut()
    assert (run.staging / "a.txt").read_text() == "precious"
    assert "stays RUNNING" in caplog.text
    assert run.run_id not in [record.run_id for record in Catalog(server[0]).extractions()]
    with Tracker(server[0]).resume(run.run_id):
        pass
    assert Catalog(server[0]).artifacts(run.run_id).fetch("a.txt") == b"precious"


JOB = """
import os, signal, sys
from diffviews.tracking.runs import Tracker
from diffviews.tracking.schema import RunTags, fingerprint
"""

MANY_RUNS = (
    JOB
    + """
tracker = Tracker(sys.argv[1])
for number in range(10):
    about = RunTags(model="m", fingerprint=fingerprint(who=sys.argv[2], number=number))
    with tracker.start("extract", f"{sys.argv[2]}-{number}", about, params={"number": number}) as run:
        run.log_metrics({f"m{i}": i for i in range(15)})
        run.log_metric_series("curve", range(50))
        run.log_text("x", "x.txt")
"""
)


def test_processes_that_start_together_share_a_new_database(tmp_path):
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", MANY_RUNS, uri, str(number)], env=environment(), stderr=subprocess.PIPE, text=True
        )
        for number in range(3)
    ]
    for job in jobs:
        _, said = job.communicate(timeout=280)
        assert job.returncode == 0, said
        assert "locked" not in said
    found = Catalog(uri).extractions("diffviews")
    assert len(found) == 30
    assert len({record.name for record in found}) == 30
    assert all(record.metrics["curve"] == 49 for record in found)


KILLED = (
    JOB
    + """
run = Tracker(sys.argv[1]).start("extract", "job", RunTags(model="m", fingerprint=fingerprint(killed=1)))
run.log_text("half", "half.txt")
run.log_metrics({"progress": 0.5})
os.kill(os.getpid(), signal.SIGKILL)
"""
)


def test_killed_process_leaves_a_run_that_nobody_takes_for_finished(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    done = subprocess.run([sys.executable, "-c", KILLED, uri], env=environment(), timeout=280, check=False)
    assert done.returncode == -signal.SIGKILL
    catalog, tracker = Catalog(uri), Tracker(uri)
    assert len(catalog.extractions()) == 0
    (left,) = catalog.extractions(unfinished=True)
    assert (left.status, left.metrics) == ("RUNNING", {"progress": 0.5})
    assert catalog.artifacts(left).names() == ()
    assert tracker.find_finished(fingerprint(killed=1)) is None
    assert tracker.find_unfinished(fingerprint(killed=1)) == left.run_id
    with tracker.resume(left.run_id) as run:
        assert (run.staging / "half.txt").read_text() == "half"
    assert catalog.artifacts(left.run_id).names() == ("half.txt",)


PROJECT_JOB = (
    JOB
    + """
tracker = Tracker()
about = RunTags(model="m", fingerprint=fingerprint(layers=sys.argv[1]))
finished = tracker.find_finished(about.fingerprint)
if finished:
    tracker.mark_reused(finished)
else:
    with tracker.start("extract", "from a project", about, params={"layers": "midblock,decoder"}) as job:
        with tracker.start("layer", "l", RunTags(layer="midblock", sigma=1.0), parent=job):
            pass
"""
)

PROJECT = """
name: tracked
entry_points:
  extract:
    parameters:
      layers: {type: str, default: all}
    command: "PYTHON job.py {layers}"
"""


@pytest.mark.slow
def test_mlflow_run_opens_the_jobs_run_and_a_second_call_reuses_it(tmp_path, monkeypatch):
    import mlflow.projects

    (tmp_path / "job.py").write_text(PROJECT_JOB)
    (tmp_path / "MLproject").write_text(PROJECT.replace("PYTHON", sys.executable))
    uri = f"sqlite:///{tmp_path}/store/mlflow.db"
    tracker = Tracker(uri, "projects")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for _ in range(2):
        mlflow.projects.run(
            str(tmp_path), "extract", env_manager="local", experiment_id=tracker.experiment_id, synchronous=True
        )
    runs = tracker.connection.call(lambda client: client.search_runs([tracker.experiment_id]))
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    (job,) = Catalog(uri).extractions("projects")
    assert job.name == "from a project"
    assert job.params == {"layers": "all", "resolved.layers": "midblock,decoder"}
    (layer,) = Catalog(uri).layers(job.run_id)
    (reuse,) = [run for run in runs if run.info.run_id not in (job.run_id, layer.run_id)]
    assert reuse.data.tags[Tag.REUSED_RUN] == job.run_id
