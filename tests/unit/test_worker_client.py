"""The client against workers that sleep, die, answer oddly or are none at all; and extractions as programs."""

import http.server
import json
import logging
import stat
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from diffviews.data.pictures import encode_png
from diffviews.errors import CancelledError, ConfigError, CorruptDataError, TrackingError
from diffviews.pipelines import extraction_process as extraction
from diffviews.pipelines.job_queue import Job, JobFailedError, QueueFullError, QueueStoppedError
from diffviews.recipes import Execution, ExtractionRecipe, GenerationRecipe
from diffviews.serving.client import WorkerClient
from diffviews.serving.protocol import (
    JobLostError,
    JobStatus,
    VersionMismatchError,
    WorkerRefusedError,
    WorkerUnreachableError,
)
from diffviews.serving.requests import Limits
from diffviews.serving.result import read_result
from tests.ports import free_port
from tests.serving import TOKEN, GatedRunner, cancel_at, served, wait

RECIPE = GenerationRecipe(seed=5)


@pytest.fixture
def runner():
    return GatedRunner()


@contextmanager
def answering(*answers, **headers):
    """Serve these (status, body) in turn, the last one for ever; yield the address and the requests."""
    waiting, asked = list(answers), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append((self.command, self.path, dict(self.headers), body))
            status, content = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - names of the standard library

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


MIDBLOCK = ExtractionRecipe(layers=("midblock",))
OURS = {"X-DiffViews-Schema": "2"}
QUEUED = {"id": "0" * 32, "kind": "generate", "state": "queued", "ahead": 0}


@pytest.mark.parametrize("url", ["", "worker:8080", "ftp://a", "http://", "http://u:p@host", "file:///etc/passwd"])
def test_address_must_be_one(url):
    with pytest.raises(ConfigError, match="must be http"):
        WorkerClient(url)


def test_silent_address_is_taken_for_waking_up_to_a_limit():
    seen = []
    client = WorkerClient(f"http://127.0.0.1:{free_port()}", TOKEN, patience=0.6)
    with pytest.raises(WorkerUnreachableError, match="does not answer"):
        client.generate(RECIPE, seen.append)
    assert {job.state for job in seen} == {"waking"}
    with pytest.raises(WorkerUnreachableError, match="does not answer"):
        client.version()


def test_proxy_of_a_sleeping_host_is_asked_again_with_the_same_job():
    with answering((503, b"starting"), (502, b""), (202, QUEUED), **OURS) as (url, asked):
        client = WorkerClient(url, TOKEN, patience=20)
        with pytest.raises(QueueStoppedError):  # 503 of a worker itself, known by its header, is no sleep
            client.submit(RECIPE)
    with answering((503, b"starting"), (504, b"<html>"), (503, b"")) as (url, asked):
        with pytest.raises(WorkerUnreachableError, match="status 50"):
            WorkerClient(url, TOKEN, patience=1).submit(RECIPE)
        ids = {headers["X-DiffViews-Job"] for _, _, headers, _ in asked}
        assert len(asked) > 1
        assert len(ids) == 1


def test_wrong_token_is_said_and_not_repeated_to_the_log(runner, caplog):
    with served(runner) as (url, _), caplog.at_level(logging.DEBUG):
        for token in ("not-the-token-at-all", ""):
            with pytest.raises(WorkerRefusedError, match="token is missing or wrong"):
                WorkerClient(url, token).generate(RECIPE)
        assert WorkerClient(url, TOKEN).version()["schema"] == "2"
        assert "not-the-token-at-all" not in caplog.text
        assert TOKEN not in caplog.text + repr(WorkerClient(url, TOKEN))


def test_token_comes_from_the_environment(runner, monkeypatch):
    monkeypatch.setenv("DIFFVIEWS_WORKER_TOKEN", TOKEN)
    with served(runner) as (url, _):
        assert WorkerClient(url).jobs() == []


def test_token_in_the_clear_is_warned_of(caplog):
    WorkerClient("http://127.0.0.1:9", TOKEN)
    assert not caplog.records
    WorkerClient("http://gpu-host:8080", TOKEN)
    assert "unencrypted" in caplog.text


def test_other_schema_is_refused_by_the_client_too():
    theirs, said = {"X-DiffViews-Schema": "9", "X-DiffViews-Version": "9.9"}, r"'9' \(diffviews 9\.9\), this program 2"
    with answering((200, {}), **theirs) as (url, _), pytest.raises(VersionMismatchError, match=said):
        WorkerClient(url, TOKEN).version()


@pytest.mark.parametrize("answer", [(200, b"<html>hello"), (404, b"nothing"), (302, b""), (200, {"id": "x"})])
def test_address_of_something_else_is_said(answer):
    with answering(answer, Location="http://127.0.0.1:1/") as (url, asked):
        with pytest.raises(WorkerUnreachableError, match="not as a worker"):
            WorkerClient(url, TOKEN).generate(RECIPE)
        assert len(asked) == 1  # the token follows no redirection


@pytest.mark.parametrize(
    "values",
    [[], {}, {**QUEUED, "state": "odd"}, {**QUEUED, "ahead": "1"}, {**QUEUED, "error": 3}, {**QUEUED, "id": 1}],
)
def test_answer_that_is_no_job_is_refused(values):
    said = "not the state of a job"
    with answering((200, values), **OURS) as (url, _), pytest.raises(WorkerUnreachableError, match=said):
        WorkerClient(url, TOKEN).submit(RECIPE)


def test_job_of_a_newer_worker_is_read_and_a_broken_preview_is_none():
    job = JobStatus.from_json(json.dumps({**QUEUED, "later": 1, "preview": "!!"}).encode())
    assert (job.state, job.preview_image()) == ("queued", None)


def test_refusals_keep_their_sentence_and_type(runner):
    with served(runner, limits=Limits(waiting_jobs=0)) as (url, _):
        client = WorkerClient(url, TOKEN)
        with pytest.raises(ConfigError, match="num_samples 1000 is beyond"):
            client.submit(GenerationRecipe(num_samples=1000))
        with pytest.raises(QueueFullError, match="0 jobs wait already"):
            client.submit(RECIPE)


def test_broken_stream_of_events_is_taken_up_again():
    first, last = (json.dumps({**QUEUED, "state": state}).encode() + b"\n" for state in ("running", "finished"))
    seen = []
    with answering((200, first), (503, b""), **OURS) as (url, _), pytest.raises(QueueStoppedError):
        WorkerClient(url, TOKEN).watch(JobStatus.from_json(first), seen.append)
    with answering((200, first), (200, last), **OURS) as (url, asked):
        assert WorkerClient(url, TOKEN).watch(JobStatus.from_json(first), seen.append).state == "finished"
        assert len(asked) == 2
    assert [job.state for job in seen] == ["running", "waking"] * 2


def test_watch_tells_queued_and_running_and_ends_with_the_reason(runner):
    seen = []
    with served(runner) as (url, _):
        client = WorkerClient(url, TOKEN)
        job = client.submit(RECIPE)
        deadline = time.monotonic() + 60
        while client.status(job.id).state != "running":  # before what the next one raises is set
            assert time.monotonic() < deadline
        runner.raises = TrackingError("the store is down")
        behind = client.submit(RECIPE)
        threading.Timer(0.3, runner.let, (3,)).start()
        assert client.watch(job, seen.append).run_id == "run-of-seed-5"
        with pytest.raises(JobFailedError, match="the store is down"):
            client.watch(behind)
    assert next(job.state for job in seen) == "running"


def test_cancel_from_the_callback_reaches_the_worker(runner):
    runner.let(1)
    with served(runner) as (url, queue):
        with pytest.raises(CancelledError, match="enough"):
            WorkerClient(url, TOKEN).generate(RECIPE, cancel_at("running"))
        (job,) = queue.jobs()
        wait(lambda: job.state == "cancelled")


def test_job_that_a_new_worker_does_not_know_is_lost(runner):
    port = free_port()
    with served(runner, port=port) as (url, _):
        job = WorkerClient(url, TOKEN).submit(RECIPE)
    said = r"started anew while it had the job.*Order it again"
    with served(GatedRunner(), port=port) as (url, _), pytest.raises(JobLostError, match=said):
        WorkerClient(url, TOKEN).watch(job)


def test_damaged_result_is_refused():
    def artifacts(**changed):
        steps = {"recipe.json": RECIPE.to_json().encode(), "steps.npz": b"PK", "images/000.png": b"no picture"}
        return steps | changed

    good = encode_png(np.zeros((2, 2, 3), np.uint8))
    for content in (artifacts(), artifacts(**{"recipe.json": b"{}"}), artifacts(**{"images/000.png": good})):
        with pytest.raises(CorruptDataError, match="generation run cannot be read back"):
            read_result("run", list(content), content.__getitem__)


# -- an extraction as a program, here a small script in its place -------------------------


@pytest.fixture
def program(tmp_path, monkeypatch):
    def install(script):
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(extraction.sys, "executable", str(path))
        return extraction.ExtractionProcess(MIDBLOCK, Execution(), _NoStore())

    return install


class _NoStore:
    """A workspace whose store is down: what becomes of the runs there is tried with a real one elsewhere."""

    profile, experiment = SimpleNamespace(name="local"), "mine"

    @property
    def tracker(self):
        raise TrackingError("down")


def test_extraction_answers_with_its_run_and_is_not_told_the_token(program, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFVIEWS_WORKER_TOKEN", TOKEN)
    runs = program(f'read line; echo "$line" > {tmp_path}/got; env > {tmp_path}/env; echo \'{{"run_id": "abc"}}\'')
    assert runs.run(Job("0", "extract", str)) == "abc"
    order = json.loads((tmp_path / "got").read_text())
    assert ExtractionRecipe.from_values(order["recipe"]) == MIDBLOCK
    assert (order["profile"], order["experiment"]) == ("local", "mine")
    assert TOKEN not in (tmp_path / "env").read_text()


@pytest.mark.parametrize(
    ("script", "words"),
    [('echo \'{"error": "no layer"}\'', "no layer"), ("kill -9 $$", "exit status -9"), ("echo odd", "status 0")],
)
def test_extraction_that_fails_says_why(program, script, words):
    with pytest.raises(JobFailedError, match=words):
        program(script).run(Job("0", "extract", str))


def test_extraction_ends_when_its_job_does(program, tmp_path):
    job = Job("0", "extract", str)
    job.end = CancelledError("cancelled")
    with pytest.raises(CancelledError):
        program(f"read line; read more; touch {tmp_path}/ended").run(job)
    assert (tmp_path / "ended").exists()
