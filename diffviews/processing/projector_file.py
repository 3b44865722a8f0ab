"""A projector on disk: one safetensors file, checked before anything in it is believed."""

import json
import os
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffviews.errors import CorruptDataError, DiffViewsError, SchemaVersionError
from diffviews.processing.map_parameters import MapParameters

if TYPE_CHECKING:
    from diffviews.processing.projector import Projector

FORMAT = "diffviews.projector"
SCHEMA_VERSION = 1

REQUIRED = ("scaler_mean", "scaler_scale", "pca_points", "embedding")
OPTIONAL = ("pca_components", "row_sigmas")
_DTYPES = {"row_sigmas": ("F64",), "pca_points": ("F32", "F16")}


def write_projector(projector: "Projector", path: Path) -> None:
    """Write a projector to `path`, through a temporary file that is renamed when whole."""
    from safetensors.numpy import save

    arrays = {name: getattr(projector, name) for name in REQUIRED + OPTIONAL}
    arrays["pca_points"] = _halved(arrays["pca_points"])
    metadata = {
        "format": FORMAT,
        "schema": str(SCHEMA_VERSION),
        "parameters": json.dumps(asdict(projector.parameters), sort_keys=True),
        "sample_ids": json.dumps(projector.sample_ids),
    }
    content = save({name: array for name, array in arrays.items() if array is not None}, metadata)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
            _check_format(path, file.metadata() or {})
            described = _described(path, file.metadata())
            _check_arrays(path, file, described)
            names = [name for name in REQUIRED + OPTIONAL if name in file.keys()]  # noqa: SIM118 (no mapping)
            arrays = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CorruptDataError(f"{path} is truncated or no safetensors file: {error}") from error
    lost = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if lost or not (arrays["scaler_scale"] > 0).all():
        raise CorruptDataError(f"{path} is damaged: {', '.join(lost) or 'scaler_scale'} has impossible values")
    arrays["pca_points"] = arrays["pca_points"].astype(np.float32, copy=False)
    return {"pca_components": None, "row_sigmas": None, **arrays, **described}


def _halved(points: np.ndarray) -> np.ndarray:
    """Return float32 values as float16 where that loses nothing, as with the vectors of a large sketch."""
    with np.errstate(over="ignore"):
        half = points.astype(np.float16)
    return half if np.array_equal(half, points) else points


def _check_format(path: Path, metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise CorruptDataError(f"{path} is a safetensors file, but holds no projector")
    if metadata.get("schema") != str(SCHEMA_VERSION):
        raise SchemaVersionError(
            f"{path} has schema {metadata.get('schema')!r}, but this version reads {SCHEMA_VERSION}; fit the map anew"
        )


def _described(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Return parameters and sample ids from the file's metadata."""
    try:
        parameters = MapParameters(**json.loads(metadata["parameters"]))
        sample_ids = json.loads(metadata["sample_ids"])
    except (KeyError, ValueError, TypeError, RecursionError, DiffViewsError) as error:
        raise CorruptDataError(f"{path} does not describe its map: {error}") from error
    if not isinstance(sample_ids, list) or not all(isinstance(sample_id, str) for sample_id in sample_ids):
        raise CorruptDataError(f"{path} does not describe its map: sample_ids is no list of names")
    return {"parameters": parameters, "sample_ids": tuple(sample_ids)}


def _check_arrays(path: Path, file: Any, described: dict[str, Any]) -> None:
    """Compare names, dtypes and shapes with each other before an array is read."""
    found = set(file.keys())
    shapes: dict[str, tuple[int, ...]] = {}
    for name in found & set(REQUIRED + OPTIONAL):
        part = file.get_slice(name)
        shapes[name] = tuple(part.get_shape())
        if part.get_dtype() not in _DTYPES.get(name, ("F32",)):
            raise CorruptDataError(f"{path} is damaged: {name} is {part.get_dtype()}")
    missing = [name for name in REQUIRED if name not in shapes]
    if missing:
        raise CorruptDataError(f"{path} is damaged: it lacks {', '.join(missing)}")
    problem = shape_problem(shapes, len(described["sample_ids"]), described["parameters"].n_components)
    if problem:
        raise CorruptDataError(f"{path} is damaged: {problem}")


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
    wrong = [name for name, shape in shapes.items() if shape != expected[name] or 0 in shape]
    if wrong:
        return f"{wrong[0]} has shape {shapes[wrong[0]]} where {expected[wrong[0]]} belongs"
    return "" if count > 1 else f"it has {count} samples"
