"""The commands download, seed and doctor against a real S3 server."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diffviews.cli import main
from diffviews.data.storage.store_errors import StoreError
from diffviews.errors import ConfigError
from diffviews.pipelines import team_bucket
from diffviews.pipelines.team_bucket import download, seed
from diffviews.tracking.profiles import activate, profile_of
from tests.integration.conftest import inside
from tests.s3_server import (
    BUCKET,
    SECRET,
    Proxy,
    fresh_bucket,
    proxied,
    raw_client,
    s3_server,
    stored_keys,
    use_store,
)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty tracking database, which takes seconds to make."""
    folder = tmp_path_factory.mktemp("database")
    activate(profile_of(f"sqlite:///{folder}/mlflow.db"))
    return folder / "mlflow.db"


@pytest.fixture
def proxy(server: str, database: Path, tmp_path: Path) -> Iterator[Proxy]:
    """A proxy before an empty bucket, a folder with an empty tracking store as the current one."""
    fresh_bucket(server)
    shutil.copy2(database, tmp_path)
    with proxied(server) as running, inside(tmp_path), pytest.MonkeyPatch.context() as patch:
        use_store(patch, running.url)
        patch.setenv("DIFFVIEWS_CACHE_DIR", str(tmp_path / "cache"))
        yield running


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder of two models, with what is never sent."""
    folder = tmp_path / "mine"
    for name in ("edm/config.json", "edm/checkpoints/w.safetensors", "edm/checkpoints/w.pkl", "edm/images/d/0.png",
                 "edm/activations/d/a.npy", "edm/activations/d/a.npz", "edm/intermediates/x.png", "edm/.git/config",
                 "dmd2/config.json", "dmd2/checkpoints/w.safetensors",
                 "imagenet_standard_class_index.json"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    (folder / "edm" / "out.txt").symlink_to("/etc/hostname")
    return folder


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


SENT = [
    "dmd2/checkpoints/w.safetensors", "dmd2/config.json", "edm/activations/d/a.npy", "edm/checkpoints/w.safetensors",
    "edm/config.json", "edm/images/d/0.png", "imagenet_standard_class_index.json",
]  # fmt: skip


def test_seeded_folder_comes_back_by_download(proxy: Proxy, data: Path, tmp_path: Path) -> None:
    outcome = seed(str(data))
    assert outcome.files == len(SENT)
    assert stored_keys(raw_client(proxy.url)) == [f"data/{name}" for name in SENT]
    assert seed(str(data)).files == 0
    fetched = download(source="r2", data_dir=str(tmp_path / "got"))
    assert (fetched.models, fetched.files) == (("dmd2", "edm"), len(SENT))
    assert files_in(tmp_path / "got") == SENT
    assert download(source="r2", data_dir=str(tmp_path / "got")).files == 0


def test_one_models_folder_may_be_seeded(proxy: Proxy, data: Path) -> None:
    assert seed(str(data / "dmd2")).files == 2
    assert stored_keys(raw_client(proxy.url)) == ["data/dmd2/checkpoints/w.safetensors", "data/dmd2/config.json"]


@pytest.mark.parametrize(
    ("checkpoints", "model", "expected"),
    [("none", None, []), ("dmd2", None, ["dmd2"]), ("edm", None, ["edm"]), ("all", "edm", ["edm"])],
)
def test_checkpoints_are_those_asked_for(
    proxy: Proxy, data: Path, tmp_path: Path, checkpoints: Any, model: str | None, expected: list[str]
) -> None:
    seed(str(data))
    download(checkpoints, "r2", model, str(tmp_path / "got"))
    found = [name.split("/")[0] for name in files_in(tmp_path / "got") if "checkpoints" in name]
    assert found == expected
    assert (tmp_path / "got" / "dmd2").exists() == (model is None)


def test_published_checkpoints_stand_in_for_those_the_bucket_lacks(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(team_bucket, "fetch", lambda address, folder, **_: asked.append(address) or folder)
    outcome = download("edm", data_dir=str(tmp_path / "got"))
    assert outcome.checkpoints == ("edm-imagenet-64", "edm-baseline-imagenet-64")
    assert asked[0].startswith("https://")
    raw_client(proxy.url).put_object(Bucket=BUCKET, Key="data/edm-imagenet-64/checkpoints/w.safetensors", Body=b"x")
    assert download("edm", data_dir=str(tmp_path / "got")).checkpoints == ()
    monkeypatch.delenv("R2_ACCESS_KEY_ID")
    assert len(download("dmd2", data_dir=str(tmp_path / "got")).checkpoints) == 3
    assert download("none", data_dir=str(tmp_path / "got")).checkpoints == ()
    with pytest.raises(ConfigError, match="R2_ACCESS_KEY_ID"):
        download(source="r2")


def test_unknown_model_of_the_bucket_is_offered_the_nearest(proxy: Proxy, data: Path) -> None:
    seed(str(data))
    with pytest.raises(ConfigError, match="did you mean 'edm'"):
        download(source="r2", model="ed")
    with pytest.raises(ConfigError, match="nothing to upload"):
        seed()


def test_computed_layers_are_seeded_once_and_a_failure_is_said(proxy: Proxy) -> None:
    options: dict[str, Any] = {"layers": ("midblock",), "sigmas": (2.0,), "max_samples": 40, "device": "cpu"}
    proxy.faults.refuse = {"PUT": (403, "AccessDenied")}
    with pytest.raises(StoreError, match="not all layers arrived"):
        seed(model="edm-digits", **options)
    assert stored_keys(raw_client(proxy.url)) == []
    proxy.faults.refuse = {}
    assert seed(model="edm-digits", **options).layers == 1
    assert any(key.endswith("/entry.json") for key in stored_keys(raw_client(proxy.url)))
    proxy.clear()
    assert seed(model="edm-digits", **options).layers == 1
    assert proxy.puts() == []


def doctor(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *words])
    answer = capsys.readouterr()
    assert SECRET not in answer.out + answer.err
    return int(ended.value.code or 0), answer.out + answer.err


def test_doctor_finds_everything_working_and_leaves_nothing(proxy: Proxy, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = doctor(capsys, "--profile", "r2")
    assert status == 0, text
    assert text.count("put, get, list and delete work") == 2
    assert stored_keys(raw_client(proxy.url)) == []
    assert "FAILED" not in text


@pytest.mark.parametrize(
    ("environment", "refuse", "sentence"),
    [
        ({"R2_SECRET_ACCESS_KEY": ""}, {}, "set R2_SECRET_ACCESS_KEY"),
        ({"R2_BUCKET_NAME": "nowhere"}, {}, "no bucket 'nowhere'; create it"),
        ({"MLFLOW_S3_ENDPOINT_URL": "http://127.0.0.1:9"}, {}, "cannot be reached"),
        ({}, {"DELETE": (403, "AccessDenied")}, "may not do this: make a token with read and write access"),
        ({}, {"PUT": (403, "SignatureDoesNotMatch")}, "check R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY"),
        ({"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, {}, "start it (mlflow server)"),
    ],
)
def test_doctor_names_the_remedy_and_ends_with_status_1(
    proxy: Proxy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str], refuse: dict[str, tuple[int, str]], sentence: str,
) -> None:  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    proxy.faults.refuse = refuse
    status, text = doctor(capsys)
    assert status == 1
    assert sentence in text
    assert "FAILED" in text


def test_doctor_does_without_a_bucket_that_nobody_configured(
    proxy: Proxy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    status, text = doctor(capsys)
    assert status == 0
    assert "absent  team bucket" in text


def test_doctor_sees_that_other_keys_win(
    proxy: Proxy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone-elses")
    status, text = doctor(capsys, "--profile", "r2")
    assert status == 1
    assert "AWS_ACCESS_KEY_ID is set to something else than R2_ACCESS_KEY_ID" in text
    assert os.environ["AWS_ACCESS_KEY_ID"] not in text
