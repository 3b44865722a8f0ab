"""Single artifacts of runs kept on this machine: `runs/RUN/NAME` in the cache folder.

Processes share the folder without a lock: a file appears when it is whole, never changes, and may be evicted
as soon as nobody has asked for it for a while; then it is fetched again.
"""

import contextlib
import threading
from pathlib import Path

from diffviews.data.storage.cache import LAYERS, RUNS, cache_folder, cache_limit, mark_used
from diffviews.data.storage.layer_cache import LayerCache
from diffviews.data.storage.names import check_name

_LOOKS_PER_LIMIT = 64
"""How often the folder is looked through while the whole limit is downloaded."""


class Downloads:
    """Files of runs, fetched from a store. Safe between threads and processes.

    Args:
        folder: None: `runs` in the cache folder.
        max_bytes: that these files and the cached layers beside them may hold; None: `cache_limit()`.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int | None = None) -> None:
        self.folder = folder or cache_folder() / RUNS
        self._limit = max_bytes
        self._lock = threading.Lock()
        self._since_look: int | None = None

    def place(self, run_id: str, name: str) -> Path:
        """Return where an artifact is to be kept.

        Raises:
            ConfigError: if its name could lead out of the folder.
        """
        return self.folder / run_id / check_name(name)

    def use(self, run_id: str, name: str) -> Path | None:
        """Return a kept artifact, which stays for a while now; None if there is none."""
        path = self.place(run_id, name)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            mark_used(path)
            return path if path.is_file() else None
        return None

    def make_room(self, size: int) -> None:
        """Evict what was not used for longest, here and among the layers, until `size` bytes more fit.

        Raises:
            ConfigError: if DIFFVIEWS_LAYER_CACHE_MAX_MB is no number.
        """
        limit = cache_limit() if self._limit is None else self._limit
        with self._lock:
            looked = self._since_look is not None
            self._since_look = (self._since_look or 0) + size
            if looked and self._since_look < limit / _LOOKS_PER_LIMIT:
                return
            self._since_look = 0
        LayerCache(self.folder.parent / LAYERS, limit).make_room(size)
