"""Where the artifacts of a run are prepared, by one writer at a time, and how they become visible."""

import os
import shutil
import socket
import tempfile
import threading
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from diffviews.data.disk import named_disk_errors
from diffviews.data.files import check_name
from diffviews.data.storage.cache import cache_folder
from diffviews.data.storage.manifest import FileMark, Manifest, files_below
from diffviews.data.storage.parallel import in_parallel
from diffviews.errors import TrackingError
from diffviews.tracking.artifacts import MANIFEST, local_folder
from diffviews.tracking.connection import Connection
from diffviews.tracking.transfers import Transfers, transfers_for

_LOCK, _NOTE = "writer.lock", "writer"


class StagedArtifacts:
    """The artifacts of a run being written: a folder in which they are made, and the record of what was published.

    Beside an artifact folder a file is published by renaming it; to a bucket or a server it is sent. Usable
    from several threads as long as each writes files of its own.

    Attributes:
        work: folder for what is no artifact but is wanted when the run is resumed; gone once it is finished.
        staging: folder for artifacts in the making, in `work`; a file's place in it is its artifact name.
    """

    def __init__(self, connection: Connection, run_id: str, artifact_uri: str) -> None:
        self.run_id, self.artifact_uri = run_id, artifact_uri
        self.work = work_folder(run_id, artifact_uri)
        self.staging = self.work / "staged"
        self._connection = connection
        self._target = local_folder(artifact_uri)
        self._published: dict[str, FileMark] = {}
        self._publishing = threading.RLock()
        self._ended = False

    def stage(self, path: str) -> Path:
        """Return where the artifact `path`, a file or a folder, is to be written; folders above it are made.

        Raises:
            ConfigError: if the name is not allowed.
            TrackingError: if the run has ended.
        """
        if self._ended:
            raise TrackingError(f"run {self.run_id} has ended; {path!r} cannot be added to it")
        target = self.staging / check_name(path)
        with named_disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def log_artifact_bytes(self, content: bytes, path: str) -> None:
        """Stage `content` as the artifact `path`.

        Raises:
            DiskSpaceError: if the disk is full.
        """
        target = self.stage(path)
        with named_disk_errors(target):
            target.write_bytes(content)

    def log_artifact_file(self, local: Path | str, path: str | None = None) -> None:
        """Stage a copy of a local file, or of a folder with all in it, as the artifact `path`.

        Raises:
            DiskSpaceError: if the disk is full.
        """
        source = Path(local)
        target = self.stage(path or source.name)
        with named_disk_errors(target):
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copy2(source, target)

    def publish(self) -> None:
        """Make what is staged so far visible and empty the folder; the end of the run does it too.

        Raises:
            TrackingError: if the store cannot take it; what it has not taken is still staged.
            DiskSpaceError: if a disk is full.
        """
        with self._publishing:
            names = files_below(self.staging)
            for name in names:
                check_name(name)
            entries = {name: FileMark.of(self.staging / name) for name in names}
            if not entries:
                return
            if self._target is not None:
                self._connection.call(lambda _: self._move(names))
            else:
                self._transfers().send(self.staging, names)
            self._published |= entries
            shutil.rmtree(self.staging)

    def _move(self, names: list[str]) -> None:
        assert self._target is not None
        for name in names:
            target = self._target / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.staging / name).replace(target)

    def _publish_manifest(self) -> str:
        """Publish what is staged, then the manifest of all that was published; return its SHA-256."""
        with self._publishing:
            self.publish()
            self.log_artifact_bytes(Manifest(self.run_id, self._published).to_json().encode(), MANIFEST)
            digest = FileMark.of(self.staging / MANIFEST).sha256
            self.publish()
            return digest

    def read_back(self) -> None:
        """Take up, file by file, what an earlier attempt at the run has published and will not send again."""
        left_out = {MANIFEST, *files_below(self.staging)}
        if self._target is not None:
            names = [name for name in files_below(self._target) if name not in left_out]
            self._published |= {name: FileMark.of(self._target / name) for name in names}
            return
        way = self._transfers()
        names = [name for name in way.names() if name not in left_out]
        with tempfile.TemporaryDirectory(dir=self.work, prefix=".back-") as folder:
            in_parallel(partial(self._measure, way, Path(folder)), names, way.parallel, describe="artifacts")

    def _measure(self, way: Transfers, folder: Path, name: str) -> None:
        """Fetch what was published under a name, as nothing else tells its digest."""
        copy = folder / check_name(name)
        way.fetch(name, copy)
        self._published[name] = FileMark.of(copy)
        copy.unlink()

    def _transfers(self) -> Transfers:
        return transfers_for(self._connection, self.artifact_uri)

    def _close(self, *, finished: bool) -> None:
        """Take nothing more; delete the work folder unless the run may need what is in it again."""
        self._ended = True
        if finished or {path.name for path in self.work.rglob("*") if path.is_file()} <= {_LOCK, _NOTE}:
            shutil.rmtree(self.work, ignore_errors=True)


def work_folder(run_id: str, artifact_uri: str) -> Path:
    """Return the folder in which a run is prepared before anything of it can be seen.

    It lies on the same disk as the artifacts where these lie in a folder, so that a finished file
    is renamed, not copied; else in the cache folder.
    """
    artifacts = local_folder(artifact_uri)
    return artifacts.parent / "work" if artifacts is not None else cache_folder() / "work" / run_id


def writer_name() -> str:
    """Return what names this process in the tag `diffviews.writer`: host:process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


def refuse_elsewhere(run_id: str, writer: str | None, status: str) -> None:
    """Refuse to write a run when its tag says that a process on another machine does.

    Raises:
        TrackingError: naming that writer.
    """
    host = socket.gethostname()
    if status == "RUNNING" and writer is not None and writer.rpartition(":")[0] != host:
        raise TrackingError(
            f"run {run_id} is being written by {writer}, on another machine; wait until it ends, "
            "or pass take_over=True when that process is gone"
        )


def lock_writing(run_id: str, folder: Path) -> FileLock:
    """Return the exclusive right to write one run, until it is released; it ends with the process, however that ends.

    A file lock keeps out writers on this machine; the tag `diffviews.writer` those on others.

    Raises:
        TrackingError: if another process or thread writes this run.
    """
    note = folder / _NOTE
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        holder = note.read_text(encoding="utf-8") if note.is_file() else "another process"
        raise TrackingError(
            f"run {run_id} is being written by {holder}; wait until it ends, or end it, then try again"
        ) from error
    note.write_text(writer_name(), encoding="utf-8")
    return lock
