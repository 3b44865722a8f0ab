"""The object store and the shared bucket over real sockets: faults, concurrency, atomic files, words for failures."""

import errno
import hashlib
import logging
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diffviews.data.files import check_name
from diffviews.data.r2_cache import R2DataStore, R2LayerCache, shared_bucket
from diffviews.data.storage import resumable
from diffviews.data.storage.object_store import LARGE, ObjectStore
from diffviews.data.storage.store_errors import ObjectNotFoundError, StoreError
from diffviews.errors import ConfigError, DiskSpaceError
from tests.s3_server import BUCKET, KEY, SECRET, Proxy, fresh_bucket, proxied, s3_server, stored_keys, use_store

ROOT = Path(__file__).parents[2]
CONTENT = random.Random(0).randbytes(300_000)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def bucket(server: str) -> Any:
    """A client that goes past the proxy, of an empty bucket."""
    return fresh_bucket(server)


@pytest.fixture
def proxy(server: str, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxied(server) as running:
        use_store(monkeypatch, running.url)
        yield running


@pytest.fixture
def store(proxy: Proxy) -> ObjectStore:
    return ObjectStore(f"r2://{BUCKET}/data", read_timeout=1)


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_object_makes_the_round_trip(store: ObjectStore, tmp_path: Path) -> None:
    store.put("a/one.bin", CONTENT)
    source = tmp_path / "two.bin"
    source.write_bytes(b"")
    store.put("a/two.bin", source)
    assert [(found.key, found.size) for found in store.list("a/")] == [("a/one.bin", 300_000), ("a/two.bin", 0)]
    assert store.read("a/one.bin") == CONTENT
    assert store.get("a/two.bin", tmp_path / "empty").read_bytes() == b""
    assert store.exists("a/one.bin")
    store.delete("a/one.bin")
    assert not store.exists("a/one.bin")
    with pytest.raises(ObjectNotFoundError, match=r"r2://team/a/one\.bin does not exist"):
        store.read("a/one.bin")


def test_body_that_breaks_off_is_asked_for_again(store: ObjectStore, proxy: Proxy, tmp_path: Path) -> None:
    store.put("a.bin", CONTENT)
    proxy.clear()
    proxy.faults.cut_next = 2
    assert store.get("a.bin", tmp_path / "a.bin", len(CONTENT)).read_bytes() == CONTENT
    assert len(proxy.gets("a.bin")) == 3
    assert files_in(tmp_path) == ["a.bin"]
    proxy.faults.cut_next = 2
    assert store.read("a.bin") == CONTENT


@pytest.mark.parametrize("size", [len(CONTENT), LARGE + 1])
def test_object_that_changes_meanwhile_is_not_mixed(
    store: ObjectStore, proxy: Proxy, bucket: Any, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = random.Random(2).randbytes(size), random.Random(1).randbytes(size)
    store.put("a.bin", first)
    proxy.faults.cut_next = 1
    asked, original = [], store._client.get_object

    def ask_and_change(**options: Any) -> Any:
        asked.append(options)
        if len(asked) == 2:
            bucket.put_object(Bucket=BUCKET, Key="data/a.bin", Body=other)
        return original(**options)

    monkeypatch.setattr(store._client, "get_object", ask_and_change)
    assert store.get("a.bin", tmp_path / "a.bin").read_bytes() == other
    assert len(asked) >= 2


@pytest.mark.parametrize("size", [1000, LARGE + 1])
def test_full_disk_is_said_and_leaves_no_file(
    store: ObjectStore, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a.bin", bytes(size))

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("s3transfer.download.IOWriteTask._main" if size < LARGE else
                        "diffviews.data.storage.resumable._write", full)  # fmt: skip
    with pytest.raises(DiskSpaceError, match=r"the disk is full: .*a\.bin"):
        store.get("a.bin", tmp_path / "a.bin")
    assert [name for name in files_in(tmp_path) if not name.startswith(".")] == []


def test_download_given_up_leaves_the_old_file_and_no_part(store: ObjectStore, proxy: Proxy, tmp_path: Path) -> None:
    store.put("a.bin", CONTENT)
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    proxy.faults.cut, proxy.faults.kept = 1.0, 0.0
    with pytest.raises(StoreError, match="broke off or fell silent again and again"):
        store.get("a.bin", target)
    assert target.read_bytes() == b"old"
    assert files_in(tmp_path) == ["a.bin"]


def test_large_object_goes_on_in_another_process(
    store: ObjectStore, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = CONTENT * 70
    assert len(content) > LARGE
    store.put("big.bin", content)
    proxy.faults.cut_next = 1
    with monkeypatch.context() as patch:
        patch.setattr(resumable, "_append", _once_then_die())
        with pytest.raises(KeyboardInterrupt):
            store.get("big.bin", tmp_path / "big.bin")
    assert not (tmp_path / "big.bin").exists()
    proxy.clear()
    assert store.get("big.bin", tmp_path / "big.bin").read_bytes() == content
    ranges = [headers.get("Range") for method, _, headers in proxy.requests if method == "GET"]
    assert ranges == [f"bytes={len(content) // 2}-"]
    assert files_in(tmp_path) == ["big.bin"]


def _once_then_die() -> Any:
    append_piece = resumable._append

    def append(*arguments: Any) -> bool:
        try:
            return append_piece(*arguments)
        finally:
            raise KeyboardInterrupt

    return append


def test_ten_percent_of_faults_lose_nothing(store: ObjectStore, proxy: Proxy, tmp_path: Path) -> None:
    names = [f"f{number:02d}.bin" for number in range(40)]
    source = tmp_path / "source"
    source.mkdir()
    for name in names:
        (source / name).write_bytes(CONTENT[: 1000 + len(name)] + name.encode())
    proxy.faults.unavailable, proxy.faults.stalled, proxy.faults.cut = 0.1, 0.05, 0.1
    assert store.upload_folder(source, "m", names) == 40
    assert store.download_prefix("m", tmp_path / "got") == 40
    assert {name: (tmp_path / "got" / name).read_bytes() for name in names} == {
        name: (source / name).read_bytes() for name in names
    }
    assert files_in(tmp_path / "got") == names
    assert len(proxy.requests) > 82  # some were tried again


def test_concurrent_download_overlaps(store: ObjectStore, proxy: Proxy, tmp_path: Path) -> None:
    for number in range(16):
        store.put(f"m/{number}", b"x")
    proxy.faults.latency = 0.1
    for workers, expected in ((8, 8), (1, 1)):
        proxy.clear()
        assert store.download_prefix("m", tmp_path / str(workers), workers=workers) == 16
        assert proxy.most_in_flight == expected
    assert R2DataStore().download_prefix("data/m", tmp_path / "data") == 16


def test_bulk_download_leaves_out_what_is_not_wanted_and_what_is_there(
    store: ObjectStore, proxy: Proxy, tmp_path: Path
) -> None:
    for key in ("config.json", "activations/d/a.npy", "activations/d/a.npz", "x/intermediates/b.png", "old.pkl",
                "layer_cache/mid.csv", "layer_cache/v2/e/entry.json"):  # fmt: skip
        store.put(f"m/{key}", CONTENT[:10])
    assert store.download_prefix("m", tmp_path) == 2
    assert files_in(tmp_path) == ["activations/d/a.npy", "config.json"]
    (tmp_path / "config.json").write_bytes(b"0123456789")  # as long, but another
    proxy.clear()
    assert store.download_prefix("m", tmp_path) == 1
    assert proxy.gets() == ["/team/data/m/config.json"]
    assert store.download_prefix("m", tmp_path, exclude_dirs=()) == 3


def test_hostile_keys_of_a_bucket_write_nothing_outside(
    store: ObjectStore, bucket: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for key in ("m/../../evil", "m//etc/evil", "m/a\\..\\evil", "m/ok.txt"):
        bucket.put_object(Bucket=BUCKET, Key=f"data/{key}", Body=b"x")
    assert store.download_prefix("m", tmp_path / "in" / "deep") == 1
    assert files_in(tmp_path) == ["in/deep/ok.txt"]
    assert sum("left out" in record.message for record in caplog.records) == 3


@pytest.mark.parametrize("key", ["", "/a", "../a", "a/../b", "a//b", "a\\b", "a\0b", "C:/a", "a/."])
def test_key_that_leads_elsewhere_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="is not allowed"):
        check_name(key)


@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (403, "InvalidAccessKeyId", "check R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY"),
        (403, "SignatureDoesNotMatch", "check R2_ACCESS_KEY_ID"),
        (403, "AccessDenied", "revoked"),
        (400, "ExpiredToken", "expired"),
        (500, "InternalError", "try again later"),
    ],
)
def test_refusal_names_the_remedy_and_no_secret(
    store: ObjectStore, proxy: Proxy, status: int, code: str, remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    proxy.faults.refuse = {"GET": (status, code), "PUT": (status, code)}
    every = (lambda: store.read("a"), lambda: store.put("a", b"x"), lambda: list(store.list()))
    for attempt in every if status < 500 else every[:1]:
        with pytest.raises(StoreError, match=remedy) as caught:
            attempt()
        assert SECRET not in str(caught.value)
    assert SECRET not in caplog.text


def test_missing_bucket_is_said_and_not_taken_for_an_empty_one(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    absent = ObjectStore("r2://nowhere")
    for attempt in (lambda: absent.exists("a"), lambda: list(absent.list()), lambda: absent.put("a", b"x")):
        with pytest.raises(ObjectNotFoundError, match="no bucket 'nowhere'; create it"):
            attempt()
    assert R2DataStore("nowhere").file_exists("a") is False
    assert "no bucket 'nowhere'" in caplog.text


def test_unreachable_store_answers_no_and_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    use_store(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    data, layers = R2DataStore(), R2LayerCache()
    assert data.enabled
    assert data.list_objects("data/") == []
    assert data.download_file("data/a", tmp_path / "a") is False
    assert data.download_prefix("data", tmp_path) == 0
    assert layers.layer_exists("m", "mid") is False
    assert layers.download_layer("m", "mid", tmp_path) is False
    assert caplog.text.count("cannot be reached") == 5


def test_without_credentials_it_is_off_and_names_the_variables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    use_store(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.delenv("R2_SECRET_ACCESS_KEY")
    data = R2DataStore()
    assert not data.enabled
    assert not R2LayerCache().enabled
    assert data.download_file("data/a", tmp_path / "a") is False
    assert "R2_SECRET_ACCESS_KEY" in caplog.text
    with pytest.raises(ConfigError, match="R2_SECRET_ACCESS_KEY"):
        shared_bucket()
    monkeypatch.setenv("R2_SECRET_ACCESS_KEY", SECRET)
    assert data.enabled
    monkeypatch.delenv("MLFLOW_S3_ENDPOINT_URL")
    assert not data.enabled  # neither an account nor an endpoint
    assert not R2DataStore("s3://elsewhere").enabled
    assert KEY not in caplog.text


def test_model_data_is_downloaded_with_the_class_lists(store: ObjectStore, tmp_path: Path) -> None:
    for key in ("edm/config.json", "edm/images/d/0.png", "other/config.json", "imagenet64_class_labels.json"):
        store.put(key, b"{}")
    assert R2DataStore().download_model_data("edm", tmp_path) is True
    assert files_in(tmp_path) == ["edm/config.json", "edm/images/d/0.png", "imagenet64_class_labels.json"]
    assert R2DataStore().download_model_data("none", tmp_path) is False
    assert R2DataStore().download_model_data("../other", tmp_path) is False


@pytest.fixture
def layer_files(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    for ending in (".csv", ".json", ".npy"):
        (folder / f"mid{ending}").write_bytes(ending.encode() * 1000)
    (folder / "mid.pkl").write_bytes(b"never sent")
    return folder


def test_layer_makes_the_round_trip_and_the_table_goes_last(proxy: Proxy, layer_files: Path, tmp_path: Path) -> None:
    cache = R2LayerCache()
    assert cache.layer_exists("m", "mid") is False
    proxy.clear()
    assert cache.upload_layer("m", "mid", layer_files) is True
    assert proxy.puts() == [f"/team/data/m/layer_cache/mid{ending}" for ending in (".npy", ".json", ".csv")]
    assert cache.layer_exists("m", "mid") is True
    assert cache.download_layer("m", "mid", tmp_path / "got") is True
    assert files_in(tmp_path / "got") == ["mid.csv", "mid.json", "mid.npy"]
    assert (tmp_path / "got" / "mid.csv").read_bytes() == b".csv" * 1000
    for layer in ("none", "../../x", "a/b"):
        assert cache.download_layer("m", layer, tmp_path / "got") is False
        assert cache.upload_layer("m", layer, layer_files) is False


def test_upload_in_the_background_is_flushed_at_exit(proxy: Proxy, bucket: Any, layer_files: Path) -> None:
    proxy.faults.latency = 0.1
    code = (
        "import sys; from diffviews.data.r2_cache import R2LayerCache\n"
        "assert R2LayerCache().upload_layer_async('m', 'mid', sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-c", code, layer_files], check=True, cwd=ROOT, env=dict(os.environ), timeout=60)
    assert sorted(stored_keys(bucket)) == [f"data/m/layer_cache/mid{ending}" for ending in (".csv", ".json", ".npy")]


def test_background_upload_that_fails_says_so_and_shows_nothing(
    proxy: Proxy, bucket: Any, layer_files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = R2LayerCache()
    proxy.faults.refuse = {"PUT": (403, "AccessDenied")}
    assert cache.upload_layer_async("m", "mid", layer_files) is True
    assert cache.flush(30) is False
    assert "revoked" in caplog.text
    assert stored_keys(bucket) == []
    proxy.faults.refuse = {}
    assert cache.upload_layer_async("m", "mid", layer_files) is True
    assert cache.flush(30) is True
    assert cache.layer_exists("m", "mid")


def test_upload_killed_half_way_leaves_nothing_visible_and_a_retry_succeeds(
    proxy: Proxy, bucket: Any, layer_files: Path
) -> None:
    (layer_files / "mid.npy").write_bytes(CONTENT * 40)  # more than the sockets between hold
    proxy.faults.hold = threading.Event()
    code = (
        "import sys; from diffviews.data.r2_cache import R2LayerCache\n"
        "R2LayerCache().upload_layer('m', 'mid', sys.argv[1])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, layer_files], cwd=ROOT, env=dict(os.environ))
    assert proxy.uploading.wait(30)
    process.kill()
    process.wait()
    proxy.faults.hold.set()
    assert stored_keys(bucket) == []
    proxy.faults.hold = None
    assert R2LayerCache().layer_exists("m", "mid") is False
    assert R2LayerCache().upload_layer("m", "mid", layer_files) is True
    assert len(stored_keys(bucket)) == 3


def test_interrupted_upload_in_parts_is_aborted(store: ObjectStore, proxy: Proxy, bucket: Any, tmp_path: Path) -> None:
    big = tmp_path / "big.bin"
    big.write_bytes(CONTENT * 120)
    original = proxy.faults.refuse
    proxy.faults.refuse = {"PUT": (403, "AccessDenied")}  # parts are PUT; their begin is POST
    with pytest.raises(StoreError, match="revoked"):
        store.put("big.bin", big)
    assert stored_keys(bucket) == []
    assert bucket.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []
    proxy.faults.refuse = original
    store.put("big.bin", big)
    digest = hashlib.sha256(big.read_bytes()).hexdigest()
    assert hashlib.sha256(store.get("big.bin", tmp_path / "back").read_bytes()).hexdigest() == digest
