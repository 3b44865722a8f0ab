"""A worker over a real socket for tests: in a thread with work that stands still, or as a program with a slow model."""

import contextlib
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import uvicorn

from diffviews.errors import CancelledError
from diffviews.serving.app import create_app
from diffviews.serving.requests import Limits
from diffviews.serving.service import Service
from diffviews.serving.worker import Server
from tests.fakes import GaussianAdapter
from tests.ports import free_port

ROOT = Path(__file__).parents[1]
TOKEN = "a-token-that-only-tests-know"


def wait(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


class GatedRunner:
    """Its work stands still until it is let through, step by step; jobs are told apart by their seed."""

    def __init__(self, steps=3):
        self.steps, self.gate, self.ran, self.experiments = steps, threading.Semaphore(0), [], []
        self.raises = None

    def load(self, recipe):
        return GaussianAdapter()

    def extract(self, recipe, job, *, execution, experiment=None):
        return "run"

    def generate(self, recipe, job, *, experiment=None):
        self.ran.append(recipe.seed)
        self.experiments.append(experiment)
        if self.raises is not None:
            raise self.raises
        for step in range(1, self.steps + 1):
            while not self.gate.acquire(timeout=0.01):
                job.check()
            job.report(step, self.steps, np.full((2, 2, 3), step, np.uint8))
        return SimpleNamespace(run_id="run-of-seed-" + str(recipe.seed))

    def let(self, steps):
        for _ in range(steps):
            self.gate.release()


@contextlib.contextmanager
def served(runner, *, token=TOKEN, limits=None, hosts=(), port=None):
    """Serve a worker in a thread; yield its address and its queue."""
    service = Service(runner, limits or Limits())
    app = create_app(service, token=token, hosts=hosts)
    config = uvicorn.Config(app, port=port or free_port(), log_config=None, timeout_graceful_shutdown=1)
    server = Server(config, service.queue)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{config.port}", service.queue
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


class SlowAdapter(GaussianAdapter):
    """A Gaussian denoiser that takes a twentieth of a second for each evaluation."""

    @property
    def model_type(self):
        return "slow"

    def forward(self, x, sigma, class_labels=None, **kwargs):
        time.sleep(0.05)
        return super().forward(x, sigma, class_labels, **kwargs)


class Program:
    """`diffviews worker` in a process of its own, in which the model 'slow' is known."""

    def __init__(self, folder, *flags, token=TOKEN, environment=None, port=None):
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"worker-{self.port}-{time.monotonic_ns()}.log"
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
        own |= {"DIFFVIEWS_WORKER_TOKEN": token} if token else {}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.serving", "--port", str(self.port), "--device", "cpu", *flags],
                cwd=folder, env={**os.environ, **own, **(environment or {})}, stdout=log, stderr=log,
            )  # fmt: skip

    def ready(self):
        wait(self._answers, 200)
        return self

    def _answers(self):
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
            return True
        return False

    def end(self, signal):
        self.process.send_signal(signal)
        return self.process.wait(60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(20)


def cancel_at(state, seen=None):
    """Return a callback that cancels the job once it is in this state."""

    def watch(job):
        if seen is not None:
            seen.append(job)
        if job.state == state and (state != "running" or job.step):
            raise CancelledError("enough")

    return watch


def main():
    from diffviews.adapters import register_adapter_class
    from diffviews.cli import run_command

    register_adapter_class("slow", SlowAdapter)
    torch.set_num_threads(1)
    run_command("worker", sys.argv[1:])


if __name__ == "__main__":
    main()
