"""The lock on a run: one writer at a time, on this machine and across machines."""

import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from diffviews.data.storage.cache import cache_folder
from diffviews.errors import TrackingError
from diffviews.tracking.artifacts import local_folder

_LOCK, _NOTE = "writer.lock", "writer"
LOCK_FILES = frozenset({_LOCK, _NOTE})


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
