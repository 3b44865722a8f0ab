"""Artifacts on their way: which transport an address chooses, and what is tried again."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from requests.exceptions import ConnectionError as RequestsConnectionError

from diffviews.data.storage.parallel import in_parallel
from diffviews.data.storage.store_errors import ObjectNotFoundError, StoreError
from diffviews.errors import TrackingError
from diffviews.tracking import connection as connection_module
from diffviews.tracking.connection import Connection
from diffviews.tracking.transfers import BucketTransfers, StoreTransfers, transfers_for
from tests.s3_server import BUCKET, Proxy, fresh_bucket, proxied, raw_client, s3_server, stored_keys, use_store

PREFIX = f"s3://{BUCKET}/mlflow/exp/r1/artifacts"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    fresh_bucket(server)
    with proxied(server) as running:
        use_store(monkeypatch, running.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        yield running


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Connection:
    """A connection whose client is never asked, and that waits for nothing."""
    made = Connection("http://127.0.0.1:9", patience=0.0)
    monkeypatch.setattr(made, "_client", object())
    monkeypatch.setattr(connection_module.time, "sleep", lambda _: None)
    return made


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    for name in ("a.txt", "deep/er/b.txt"):
        (tmp_path / "staged" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "staged" / name).write_text(name)
    return tmp_path / "staged"


def test_files_go_to_a_bucket_and_come_back_under_their_names(
    proxy: Proxy, server: str, connection: Connection, staged: Path, tmp_path: Path
) -> None:
    way = transfers_for(connection, PREFIX)
    assert isinstance(way, BucketTransfers)
    way.send(staged, ["a.txt", "deep/er/b.txt"])
    root = "mlflow/exp/r1/artifacts"
    assert stored_keys(raw_client(server)) == [f"{root}/a.txt", f"{root}/deep/er/b.txt"]
    assert way.names() == ["a.txt", "deep/er/b.txt"]
    assert (way.exists("a.txt"), way.exists("deep")) == (True, False)
    way.fetch("deep/er/b.txt", tmp_path / "back" / "b.txt")
    assert (tmp_path / "back" / "b.txt").read_text() == "deep/er/b.txt"
    with pytest.raises(ObjectNotFoundError, match="does not exist"):
        way.fetch("c.txt", tmp_path / "c.txt")


def test_runs_of_one_store_share_one_client_for_their_bucket(proxy: Proxy, connection: Connection) -> None:
    assert connection.bucket(BUCKET) is connection.bucket(BUCKET)


def test_missing_bucket_is_not_a_missing_artifact(
    proxy: Proxy, connection: Connection, tmp_path: Path, staged: Path
) -> None:
    way = transfers_for(connection, "s3://nowhere/r1/artifacts")
    for ask in (lambda: way.exists("a"), lambda: way.fetch("a", tmp_path / "a"), lambda: way.send(staged, ["a.txt"])):
        with pytest.raises(ObjectNotFoundError, match="no bucket 'nowhere'; create it"):
            ask()


class Store:
    """MLflow's access to artifacts, which breaks as often as it is told to."""

    def __init__(self, breaks: int, error: Callable[[], Exception]) -> None:
        self.breaks, self.error, self.stored = breaks, error, dict[str, bytes]()

    def _break(self) -> None:
        if self.breaks:
            self.breaks -= 1
            raise self.error()

    def log_artifact(self, local: str, folder: str | None = None) -> None:
        self._break()
        self.stored[f"{folder}/{Path(local).name}" if folder else Path(local).name] = Path(local).read_bytes()

    def download_artifacts(self, name: str, into: str) -> str:
        self._break()
        (Path(into) / "got").write_bytes(self.stored[name])
        return str(Path(into) / "got")

    def list_artifacts(self, folder: str | None) -> list[Any]:
        return [SimpleNamespace(path=name, is_dir=False) for name in self.stored if "/" not in name]


def through(connection: Connection, monkeypatch: pytest.MonkeyPatch, store: Store) -> StoreTransfers:
    monkeypatch.setattr(connection, "artifact_store", lambda uri: store)
    way = transfers_for(connection, "mlflow-artifacts:/1/r1/artifacts")
    assert isinstance(way, StoreTransfers)
    return way


BROKEN = {
    "reset": lambda: RequestsConnectionError("('Connection aborted.', ConnectionResetError(104))"),
    "overloaded": lambda: MlflowException("API request failed: too many 503 error responses"),
    "failed": lambda: MlflowException("500 Server Error: INTERNAL SERVER ERROR for url"),
    "slow": lambda: MlflowException("Read timed out. (read timeout=120)"),
}


@pytest.mark.parametrize("error", BROKEN.values(), ids=BROKEN)
def test_transfer_that_breaks_on_its_way_is_tried_again(
    error: Callable[[], Exception], connection: Connection, monkeypatch: pytest.MonkeyPatch, staged: Path
) -> None:
    store = Store(4, error)
    way = through(connection, monkeypatch, store)
    way.send(staged, ["a.txt"])
    assert store.stored == {"a.txt": b"a.txt"}
    store.breaks = 4
    way.fetch("a.txt", staged / "back")
    assert (staged / "back").read_bytes() == b"a.txt"
    store.breaks = 5
    with pytest.raises(TrackingError):
        way.fetch("a.txt", staged / "again")
    assert not (staged / "again").exists()


def test_refusal_is_not_tried_again_and_what_is_no_transfer_neither(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, staged: Path
) -> None:
    store = Store(2, lambda: MlflowException("403 Client Error: FORBIDDEN"))
    with pytest.raises(TrackingError, match="403"):
        through(connection, monkeypatch, store).send(staged, ["a.txt"])
    assert store.breaks == 1
    connection._patience = 5.0
    asked = []

    def write(_: Any) -> None:
        asked.append(1)
        raise BROKEN["reset"]()

    with pytest.raises(TrackingError):
        connection.call(write)
    assert len(asked) == 1  # it may have been done


def test_some_that_failed_are_asked_for_again_while_others_go_through() -> None:
    failures = {3: 1, 5: 1, 7: 1}

    def work(item: int) -> None:
        if failures.get(item, 0):
            failures[item] -= 1
            raise StoreError("SlowDown")
        done.append(item)

    done: list[int] = []
    in_parallel(work, list(range(10)), 1, describe="test")
    assert sorted(done) == list(range(10))
    failures[11] = 99
    done.clear()
    with pytest.raises(StoreError):
        in_parallel(work, [10, 11], 1, describe="test")
    assert done == [10]
    assert failures[11] == 97  # after the first round nothing more went through


def test_failure_that_is_not_the_stores_ends_it_at_once() -> None:
    def work(item: int) -> None:
        done.append(item)
        if item == 1:
            raise OSError("disk")

    done: list[int] = []
    with pytest.raises(OSError, match="disk"):
        in_parallel(work, [0, 1, 2, 3], 1, describe="test")
    assert done.count(1) == 1
