"""Secrets planted in every variable that may hold one turn up in nothing that is said, logged or stored."""

import base64
import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, quote_plus

import pytest

from diffviews.cli import main
from diffviews.pipelines.job_queue import JobFailedError
from diffviews.recipes import GenerationRecipe, Sampling
from diffviews.serving.client import WorkerClient
from tests.integration.conftest import ROOT, inside
from tests.s3_server import BUCKET, Proxy, fresh_bucket, proxied, raw_client, s3_server, stored_keys, use_store
from tests.serving import Program
from tests.team_servers import FOREIGN, Server

SECRETS = {
    name: f"planted/{number:02}+{name.lower()}=secret&more"
    for number, name in enumerate((
        "R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
        "DIFFVIEWS_TRACKING_PASSWORD", "DIFFVIEWS_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD",
        "DIFFVIEWS_WORKER_TOKEN", "HF_TOKEN",
    ))
}  # fmt: skip
IN_ADDRESS = "planted-99-password-in-the-address"
VARIABLES = (*FOREIGN, "DIFFVIEWS_TRACKING_USERNAME", "AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS", *SECRETS)


def forms_of(secret: str) -> set[bytes]:
    """Return a secret as it is, as an address quotes it, and what is sure of its base64, wherever it stands in it."""
    forms = {secret.encode(), quote(secret, safe="").encode(), quote_plus(secret).encode(), quote(secret).encode()}
    for before in range(3):
        encoded = base64.b64encode(b"x" * before + secret.encode())
        forms |= {encoded[4:-4], encoded[4:-4].replace(b"+", b"-").replace(b"/", b"_")}
    return forms


def test_every_form_of_a_secret_is_known() -> None:
    secret = SECRETS["HF_TOKEN"]
    texts = [f"{user}{secret}" for user in ("", "ab:", "abc:", "abcd:")]
    for hidden in [*texts, *[base64.b64encode(text.encode()).decode() for text in texts], quote(secret, safe="")]:
        assert any(form in f"log of {hidden}.".encode() for form in forms_of(secret))


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A bucket and a tracking server, every secret in the environment."""
    folder = tmp_path_factory.mktemp("team")
    server_folder = tmp_path_factory.mktemp("server")
    server = Server(server_folder, SimpleNamespace(address=f"sqlite:///{server_folder}/mlflow.db"))
    with s3_server() as s3, proxied(s3) as proxy, inside(folder), pytest.MonkeyPatch.context() as patch:
        fresh_bucket(s3)
        use_store(patch, proxy.url)
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        server.start()
        own = {
            "DIFFVIEWS_PROFILE": "r2",
            "DIFFVIEWS_CACHE_DIR": str(folder / "cache"),
            "DIFFVIEWS_TRACKING_USERNAME": "ada",
            "MLFLOW_TRACKING_URI": server.address.replace("://", f"://ada:{IN_ADDRESS}@"),
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        for name, value in {**SECRETS, **own}.items():
            patch.setenv(name, value)
        yield proxy
        server.stop()


class Listener:
    """Runs commands in this process, which spares their start, and hears all that they say."""

    def __init__(self, capture: pytest.CaptureFixture[str], log: pytest.LogCaptureFixture) -> None:
        self._capture, self._log = capture, log
        log.set_level(logging.INFO)

    def failure(self, *words: str, **environment: str) -> bytes:
        """Return what a command says that is expected to fail in this environment."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main(words)
        assert ended.value.code, words
        said = self._capture.readouterr()
        logged, _ = self._log.text, self._log.clear()
        return f"{said.out}{said.err}{logged}".encode()


def program_says(*words: str) -> bytes:
    """Return all that a command says in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "diffviews", *words], capture_output=True, timeout=250)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout + done.stderr


def all_that_is_said(proxy: Proxy, listener: Listener) -> dict[str, bytes]:
    """Extract, fail in many ways, look around, and have a worker generate and fail."""
    small = ("--layers", "encoder_bottleneck", "--sigmas", "2", "--max-samples", "40", "--device", "cpu")
    said = {"extract": program_says("extract", *small)}
    said["doctor"] = listener.failure("doctor")  # the keys of AWS_… are not those of R2_…
    address = f"http://ada:{IN_ADDRESS}@127.0.0.1:9"
    failures: tuple[tuple[str, tuple[str, ...], dict[str, str]], ...] = (
        ("no bucket", ("download", "--source", "r2"), {"R2_BUCKET_NAME": "nowhere"}),
        ("no store", ("download", "--source", "r2"), {"MLFLOW_S3_ENDPOINT_URL": address}),
        ("no hub", ("extract", "--checkpoint", "hf:nobody/nothing", *small), {"HF_ENDPOINT": address}),
        ("no file", ("extract", "--checkpoint", f"{address}/w.safetensors", *small), {}),
        ("no server", ("extract", *small), {"MLFLOW_TRACKING_URI": address}),
    )
    said |= {name: listener.failure(*words, **environment) for name, words, environment in failures}
    proxy.faults.refuse = {"PUT": (403, "SignatureDoesNotMatch")}
    said["refused"] = listener.failure("extract", *small, "--experiment", "refused")
    proxy.faults.refuse = {}
    said["worker"] = worker_says()
    return said


def worker_says() -> bytes:
    with Program(Path.cwd(), token=SECRETS["DIFFVIEWS_WORKER_TOKEN"]) as program:
        client = WorkerClient(program.ready().url, SECRETS["DIFFVIEWS_WORKER_TOKEN"])
        client.generate(GenerationRecipe(class_label=3, sampling=Sampling(num_steps=2)))
        with pytest.raises(JobFailedError) as refusal:
            client.generate(GenerationRecipe(class_label=10_000))
        answers = [client._request("GET", path) for path in ("/version", "/jobs", "/health")]
        return b"".join([program.log.read_bytes(), str(refusal.value).encode(), *answers])


def test_no_planted_secret_is_said_logged_or_stored(
    proxy: Proxy, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    seen = all_that_is_said(proxy, Listener(capsys, caplog))
    assert all(seen.values())
    folders = (Path.cwd(), Path(os.environ["DIFFVIEWS_CACHE_DIR"]), *Path.cwd().parent.glob("server*"))
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        with contextlib.suppress(FileNotFoundError):
            seen[str(path)] = path.read_bytes()
    assert any(name.endswith("mlflow.db") for name in seen)  # params, tags and metrics
    client = raw_client(proxy.url)
    seen |= {f"s3 {key}": client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in stored_keys(client)}
    assert sum(name.startswith("s3 ") for name in seen) > 10
    found = [
        (variable, name)
        for variable, secret in {**SECRETS, "address": IN_ADDRESS}.items()
        for form in forms_of(secret)
        for name, content in seen.items()
        if form in content or form in name.encode()
    ]
    assert found == []
