"""The folder in which everything downloaded is kept, how much of it may stay, and what goes first.

    layers/FINGERPRINT/…    whole layers, each kept or evicted as one (data.layer_cache)
    runs/RUN/…              single artifacts of runs (data.downloads)

Both share one limit, and the least recently used of both goes first.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diffviews.errors import ConfigError

LAYERS, RUNS = "layers", "runs"
DEFAULT_MAX_MB = 2048
GRACE = 120.0
"""Seconds after its last use for which a single file stays: whoever has just asked for it is about to open it."""
STALE = 86_400.0
"""Seconds without a change after which a file that was never completed is given up."""


def cache_folder() -> Path:
    """Return the folder for downloads: `DIFFVIEWS_CACHE_DIR`, else ~/.cache/diffviews."""
    chosen = os.environ.get("DIFFVIEWS_CACHE_DIR")
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".cache" / "diffviews"


def cache_limit() -> int:
    """Return how many bytes layers and runs may hold together: DIFFVIEWS_LAYER_CACHE_MAX_MB, else 2048 MB.

    Raises:
        ConfigError: if it is no number.
    """
    text = os.environ.get("DIFFVIEWS_LAYER_CACHE_MAX_MB", "").strip() or str(DEFAULT_MAX_MB)
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise ConfigError(f"DIFFVIEWS_LAYER_CACHE_MAX_MB is {text!r}; give a number of megabytes, 0 or more")
    return int(limit * 1e6)


@dataclass(frozen=True, slots=True)
class Kept:
    """Something in the cache that may be evicted as one."""

    last_used: int
    """Nanoseconds since the epoch."""
    size: int
    """Bytes."""
    evict: Callable[[], bool]
    """Deletes it unless it is in use; returns whether it did."""


def make_room(kept: Iterable[Kept], needed: int, limit: int) -> None:
    """Evict what was not used for longest until `needed` bytes more fit below `limit`; what is in use stays."""
    oldest_first = sorted(kept, key=lambda item: item.last_used)
    excess = sum(item.size for item in oldest_first) + needed - limit
    for item in oldest_first:
        if excess <= 0:
            return
        if item.evict():
            excess -= item.size


def kept_files(folder: Path) -> Iterator[Kept]:
    """Yield every file below a folder of single files, those of this moment as well."""
    for place, _, names in os.walk(folder):  # which lets folders vanish under it
        for path in (Path(place, name) for name in names):
            with contextlib.suppress(OSError):
                found = path.stat()
                yield Kept(found.st_mtime_ns, found.st_size, partial(_evict_file, path))


def mark_used(path: Path) -> None:
    """Note that a file was used now."""
    now = time.time_ns()  # a file system's own clock ticks only every few milliseconds
    os.utime(path, ns=(now, now))


def _evict_file(path: Path) -> bool:
    patience = STALE if path.name.startswith(".") else GRACE
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > patience:
            path.unlink()
            return True
    return False
