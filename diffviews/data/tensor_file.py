"""Arrays in a safetensors file, whose bytes depend on nothing but what it holds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from diffviews.data.files import write_atomically
from diffviews.errors import CorruptDataError


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays and metadata as one safetensors file, whole or not at all; equal ones give equal bytes."""
    from safetensors.numpy import save

    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, dict(metadata))

    def write(file: IO[bytes]) -> None:
        file.write(content)
        order_header(file)

    write_atomically(path, write)


def read_arrays(path: Path, framework: str = "numpy") -> tuple[dict[str, Any], dict[str, str]]:
    """Return the arrays, or the tensors of torch ("pt"), and the metadata of a safetensors file.

    Raises:
        CorruptDataError: if it is missing, truncated or of another format; it is named.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework=framework) as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptDataError(f"{path} is missing, truncated or no safetensors file: {error}") from error


def order_header(file: IO[bytes]) -> None:
    """Sort the metadata in the header of an open safetensors file, which the library leaves in any order."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
    if len(ordered) == length:
        file.seek(8)
        file.write(ordered)
