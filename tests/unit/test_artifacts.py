"""Artifacts: names, manifests, and reading in place or through a server's cache."""

import hashlib
import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffviews.data.files import check_name, sha256_of
from diffviews.data.storage import manifest
from diffviews.data.storage.cache import cache_folder
from diffviews.data.storage.manifest import FileMark, Manifest, files_below
from diffviews.errors import ConfigError, CorruptDataError, RunNotFoundError, SchemaVersionError, TrackingError
from diffviews.tracking.artifacts import MANIFEST, ArtifactFolder, local_folder

HOSTILE = [
    "",
    "/etc/passwd",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    "./a",
    "a//b",
    "a/",
    "a\\..\\b",
    "C:/x",
    "file:///x",
    "a\0b",
    "a\nb",
    "a\x1b[31m",
    "x" * 1001,
]


class FakeServer:
    """A connection to artifacts that lie behind a server: what `ArtifactFolder` asks of it."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.downloads: list[str] = []
        self.down = False

    def call(self, operation, *, transfer=False):
        if self.down:
            raise TrackingError("the server is down")
        return operation(None)

    def artifact_store(self, artifact_uri):
        return self

    def list_artifacts(self, folder):
        inside = [name for name in self.files if name.rpartition("/")[0] == (folder or "")]
        return [SimpleNamespace(path=name, is_dir=False) for name in inside]

    def download_artifacts(self, name, into):
        self.downloads.append(name)
        target = Path(into) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.files[name])
        return str(target)


def with_manifest(files: dict[str, bytes]) -> dict[str, bytes]:
    entries = {n: FileMark(len(b), hashlib.sha256(b).hexdigest()) for n, b in files.items()}
    return files | {MANIFEST: Manifest("r1", entries).to_json().encode()}


@pytest.fixture
def served(tmp_path):
    server = FakeServer(with_manifest({"map.png": b"png", "activations.zarr/c/0/0": b"chunk"}))

    def folder():
        return ArtifactFolder("r1", "mlflow-artifacts:/1/r1/artifacts", server, cache=tmp_path / "cache")

    return server, folder


@pytest.fixture
def local(tmp_path):
    root = tmp_path / "artifacts"
    for name, content in {"map.png": b"png", "map/points.parquet": b"points"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / MANIFEST).write_text(Manifest.of_folder("r1", root).to_json())
    return root


@pytest.mark.parametrize("name", HOSTILE)
def test_artifact_name_that_could_leave_the_run_is_refused_everywhere(name, local, served):
    for refuse in (check_name, ArtifactFolder("r1", str(local)).path, served[1]().fetch):
        with pytest.raises(ConfigError, match="not allowed"):
            refuse(name)
    assert served[0].downloads == []


@pytest.mark.parametrize("name", ["map.png", "activations.zarr/c/0/0/0", "a b/ü.csv", "images/000.png", "..a/b.."])
def test_plain_artifact_name_is_taken(name):
    assert check_name(name) == name


@given(st.text(max_size=30))
def test_accepted_artifact_name_stays_inside(name):
    try:
        check_name(name)
    except ConfigError:
        return
    assert (Path("/root/of/run") / name).resolve().is_relative_to("/root/of/run")


def test_manifest_lists_sizes_and_digests_and_survives_its_text(local):
    manifest = Manifest.of_folder("r1", local)
    entry = manifest.files["map/points.parquet"]
    assert (entry.size, entry.sha256) == (6, hashlib.sha256(b"points").hexdigest())
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_manifest_cannot_be_changed(local):
    with pytest.raises(TypeError):
        Manifest.of_folder("r1", local).files["x"] = FileMark(1, "a")


@pytest.mark.parametrize("content", [b"pnG", b"pn", None])
def test_verify_names_the_damaged_file(local, content):
    ArtifactFolder("r1", str(local)).verify()
    (local / "map.png").unlink()
    if content is not None:
        (local / "map.png").write_bytes(content)
        os.utime(local / "map.png", (1, 1))
    with pytest.raises(CorruptDataError, match=r"map\.png"):
        ArtifactFolder("r1", str(local)).verify()


@pytest.mark.parametrize("bit", [0, 7, 20, 47])
@pytest.mark.parametrize("read", ["path", "fetch", "gather"])
def test_bit_changed_in_a_local_artifact_is_refused_by_name(local, bit, read):
    content = bytearray((local / "map/points.parquet").read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    (local / "map/points.parquet").write_bytes(content)
    folder = ArtifactFolder("r1", str(local))
    with pytest.raises(CorruptDataError, match=r"points\.parquet differs from the manifest of r1"):
        folder.gather(["map/points.parquet"]) if read == "gather" else getattr(folder, read)("map/points.parquet")
    assert folder.fetch("map.png") == b"png"


def test_local_artifact_is_measured_once_per_process_and_again_when_it_was_written(local, monkeypatch):
    measured = []
    monkeypatch.setattr(manifest, "sha256_of", lambda path: measured.append(path) or sha256_of(path))
    for _ in range(3):
        ArtifactFolder("r1", str(local)).path("map.png")
    assert measured == [local / "map.png"]
    (local / "map.png").write_bytes(b"pnG")
    os.utime(local / "map.png", (1, 1))
    with pytest.raises(CorruptDataError):
        ArtifactFolder("r1", str(local)).path("map.png")


def test_verify_without_manifest_says_that_the_run_did_not_finish(local):
    (local / MANIFEST).unlink()
    with pytest.raises(CorruptDataError, match="did not finish"):
        ArtifactFolder("r1", str(local)).verify()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 1, "run_id": "r", "files": [{"path": "a"}]}'])
def test_malformed_manifest_is_corrupt_data(text):
    with pytest.raises(CorruptDataError, match="not a manifest"):
        Manifest.from_json(text)


def test_manifest_that_lists_a_way_out_is_corrupt_data():
    entry = {"path": "../../etc/passwd", "size": 1, "sha256": "0"}
    with pytest.raises(CorruptDataError, match="not allowed"):
        Manifest.from_json(json.dumps({"version": 1, "run_id": "r", "files": [entry]}))


def test_newer_manifest_is_refused():
    with pytest.raises(SchemaVersionError, match="version 2"):
        Manifest.from_json('{"version": 2, "run_id": "r", "files": []}')


def test_local_artifacts_are_opened_in_place(local):
    folder = ArtifactFolder("r1", local.as_uri())
    assert folder.path("map.png") == local / "map.png"
    assert folder.fetch("map/points.parquet") == b"points"
    assert folder.names() == ("map.png", "map/points.parquet")


def test_missing_artifact_is_none_to_fetch_and_an_error_to_path(local, served):
    for folder in (ArtifactFolder("r1", str(local)), served[1]()):
        assert folder.fetch("nothing.bin") is None
        with pytest.raises(RunNotFoundError, match=r"r1 has no artifact 'nothing\.bin'"):
            folder.path("nothing.bin")


def test_link_that_leads_out_of_the_run_is_refused(local, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (local / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ConfigError, match="leads out"):
        ArtifactFolder("r1", str(local)).path("link")


def test_served_artifact_is_downloaded_once_and_kept(served):
    server, folder = served
    assert folder().fetch("map.png") == b"png"
    first = folder()
    assert first.path("map.png") == first.path("map.png")
    assert server.downloads.count("map.png") == 1


def test_fetcher_reads_below_its_prefix_only(served):
    fetch = served[1]().fetcher("activations.zarr")
    assert fetch("c/0/0") == b"chunk"
    assert fetch("zarr.json") is None
    with pytest.raises(ConfigError):
        fetch("../map.png")


def test_served_artifact_that_differs_from_the_manifest_is_refused_and_not_kept(served):
    server, folder = served
    server.files["map.png"] = b"pnG"
    with pytest.raises(CorruptDataError, match=r"map\.png"):
        folder().path("map.png")
    server.files["map.png"] = b"png"
    assert folder().fetch("map.png") == b"png"


def test_damaged_copy_in_the_cache_is_fetched_again(served):
    server, folder = served
    kept = folder().path("map.png")
    kept.write_bytes(b"bad")
    os.utime(kept, (1, 1))  # a file system's clock ticks only every few milliseconds
    assert folder().fetch("map.png") == b"png"
    assert server.downloads.count("map.png") == 2


def test_server_that_is_down_is_an_error_and_not_a_missing_artifact(served):
    server, folder = served
    server.down = True
    with pytest.raises(TrackingError, match="down"):
        folder().fetch("map.png")


def test_artifacts_of_an_unfinished_run_are_never_taken_from_the_cache(served):
    server, folder = served
    del server.files[MANIFEST]
    assert folder().fetch("map.png") == b"png"
    server.files["map.png"] = b"new"
    assert folder().fetch("map.png") == b"new"
    assert folder().fetch("other.png") is None


def test_download_leaves_nothing_half_made_when_it_breaks_off(served, tmp_path):
    server, folder = served

    def break_off(name, into):
        (Path(into) / "half").write_bytes(b"h")
        raise TrackingError("connection lost")

    opened, intact = folder(), server.download_artifacts
    opened.manifest()
    server.download_artifacts = break_off
    with pytest.raises(TrackingError):
        opened.path("map.png")
    assert files_below(tmp_path / "cache" / "runs") == []
    server.download_artifacts = intact
    assert opened.fetch("map.png") == b"png"


def test_many_threads_may_read_one_folder(served):
    folder, got = served[1](), []
    threads = [threading.Thread(target=lambda: got.append(folder.fetch("map.png"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [b"png"] * 8


def test_cache_folder_is_the_users_choice(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFVIEWS_CACHE_DIR", str(tmp_path / "c"))
    assert cache_folder() == tmp_path / "c"
    monkeypatch.delenv("DIFFVIEWS_CACHE_DIR")
    assert cache_folder() == Path.home() / ".cache" / "diffviews"


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("/a/b", Path("/a/b")),
        ("file:///a/b%20c", Path("/a/b c")),
        ("mlflow-artifacts:/1/r/artifacts", None),
        ("s3://bucket/x", None),
        ("file://otherhost/a", None),
    ],
)
def test_local_folder_knows_a_folder_from_a_store(uri, folder):
    assert local_folder(uri) == folder
