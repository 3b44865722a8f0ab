"""One file downloaded in as many pieces as the connection allows, and visible only when whole.

What has arrived is kept in `<name>.part`, with the server's mark of the file's version beside it, so that a
download that broke, in this process or an earlier one, goes on where it stopped. When everything is
there and size and sha256 are right, the file takes its name. A lock lets one process do it while others wait.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffviews.data.disk import require_disk_space
from diffviews.data.files import sha256_of
from diffviews.errors import CheckpointError

_log = logging.getLogger(__name__)

CHUNK = 2**20
"""Bytes written at a time."""
ATTEMPTS = 5
"""Connections in a row that may break without a byte arriving before the download is given up."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The rest of a file, as a server sends it."""

    start: int
    """Index of the first byte it sends; 0 if it starts over."""
    total: int | None
    """Bytes of the whole file, None if the server does not say."""
    version: str | None
    """The server's mark of this version of the file, such as an ETag."""
    chunks: Iterator[bytes]
    """The bytes."""


class BrokenConnectionError(Exception):
    """The server could not be reached or fell silent; it may be asked again."""


Open = Callable[[int, str | None], Piece]
"""Asks for the bytes from an index on, as long as the file's version is still the one given; raises
BrokenConnectionError, or CheckpointError if asking again is no use."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of a file before it is fetched."""

    size: int | None = None
    """Bytes."""
    digest: str | None = None
    """sha256 in hexadecimal."""

    def check(self, file: Path, address: str) -> None:
        """Refuse a file that is another one.

        Raises:
            CheckpointError: naming both sizes or both digests.
        """
        size = file.stat().st_size
        if self.size is not None and size != self.size:
            raise CheckpointError(f"{address} has {size:,} bytes where {self.size:,} are expected; it is not used")
        if self.digest is not None:
            found = sha256_of(file)
            if found != self.digest.lower():
                raise CheckpointError(
                    f"{address} has sha256 {found} where {self.digest.lower()} is expected; it is not used"
                )


def download(
    open_piece: Open, target: Path, address: str, expected: Expected | None = None, *, pause: float = 1.0
) -> Path:
    """Return `target`, downloaded unless it is there already.

    Args:
        open_piece: asks the server.
        target: where the file is to be.
        address: what messages call it.
        expected: its size and digest, as far as they are known.
        pause: seconds before the second connection; each further wait is twice as long.

    Raises:
        CheckpointError: if the server refuses, breaks off again and again, or sends another file.
        DiskSpaceError: if the disk is too small.
    """
    from filelock import FileLock

    expected = expected or Expected()
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.is_file():
            expected.check(target, f"{target}, fetched earlier from {address},")
            return target
        part = target.with_name(f"{target.name}.part")
        note = target.with_name(f"{target.name}.part.json")
        _fill(open_piece, part, note, address, expected, pause)
        try:
            expected.check(part, address)
        except CheckpointError:
            part.unlink()
            note.unlink(missing_ok=True)
            raise
        part.replace(target)
        note.unlink(missing_ok=True)
    return target


def _fill(open_piece: Open, part: Path, note: Path, address: str, expected: Expected, pause: float) -> None:
    """Ask until the whole file is in `part`."""
    idle = 0
    while True:
        arrived = part.stat().st_size if part.is_file() else 0
        try:
            whole = _append(open_piece, part, note, address, expected)
            if whole:
                return
            reason = "the connection ended early"
        except BrokenConnectionError as error:
            reason = str(error)
        now = part.stat().st_size if part.is_file() else 0
        idle = 0 if now > arrived else idle + 1
        if idle >= ATTEMPTS:
            raise CheckpointError(
                f"{address} cannot be fetched: {reason} ({now:,} bytes are kept; ask again to go on from there)"
            )
        _log.info("%s: %s after %s bytes; trying again", address, reason, f"{now:,}")
        time.sleep(pause * 2**idle if idle else 0)


def _append(open_piece: Open, part: Path, note: Path, address: str, expected: Expected) -> bool:
    """Add what one connection brings to `part`; return whether the file is whole."""
    start = part.stat().st_size if part.is_file() else 0
    version, total = _noted(note)
    if start and start == total:
        return True
    if start and version is None:
        start = 0  # without a version nobody can tell whether the rest belongs to the same file
    piece = open_piece(start, version)
    if piece.start not in (0, start):
        raise CheckpointError(f"{address} sends bytes from {piece.start:,} on where {start:,} was asked for")
    total = piece.total if piece.total is not None else expected.size
    if expected.size is not None and piece.total not in (None, expected.size):
        raise CheckpointError(
            f"{address} has {piece.total:,} bytes where {expected.size:,} are expected; it is not fetched"
        )
    if total is not None:
        require_disk_space(part.parent, max(total - piece.start, 0))
    note.write_text(json.dumps({"version": piece.version, "total": total}), encoding="utf-8")
    written = _write(piece, part, address, total)
    if total is not None and written > total:
        part.unlink()
        raise CheckpointError(f"{address} sends more than its {total:,} bytes; it is not used")
    return written == total if total is not None else True


def _write(piece: Piece, part: Path, address: str, total: int | None) -> int:
    """Write the bytes of a piece and return how many the file has then; a bar appears after two seconds."""
    from tqdm import tqdm

    bar: Any = tqdm(
        total=total, initial=piece.start, desc=address.rsplit("/", 1)[-1][:40], unit="B", unit_scale=True,
        delay=2, disable=None, leave=False,
    )  # fmt: skip
    written = piece.start
    with part.open("r+b" if piece.start else "wb") as file, closing(bar):
        file.seek(piece.start)
        file.truncate()
        for chunk in piece.chunks:
            file.write(chunk)
            written += len(chunk)
            bar.update(len(chunk))
            if total is not None and written > total:
                break
    return written


def _noted(note: Path) -> tuple[str | None, int | None]:
    """Return the version and the whole size of the file that a part belongs to, as far as they are known."""
    try:
        record = json.loads(note.read_text(encoding="utf-8"))
        version, total = record.get("version"), record.get("total")
    except (OSError, ValueError, AttributeError):
        return None, None
    return version if isinstance(version, str) else None, total if isinstance(total, int) else None
