"""Whether a disk can take what a job is about to write."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from diffviews.errors import ConfigError, DiskSpaceError

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def format_bytes(count: int) -> str:
    """Write a number of bytes for people, in decimal units: 1536 → '1.5 kB'."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{count} bytes" if unit == 0 else f"{value:.3g} {_UNITS[unit]}"


def require_disk_space(path: str | os.PathLike[str], needed: int) -> int:
    """Return the free bytes of the disk that `path`, which need not exist yet, would lie on.

    Raises:
        DiskSpaceError: if fewer than `needed` bytes are free there.
    """
    if needed < 0:
        raise ConfigError(f"a job cannot need {needed} bytes of disk")
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskSpaceError(
            errno.ENOSPC,
            f"{format_bytes(needed)} are needed at {path}, but its disk has only {format_bytes(free)} free; "
            "make room, choose another folder, or take fewer layers, sigmas or samples",
        )
    return free


@contextlib.contextmanager
def named_disk_errors(path: Path) -> Iterator[None]:
    """Turn 'disk full' within the block into a sentence that names `path`.

    Raises:
        DiskSpaceError: in place of the operating system's error.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and not isinstance(error, DiskSpaceError):
            raise DiskSpaceError(f"the disk is full: {path} cannot be written; free some space, then resume") from error
        raise
