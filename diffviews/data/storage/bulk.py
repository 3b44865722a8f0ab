"""Many objects at once: their names, which of them are wanted, which are there already, and doing it in parallel."""

import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from diffviews.data.storage.model_files import safe_parts
from diffviews.data.storage.store_errors import StoreError
from diffviews.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)

T = TypeVar("T")

EXCLUDED_FOLDERS = frozenset({"intermediates", "layer_cache"})
EXCLUDED_ENDINGS = (".npz", ".pkl")
"""What a bulk download leaves out."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a listing says of one object."""

    key: str
    """Below the store's prefix."""
    size: int
    """Bytes."""
    etag: str
    """The store's mark of this version: the MD5 of what was sent in one piece."""


def check_key(key: str) -> str:
    """Return a key when it is a plain relative path that stays below its prefix.

    Raises:
        ConfigError: for an absolute one, '..', a backslash, a drive or a control character.
    """
    try:
        safe_parts(key)
    except CheckpointError as error:
        raise ConfigError(f"{key[:200]!r} is no key of a store; use a relative path without '..' and '\\'") from error
    return key


def is_safe(name: str) -> bool:
    """Say whether a key stays below its prefix."""
    try:
        check_key(name)
    except ConfigError:
        return False
    return True


def is_wanted(name: str, left_out: frozenset[str]) -> bool:
    """Say whether a bulk download takes this name."""
    folders = name.split("/")[:-1]
    return not left_out.intersection(folders) and not name.lower().endswith(EXCLUDED_ENDINGS)


def is_there(path: Path, stored: StoredObject) -> bool:
    """Say whether a file is the stored object, as far as its size and, where it has one, its MD5 tell."""
    if not path.is_file() or path.stat().st_size != stored.size:
        return False
    if "-" in stored.etag or len(stored.etag) != 32:  # sent in parts
        return True
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == stored.etag


def in_parallel(work: Callable[[T], object], items: list[T], workers: int, *, describe: str) -> None:
    """Do `work` on each item, some at once; a failure ends it all and is raised.

    When a store fails although some items went through, the rest is asked for again: among thousands of requests
    one is refused again and again by chance alone.
    """
    from tqdm import tqdm

    if workers < 1:
        raise ConfigError(f"{workers} workers do nothing; take 1 or more")
    left = list(items)
    with tqdm(total=len(items), desc=describe[:40], unit="file", delay=2, disable=None, leave=False) as bar:
        while left:
            waiting, failed = dict(enumerate(left)), list[T]()

            def one(number: int, waiting: dict[int, T] = waiting, failed: list[T] = failed) -> None:
                try:
                    work(waiting[number])
                except StoreError:
                    failed.append(waiting.pop(number))
                    raise
                del waiting[number]
                bar.update()

            try:
                _all(one, list(waiting), workers)
            except StoreError as error:
                if len(waiting) + len(failed) == len(left):
                    raise
                logger.info("%s: %s; asking again for those that are left", describe, error)
            left = [*waiting.values(), *failed]


def _all(work: Callable[[T], object], items: list[T], workers: int) -> None:
    with ThreadPoolExecutor(min(workers, len(items)), thread_name_prefix="store") as pool:
        futures = [pool.submit(work, item) for item in items]
        done, pending = wait(futures, return_when=FIRST_EXCEPTION)
        for future in pending:
            future.cancel()
        for future in done:
            future.result()
