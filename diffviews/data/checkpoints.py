"""Checkpoint files, read without ever running anything they contain."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from diffviews.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_PICKLED = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt"}


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """Return the tensors of a safetensors file, on the CPU, and its metadata.

    Raises:
        CheckpointError: if the file is missing, truncated, hostile or of another format.
    """
    from safetensors import SafetensorError, safe_open

    file = _existing_file(path)
    if file.suffix.lower() in _PICKLED:
        raise CheckpointError(
            f"checkpoint {file} is pickled, and opening a pickle can run code it contains; "
            "convert it to .safetensors first and give that file"
        )
    try:
        with safe_open(str(file), framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return tensors, dict(opened.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {file} is not a whole safetensors file ({error}); fetch or convert it again"
        ) from error


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file's bytes in hexadecimal."""
    with _existing_file(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _existing_file(path: str | os.PathLike[str]) -> Path:
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"checkpoint {file} does not exist or is not a file; check the path")
    return file
