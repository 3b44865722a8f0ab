"""The worker over a real socket: who is let in, what is refused and how, the queue, cancel, the end."""

import http.client
import json
import socket
import threading
import time
from functools import partial
from urllib.parse import urlsplit

import pytest
import urllib3

from diffviews.errors import ConfigError
from diffviews.pipelines.job_queue import JobQueue, QueueStoppedError
from diffviews.recipes.generation import GenerationRecipe
from diffviews.serving import worker as program
from diffviews.serving.app import STOPPED
from diffviews.serving.protocol import SCHEMA
from diffviews.serving.requests import Limits
from diffviews.serving.service import AccessPolicy
from tests.serving import TOKEN, GatedRunner, served, wait

STATED = {"X-DiffViews-Schema": "1"}
"""An earlier version's: most orders here are of that, and must be taken."""
ALLOWED = {"Authorization": f"Bearer {TOKEN}", **STATED}


class Caller:
    """Plain HTTP requests to one worker."""

    def __init__(self, url):
        self.url, self.pool = url, urllib3.PoolManager(retries=False, timeout=20)

    def __call__(self, method, path, body=None, headers=ALLOWED):
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        answer = self.pool.request(method, self.url + path, body=content, headers=headers)
        assert b"Traceback" not in answer.data
        return answer

    def order(self, **recipe):
        answer = self("POST", "/jobs/generate", {"schema": 1, **recipe})
        assert answer.status == 202, answer.data
        return answer.json()["id"]

    def state(self, job):
        return self("GET", f"/jobs/{job}").json()


@pytest.fixture
def runner():
    return GatedRunner()


@pytest.fixture
def worker(runner):
    with served(runner) as (url, _):
        yield Caller(url)


@pytest.fixture(scope="module")
def untouched():
    """A runner that no test may reach."""
    return GatedRunner()


@pytest.fixture(scope="module")
def gate(untouched):
    """A worker that many tests knock at and none may enter."""
    with served(untouched) as (url, _):
        yield Caller(url)


def refused(answer, status, words=""):
    assert answer.status == status, answer.data
    assert words in answer.json()["error"]
    return True


def test_health_needs_no_token_and_tells_nothing(gate):
    answer = gate("GET", "/health", headers={})
    assert (answer.status, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    "shown", [{}, {"Authorization": "Bearer wrong-token-of-any-kind"}, {"Authorization": f"Basic {TOKEN}"},
              {"Authorization": "Bearer "}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": "Bearer \xe9"}],
)  # fmt: skip
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/version"), ("GET", "/jobs"), ("GET", "/nothing"), ("POST", "/jobs/generate"), ("POST", "/jobs/extract"),
     ("DELETE", "/jobs/x"), ("GET", "/jobs/x/files/y"), ("GET", "/jobs/x/events"), ("GET", "/docs"),
     ("GET", "/openapi.json")],
)  # fmt: skip
def test_all_else_needs_the_token(gate, untouched, method, path, shown):
    answer = gate(method, path, {"schema": 1} if method == "POST" else None, headers={**shown, **STATED})
    assert refused(answer, 401, "token is missing or wrong")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert TOKEN.encode() not in answer.data
    assert untouched.ran == []


def test_both_sides_state_their_schema(gate):
    assert gate("GET", "/health", headers={}).headers["X-DiffViews-Schema"] == SCHEMA
    assert gate("GET", "/version").json()["schema"] == SCHEMA
    other = {**ALLOWED, "X-DiffViews-Schema": "99", "X-DiffViews-Version": "9.9"}
    for method, path in (("GET", "/jobs"), ("POST", "/jobs/generate")):
        assert refused(gate(method, path, b"{}" if method == "POST" else None, other), 409, "caller has schema '99'")
    silent = {"Authorization": ALLOWED["Authorization"]}
    assert refused(gate("POST", "/jobs/generate", {"schema": 1}, silent), 409, "states none")
    assert refused(gate("POST", "/jobs/generate", {"schema": 99}), 409, "schema '99'")


HOSTILE = {
    "billion images": ({"num_samples": 10**9}, "num_samples 1000000000 is beyond"),
    "billion steps": ({"num_steps": 10**9}, "num_steps 1000000000 is beyond"),
    "negative steps": ({"num_steps": -1}, "num_steps -1"),
    "text for a number": ({"num_samples": "3"}, "num_samples '3'"),
    "number for a text": ({"prompt": 3}, "prompt '3'"),
    "switch for a number": ({"seed": True}, "seed 'True'"),
    "vast number": ({"seed": 10**300}, "seed 1"),
    "unknown field": ({"num_step": 3}, "did you mean 'num_steps'"),
    "list for a text": ({"model": ["edm-digits"]}, "model"),
    "long text": ({"prompt": "a" * 20_000}, "prompt has 20,000 characters"),
    "null character": ({"model": "a\0b"}, "null character"),
    "many samples": ({"layer_run": "x", "sample_ids": [str(i) for i in range(10_001)]}, "sample_ids has 10,001"),
    "twice the same": ({"layer_run": "x", "sample_ids": ["a", "a"]}, "selected twice"),
    "contradiction": ({"sample_ids": ["a"]}, "need layer_run"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_impossible_recipe_is_refused_with_a_sentence(gate, untouched, name):
    recipe, words = HOSTILE[name]
    assert refused(gate("POST", "/jobs/generate", {"schema": 1, **recipe}), 422, words)
    assert untouched.ran == []


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"schema": 1, "rho": NaN}',
             b'{"schema":1,"seed":' + b"9" * 9999 + b"}"],
    ids=["nothing", "list", "bytes", "nested", "nan", "digits"],
)  # fmt: skip
def test_body_that_is_no_recipe_is_refused_with_a_sentence(gate, body):
    assert refused(gate("POST", "/jobs/generate", body), 409 if body == b"" else 422)


def test_body_is_read_up_to_a_limit_however_it_is_sent(runner):
    with served(runner, limits=Limits(body_bytes=1000)) as (url, _):
        caller = Caller(url)
        assert refused(caller("POST", "/jobs/generate", b"x" * 2000), 413, "longer than 1,000 bytes")
        assert refused(caller("POST", "/jobs/extract", (b"x" * 10 for _ in range(200))), 413)


def test_body_that_does_not_arrive_is_given_up(runner):
    with served(runner, limits=Limits(body_seconds=0.2)) as (url, _):
        address = urlsplit(url)
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
        connection.putrequest("POST", "/jobs/generate")
        for name, value in {**ALLOWED, "Content-Length": "100"}.items():
            connection.putheader(name, value)
        connection.endheaders(b"{")
        assert connection.getresponse().status == 413
        connection.close()


@pytest.mark.parametrize("path", ["/", "/nothing", "/jobs/", "/jobs/../health", "/docs", "/openapi.json"])
def test_nothing_here_is_a_sentence(gate, path):
    answer = gate("GET", path)
    assert answer.status in (200, 404)  # urllib3 itself resolves `..`
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("job", ["x", "0" * 32, "..%2f..%2fetc%2fpasswd", "%00", "a" * 5000])
def test_unknown_job_is_refused(gate, job):
    for path in ("", "/events", "/files", "/files/images/000.png"):
        assert gate("GET", f"/jobs/{job}{path}").status == 404
    assert gate("DELETE", f"/jobs/{job}").status == 404


def test_id_of_a_job_must_have_its_form(gate):
    answer = gate("POST", "/jobs/generate", {"schema": 1}, {**ALLOWED, "X-DiffViews-Job": "../x"})
    assert refused(answer, 422, "32 hexadecimal digits")


@pytest.mark.parametrize(
    ("kind", "body"),
    [("generate", {"schema": 1, "num_steps": 3, "rho": 5.0}), ("generate", {"schema": 2, "sampling": {"num_steps": 3}}),
     ("extract", {"layers": ["midblock"]}), ("extract", {"schema": 2, "layers": ["midblock"]})],
)  # fmt: skip
def test_orders_of_this_and_earlier_versions_are_taken(worker, kind, body):
    for stated in {"1", SCHEMA}:
        answer = worker("POST", f"/jobs/{kind}", body, {**ALLOWED, "X-DiffViews-Schema": stated})
        assert answer.status == 202, answer.data


def test_order_sent_twice_makes_one_job(worker, runner):
    headers = {**ALLOWED, "X-DiffViews-Job": "ab" * 16}
    first, second = (worker("POST", "/jobs/generate", {"schema": 1}, headers).json() for _ in range(2))
    assert first["id"] == second["id"] == "ab" * 16
    runner.let(6)
    wait(lambda: worker.state("ab" * 16)["state"] == "finished")
    assert runner.ran == [0]


def test_experiment_of_a_job_is_the_one_asked_for(worker, runner):
    worker("POST", "/jobs/generate?experiment=my%20digits", {"schema": 1})
    wait(lambda: runner.experiments == ["my digits"])
    assert refused(worker("POST", "/jobs/generate?experiment=a%00b", {"schema": 1}), 422, "printable")
    assert refused(worker("POST", f"/jobs/generate?experiment={'a' * 201}", {"schema": 1}), 422, "at most 200")


def test_without_a_token_only_this_machines_names_are_answered(runner):
    with served(runner, token=None, hosts=("127.0.0.1", "localhost")) as (url, _):
        caller = Caller(url)
        assert caller("GET", "/jobs", headers={}).status == 200
        assert refused(caller("GET", "/jobs", headers={"Host": "evil.example:8080"}), 421)
        # A web page can send this, but not the header with the schema.
        assert caller("POST", "/jobs/generate", {"schema": 1}, {"Content-Type": "text/plain"}).status == 409
        assert runner.ran == []


def test_jobs_run_one_at_a_time_with_their_place(worker, runner):
    jobs = [worker.order(seed=seed) for seed in (1, 2, 3)]
    wait(lambda: runner.ran == [1])
    assert [(worker.state(job)["state"], worker.state(job)["ahead"]) for job in jobs] == [
        ("running", 0), ("queued", 1), ("queued", 2)]  # fmt: skip
    runner.let(4)
    wait(lambda: runner.ran == [1, 2] and worker.state(jobs[1])["step"] == 1)
    first, second, third = (worker.state(job) for job in jobs)
    assert (first["state"], first["run_id"]) == ("finished", "run-of-seed-1")
    assert (second["step"], second["total"], third["ahead"]) == (1, 3, 1)
    assert [job["id"] for job in worker("GET", "/jobs").json()["jobs"]] == jobs
    assert second["preview"] is None
    assert worker("GET", f"/jobs/{jobs[1]}?preview=true").json()["preview"].startswith("iVBOR")


def events(worker, job):
    """Yield the events of a job as they come."""
    answer = worker.pool.request("GET", f"{worker.url}/jobs/{job}/events", headers=ALLOWED, preload_content=False)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/x-ndjson")
    assert answer.headers["X-DiffViews-Schema"] == SCHEMA
    return map(json.loads, answer)


def test_events_are_a_line_a_change_and_end_with_the_job(worker, runner):
    ahead, job = worker.order(seed=1), worker.order(seed=2)
    wait(lambda: runner.ran == [1])
    lines = events(worker, job)
    assert [(line["state"], line["ahead"]) for line in (next(lines), next(lines))] == [("queued", 1)] * 2  # a beat
    worker("DELETE", f"/jobs/{ahead}")
    seen = [next(line for line in lines if line["state"] == "running")]
    for step in (1, 2):
        runner.let(1)
        seen.append(next(line for line in lines if line["step"] == step))
    assert all(line["preview"].startswith("iVBOR") for line in seen[1:])
    runner.let(1)
    *_, last = lines
    assert (last["state"], last["run_id"], last["preview"]) == ("finished", "run-of-seed-2", None)
    (only,) = events(worker, job)
    assert only == last


def test_stopped_worker_tells_those_who_follow(runner):
    with served(runner) as (url, _):
        worker = Caller(url)
        lines = events(worker, worker.order())
        assert next(line for line in lines if line["state"] == "running")
    *_, last = lines
    assert (last["state"], last["error"]) == ("failed", STOPPED)


def test_cancel_ends_a_queued_job_at_once_and_a_running_one_at_its_step(worker, runner):
    first, second, third = (worker.order(seed=seed) for seed in (1, 2, 3))
    wait(lambda: runner.ran == [1])
    assert worker("DELETE", f"/jobs/{second}").json()["state"] == "cancelled"
    assert worker.state(third)["ahead"] == 1
    worker("DELETE", f"/jobs/{first}")
    wait(lambda: worker.state(first)["state"] == "cancelled")
    runner.let(3)
    wait(lambda: worker.state(third)["state"] == "finished")
    assert runner.ran == [1, 3]
    assert worker("DELETE", f"/jobs/{third}").json()["state"] == "finished"


def test_queue_has_an_end(runner):
    with served(runner, limits=Limits(waiting_jobs=2)) as (url, _):
        caller = Caller(url)
        caller.order()
        wait(lambda: runner.ran)
        caller.order()
        caller.order()
        assert refused(caller("POST", "/jobs/generate", {"schema": 1}), 429, "2 jobs wait already")


def test_jobs_that_are_over_are_forgotten(runner):
    with served(runner, limits=Limits(kept_jobs=1)) as (url, _):
        caller = Caller(url)
        runner.let(9)
        jobs = [caller.order(seed=seed) for seed in range(3)]
        wait(lambda: runner.ran == [0, 1, 2] and caller.state(jobs[2]).get("state") == "finished")
        assert [job["id"] for job in caller("GET", "/jobs").json()["jobs"]] == [jobs[2]]
        assert refused(caller("GET", f"/jobs/{jobs[0]}"), 404, "forgotten")


def test_failure_is_a_sentence_without_what_is_inside(worker, runner):
    runner.raises = ConfigError("layer 'mid' is not one of: a, b")
    said = worker.order()
    wait(lambda: worker.state(said)["state"] == "failed")  # before what it raises is changed
    runner.raises = KeyError("/root/secret/path")
    unforeseen = worker.order()
    wait(lambda: worker.state(unforeseen)["state"] == "failed")
    assert worker.state(said)["error"] == "layer 'mid' is not one of: a, b"
    shown = "generate failed unexpectedly (KeyError); the worker's log has the details"
    assert worker.state(unforeseen)["error"] == shown


def test_endpoint_that_breaks_answers_a_sentence(worker):
    unforeseen = {"schema": 1, "layer_run": "x", "checkpoint": "y"}  # the runner here has no runs to look in
    assert refused(worker("POST", "/jobs/generate", unforeseen), 500, "AttributeError")


def test_stop_ends_running_and_queued_jobs_with_the_reason(runner):
    queue = JobQueue()
    first, second = (queue.submit("generate", partial(runner.generate, GenerationRecipe(seed=seed))) for seed in (1, 2))
    wait(lambda: runner.ran == [1])
    queue.stop("the host goes away")
    assert [(job.state, job.error) for job in (first, second)] == [("failed", "the host goes away")] * 2
    with pytest.raises(QueueStoppedError, match="goes away"):
        queue.submit("generate", lambda job: "")
    assert runner.ran == [1]


def test_idle_worker_ends_and_a_busy_one_does_not(runner):
    queue, ended = JobQueue(), type("Server", (), {"should_exit": False})()
    queue.submit("generate", partial(runner.generate, GenerationRecipe(seed=1)))
    watching = threading.Thread(target=program._end_when_idle, args=(ended, queue, 0.3), daemon=True)
    watching.start()
    time.sleep(0.6)
    assert not ended.should_exit
    runner.let(3)
    watching.join(20)
    assert ended.should_exit


def test_worker_that_others_can_reach_needs_a_token(monkeypatch):
    monkeypatch.delenv("DIFFVIEWS_WORKER_TOKEN", raising=False)
    assert [program.read_token(host) for host in ("127.0.0.1", "::1", "localhost")] == [None] * 3
    for host in ("0.0.0.0", "::", "10.0.0.1", "gpu-host"):
        with pytest.raises(ConfigError, match="needs a token; set DIFFVIEWS_WORKER_TOKEN"):
            program.read_token(host)
    monkeypatch.setenv("DIFFVIEWS_WORKER_TOKEN", "short")
    with pytest.raises(ConfigError, match="fewer than 16 characters") as refusal:
        program.read_token("127.0.0.1")
    assert "short" not in str(refusal.value)


def test_taken_port_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/m.db")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot listen on"):
            program.worker(port=taken.getsockname()[1], device="cpu")


def test_checkpoints_are_opened_only_as_far_as_the_owner_says(tmp_path):
    inside, outside = tmp_path / "models", tmp_path / "secret.safetensors"
    inside.mkdir()
    outside.touch()
    (inside / "link.safetensors").symlink_to(outside)
    policy = AccessPolicy((f"{inside}/*", "https://models.example/*"))
    for allowed in (None, "edm-imagenet-64", "catalogue:edm-imagenet-64", "models:/digits/1", f"{inside}/a.safetensors",
                    "https://models.example/a.safetensors"):  # fmt: skip
        policy.check_checkpoint(allowed)
    policy.check_checkpoint("/noted/by/the/run.pkl", "/noted/by/the/run.pkl")
    for forbidden in (
        str(outside), "secret.safetensors", f"{inside}/../secret.safetensors", f"{inside}/link.safetensors",
        "https://evil.example/a.safetensors", "https://models.example/../a", "hf:owner/name", "s3://b/k",
        "http://127.0.0.1:9/a", "", "edm-imagenet", str(inside),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="is not opened for a remote caller"):
            policy.check_checkpoint(forbidden)
    with pytest.raises(ConfigError, match="not opened"):
        policy.check_checkpoint("", "")


def test_file_named_as_a_public_checkpoint_is_not_taken_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sdxl").touch()
    with pytest.raises(ConfigError, match="not opened"):
        AccessPolicy().check_checkpoint("sdxl")


def test_data_sets_are_opened_only_as_far_as_the_owner_says(tmp_path):
    policy = AccessPolicy(datasets=(f"folder:{tmp_path}/*",))
    for allowed in ("digits", "run:abc", f"folder:{tmp_path}/flowers"):
        policy.check_dataset(allowed)
    inside = f"{tmp_path}/flowers"
    for forbidden in ("folder:/etc", f"folder:{tmp_path}/../x", f"parquet:{inside}", "lmdb:/x", "prompts:/etc/passwd"):
        with pytest.raises(ConfigError, match="is not opened for a remote caller"):
            policy.check_dataset(forbidden)


def test_judges_of_folders_are_opened_only_as_far_as_checkpoints_are(tmp_path):
    policy = AccessPolicy(checkpoints=(f"{tmp_path}/*",))
    for allowed in (None, "svc", "knn:midblock@2", f"clip:{tmp_path}/clip", "plugged"):
        policy.check_judge(allowed)
    for forbidden in ("clip:/etc", f"clip:{tmp_path}/../x", "plugged:/etc/passwd"):
        with pytest.raises(ConfigError, match="is not opened for a remote caller"):
            policy.check_judge(forbidden)


def test_images_of_all_steps_must_fit_in_memory():
    Limits().check_result(256, 1000, 16)
    with pytest.raises(ConfigError, match=r"256 images of 1024×1024 in 1000 steps take 1\.61 TB"):
        Limits().check_result(256, 1000, 1024)
