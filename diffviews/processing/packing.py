"""Lossless packing of what a large map's file mostly consists of: half-precision points, and sample ids.

Of a float16 the lower byte is noise; the upper one, sign and exponent and two bits, takes three quarters of its
space once a column's are next to each other. Ids begin alike and shrink to a few bytes each.
"""

import json
import zlib
from collections.abc import Sequence

import numpy as np

from diffviews.errors import CorruptDataError

ID_BYTES = 1024
"""Bytes an id may have on average; more in a file is an attack on the memory of who reads it."""

_QUICK, _SMALL = 1, 6


class PackingError(CorruptDataError):
    """Packed values are damaged; who knows the file's name adds it."""


def pack_half(points: np.ndarray) -> np.ndarray:
    """Return points (N, d) float16 as (n,) uint8: the lower bytes column by column, then the packed upper ones."""
    low, high = np.moveaxis(points.T.astype("<f2", order="C").view(np.uint8).reshape(points.size, 2), 1, 0)
    return np.concatenate([low, np.frombuffer(zlib.compress(high.tobytes(), _QUICK), np.uint8)])


def unpack_half(packed: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return what `pack_half` was given, as (N, d) float32.

    Raises:
        PackingError: if it is not of this shape.
    """
    count = shape[0] * shape[1]
    planes = np.empty((count, 2), np.uint8)
    planes[:, 0] = packed[:count]
    planes[:, 1] = np.frombuffer(_inflated(packed[count:], count), np.uint8)
    return np.ascontiguousarray(planes.view("<f2").reshape(shape[::-1]).T, dtype=np.float32)


def pack_names(names: Sequence[str]) -> np.ndarray:
    """Return names as (n,) uint8."""
    text = json.dumps(list(names), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return np.frombuffer(zlib.compress(text, _SMALL), np.uint8)


def unpack_names(packed: np.ndarray, count: int) -> str:
    """Return the JSON list of `count` names that `pack_names` packed, which is not looked into.

    Raises:
        PackingError: if it is damaged or too long for so many names.
    """
    return _inflated(packed, None, limit=count * ID_BYTES).decode("utf-8", "surrogatepass")


def _inflated(packed: np.ndarray, size: int | None, *, limit: int | None = None) -> bytes:
    """Return the packed bytes after checking that they are `size`, or at most `limit`."""
    most = (size if size is not None else limit) or 1
    reader = zlib.decompressobj()
    try:
        found = reader.decompress(packed.tobytes(), most + 1)
    except zlib.error as error:
        raise PackingError(f"packed values are damaged: {error}") from error
    if not reader.eof or (size is not None and len(found) != size):
        raise PackingError("packed values are truncated or too many")
    return found
