"""Files that are either whole or not there, under names that stay in their folder."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from diffviews.errors import ConfigError


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


def check_file_name(what: str, name: str) -> str:
    """Return `name` if it is the plain name of a file, so that joining it to a folder stays there.

    Raises:
        ConfigError: if it is empty, holds a separator or leads elsewhere.
    """
    if not name or name in (".", "..") or set(name) & set("/\\\0"):
        raise ConfigError(f"{what} {name!r} cannot name a file; use a name without / or \\")
    return name
