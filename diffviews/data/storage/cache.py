"""What this machine keeps of what lies elsewhere, how much of it may stay, and what goes first.

    layers/FINGERPRINT/…    whole layers, each complete by itself, kept or evicted as one
    runs/RUN/NAME           single artifacts of runs

    def fill(folder):                          # writes points, projector, activations, samples
        return {"layer": "midblock"}

    with cache.open(fingerprint) or cache.add(fingerprint, fill) as entry:
        entry.folder / "map/points.parquet"

Both share one limit, and the least recently used of both goes first. Either appears when it is whole and never
changes. A layer that any process has open stays; so does an artifact for a while after somebody asked for it, and
whoever misses it later fetches it again. Processes share the folder.
"""

import contextlib
import logging
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from diffviews.data.disk import format_bytes
from diffviews.data.files import check_name
from diffviews.data.storage.manifest import Manifest
from diffviews.errors import ConfigError, CorruptDataError

logger = logging.getLogger(__name__)

ENTRY = "entry.json"
"""Manifest of a layer; it is written last, here and in a bucket."""
DEFAULT_MAX_MB = 2048
GRACE = 120.0
"""Seconds after its last use for which an artifact stays: whoever has just asked for it is about to open it."""
STALE = 86_400.0
"""Seconds without a change after which an artifact that was never completed is given up."""
_LOOKS_PER_LIMIT = 64
"""How often the folder is looked through while the whole limit is downloaded, artifact by artifact."""
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


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


def check_fingerprint(fingerprint: str) -> str:
    """Return a fingerprint when it is one.

    Raises:
        ConfigError: if it has not 64 hex digits.
    """
    if not isinstance(fingerprint, str) or not _FINGERPRINT.fullmatch(fingerprint):
        raise ConfigError(f"{str(fingerprint)[:80]!r} is not a fingerprint; it has 64 hex digits")
    return fingerprint


@dataclass(frozen=True, slots=True)
class CachedLayer:
    """One layer, held open: it is not evicted until it is closed, or its process has ended."""

    folder: Path
    manifest: Manifest
    lease: FileLock

    @property
    def fingerprint(self) -> str:
        """Digest of everything that determines it."""
        return self.manifest.owner

    @property
    def about(self) -> Mapping[str, Any]:
        """Model, layer, sigma, data set, parameters and measures."""
        return self.manifest.about

    def close(self) -> None:
        """Let the layer be evicted."""
        _end(self.lease)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Cache:
    """The layers and artifacts kept in a folder. Safe between threads and processes.

    Args:
        folder: None: `cache_folder()`.
        max_bytes: above which the least recently used go; None: `cache_limit()`.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int | None = None) -> None:
        folder = folder or cache_folder()
        self.layers, self.runs = folder / "layers", folder / "runs"
        self._max_bytes = max_bytes
        self._looking = threading.Lock()
        self._since_look: int | None = None

    def place(self, run_id: str, name: str) -> Path:
        """Return where an artifact is to be kept.

        Raises:
            ConfigError: if its name could lead out of the folder.
        """
        return self.runs / run_id / check_name(name)

    def use(self, run_id: str, name: str) -> Path | None:
        """Return a kept artifact, which stays for a while now; None if there is none."""
        path = self.place(run_id, name)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            _mark_used(path)
            return path if path.is_file() else None
        return None

    def make_room(self, size: int) -> None:
        """Evict what was not used for longest until an artifact of `size` bytes fits.

        Raises:
            ConfigError: if DIFFVIEWS_LAYER_CACHE_MAX_MB is no number.
        """
        with self._looking:
            looked = self._since_look is not None
            self._since_look = (self._since_look or 0) + size
            if looked and self._since_look < self._limit / _LOOKS_PER_LIMIT:
                return
            self._since_look = 0
        with self._lock():
            self._make_room(size)

    def open(self, fingerprint: str) -> CachedLayer | None:
        """Return a layer, marked as used now; None if it is not there. A damaged one is removed."""
        folder = self.layers / check_fingerprint(fingerprint)
        if not (folder / ENTRY).is_file():
            return None
        with self._lock():
            try:
                manifest = Manifest.from_json((folder / ENTRY).read_bytes(), str(folder / ENTRY))
                problem = _wrong_sizes(manifest, folder)
            except FileNotFoundError:
                return None
            except CorruptDataError as error:
                problem = str(error)
            if problem:
                logger.warning("cached layer %s is removed: %s", fingerprint[:12], problem)
                self._remove(folder)
                return None
            _mark_used(folder / ENTRY)
            return CachedLayer(folder, manifest, self._lease(fingerprint))

    def add(self, fingerprint: str, fill: Callable[[Path], Mapping[str, Any] | None]) -> CachedLayer | None:
        """Have a folder filled and return it, open, as the layer; None if it was given up.

        Another process that was quicker keeps its own. The layer itself is never evicted for its size.

        Args:
            fingerprint: digest of everything that determines the layer.
            fill: writes the files and returns what `entry.json` will say of them; None gives the layer up.
        """
        target = self.layers / check_fingerprint(fingerprint)
        incoming = self.layers / f".incoming-{secrets.token_hex(8)}"
        with self._lock():
            self._sweep()
            lease = self._lease(incoming.name)
            incoming.mkdir()
        try:
            about = fill(incoming)
            if about is None:
                return None
            manifest = Manifest.of_folder(fingerprint, incoming, about)
            (incoming / ENTRY).write_text(manifest.to_json(), encoding="utf-8")
            _mark_used(incoming / ENTRY)
            with self._lock():
                self._make_room(manifest.size, keep=target)
                if not (target / ENTRY).is_file():
                    if target.exists():
                        self._remove(target)
                    incoming.rename(target)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
            _end(lease)
        return self.open(fingerprint)

    def entries(self) -> list[tuple[str, int]]:
        """Return (fingerprint, bytes) of all layers, the least recently used first."""
        return [(path.name, size) for _, size, path in sorted(self._found()) if path.parent == self.layers]

    @property
    def _limit(self) -> int:
        return cache_limit() if self._max_bytes is None else self._max_bytes

    def _found(self) -> Iterator[tuple[int, int, Path]]:
        """Yield (nanoseconds of last use, bytes, place) of each layer and each artifact, even half arrived."""
        for folder in self.layers.iterdir() if self.layers.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):
                if _FINGERPRINT.fullmatch(folder.name):
                    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                    yield (folder / ENTRY).stat().st_mtime_ns, size, folder
        for place, _, names in os.walk(self.runs):  # which lets folders vanish under it
            for path in (Path(place, name) for name in names):
                with contextlib.suppress(OSError):
                    found = path.stat()
                    yield found.st_mtime_ns, found.st_size, path

    def _make_room(self, needed: int, keep: Path | None = None) -> None:
        """Evict what was not used for longest until `needed` bytes more fit; what is in use, and `keep`, stays."""
        oldest_first = sorted(found for found in self._found() if found[2] != keep)
        excess = sum(size for _, size, _ in oldest_first) + needed - self._limit
        for _, size, path in oldest_first:
            if excess <= 0:
                return
            if self._evict_layer(path, size) if path.parent == self.layers else _evict_artifact(path):
                excess -= size

    def _evict_layer(self, folder: Path, size: int) -> bool:
        if self._in_use(folder.name):
            return False
        logger.info("cached layer %s (%s) makes room", folder.name[:12], format_bytes(size))
        self._remove(folder)
        return True

    def _remove(self, folder: Path) -> None:
        """Make a layer invisible at once, then delete it."""
        doomed = self.layers / f".evicted-{secrets.token_hex(8)}"
        with contextlib.suppress(FileNotFoundError):
            folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def _lease(self, name: str) -> FileLock:
        """Return a lease on a folder below `layers`: a locked file, which the system unlocks when the process ends."""
        path = self.layers / ".leases" / f"{name}.{secrets.token_hex(4)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        lease = FileLock(path, thread_local=False)
        lease.acquire()
        return lease

    def _in_use(self, name: str) -> bool:
        """Say whether a process holds a folder; the leases of those that ended are removed."""
        for path in (self.layers / ".leases").glob(f"{name}.*"):
            lease = FileLock(path, timeout=0)
            try:
                lease.acquire()
            except Timeout:
                return True
            _end(lease)
        return False

    def _sweep(self) -> None:
        """Delete what processes left that ended while they wrote or deleted."""
        for folder in self.layers.glob(".[ie]*-*"):
            if not self._in_use(folder.name):
                shutil.rmtree(folder, ignore_errors=True)

    def _lock(self) -> FileLock:
        self.layers.mkdir(parents=True, exist_ok=True)
        return FileLock(self.layers / ".lock", timeout=60)


def _wrong_sizes(manifest: Manifest, folder: Path) -> str:
    """Return which file of a layer is missing or cut short, or ''; digests are compared when a file is read."""
    for name, mark in manifest.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != mark.size:
            return f"{path} has not the {mark.size} bytes that its manifest says"
    return ""


def _evict_artifact(path: Path) -> bool:
    """Delete an artifact unless somebody has just asked for it, or it is on its way; say whether it is gone."""
    patience = STALE if path.name.startswith(".") else GRACE
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > patience:
            path.unlink()
            return True
    return False


def _mark_used(path: Path) -> None:
    now = time.time_ns()  # a file system's own clock ticks only every few milliseconds
    os.utime(path, ns=(now, now))


def _end(lease: FileLock) -> None:
    lease.release()
    Path(lease.lock_file).unlink(missing_ok=True)
