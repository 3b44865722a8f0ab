"""Files that are either whole or not there, and the rule that keeps names of files, objects and artifacts in place."""

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from diffviews.errors import ConfigError, DiffViewsError


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then give it that name; on failure nothing stays."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        with temporary.open("x+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_file_name(what: str, name: str) -> str:
    """Return `name` if it is the plain name of a file, so that joining it to a folder stays there.

    Raises:
        ConfigError: if it is empty, holds a separator or leads elsewhere.
    """
    if not name or name in (".", "..") or set(name) & set("/\\\0"):
        raise ConfigError(f"{what} {name!r} cannot name a file; use a name without / or \\")
    return name


def is_plain_name(name: str) -> bool:
    """Say whether a name is a relative POSIX path that stays below its folder on every system."""
    parts = name.split("/")
    leads_out = any(part in ("", ".", "..") for part in parts) or "\\" in name or ":" in parts[0]
    return not leads_out and name.isprintable() and len(name) <= 1000


def check_name(name: str, refusal: type[DiffViewsError] = ConfigError) -> str:
    """Return a name that stays below its folder.

    Raises:
        ConfigError: or `refusal`, for an absolute one, '..', a backslash, a drive or a control character.
    """
    if not is_plain_name(name):
        raise refusal(
            f"the name {name[:200]!r} is not allowed; use a relative path such as 'map/points.parquet' without '..', "
            "'\\', ':' or control characters"
        )
    return name
