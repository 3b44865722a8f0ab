"""Uploads in the background: a group of files becomes visible by its last one, or not at all."""

import atexit
import logging
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffviews.data.storage.names import check_name
from diffviews.data.storage.object_store import ObjectStore
from diffviews.errors import DiffViewsError

logger = logging.getLogger(__name__)

WORKERS = 8
"""Files sent at once."""


@dataclass(slots=True, eq=False)
class Upload:
    """A group of files on its way. The marker, by which readers find the group, goes when all others are there."""

    name: str
    """What messages call it."""
    marker: tuple[str, Path]
    """(key, file) sent last."""
    when_done: Callable[[], None] | None
    when_ended: Callable[[], None] | None
    error: str | None = None
    """Why it failed; None while it has not."""
    _left: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; return whether all of it is in the store."""
        return self._ended.wait(timeout) and self.error is None


class UploadQueue:
    """Sends groups of files to one store. What is still waiting when the program ends is sent then.

    A group that fails is logged with its cause and given up; what of it arrived nobody finds, since the
    marker is missing. Whoever holds the files asks again on their next use.
    """

    def __init__(self, store: ObjectStore, *, workers: int = WORKERS) -> None:
        self._store = store
        self._workers = workers
        self._tasks: queue.SimpleQueue[tuple[Upload, str, Path]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._under_way: set[Upload] = set()
        self._lock = threading.Lock()
        atexit.register(_flush_at_exit, weakref.ref(self))

    def submit(
        self,
        name: str,
        files: Sequence[tuple[str, Path]],
        marker: tuple[str, Path],
        when_done: Callable[[], None] | None = None,
        when_ended: Callable[[], None] | None = None,
    ) -> Upload:
        """Queue (key, file) pairs and the marker that makes them visible; return at once.

        Args:
            name: what messages call the group.
            files: sent in any order, several at once.
            marker: sent when all of them are there.
            when_done: called, in a thread of this queue, once the marker is there too.
            when_ended: called after that, or when the group was given up.

        Raises:
            ConfigError: if a key is not allowed.
        """
        for key, _ in (*files, marker):
            check_name(key)
        upload = Upload(name, marker, when_done, when_ended, _left=len(files))
        with self._lock:
            self._under_way.add(upload)
            while len(self._threads) < self._workers:
                # Daemons: they outlive the moment at which the interpreter takes no new threads, until exit's flush.
                thread = threading.Thread(target=self._work, name="upload", daemon=True)
                self._threads.append(thread)
                thread.start()
        for key, file in files or [marker]:
            self._tasks.put((upload, key, file))
        return upload

    def flush(self, timeout: float | None = None) -> bool:
        """Wait for all that is under way; return whether all of it is in the store now."""
        with self._lock:
            waiting = list(self._under_way)
        arrived = [upload.wait(timeout) for upload in waiting]
        return all(arrived)

    def _work(self) -> None:
        while True:
            upload, key, file = self._tasks.get()
            if upload.error is None:
                try:
                    self._store.put(key, file)
                except (DiffViewsError, OSError) as error:
                    self._fail(upload, f"{key}: {error}")
            self._count(upload, key)

    def _count(self, upload: Upload, key: str) -> None:
        """Note that one file of a group is through; the last one calls for the marker, the marker ends it."""
        with upload._lock:
            upload._left -= 1
            left = upload._left
        if key == upload.marker[0] or (left <= 0 and upload.error is not None):
            self._end(upload)
        elif left == 0:
            self._tasks.put((upload, *upload.marker))

    def _end(self, upload: Upload) -> None:
        for call in (upload.when_done if upload.error is None else None, upload.when_ended):
            try:
                if call is not None:
                    call()
            except OSError as error:
                logger.warning("after the upload of %s: %s", upload.name, error)
        with self._lock:
            self._under_way.discard(upload)
        upload._ended.set()

    def _fail(self, upload: Upload, reason: str) -> None:
        with upload._lock:
            first, upload.error = upload.error is None, upload.error or reason
        if first:
            logger.warning("upload of %s failed (%s); it is tried again on the next use", upload.name, reason)


def _flush_at_exit(reference: "weakref.ref[UploadQueue]") -> None:
    waiting = reference()
    if waiting is not None and not waiting.flush(timeout=0):
        with waiting._lock:
            left = len(waiting._under_way)
        if left:
            logger.info("%d uploads are under way; the program ends when they are through", left)
        waiting.flush()
