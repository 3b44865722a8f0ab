"""Computed layers on this machine, each a folder named by its fingerprint and complete by itself.

    with cache.adding(fingerprint) as draft:
        ...                                    # write points, projector, activations, samples below draft.folder
        draft.about = {"layer": "midblock"}    # without it nothing is added
    with cache.open(fingerprint) as entry:     # None if it is not there
        entry.folder / "map/points.parquet"

An entry appears when it is whole and never changes. The least recently used ones make room for new ones;
one that any process has open stays. Processes share the folder.
"""

import contextlib
import logging
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from diffviews.data.disk import format_bytes
from diffviews.data.storage.cache import LAYERS, RUNS, Kept, cache_folder, cache_limit, kept_files, make_room, mark_used
from diffviews.data.storage.manifest import Manifest
from diffviews.errors import ConfigError, CorruptDataError

logger = logging.getLogger(__name__)

ENTRY = "entry.json"
"""Manifest of an entry; it is written last, here and in a bucket."""
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CachedLayer:
    """One entry, held open: it is not evicted until it is closed."""

    folder: Path
    manifest: Manifest
    _lease: Path

    def close(self) -> None:
        """Let the entry be evicted."""
        self._lease.unlink(missing_ok=True)

    def __enter__(self) -> "CachedLayer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(slots=True)
class Draft:
    """An entry in the making."""

    folder: Path
    about: Mapping[str, Any] | None = None
    """What `entry.json` will say of the layer; None: give the entry up."""


class LayerCache:
    """The layers kept in a folder. Safe between threads and processes.

    Args:
        folder: None: `layers` in the cache folder.
        max_bytes: size, that of single artifacts in the folder `runs` beside it included, above which the least
            recently used of both go; None: `cache_limit()`.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int | None = None) -> None:
        self.folder = folder or cache_folder() / LAYERS
        self.max_bytes = cache_limit() if max_bytes is None else max_bytes

    def open(self, fingerprint: str) -> CachedLayer | None:
        """Return an entry, marked as used now; None if it is not there. A damaged one is removed."""
        folder = self.folder / check_fingerprint(fingerprint)
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
            mark_used(folder / ENTRY)
            return CachedLayer(folder, manifest, self._leased(fingerprint))

    @contextlib.contextmanager
    def adding(self, fingerprint: str) -> Iterator[Draft]:
        """Yield a draft to be filled; it becomes the entry when the block ends without an error.

        Another process that was quicker keeps its entry. The entry itself is never evicted for its size.
        """
        check_fingerprint(fingerprint)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        incoming = self.folder / f".incoming-{_owner()}-{secrets.token_hex(4)}"
        incoming.mkdir()
        try:
            draft = Draft(incoming)
            yield draft
            if draft.about is None:
                return
            manifest = Manifest.of_folder(fingerprint, incoming, draft.about, but=(ENTRY,))
            (incoming / ENTRY).write_text(manifest.to_json(), encoding="utf-8")
            mark_used(incoming / ENTRY)
            with self._lock():
                self._make_room(manifest.size, keep=fingerprint)
                target = self.folder / fingerprint
                if not (target / ENTRY).is_file():
                    if target.exists():
                        self._remove(target)
                    incoming.rename(target)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)

    def note(self, fingerprint: str, name: str) -> Path:
        """Return a file, outside the entry, that may hold a note on it, such as where it was uploaded to."""
        return self.folder / ".notes" / f"{check_fingerprint(fingerprint)}-{name}"

    def entries(self) -> list[tuple[str, int]]:
        """Return (fingerprint, bytes) of all entries, the least recently used first."""
        return [(name, size) for _, name, size in sorted(self._found())]

    def _found(self) -> Iterator[tuple[int, str, int]]:
        """Yield (time of last use, fingerprint, bytes) of all entries."""
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):
                if _FINGERPRINT.fullmatch(folder.name):
                    yield (folder / ENTRY).stat().st_mtime_ns, folder.name, _size(folder)

    def make_room(self, needed: int) -> None:
        """Evict what was not used for longest, entries and artifacts of runs, until `needed` bytes more fit."""
        with self._lock():
            self._make_room(needed)

    def _make_room(self, needed: int, keep: str = "") -> None:
        entries = [
            Kept(last_used, size, partial(self._evict, name, size))
            for last_used, name, size in self._found()
            if name != keep
        ]
        make_room([*entries, *kept_files(self.folder.parent / RUNS)], needed, self.max_bytes)

    def _evict(self, fingerprint: str, size: int) -> bool:
        if self._in_use(fingerprint):
            return False
        logger.info("cached layer %s (%s) makes room", fingerprint[:12], format_bytes(size))
        self._remove(self.folder / fingerprint)
        return True

    def _remove(self, folder: Path) -> None:
        """Make an entry invisible at once, then delete it."""
        doomed = self.folder / f".evicted-{_owner()}-{secrets.token_hex(4)}"
        with contextlib.suppress(FileNotFoundError):
            folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        for note in (self.folder / ".notes").glob(f"{folder.name}-*"):
            note.unlink(missing_ok=True)

    def _leased(self, fingerprint: str) -> Path:
        lease = self.folder / ".leases" / f"{fingerprint}.{_owner()}.{secrets.token_hex(4)}"
        lease.parent.mkdir(parents=True, exist_ok=True)
        lease.touch()
        return lease

    def _in_use(self, fingerprint: str) -> bool:
        """Say whether a process has the entry open; the leases of those that died are removed."""
        used = False
        for lease in (self.folder / ".leases").glob(f"{fingerprint}.*"):
            if _is_alive(lease.name.split(".")[1]):
                used = True
            else:
                lease.unlink(missing_ok=True)
        return used

    def _sweep(self) -> None:
        """Delete what processes of this machine left that died while they wrote or deleted."""
        for folder in self.folder.glob(".[ie]*-*-*-*"):
            if not _is_alive(folder.name.split("-", 1)[1].rpartition("-")[0]):
                shutil.rmtree(folder, ignore_errors=True)

    def _lock(self) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / ".lock", timeout=60)


def _wrong_sizes(manifest: Manifest, folder: Path) -> str:
    """Return which file of an entry is missing or cut short, or ''; digests are compared when a file is read."""
    for name, mark in manifest.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != mark.size:
            return f"{path} has not the {mark.size} bytes that its manifest says"
    return ""


def check_fingerprint(fingerprint: str) -> str:
    """Return a fingerprint when it is one.

    Raises:
        ConfigError: if it has not 64 hex digits.
    """
    if not isinstance(fingerprint, str) or not _FINGERPRINT.fullmatch(fingerprint):
        raise ConfigError(f"{str(fingerprint)[:80]!r} is not a fingerprint; it has 64 hex digits")
    return fingerprint


def _owner() -> str:
    """Return what names this process in the folder: host and process id."""
    return f"{re.sub('[^A-Za-z0-9]', '_', socket.gethostname())}-{os.getpid()}"


def _is_alive(owner: str) -> bool:
    """Say whether a process runs; one of another machine is taken to."""
    import psutil

    host, _, process = owner.rpartition("-")
    return host != _owner().rpartition("-")[0] or not process.isdecimal() or psutil.pid_exists(int(process))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
