"""Layers kept on this machine and in the shared bucket: whole or not there, the least recently used make room."""

import json
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diffviews.data.storage.cache import ENTRY, Cache, cache_limit
from diffviews.data.storage.manifest import Manifest
from diffviews.data.storage.object_store import ObjectStore
from diffviews.data.storage.shared_layers import SharedLayers
from diffviews.data.storage.store_errors import ObjectNotFoundError
from diffviews.errors import ConfigError, CorruptDataError, SchemaVersionError
from tests.s3_server import BUCKET, Proxy, fresh_bucket, proxied, raw_client, s3_server, stored_keys, use_store

ROOT = Path(__file__).parents[2]
A, B, C = "a" * 64, "b" * 64, "c" * 64
ABOUT = {"model": "m", "layer": "mid", "sigma": 2.0}


def add(cache: Cache, fingerprint: str, size: int = 1000) -> None:
    def fill(folder: Path) -> dict[str, Any]:
        (folder / "map").mkdir()
        (folder / "map" / "points.parquet").write_bytes(fingerprint[:1].encode() * size)
        return ABOUT

    cache.add(fingerprint, fill).close()  # type: ignore[union-attr]


def names(cache: Cache) -> str:
    return "".join(name[0] for name, _ in cache.entries())


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", max_bytes=3500)


def test_entry_is_complete_and_says_what_it_is(cache: Cache) -> None:
    assert cache.open(A) is None
    add(cache, A)
    with cache.open(A) as entry:
        assert (entry.folder / "map/points.parquet").read_bytes() == b"a" * 1000
        assert entry.manifest.about == ABOUT
        assert entry.manifest.size == 1000


def test_entry_that_fails_or_is_given_up_leaves_nothing(cache: Cache) -> None:
    def fail(folder: Path) -> None:
        (folder / "x").write_bytes(b"x")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cache.add(A, fail)
    assert cache.add(A, lambda folder: (folder / "x").touch()) is None
    assert cache.open(A) is None
    assert [path.name for path in cache.layers.iterdir() if path.name not in (".lock", ".leases")] == []


def test_least_recently_used_entry_makes_room(cache: Cache) -> None:
    add(cache, A)
    add(cache, B)
    cache.open(A).close()  # type: ignore[union-attr]
    add(cache, C)
    assert names(cache) == "ac"  # with entry.json each is above 1,100 bytes
    assert not any(path.name.startswith(".evicted") for path in cache.layers.iterdir())


def test_entry_in_use_stays_and_one_that_is_larger_than_all_is_kept(cache: Cache) -> None:
    add(cache, A)
    add(cache, B)
    with cache.open(A) as entry:
        add(cache, C, size=9000)
        assert (entry.folder / "map/points.parquet").is_file()
        assert names(cache) == "ac"
    add(cache, B)
    assert names(cache) == "b"


def test_entry_in_use_by_another_process_stays_until_that_is_gone(cache: Cache) -> None:
    add(cache, A)
    code = (
        "import sys, time; from pathlib import Path; from diffviews.data.storage.cache import Cache\n"
        f"entry = Cache(Path({str(cache.layers.parent)!r}), 3500).open('{A}')\n"
        "print('open', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "open\n"
        add(cache, B, size=3400)
        assert names(cache) == "ab"
        process.kill()
        process.wait()
    add(cache, C, size=3400)
    assert names(cache) == "c"


def _add_many(folder: Path) -> None:
    cache = Cache(folder, max_bytes=10_000_000)
    for fingerprint in (A, B, C):
        for _ in range(5):
            add(cache, fingerprint)
            cache.open(fingerprint).close()  # type: ignore[union-attr]


def test_processes_share_the_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_add_many, args=(tmp_path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert sorted(names(Cache(tmp_path, 10_000_000))) == ["a", "b", "c"]
    assert not [path for path in (tmp_path / "layers").iterdir() if path.name.startswith((".incoming", ".evicted"))]


def test_process_killed_while_adding_leaves_no_entry_and_is_swept(cache: Cache) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from diffviews.data.storage.cache import Cache\n"
        "def fill(folder):\n    (folder / 'x').write_bytes(b'x'); os.kill(os.getpid(), signal.SIGKILL)\n"
        f"Cache(Path({str(cache.layers.parent)!r}), 3500).add('{A}', fill)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -9
    assert cache.open(A) is None
    assert any(path.name.startswith(".incoming") for path in cache.layers.iterdir())
    add(cache, B)
    assert not any(path.name.startswith(".incoming") for path in cache.layers.iterdir())


@pytest.mark.parametrize("harm", ["truncate", "remove", "list"])
def test_damaged_entry_is_removed_and_named(cache: Cache, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    add(cache, A)
    file = cache.layers / A / "map/points.parquet"
    if harm == "truncate":
        file.write_bytes(b"a")
    elif harm == "remove":
        file.unlink()
    else:
        (cache.layers / A / ENTRY).write_text("{")
    assert cache.open(A) is None
    assert not (cache.layers / A).exists()
    assert "is removed" in caplog.text


def test_list_as_first_written_is_read_and_says_the_same(cache: Cache) -> None:
    add(cache, A)
    path = cache.layers / A / ENTRY
    manifest = Manifest.from_json(path.read_bytes())
    files = {name: {"size": mark.size, "sha256": mark.sha256} for name, mark in manifest.files.items()}
    path.write_text(json.dumps({"version": 1, "fingerprint": A, "about": ABOUT, "files": files}))
    with cache.open(A) as entry:
        assert entry.manifest == manifest


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a\\b"])
def test_list_that_names_a_file_outside_is_refused(name: str) -> None:
    listed = {"version": 1, "fingerprint": A, "about": {}, "files": {name: {"size": 1, "sha256": "0"}}}
    with pytest.raises(CorruptDataError, match="is not allowed"):
        Manifest.from_json(json.dumps(listed), "entry.json")
    with pytest.raises(SchemaVersionError, match="upgrade"):
        Manifest.from_json(json.dumps(listed | {"version": 2, "files": {}}), "entry.json")


@pytest.mark.parametrize("fingerprint", ["", "../x", "a" * 63, "A" * 64, f"{'a' * 64}\n"])
def test_what_is_no_fingerprint_is_refused(cache: Cache, fingerprint: str) -> None:
    with pytest.raises(ConfigError, match="64 hex digits"):
        cache.open(fingerprint)


def test_limit_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIFFVIEWS_LAYER_CACHE_MAX_MB", raising=False)
    assert cache_limit() == 2048 * 10**6
    monkeypatch.setenv("DIFFVIEWS_LAYER_CACHE_MAX_MB", "1.5")
    assert cache_limit() == 1_500_000
    for wrong in ("lots", "-1", "inf", "nan"):
        monkeypatch.setenv("DIFFVIEWS_LAYER_CACHE_MAX_MB", wrong)
        with pytest.raises(ConfigError, match="DIFFVIEWS_LAYER_CACHE_MAX_MB"):
            cache_limit()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    fresh_bucket(server)
    with proxied(server) as running:
        use_store(monkeypatch, running.url)
        yield running


@pytest.fixture
def other(tmp_path: Path) -> Cache:
    """The cache of another machine."""
    return Cache(tmp_path / "other", max_bytes=10**6)


def offer(shared: SharedLayers, cache: Cache, fingerprint: str) -> Any:
    with cache.open(fingerprint) as entry:
        return shared.offer("m", entry, cache)


def test_layer_goes_to_the_bucket_once_and_comes_back_whole(
    server: str, proxy: Proxy, cache: Cache, other: Cache
) -> None:
    add(cache, A)
    shared = SharedLayers.configured()
    assert shared.fetch("m", A, other) is None
    assert offer(shared, cache, A).result(30)
    prefix = f"data/m/layer_cache/v2/{A}"
    assert proxy.puts() == [f"/{BUCKET}/{prefix}/map/points.parquet", f"/{BUCKET}/{prefix}/{ENTRY}"]
    assert offer(shared, cache, A) is None  # it is known to be there
    with shared.fetch("m", A, other) as entry:
        assert (entry.folder / "map/points.parquet").read_bytes() == b"a" * 1000
        assert entry.manifest.about == ABOUT
        assert offer(shared, other, A) is None


def test_layer_that_waits_for_its_upload_is_not_evicted(proxy: Proxy, cache: Cache) -> None:
    add(cache, A)
    proxy.faults.hold = threading.Event()
    upload = offer(SharedLayers.configured(), cache, A)
    assert proxy.uploading.wait(30)
    add(cache, B, size=3400)
    assert names(cache) == "ab"
    proxy.faults.hold.set()
    assert upload.result(30)
    add(cache, C, size=3400)
    assert names(cache) == "c"


def test_failed_upload_says_why_and_the_next_use_tries_again(
    proxy: Proxy, cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    add(cache, A)
    shared = SharedLayers.configured()
    proxy.faults.refuse = {"PUT": (403, "AccessDenied")}
    assert not offer(shared, cache, A).result(30)
    assert "revoked" in caplog.text
    assert shared.find("m", A) is None
    proxy.faults.refuse = {}
    assert offer(shared, cache, A).result(30)
    assert shared.find("m", A) is not None


def test_upload_killed_half_way_is_invisible_and_a_retry_completes_it(
    server: str, proxy: Proxy, tmp_path: Path, other: Cache
) -> None:
    cache = Cache(tmp_path / "big", max_bytes=10**9)

    def fill(folder: Path) -> dict[str, Any]:
        for name in ("one", "two", "three"):
            (folder / name).write_bytes(os.urandom(12_000_000 if name == "two" else 900))
        return ABOUT

    cache.add(A, fill).close()  # type: ignore[union-attr]
    proxy.faults.hold = threading.Event()
    code = (
        "from pathlib import Path; from diffviews.data.storage.cache import Cache\n"
        "from diffviews.data.storage.shared_layers import SharedLayers\n"
        f"cache = Cache(Path({str(cache.layers.parent)!r}), 10**9); entry = cache.open('{A}')\n"
        "SharedLayers.configured().offer('m', entry, cache).result()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ)) as process:
        assert proxy.uploading.wait(30)
        process.kill()
    proxy.faults.hold.set()
    proxy.faults.hold = None
    assert not [key for key in stored_keys(raw_client(server)) if key.endswith(("two", ENTRY))]
    shared = SharedLayers.configured()
    assert shared.fetch("m", A, other) is None
    assert offer(shared, cache, A).result(30)
    with shared.fetch("m", A, other) as entry:
        assert (entry.folder / "two").read_bytes() == (cache.layers / A / "two").read_bytes()


def test_damaged_layer_of_the_bucket_is_refused_and_not_kept(
    server: str, proxy: Proxy, cache: Cache, other: Cache
) -> None:
    add(cache, A)
    shared = SharedLayers.configured()
    assert offer(shared, cache, A).result(30)
    key = f"data/m/layer_cache/v2/{A}/map/points.parquet"
    raw_client(server).put_object(Bucket=BUCKET, Key=key, Body=b"b" * 1000)
    with pytest.raises(CorruptDataError, match="differs"):
        shared.fetch("m", A, other)
    raw_client(server).delete_object(Bucket=BUCKET, Key=key)
    with pytest.raises(ObjectNotFoundError, match="points"):
        shared.fetch("m", A, other)
    assert other.open(A) is None


def test_list_of_another_layer_in_its_place_is_refused(server: str, proxy: Proxy, cache: Cache) -> None:
    text = Manifest(B, {}, {}).to_json().encode()
    raw_client(server).put_object(Bucket=BUCKET, Key=f"data/m/layer_cache/v2/{A}/{ENTRY}", Body=text)
    with pytest.raises(CorruptDataError, match="another layer"):
        SharedLayers.configured().find("m", A)


def test_missing_bucket_is_not_an_empty_one(proxy: Proxy) -> None:
    with pytest.raises(ObjectNotFoundError, match="no bucket"):
        SharedLayers(ObjectStore("r2://nowhere")).find("m", A)


def test_without_credentials_there_is_no_shared_bucket(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use_store(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.delenv("R2_ACCESS_KEY_ID")
    caplog.set_level(logging.DEBUG)
    assert SharedLayers.configured() is None
    assert "R2_ACCESS_KEY_ID" in caplog.text
