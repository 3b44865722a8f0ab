"""Activation files of the legacy layout: `.npz` with an array a layer, `.npy` with all layers side by side.

Nothing in them is ever unpickled, and no array is allocated before its file is long enough to hold it.
"""

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from diffviews.errors import CorruptDataError

MAX_NAME_LENGTH = 200
_OPEN_ARRAYS = 4
_BROKEN = (OSError, ValueError, EOFError, KeyError, SyntaxError, zlib.error, zipfile.BadZipFile, NotImplementedError)


@dataclass(frozen=True, slots=True)
class StoredArray:
    """What a file says of one layer's array."""

    shape: tuple[int, ...]
    """Rows first."""
    dtype: np.dtype


@dataclass(frozen=True, slots=True)
class NpzFile:
    """An `.npz` file, of which only the headers have been read."""

    path: Path
    layers: Mapping[str, StoredArray]

    @classmethod
    def open(cls, path: Path, *, single: bool = False) -> Self:
        """Read the headers of the arrays; those of a `single` sample may lack the axis of rows.

        Raises:
            CorruptDataError: if the file is truncated, or holds anything but arrays of floats; it is named.
        """
        layers = {}
        try:
            with zipfile.ZipFile(path) as archive:
                for member in archive.infolist():
                    with archive.open(member) as stream:
                        stored = _read_header(stream, member.file_size, single)
                    layers[_layer_name(member.filename.removesuffix(".npy"), path)] = stored
        except _BROKEN as error:
            raise CorruptDataError(f"{path} is truncated or not as expected: {error}") from error
        if not layers:
            raise CorruptDataError(f"{path} holds no arrays")
        return cls(path, layers)

    def read(self, layer: str) -> np.ndarray:
        """Return the activations of one layer, (rows, *shape)."""
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                return np.asarray(arrays[layer]).reshape(self.layers[layer].shape)
        except _BROKEN as error:
            raise CorruptDataError(f"{layer} in {self.path} cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class NpyFile:
    """An `.npy` matrix (rows, D) of layers side by side; `<name>.npy.json` names them in the order of their columns."""

    path: Path
    layers: Mapping[str, StoredArray]
    offsets: Mapping[str, int]
    sample_ids: tuple[str, ...] | None
    """Id of each row, where the file says so."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the description and the header.

        Raises:
            CorruptDataError: if the matrix is truncated, or the description does not fit it; it is named.
        """
        matrix, about = open_matrix(path), path.with_name(f"{path.name}.json")
        try:
            info = json.loads(about.read_text(encoding="utf-8"))
            names = tuple(_layer_name(str(name), about) for name in info["layers"])
            shapes = {name: tuple(int(side) for side in info["shapes"][name]) for name in names}
            ids = None if info.get("sample_ids") is None else tuple(map(str, info["sample_ids"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptDataError(f"{about} does not say which layers {path.name} holds: {error!r}") from error
        if not names or len(set(names)) != len(names):
            raise CorruptDataError(f"{about} names no layers, or one of them twice")
        if ids is not None and len(ids) != len(matrix):
            raise CorruptDataError(f"{about} has {len(ids)} sample ids for the {len(matrix)} rows of {path.name}")
        row_shapes = _row_shapes(shapes, matrix.shape, about)
        ends = list(accumulate(prod(row_shapes[name]) for name in names))
        return cls(
            path,
            {name: StoredArray((len(matrix), *row_shapes[name]), matrix.dtype) for name in names},
            dict(zip(names, [0, *ends], strict=False)),
            ids,
        )

    def read(self, layer: str) -> np.ndarray:
        """Return the activations of one layer, (rows, *shape), mapped from the file where it can be."""
        shape, start = self.layers[layer].shape, self.offsets[layer]
        columns = open_matrix(self.path)[:, start : start + prod(shape[1:])]
        return columns if len(shape) == 2 else columns.reshape(shape)


ActivationFile = NpzFile | NpyFile
"""One open file of activations."""


def open_activations(stem: Path, *, single: bool = False) -> ActivationFile | None:
    """Return the file of activations named `stem`, given without its ending; None where there is none.

    A described `.npy` is taken before an `.npz`, unless its layers are not sorted: of such a file it is not
    sure that whoever wrote it kept to the order it names, and the `.npz` leaves no doubt.
    """
    matrix, described = stem.with_name(f"{stem.name}.npy"), stem.with_name(f"{stem.name}.npy.json")
    packed = stem.with_name(f"{stem.name}.npz")
    if matrix.is_file() and described.is_file():
        opened = NpyFile.open(matrix)
        if list(opened.layers) == sorted(opened.layers) or not packed.is_file():
            return opened
    if packed.is_file():
        return NpzFile.open(packed, single=single)
    if matrix.is_file():
        raise CorruptDataError(f"{matrix} has no {described.name} beside it that says which layers it holds")
    return None


@dataclass(frozen=True, slots=True)
class Place:
    """Where the activations of one sample at one sigma lie."""

    file: ActivationFile
    row: int


class PlacedActivations:
    """The activations of samples, wherever they lie, by layer; all files must hold the same layers."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = tuple(places)
        self._files = {place.file.path: place.file for place in self._places}
        first = self._places[0].file
        self.layers = {name: StoredArray(s.shape[1:], s.dtype) for name, s in first.layers.items()}
        """Shape and dtype of one sample of each layer."""
        for file in self._files.values():
            held = {name: StoredArray(s.shape[1:], s.dtype) for name, s in file.layers.items()}
            if held != self.layers:
                raise CorruptDataError(
                    f"{file.path} holds {_described(held)}, but {first.path.name} {_described(self.layers)}"
                )
        for place in self._places:
            rows = min(stored.shape[0] for stored in place.file.layers.values())
            if not 0 <= place.row < rows:
                raise CorruptDataError(f"{place.file.path} has {rows} rows, but a sample is said to be row {place.row}")
        self._array = lru_cache(_OPEN_ARRAYS)(lambda path, layer: self._files[path].read(layer))
        self._layer = ""

    def rows(self, layer: str, samples: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the activations of samples by their place in the list, (n, *shape) float16 or float32."""
        stored = self.layers[layer]
        if layer != self._layer:  # layers are read one after the other
            self._array.cache_clear()
            self._layer = layer
        values = np.empty((len(samples), *stored.shape), np.float16 if stored.dtype.itemsize == 2 else np.float32)
        for target, number in zip(values, samples, strict=True):
            place = self._places[number]
            target[...] = self._array(place.file.path, layer)[place.row]
        return values


def _read_header(stream: IO[bytes], size: int, single: bool) -> StoredArray:
    """Return shape, rows first, and dtype of an array, after checking that its bytes are there."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its arrays are of version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    _require_floats(dtype)
    if stream.tell() + prod(shape) * dtype.itemsize != size:
        raise ValueError(f"an array of shape {shape} is not as long as it says")
    return StoredArray(_with_rows(tuple(shape), single), dtype)


def open_matrix(path: Path) -> np.ndarray:
    """Return an `.npy` of floats, (rows, features), mapped from the file.

    Raises:
        CorruptDataError: if it is truncated, empty or something else; it is named.
    """
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
        _require_floats(matrix.dtype)
    except _BROKEN as error:
        raise CorruptDataError(f"{path} is truncated or no array of floats: {error}") from error
    if matrix.ndim != 2 or not matrix.size:
        raise CorruptDataError(f"{path} is an array of shape {matrix.shape}, not (rows, features)")
    return matrix


def _require_floats(dtype: np.dtype) -> None:
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise ValueError(f"its values are {dtype}, not float16, float32 or float64")


def _with_rows(shape: tuple[int, ...], single: bool) -> tuple[int, ...]:
    """Return the shape with an axis of rows: that of one sample may have been stored without."""
    if single and len(shape) == 2 and shape[0] != 1:
        raise ValueError(f"it has {shape[0]} rows instead of one sample, and no batch_index says which is meant")
    if not shape or (single and (len(shape) == 1 or shape[0] != 1)):
        return (1, *(shape or (1,)))
    return shape if len(shape) > 1 else (*shape, 1)


def _row_shapes(
    shapes: Mapping[str, tuple[int, ...]], matrix: tuple[int, ...], about: Path
) -> dict[str, tuple[int, ...]]:
    """Return each layer's shape for one sample: some writers put the number of rows in front of it."""
    rows, columns = matrix
    if sum(prod(shape) for shape in shapes.values()) == columns:
        return {name: shape or (1,) for name, shape in shapes.items()}
    if all(len(shape) > 1 and shape[0] == rows for shape in shapes.values()):
        without = {name: shape[1:] for name, shape in shapes.items()}
        if sum(prod(shape) for shape in without.values()) == columns:
            return without
    raise CorruptDataError(f"the shapes in {about} do not make up the {columns} columns of its matrix")


def _layer_name(name: str, path: Path) -> str:
    if not name or not name.isprintable() or len(name) > MAX_NAME_LENGTH:
        raise CorruptDataError(f"{path} has a layer of the impossible name {name[:40]!r}")
    return name


def _described(layers: Mapping[str, StoredArray]) -> str:
    parts = [f"{name} {'×'.join(map(str, stored.shape))} {stored.dtype}" for name, stored in sorted(layers.items())]
    return ", ".join(parts[:4]) + (" …" if len(parts) > 4 else "")


def describe_matrix(layers: Mapping[str, tuple[int, ...]], sample_ids: Sequence[str]) -> dict[str, Any]:
    """Return what `<name>.npy.json` says of a matrix whose layers, {name: shape}, stand in this order."""
    return {
        "layers": list(layers),
        "shapes": {name: [len(sample_ids), *shape] for name, shape in layers.items()},
        "num_samples": len(sample_ids),
        "total_features": sum(prod(shape) for shape in layers.values()),
        "sample_ids": list(sample_ids),
    }
