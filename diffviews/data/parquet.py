"""Parquet files: sample sets in the Hugging Face `Image` convention, read row group by row group, and plain tables."""

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from diffviews.data.files import write_atomically
from diffviews.data.pictures import (
    Pictures,
    PixelPictures,
    StoredPictures,
    check_resolution,
    decode_image,
    stack_images,
)
from diffviews.errors import CorruptDataError, SampleSetError, SchemaVersionError

SCHEMA_VERSION = 1
GROUP_ROWS = 256
_CACHED_GROUPS = 16
_KEY = b"diffviews"
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_FIELDS = {
    "image": _IMAGE,
    "sample_id": pa.string(),
    "class_label": pa.int64(),
    "class_name": pa.string(),
    "prompt": pa.string(),
    "seed": pa.int64(),
    "source": pa.string(),
    "thumbnail": _IMAGE,
}

# What pyarrow raises on damaged files, whose footer may also name impossible columns or row groups.
_UNREADABLE = (pa.ArrowException, OSError, ValueError, LookupError, AttributeError)


def write_samples(path: str | os.PathLike[str], table: pd.DataFrame, pictures: Pictures, class_order: str) -> None:
    """Write samples to `path`, which appears only when whole; pages carry checksums.

    Args:
        path: of the file.
        table: one row a sample, with the columns of a sample set, numbered from 0.
        pictures: the image of each row.
        class_order: what the class labels count.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    schema = _schema(pictures.size, class_order)

    def write(file: IO[bytes]) -> None:
        with pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer:
            for start in range(0, len(table), GROUP_ROWS):
                group = table.iloc[start : start + GROUP_ROWS]
                writer.write_table(_rows_table(pictures, group, schema), row_group_size=GROUP_ROWS)

    write_atomically(target, write)


def read_samples(path: str | os.PathLike[str], resolution: int | None = None) -> tuple[pd.DataFrame, Pictures, str]:
    """Return table, images and class order of a Parquet file of samples."""
    opened = ParquetImages(Path(path))
    absent = {"image", "sample_id"} - set(opened.columns)
    if absent:
        raise SampleSetError(f"{path} lacks the column {' and '.join(sorted(absent))} of a sample set")
    frame = opened.frame([name for name in _FIELDS if name not in {"image", "thumbnail"}])
    rows = np.arange(len(frame))
    size = opened.written.get("size")  # of every image; a file that others wrote does not say it
    if size and (resolution is None or size == [resolution, resolution]):
        return frame, ParquetPictures(rows, (size[0], size[1]), opened), opened.class_order
    ids = [str(sample_id) for sample_id in frame["sample_id"]]
    return frame, PixelPictures(_decode_all(opened, rows, ids, resolution)), opened.class_order


class ParquetImages:
    """The image columns of one open Parquet file; row groups are read as needed and the last few kept.

    Safe to share between threads. The file is held open, so replacing it does not disturb readers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        self._group = lru_cache(_CACHED_GROUPS)(self._read_group)
        if not path.is_file():
            raise SampleSetError(f"the sample set {path} does not exist or is not a file; check the path")
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
        except _UNREADABLE as error:
            raise self._corrupt(error) from error
        layout = self._file.metadata
        self._ends = np.cumsum([layout.row_group(group).num_rows for group in range(layout.num_row_groups)])
        self.written = self._own_metadata()
        if self.written and self.columns != list(_FIELDS):
            raise self._corrupt(f"its columns are {', '.join(self.columns)}")

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the file's columns, with what Hugging Face says of them."""
        return self._file.schema_arrow

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def columns(self) -> list[str]:
        """Names of the file's columns."""
        return list(self._file.schema_arrow.names)

    @property
    def class_order(self) -> str:
        """What the class labels count, as the writer said."""
        return str(self.written.get("class_order", "own"))

    def frame(self, names: list[str]) -> pd.DataFrame:
        """Return those of the columns `names` that the file has."""
        present = [name for name in names if name in self.columns]
        try:
            with self._lock:
                table = self._file.read(columns=present)
            return table.to_pandas(ignore_metadata=True, integer_object_nulls=True)
        except _UNREADABLE as error:
            raise self._corrupt(error) from error

    def files(self, rows: np.ndarray, column: str) -> list[bytes]:
        """Return the bytes of the image file of each row of `column` ('image' or 'thumbnail')."""
        groups = np.searchsorted(self._ends, rows, side="right")
        found: dict[int, bytes] = {}
        for group in np.unique(groups):
            start = int(self._ends[group - 1]) if group else 0
            content = self._group(int(group), column)
            for row in np.unique(rows[groups == group]):
                data = content[row - start]
                if not data:
                    raise CorruptDataError(f"row {row} of {self.path} has no {column}; take such rows out")
                found[int(row)] = data
        return [found[int(row)] for row in rows]

    def _read_group(self, group: int, column: str) -> list[bytes | None]:
        try:
            with self._lock:
                struct = pa.types.is_struct(self.schema.field(column).type)
                table = self._file.read_row_group(group, columns=[f"{column}.bytes" if struct else column])
            values = table.column(0).combine_chunks()
            return list((values.field("bytes") if struct else values).to_pylist())
        except _UNREADABLE as error:
            raise self._corrupt(error) from error

    def _own_metadata(self) -> dict[str, Any]:
        raw = (self._file.schema_arrow.metadata or {}).get(_KEY)
        if raw is None:
            return {}
        try:
            written = json.loads(raw)
            version, (height, width) = written["schema"], written["size"]
            written["size"] = [int(height), int(width)]
        except (ValueError, KeyError, TypeError) as error:
            raise self._corrupt(error) from error
        if version != SCHEMA_VERSION:
            raise SchemaVersionError(
                f"the sample set {self.path} has schema {version}, but this version reads {SCHEMA_VERSION}; "
                "write it anew"
            )
        return dict(written)

    def _corrupt(self, error: Exception | str) -> CorruptDataError:
        return CorruptDataError(f"the sample set {self.path} is damaged or not a Parquet file: {error}")


@dataclass(frozen=True, slots=True, eq=False)
class ParquetPictures(StoredPictures):
    """Some rows of the images in a Parquet file."""

    source: ParquetImages

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """Return (n, H, W, 3) uint8."""
        images = np.empty((len(rows), *self.size, 3), dtype=np.uint8)
        for image, row, data in zip(images, self.rows[rows], self.encoded(rows), strict=True):
            decoded = decode_image(data, f"in row {row} of {self.source.path}")
            if decoded.shape != image.shape:
                raise CorruptDataError(
                    f"the image in row {row} of {self.source.path} is {decoded.shape[0]}×{decoded.shape[1]}, "
                    f"but the set says {self.size[0]}×{self.size[1]}"
                )
            image[...] = decoded
        return images

    def encoded(self, rows: np.ndarray) -> list[bytes]:
        """Return the image files as they were stored."""
        return self.source.files(self.rows[rows], "image")

    def thumbnails(self, rows: np.ndarray) -> list[bytes]:
        """Return the stored thumbnails."""
        return self.source.files(self.rows[rows], "thumbnail")


def _decode_all(opened: ParquetImages, rows: np.ndarray, ids: list[str], resolution: int | None) -> np.ndarray:
    side = None if resolution is None else check_resolution(resolution)
    images: list[np.ndarray] = []
    for start in range(0, len(rows), GROUP_ROWS):
        files = opened.files(rows[start : start + GROUP_ROWS], "image")
        names = (f"{sample_id} in {opened.path}" for sample_id in ids[start : start + GROUP_ROWS])
        images.extend(decode_image(data, name, side) for data, name in zip(files, names, strict=True))
    return stack_images(images, ids)


def _rows_table(pictures: Pictures, frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    rows = frame.index.to_numpy()
    columns: dict[str, Any] = {
        "image": [{"bytes": data, "path": None} for data in pictures.encoded(rows)],
        "thumbnail": [{"bytes": data, "path": None} for data in pictures.thumbnails(rows)],
    }
    for name in _FIELDS.keys() - columns.keys():
        columns[name] = [None if value is pd.NA else value for value in frame[name]]
    return pa.table({name: pa.array(columns[name], type=_FIELDS[name]) for name in _FIELDS}, schema=schema)


def _schema(size: tuple[int, int], class_order: str) -> pa.Schema:
    features = {
        name: {"_type": "Image"} if kind is _IMAGE else {"dtype": str(kind), "_type": "Value"}
        for name, kind in _FIELDS.items()
    }
    own = {"schema": SCHEMA_VERSION, "size": list(size), "class_order": class_order}
    hugging_face = {"info": {"features": features}}
    metadata = {b"huggingface": json.dumps(hugging_face).encode(), _KEY: json.dumps(own).encode()}
    return pa.schema(list(_FIELDS.items()), metadata=metadata)


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a table without its index; of a map's points it takes half of what pandas' defaults take.

    Coordinates hardly repeat, so a dictionary of them is one more copy. Ids mostly begin as the one before, and
    only where they differ from it is stored.
    """
    table = pa.Table.from_pandas(frame, preserve_index=False)
    texts = {field.name: "DELTA_BYTE_ARRAY" for field in table.schema if _is_text(field.type)}
    categories = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
    pq.write_table(table, path, compression="zstd", use_dictionary=categories, column_encoding=texts)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
