"""The `convert` job: per-sample `.npz` files become one `.npy` that can be memory-mapped."""

import json
import logging
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from tqdm import tqdm

from diffviews.core.extractor import convert_to_fast_format
from diffviews.data.disk import format_bytes, require_disk_space
from diffviews.data.files import write_atomically
from diffviews.data.legacy.arrays import NpzFile, describe_matrix
from diffviews.errors import ConfigError, CorruptDataError, LayerNotFoundError, SampleSetError, unknown_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConvertResult:
    """What was written."""

    path: Path
    samples: int
    features: int
    """Values of all layers of one sample."""

    def __str__(self) -> str:
        return f"{self.path}: {self.samples} samples × {self.features} values"


def convert(path: str, output: str | None = None, layers: tuple[str, ...] = ("all",)) -> ConvertResult:
    """Join activations into one .npy, layers side by side in sorted order, described by a .npy.json beside it.

    A folder must hold one .npz a sample; rows are in the order of the files' names, which the .npy.json lists
    as sample_ids. The layout's own readers take a .npy inside that folder for one in the order of
    dataset_info.json, so the default is beside the folder.

    Args:
        path: folder of per-sample .npz files, or one .npz of many samples.
        output: .npy to write; null: the name of the folder or file, with .npy.
        layers: layers to keep, or all.

    Raises:
        SampleSetError: if there is no such file or folder, or no .npz in it.
        CorruptDataError: if a file is truncated or differs from the others; it is named.
        LayerNotFoundError: if the files have no such layer.
        DiskSpaceError: if the disk is too small.
    """
    source = Path(path)
    if source.is_dir():
        target = _target(source.with_name(f"{source.resolve().name}.npy"), output)
        return _convert_folder(source, target, layers)
    if source.suffix != ".npz" or not source.is_file():
        raise SampleSetError(f"{source} is neither a folder of .npz files nor an .npz file; check the path")
    target = _target(source.with_suffix(".npy"), output)
    held = NpzFile.open(source)
    written = convert_to_fast_format(source, target, _wanted(held, layers))
    samples, features = np.load(written, mmap_mode="r", allow_pickle=False).shape
    return ConvertResult(written, samples, features)


def _convert_folder(folder: Path, target: Path, layers: tuple[str, ...]) -> ConvertResult:
    paths = sorted(folder.glob("*.npz"), key=lambda path: path.stem)
    if not paths:
        raise SampleSetError(f"{folder} holds no .npz file")
    first = NpzFile.open(paths[0], single=True)
    shapes = {name: first.layers[name].shape[1:] for name in sorted(_wanted(first, layers))}
    ids = [path.stem for path in paths]
    about = describe_matrix(shapes, ids)
    needed = len(ids) * about["total_features"] * 4
    logger.info("%d samples: %s to be written to %s", len(ids), format_bytes(needed), target)
    target.parent.mkdir(parents=True, exist_ok=True)
    require_disk_space(target.parent, needed)

    def write(file: IO[bytes]) -> None:
        _write_rows(file, paths, shapes)
        # Before the matrix gets its name: whoever sees it finds its description.
        text = json.dumps(about, indent=1).encode()
        write_atomically(target.with_name(f"{target.name}.json"), lambda described: described.write(text))

    write_atomically(target, write)
    return ConvertResult(target, len(ids), about["total_features"])


def _write_rows(file: IO[bytes], paths: list[Path], shapes: dict[str, tuple[int, ...]]) -> None:
    """Write the matrix row by row as .npy; no more than one file's arrays are in memory."""
    width = sum(prod(shape) for shape in shapes.values())
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(paths), width)}
    np.lib.format.write_array_header_1_0(file, header)
    for path in tqdm(paths, desc="files", disable=None):
        file.write(_row(path, shapes).astype("<f4", copy=False).tobytes())


def _row(path: Path, shapes: dict[str, tuple[int, ...]]) -> np.ndarray:
    """Return the layers of one sample one after the other, (D,)."""
    file = NpzFile.open(path, single=True)
    for name, shape in shapes.items():
        held = file.layers[name].shape if name in file.layers else None
        if held != (1, *shape):
            raise CorruptDataError(
                f"layer {name!r} of {path} has the shape {held and held[1:]}, but the files before it {shape}"
            )
    return np.concatenate([file.read(name).reshape(-1) for name in shapes])


def _wanted(file: NpzFile, layers: tuple[str, ...]) -> list[str]:
    """Return the layers to keep, those of the file where all are wanted."""
    if layers == ("all",):
        return list(file.layers)
    for layer in layers:
        if layer not in file.layers:
            raise LayerNotFoundError(unknown_name("layer", layer, file.layers))
    return list(layers)


def _target(default: Path, output: str | None) -> Path:
    target = default if output is None else Path(output)
    if target.suffix != ".npy":
        raise ConfigError(f"output {target} must end in .npy")
    return target
