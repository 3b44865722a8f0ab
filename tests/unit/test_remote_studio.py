"""The studio over a worker: what the bar is told, cancel, the experiment, and the choice of a studio."""

import threading

import numpy as np
import pytest

from diffviews.errors import CancelledError, ConfigError
from diffviews.pipelines import viz as viz_module
from diffviews.pipelines.recipe import GenerationRecipe
from diffviews.serving.client import WorkerClient
from diffviews.serving.protocol import JobStatus
from panel_app import shared as shared_module
from panel_app.computing.jobs import JobQueue
from panel_app.computing.local_studio import LocalStudio
from panel_app.computing.remote_studio import RemoteStudio, where
from panel_app.settings import Settings
from tests.serving import TOKEN, GatedEngine, free_port, served, wait


class Reports:
    """Keeps what the work reports; raises once cancelled."""

    def __init__(self):
        self.all, self.cancelled = [], threading.Event()

    def __call__(self, step, total, preview=None, note=""):
        if self.cancelled.is_set():
            raise CancelledError("enough")
        self.all.append((step, total, note, preview is not None))


@pytest.fixture
def engine():
    return GatedEngine()


class OutcomeClient(WorkerClient):
    """Hands over the finished job itself: the gated engine logs nothing that could be read back."""

    def outcome(self, job):
        return job


def ordered(studio, report, recipe=GenerationRecipe(seed=7)):
    """Generate in a thread; return it and where its result will be."""
    answer = {}

    def run():
        try:
            answer["job"] = studio.generate(recipe, report)
        except CancelledError as error:
            answer["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, answer


def test_generation_reports_waking_place_and_steps_in_turn(engine):
    port, report = free_port(), Reports()
    client = OutcomeClient(f"http://127.0.0.1:{port}", TOKEN)
    thread, answer = ordered(RemoteStudio(client, None, "mine"), report)
    wait(lambda: (0, 0, "waking the worker", False) in report.all)
    with served(engine, port=port) as (_, queue):
        wait(lambda: engine.ran == [7])
        engine.let(1)
        wait(lambda: (1, 3, "", True) in report.all)
        engine.let(2)
        thread.join(20)
        assert answer["job"].run_id == "run-of-seed-7"
        assert engine.experiments == ["mine"]
        assert queue.idle_seconds >= 0


def test_job_behind_others_shows_its_place_and_is_cancelled_there(engine):
    report = Reports()
    with served(engine) as (url, queue):
        ahead = WorkerClient(url, TOKEN).submit_generation(GenerationRecipe(seed=1))
        thread, answer = ordered(RemoteStudio(OutcomeClient(url, TOKEN), None), report)
        wait(lambda: (0, 0, "waiting at the worker, 1 job ahead", False) in report.all)
        report.cancelled.set()
        thread.join(20)
        assert isinstance(answer["error"], CancelledError)
        assert [job.state for job in queue.jobs()] == ["running", "cancelled"]
        assert queue.find(ahead.id).end is None


def test_job_is_described_by_what_it_waits_for():
    at = {state: where(JobStatus("0", "generate", state, ahead)) for state, ahead in (("waking", 0), ("running", 0))}
    assert at == {"waking": "waking the worker", "running": ""}
    assert where(JobStatus("0", "generate", "queued", 2)) == "waiting at the worker, 2 jobs ahead"


def test_note_reaches_the_view_of_the_dashboards_queue():
    queue, seen = JobQueue(), threading.Event()

    def work(report):
        report(0, 0, None, "waking the worker")
        seen.wait(10)
        report(1, 2, np.zeros((1, 1, 3)))

    job = queue.submit("Generating", work)
    wait(lambda: queue.view(job).note == "waking the worker")
    seen.set()
    wait(lambda: queue.view(job).over)
    assert (queue.view(job).note, queue.view(job).step) == ("", 1)


def test_settings_choose_the_studio(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_module, "compile_drawing", lambda: None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    here = Settings.read([], {"MLFLOW_TRACKING_URI": uri})
    there = Settings.read([], {"MLFLOW_TRACKING_URI": uri, "DIFFVIEWS_WORKER_URL": "http://127.0.0.1:9"})
    assert isinstance(shared_module.shared.__wrapped__(here)[1], LocalStudio)
    assert isinstance(shared_module.shared.__wrapped__(there)[1], RemoteStudio)


def test_viz_hands_the_workers_address_to_the_dashboard(tmp_path, monkeypatch):
    started = {}

    class Programs(viz_module.Programs):
        def start(self, name, command, environment, port):
            started[name] = (command, dict(environment))

        def wait(self):
            pass

    monkeypatch.setattr(viz_module, "Programs", Programs)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("DIFFVIEWS_WORKER_TOKEN", TOKEN)
    viz_module.viz(worker="https://gpu.example")
    command, environment = started["the dashboard"]
    assert environment["DIFFVIEWS_WORKER_URL"] == "https://gpu.example"
    assert TOKEN not in " ".join(command)
    with pytest.raises(ConfigError, match="must start with http"):
        viz_module.viz(worker="gpu.example")
