"""Uploads in the background: a group of files becomes visible by its last one, or not at all."""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from diffviews.data.files import check_name
from diffviews.data.storage.object_store import ObjectStore
from diffviews.errors import DiffViewsError

logger = logging.getLogger(__name__)

WORKERS = 8
"""Files sent at once."""


class UploadQueue:
    """Sends groups of files to one store. What is still waiting when the program ends is sent before it ends.

    A group that fails is logged with its cause and given up; what of it arrived nobody finds, since the
    marker is missing. Whoever holds the files asks again on their next use.
    """

    def __init__(self, store: ObjectStore, *, workers: int = WORKERS) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="upload")
        self._lock = threading.Lock()
        self._under_way: set[Future[bool]] = set()

    def submit(
        self, name: str, files: Sequence[tuple[str, Path]], when_ended: Callable[[bool], None]
    ) -> "Future[bool]":
        """Queue (key, file) pairs, of which the last is the marker that makes the others visible; return at once.

        Args:
            name: what messages call the group.
            files: sent in any order, several at once; the marker when all others are there.
            when_ended: told, in a thread of this queue, whether all of it is there or the group was given up.

        Returns:
            Whether all of it is in the store, to be waited for.

        Raises:
            ConfigError: if a key is not allowed.
        """
        for key, _ in files:
            check_name(key)
        logger.info("%s is sent to %s in the background", name, self._store.address)
        with self._lock:
            sent = [self._pool.submit(self._store.put, key, file) for key, file in files[:-1]]
            # Waits in a thread of the pool, and never for long: all it waits for were taken up before it.
            upload = self._pool.submit(self._finish, name, sent, files[-1], when_ended)
            self._under_way.add(upload)
        upload.add_done_callback(self._under_way.discard)
        return upload

    def flush(self, timeout: float | None = None) -> bool:
        """Wait for all that is under way; return whether all of it is in the store now."""
        with self._lock:
            uploads = set(self._under_way)
        done, waiting = wait(uploads, timeout)
        return not waiting and all(upload.result() for upload in done)

    def _finish(
        self, name: str, sent: "Sequence[Future[None]]", marker: tuple[str, Path], when_ended: Callable[[bool], None]
    ) -> bool:
        arrived = False
        try:
            for file in sent:
                file.result()
            self._store.put(*marker)
            arrived = True
        except (DiffViewsError, OSError) as error:
            for file in sent:
                file.cancel()
            logger.warning("upload of %s failed (%s); it is tried again on the next use", name, error)
        finally:
            wait(sent)
            when_ended(arrived)
        return arrived
