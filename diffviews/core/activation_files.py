"""Activations by layer as rows and as files that notebooks read and write: .npz, or one .npy to memory-map."""

import json
import zlib
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from PIL import Image
from torch import Tensor

from diffviews.data.files import check_file_name, write_atomically
from diffviews.errors import CorruptDataError, LayerNotFoundError, SelectionError, ShapeError, unknown_name

StrPath = str | PathLike[str]


def save_activations(
    output_path: StrPath, activations: Mapping[str, Any], metadata: Mapping[str, Any] | None = None
) -> Path:
    """Write activations as an uncompressed .npz, one array (N, D) a layer; return its path."""
    path = _with_suffix(output_path, ".npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {layer: _rows(values) for layer, values in activations.items()}
    write_atomically(path, lambda file: np.savez(file, **arrays))
    if metadata is not None:
        text = json.dumps(dict(metadata), indent=2)
        write_atomically(path.with_suffix(".json"), lambda file: file.write(text.encode()))
    return path


def _with_suffix(path: StrPath, suffix: str) -> Path:
    """Return the path with its ending, adding it rather than cutting 'sigma_0.5' at the point."""
    path = Path(path)
    return path if path.suffix == suffix else path.with_name(path.name + suffix)


def _rows(values: Any) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return array.reshape(len(array), -1)


def flatten_activations(activations: Mapping[str, Any]) -> np.ndarray:
    """Return one row a sample, (N, D): the layers one after the other, in sorted order.

    Raises:
        SelectionError: if there is no layer.
        ShapeError: if the layers have different numbers of samples.
    """
    if not activations:
        raise SelectionError("there are no activations to flatten; name at least one layer")
    counts = {layer: len(values) for layer, values in activations.items()}
    if len(set(counts.values())) > 1:
        raise ShapeError(f"the layers hold different numbers of samples: {counts}")
    return np.concatenate([_rows(activations[layer]) for layer in sorted(activations)], axis=1)


def load_activations(activation_path: StrPath) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save` wrote, by its path with or without `.npz`.

    Returns:
        {layer: (N, D)} and the metadata, empty when there is none.

    Raises:
        FileNotFoundError: if there is no such file.
        CorruptDataError: if it is truncated or holds anything but arrays, naming it.
    """
    path = _with_suffix(activation_path, ".npz")
    arrays = read_npz(path)
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return arrays, {}
    return arrays, _read_json(beside)


def read_npz(path: Path, layers: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz file, all or some of them; never unpickles.

    Raises:
        LayerNotFoundError: if it has no such array.
        CorruptDataError: if it cannot be read, naming it.
    """
    try:
        opened = np.load(path, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise CorruptDataError(f"{path} is one array, not an .npz file of arrays by layer")
        with opened:
            wanted = opened.files if layers is None else layers
            for name in wanted:
                if name not in opened.files:
                    raise LayerNotFoundError(f"layer not found in {path}: {unknown_name('layer', name, opened.files)}")
            return {name: opened[name] for name in wanted}
    except (CorruptDataError, LayerNotFoundError):
        raise
    except (BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise CorruptDataError(f"{path} is truncated or not an .npz file of plain arrays: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CorruptDataError(f"{path} is not a JSON object: {error}") from error


def convert_to_fast_format(
    npz_path: StrPath, output_path: StrPath | None = None, layers: Sequence[str] | None = None
) -> Path:
    """Join the layers of an .npz into one .npy that can be memory-mapped.

    Beside it `<name>.npy.json` names the layers, in the sorted order of their columns, and the
    shape of each.

    Args:
        npz_path: file to convert.
        output_path: file to write; None: the same name with `.npy`.
        layers: layers to keep; None: all.

    Returns:
        Path of the .npy, (N, D) float32.

    Raises:
        LayerNotFoundError: if the file has no such layer.
        CorruptDataError: if the file cannot be read.
    """
    source = Path(npz_path)
    target = source.with_suffix(".npy") if output_path is None else _with_suffix(output_path, ".npy")
    arrays = read_npz(source, layers)
    matrix = flatten_activations(arrays).astype(np.float32, copy=False)
    info = {
        "layers": sorted(arrays),
        "shapes": {layer: list(arrays[layer].shape) for layer in sorted(arrays)},
        "num_samples": matrix.shape[0],
        "total_features": matrix.shape[1],
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, lambda file: np.save(file, matrix, allow_pickle=False))
    text = json.dumps(info, indent=2)
    write_atomically(target.with_name(target.name + ".json"), lambda file: file.write(text.encode()))
    return target


def load_fast_activations(npy_path: StrPath, mmap_mode: Literal["r", "r+", "w+", "c"] | None = "r") -> np.ndarray:
    """Open the matrix (N, D) that `convert_to_fast_format` wrote, memory-mapped unless None.

    Raises:
        CorruptDataError: if the file is truncated or no plain array, naming it.
    """
    path = _with_suffix(npy_path, ".npy")
    try:
        return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CorruptDataError(f"{path} is truncated or not a plain array: {error}") from error


def save_generated_sample(
    image: Any,
    activations: Mapping[str, Any] | None,
    metadata: Mapping[str, Any],
    output_dir: StrPath,
    sample_id: str,
) -> dict[str, Any]:
    """Write a generated image and, if there are any, its activations, below `output_dir`.

    `images/<model>/<sample_id>.png`, `activations/<model>/<sample_id>.npz` and `.json`, where the
    model is `metadata["model"]` or "generated".

    Returns:
        The metadata with `sample_id` and the relative paths of what was written.

    Raises:
        ConfigError: if the sample id or the model cannot name a file.
        ShapeError: if the image is not uint8 (H, W, 3).
    """
    check_file_name("sample id", sample_id)
    model = check_file_name("model", str(metadata.get("model", "generated")))
    pixels = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ShapeError(f"the image is {pixels.dtype} of shape {pixels.shape}, not uint8 (H, W, 3)")
    record = {**metadata, "sample_id": sample_id, "image_path": f"images/{model}/{sample_id}.png"}
    root = Path(output_dir)
    picture = root / record["image_path"]
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(picture, lambda file: Image.fromarray(pixels).save(file, format="PNG"))
    if activations:
        record["activation_path"] = f"activations/{model}/{sample_id}.npz"
        save_activations(root / record["activation_path"], activations, json.loads(json.dumps(record)))
    return record
