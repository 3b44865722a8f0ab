"""Artifacts kept on this machine: the least recently used of them and of the cached layers make room."""

import os
import time
from pathlib import Path

import pytest

from diffviews.data.storage.cache import GRACE, STALE, Cache
from diffviews.errors import ConfigError
from diffviews.tracking.artifacts import ArtifactFolder
from diffviews.tracking.transfers import StoreTransfers
from tests.unit.test_artifacts import FakeServer, with_manifest

PRINT = "a" * 64


def keep(downloads: Cache, name: str, size: int, seconds_ago: float) -> Path:
    path = downloads.place("r1", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    then = time.time() - seconds_ago
    os.utime(path, (then, then))
    return path


@pytest.fixture
def downloads(tmp_path: Path) -> Cache:
    return Cache(tmp_path, max_bytes=1000)


def test_room_is_made_by_what_was_not_used_for_longest(downloads: Cache) -> None:
    newer = keep(downloads, "newer", 400, GRACE + 10)
    older = keep(downloads, "deep/older", 400, GRACE + 20)
    oldest = keep(downloads, "oldest", 200, GRACE + 30)
    assert downloads.use("r1", "oldest") == oldest
    downloads.make_room(300)
    assert (newer.exists(), older.exists(), oldest.exists()) == (True, False, True)


def test_what_was_asked_for_just_now_stays_beyond_the_limit(tmp_path: Path) -> None:
    downloads = Cache(tmp_path, max_bytes=0)
    fresh, old = keep(downloads, "fresh", 10, 1), keep(downloads, "old", 10, GRACE + 1)
    downloads.make_room(1)
    assert (fresh.exists(), old.exists()) == (True, False)


def test_files_half_arrived_are_given_up_after_a_day_only(downloads: Cache) -> None:
    live, dead = keep(downloads, ".a.part", 900, GRACE + 1), keep(downloads, ".b.part", 900, STALE + 1)
    downloads.make_room(1000)
    assert (live.exists(), dead.exists()) == (True, False)


def test_layers_and_artifacts_share_one_limit(tmp_path: Path) -> None:
    downloads = layers = Cache(tmp_path, 3000)
    old = keep(downloads, "old", 1700, GRACE + 60)

    def fill(folder: Path) -> dict[str, str]:
        (folder / "points").write_bytes(b"x" * 1400)
        return {}

    layers.add(PRINT, fill).close()
    assert not old.exists()
    time.sleep(0.01)
    held = layers.open(PRINT)
    assert held is not None
    downloads.make_room(2500)
    assert [name for name, _ in layers.entries()] == [PRINT]  # in use
    held.close()
    Cache(tmp_path, 3000).make_room(2500)
    assert layers.entries() == []


def test_folder_is_not_looked_through_for_every_small_file(downloads: Cache, monkeypatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr(Cache, "_make_room", lambda self, needed: looks.append(needed))
    for _ in range(16):
        downloads.make_room(5)
    assert len(looks) == 4  # the first, then one for each 1/64 of the limit


def test_name_that_leads_out_is_refused(downloads: Cache) -> None:
    with pytest.raises(ConfigError):
        downloads.use("r1", "../../x")


def test_artifact_evicted_by_another_process_is_fetched_again(tmp_path: Path) -> None:
    server = FakeServer(with_manifest({"map.png": b"png", "c/0": b"chunk"}))
    opened = ArtifactFolder("r1", "mlflow-artifacts:/1/r1/artifacts", server, cache=tmp_path, finished=True)
    first = opened.path("c/0")
    first.unlink()
    assert opened.fetch("c/0") == b"chunk"
    assert opened.path("c/0").read_bytes() == b"chunk"
    assert server.downloads.count("c/0") == 2


def test_artifact_that_vanishes_between_finding_and_reading_is_fetched_again(tmp_path: Path, monkeypatch) -> None:
    server = FakeServer(with_manifest({"c/0": b"chunk"}))
    opened = ArtifactFolder("r1", "mlflow-artifacts:/1/r1/artifacts", server, cache=tmp_path)
    find, evictions = opened._find, [1]

    def find_then_lose(name: str) -> Path | None:
        found = find(name)
        if evictions and found is not None:
            evictions.pop()
            found.unlink()
        return found

    monkeypatch.setattr(opened, "_find", find_then_lose)
    assert opened.fetch("c/0") == b"chunk"
    assert server.downloads.count("c/0") == 2


def test_manifest_of_a_finished_run_is_fetched_once_and_any_others_each_time(tmp_path: Path) -> None:
    for finished, expected in ((True, 1), (False, 2)):
        server = FakeServer(with_manifest({"map.png": b"png"}))
        for _ in range(2):
            where = tmp_path / str(finished)
            folder = ArtifactFolder("r1", "mlflow-artifacts:/1/r1/artifacts", server, cache=where, finished=finished)
            assert folder.fetch("map.png") == b"png"
        assert server.downloads.count("manifest.json") == expected
        assert server.downloads.count("map.png") == 1


def test_several_artifacts_are_gathered_at_once_and_verified(tmp_path: Path, monkeypatch) -> None:
    server = FakeServer(with_manifest({f"c/{n}": b"chunk %d" % n for n in range(20)}))
    monkeypatch.setattr(server, "limits", lambda **_: None, raising=False)
    opened = ArtifactFolder("r1", "mlflow-artifacts:/1/r1/artifacts", server, cache=tmp_path)
    opened.gather(["c/3", "c/4"])
    assert sorted(server.downloads[1:]) == ["c/3", "c/4"]
    opened.verify()
    assert len(server.downloads) == 21
    assert StoreTransfers.parallel > 1
