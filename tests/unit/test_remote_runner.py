"""The runner over a worker: what the bar is told, cancel, the experiment, and the choice of a runner."""

import threading

import pytest

from diffviews.errors import CancelledError, ConfigError
from diffviews.pipelines import viz as viz_module
from diffviews.pipelines.job_queue import Job
from diffviews.pipelines.model_runner import ModelRunner
from diffviews.recipes.generation import GenerationRecipe
from diffviews.serving.client import WorkerClient
from diffviews.serving.protocol import JobStatus
from diffviews.serving.remote_runner import RemoteRunner, where
from panel_app import shared as shared_module
from panel_app.settings import Settings
from tests.ports import free_port
from tests.serving import TOKEN, GatedRunner, served, wait


class HeardJob(Job):
    """Keeps what is reported to it."""

    def __init__(self):
        super().__init__("0" * 32, "Generating", None)
        self.all = []

    def report(self, step, total, preview=None, note=""):
        super().report(step, total, preview, note)
        self.all.append((step, total, note, preview is not None))


@pytest.fixture
def runner():
    return GatedRunner()


class JobClient(WorkerClient):
    """Hands over the finished job itself: the gated runner logs nothing that could be read back."""

    def result(self, job):
        return job


def ordered(remote, heard, recipe=GenerationRecipe(seed=7)):
    """Generate in a thread; return it and where its result will be."""
    answer = {}

    def run():
        try:
            answer["job"] = remote.generate(recipe, heard)
        except CancelledError as error:
            answer["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, answer


def test_generation_reports_waking_place_and_steps_in_turn(runner):
    port, heard = free_port(), HeardJob()
    client = JobClient(f"http://127.0.0.1:{port}", TOKEN)
    thread, answer = ordered(RemoteRunner(client, None, "mine"), heard)
    wait(lambda: (0, 0, "waking the worker", False) in heard.all)
    with served(runner, port=port) as (_, queue):
        wait(lambda: runner.ran == [7])
        runner.let(1)
        wait(lambda: (1, 3, "", True) in heard.all)
        runner.let(2)
        thread.join(20)
        assert answer["job"].run_id == "run-of-seed-7"
        assert runner.experiments == ["mine"]
        assert queue.idle_seconds >= 0


def test_job_behind_others_shows_its_place_and_is_cancelled_there(runner):
    heard = HeardJob()
    with served(runner) as (url, queue):
        ahead = WorkerClient(url, TOKEN).submit(GenerationRecipe(seed=1))
        thread, answer = ordered(RemoteRunner(JobClient(url, TOKEN), None), heard)
        wait(lambda: (0, 0, "waiting at the worker, 1 job ahead", False) in heard.all)
        heard.end = CancelledError("enough")
        thread.join(20)
        assert isinstance(answer["error"], CancelledError)
        assert [job.state for job in queue.jobs()] == ["running", "cancelled"]
        assert queue.find(ahead.id).end is None


def test_job_is_described_by_what_it_waits_for():
    at = {state: where(JobStatus("0", "generate", state, ahead)) for state, ahead in (("waking", 0), ("running", 0))}
    assert at == {"waking": "waking the worker", "running": ""}
    assert where(JobStatus("0", "generate", "queued", 2)) == "waiting at the worker, 2 jobs ahead"


def test_settings_choose_the_runner(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_module, "compile_drawing", lambda: None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    here = Settings.read([], {"MLFLOW_TRACKING_URI": uri})
    there = Settings.read([], {"MLFLOW_TRACKING_URI": uri, "DIFFVIEWS_WORKER_URL": "http://127.0.0.1:9"})
    assert isinstance(shared_module.shared.__wrapped__(here)[1], ModelRunner)
    assert isinstance(shared_module.shared.__wrapped__(there)[1], RemoteRunner)


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
