"""A projector on disk: one safetensors file, checked before anything in it is believed.

Half-precision points and sample ids are packed without loss, since a large map's file mostly consists of them: of a
float16 the lower byte is noise; the upper one, sign and exponent and two bits, takes three quarters of its space
once a column's are next to each other. Ids begin alike and shrink to a few bytes each.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from diffviews.data.tensor_file import write_arrays
from diffviews.errors import CorruptDataError, DiffViewsError, SchemaVersionError
from diffviews.processing.map_parameters import MapParameters

FORMAT = "diffviews.projector"
SCHEMA_VERSION = 2
READABLE = ("1", "2")
"""Version 1 had no packed points, and the ids in its metadata, where there is no room for millions."""

REQUIRED = ("scaler_mean", "scaler_scale", "pca_points", "embedding")
HELD_OUT = ("held_out_distances", "held_out_residuals")
"""Maps of earlier versions have none, and place without saying how usual a place is."""

OPTIONAL = ("pca_components", "row_sigmas", *HELD_OUT)
PACKED = "packed_points"
"""In place of `pca_points` where they are half-precision numbers, as the vectors of a large sketch."""

IDS = "sample_ids"
"""Packed as well."""

ID_BYTES = 1024
"""Bytes an id may have on average; more in a file is an attack on the memory of who reads it."""

_QUICK, _SMALL = 1, 6

_DTYPES = {"row_sigmas": "F64", PACKED: "U8", IDS: "U8"}


def write_projector(
    path: Path, arrays: Mapping[str, np.ndarray | None], parameters: MapParameters, sample_ids: Sequence[str]
) -> None:
    """Write a projector to `path`, whole or not at all; equal projectors give equal bytes.

    Args:
        path: of the file.
        arrays: by name, those of REQUIRED and OPTIONAL; None for one that it does without.
        parameters: of the map.
        sample_ids: of its rows.
    """
    stored = {name: array for name, array in arrays.items() if array is not None}
    stored[IDS] = _pack_names(sample_ids)
    half = _halved(stored["pca_points"])
    if half is not None:
        stored[PACKED] = _pack_half(half)
        del stored["pca_points"]
    described = json.dumps(asdict(parameters), sort_keys=True)
    write_arrays(path, stored, {"format": FORMAT, "schema": str(SCHEMA_VERSION), "parameters": described})


def read_projector(path: Path) -> dict[str, Any]:
    """Return the arguments of a Projector from a file.

    Raises:
        CorruptDataError: if the file is missing, truncated, or its parts do not fit together.
        SchemaVersionError: if another version of the format wrote it.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CorruptDataError(f"there is no projector at {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            _check_format(path, metadata)
            parameters = _parameters(path, metadata)
            shapes = _checked_shapes(path, file, parameters)
            sample_ids = _sample_ids(path, file, metadata, shapes["embedding"][0])
            arrays = {name: file.get_tensor(name) for name in shapes if name != IDS}
        if PACKED in arrays:
            arrays["pca_points"] = _unpack_half(arrays.pop(PACKED).ravel(), _points_shape(shapes))
    except zlib.error as error:
        raise CorruptDataError(f"{path} is damaged: {error}") from error
    except (SafetensorError, OSError) as error:
        raise CorruptDataError(f"{path} is truncated or no safetensors file: {error}") from error
    lost = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if lost or not (arrays["scaler_scale"] > 0).all():
        raise CorruptDataError(f"{path} is damaged: {', '.join(lost) or 'scaler_scale'} has impossible values")
    return {**dict.fromkeys(OPTIONAL), **arrays, "parameters": parameters, "sample_ids": sample_ids}


def _halved(points: np.ndarray) -> np.ndarray | None:
    """Return float32 values as float16, or None where that would lose something."""
    with np.errstate(over="ignore"):
        half = points.astype(np.float16)
    return half if np.array_equal(half, points) else None


def _check_format(path: Path, metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise CorruptDataError(f"{path} is a safetensors file, but holds no projector")
    if metadata.get("schema") not in READABLE:
        raise SchemaVersionError(
            f"{path} has schema {metadata.get('schema')!r}, but this version reads {' and '.join(READABLE)}; "
            "update DiffViews if a later version wrote it, else fit the map anew"
        )


def _parameters(path: Path, metadata: dict[str, str]) -> MapParameters:
    try:
        return MapParameters(**json.loads(metadata["parameters"]))
    except (KeyError, ValueError, TypeError, RecursionError, DiffViewsError) as error:
        raise CorruptDataError(f"{path} does not describe its map: {error}") from error


def _sample_ids(path: Path, file: Any, metadata: dict[str, str], count: int) -> tuple[str, ...]:
    """Return the ids of the map's `count` samples."""
    try:
        packed = IDS in file.keys()  # noqa: SIM118 (no mapping)
        text = _inflated(file.get_tensor(IDS).ravel(), None, limit=count * ID_BYTES) if packed else b""
        names = json.loads(text.decode("utf-8", "surrogatepass") if packed else metadata[IDS])
    except (KeyError, ValueError, RecursionError) as error:
        raise CorruptDataError(f"{path} does not describe its map: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CorruptDataError(f"{path} does not describe its map: sample_ids is no list of names")
    if len(names) != count:
        raise CorruptDataError(f"{path} is damaged: it has {len(names)} sample_ids for {count} samples")
    return tuple(names)


def _checked_shapes(path: Path, file: Any, parameters: MapParameters) -> dict[str, tuple[int, ...]]:
    """Compare names, dtypes and shapes with each other before an array is read; return the shapes."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name in set(file.keys()) & {*REQUIRED, *OPTIONAL, PACKED, IDS}:
        part = file.get_slice(name)
        shapes[name] = tuple(part.get_shape())
        if part.get_dtype() != _DTYPES.get(name, "F32"):
            raise CorruptDataError(f"{path} is damaged: {name} is {part.get_dtype()}")
    instead = {"pca_points": PACKED}
    missing = [name for name in REQUIRED if name not in shapes and instead.get(name) not in shapes]
    if missing:
        raise CorruptDataError(f"{path} is damaged: it lacks {', '.join(missing)}")
    plain = {name: shape for name, shape in shapes.items() if name not in (PACKED, IDS)}
    problem = shape_problem(plain, shapes["embedding"][0] if shapes["embedding"] else 0, parameters.n_components)
    if not problem and prod(shapes.get(PACKED, _points_shape(shapes))) < prod(_points_shape(shapes)):
        problem = f"{PACKED} has {prod(shapes[PACKED])} bytes for {_points_shape(shapes)} numbers"
    if problem:
        raise CorruptDataError(f"{path} is damaged: {problem}")
    return shapes


def _points_shape(shapes: dict[str, tuple[int, ...]]) -> tuple[int, int]:
    """Return the shape (N, d) of the points that the other arrays ask for."""
    return shapes["embedding"][0], shapes.get("pca_components", shapes["scaler_mean"])[0]


def shape_problem(shapes: dict[str, tuple[int, ...]], count: int, dimensions: int) -> str:
    """Return which of a projector's arrays does not fit the others, or ''."""
    features = shapes["scaler_mean"][:1]
    width = shapes["pca_components"][:1] if "pca_components" in shapes else features
    expected = {
        "scaler_mean": features,
        "scaler_scale": features,
        "pca_components": width + features,
        "pca_points": (count, *width),
        "embedding": (count, dimensions),
        "row_sigmas": (count,),
    }
    expected |= {name: shapes[name][:1] for name in HELD_OUT if name in shapes}
    wrong = [name for name, shape in shapes.items() if shape != expected[name] or 0 in shape or not shape]
    if wrong:
        return f"{wrong[0]} has shape {shapes[wrong[0]]} where {expected[wrong[0]]} belongs"
    return "" if count > 1 else f"it has {count} samples"


def _pack_half(points: np.ndarray) -> np.ndarray:
    """Return points (N, d) float16 as (n,) uint8: the lower bytes column by column, then the packed upper ones."""
    low, high = np.moveaxis(points.T.astype("<f2", order="C").view(np.uint8).reshape(points.size, 2), 1, 0)
    return np.concatenate([low, np.frombuffer(zlib.compress(high.tobytes(), _QUICK), np.uint8)])


def _unpack_half(packed: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return what `_pack_half` was given, as (N, d) float32."""
    count = shape[0] * shape[1]
    planes = np.empty((count, 2), np.uint8)
    planes[:, 0] = packed[:count]
    planes[:, 1] = np.frombuffer(_inflated(packed[count:], count), np.uint8)
    return np.ascontiguousarray(planes.view("<f2").reshape(shape[::-1]).T, dtype=np.float32)


def _pack_names(names: Sequence[str]) -> np.ndarray:
    """Return names as (n,) uint8."""
    text = json.dumps(list(names), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return np.frombuffer(zlib.compress(text, _SMALL), np.uint8)


def _inflated(packed: np.ndarray, size: int | None, *, limit: int | None = None) -> bytes:
    """Return the packed bytes after checking that they are `size`, or at most `limit`.

    Raises:
        zlib.error: if they are damaged, truncated or too many; who knows the file's name says which it is.
    """
    most = (size if size is not None else limit) or 1
    reader = zlib.decompressobj()
    found = reader.decompress(packed.tobytes(), most + 1)
    if not reader.eof or (size is not None and len(found) != size):
        raise zlib.error("packed values are truncated or too many")
    return found
