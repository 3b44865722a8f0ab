"""The source `parquet:<path>[:split]`: a sample set, a plain file as Hugging Face writes it, or a folder of shards."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from diffviews.data.columns import TableLayout, image_columns
from diffviews.data.encoded import open_pictures
from diffviews.data.folder_classes import split_of
from diffviews.data.parquet import ParquetImages
from diffviews.data.samples import SampleSet, stratified_rows
from diffviews.errors import SampleSetError

_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_SHARD = re.compile(r"(?P<split>.*?)[-_.]?(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})(?:-[0-9a-f]+)?")


def parquet_samples(location: str, max_samples: int | None, resolution: int | None) -> SampleSet:
    """Return the samples of a Parquet file, or of a folder of shards.

    Images are a column of Hugging Face's `Image` layout or of the bytes of files; labels that count a `ClassLabel`'s
    names have these. Rows without a column of ids are numbered.

    Args:
        location: a file, or a folder whose files are shards; a folder of several splits with `:<split>`.
        max_samples: keep at most so many, evenly over the classes.
        resolution: side to fit the images to.

    Raises:
        SampleSetError: if nothing is there, a shard or the column of images is missing, or a split must be chosen.
        CorruptDataError: if a file is damaged; it is named.
    """
    if not location:
        raise SampleSetError("the source parquet needs a path; write parquet:<file>")
    files, split = _files(location)
    shards = [ParquetImages(file) for file in files]
    if len(files) == 1 and shards[0].written:
        samples = SampleSet.read_parquet(files[0], resolution)
        return samples if max_samples is None else samples.stratified(max_samples)
    return _plain_samples(shards, split, resolution, max_samples)


def texts_of(
    file: Path,
) -> tuple[tuple[str, ...], list[str], Iterator[Mapping[str, Any]], Mapping[str, Sequence[str]]]:
    """Return what a file of prompts holds: all columns, those of texts, its rows, and names of classes by column."""
    opened = ParquetImages(file)
    schema = opened.schema
    texts = [column.name for column in schema if any(is_text(column.type) for is_text in _TEXTS)]
    frame = opened.frame([name for name in schema.names if name not in image_columns(schema)])
    rows = (dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False, name=None))
    return tuple(schema.names), texts, rows, _class_lists(schema)


def _plain_samples(
    shards: Sequence[ParquetImages], prefix: str, resolution: int | None, max_samples: int | None
) -> SampleSet:
    """Return the samples of Parquet files that others wrote, in the order given.

    Args:
        shards: the files, of the same columns.
        prefix: of the ids of rows that have none of their own.
        resolution: side to fit the images to.
        max_samples: read at most so many images, evenly over the classes.
    """
    first = shards[0]
    for shard in shards:
        if shard.schema.names != first.schema.names:
            raise SampleSetError(f"{shard.path} has other columns than {first.path}; name one of the files")
        if _class_lists(shard.schema) != _class_lists(first.schema):
            raise SampleSetError(f"{shard.path} numbers other classes than {first.path}; name one of the files")
    schema = first.schema
    layout = TableLayout.of(str(first.path), schema.names, _image_columns(schema), _class_lists(schema))
    wanted = list(layout.columns.values())
    frames = [shard.frame(wanted) for shard in shards]
    counts = [shard.rows for shard in shards]
    table: dict[str, Sequence[Any]] = {name: [v for f in frames for v in f[name].tolist()] for name in wanted}
    classes = layout.classes(table)
    frame = layout.frame(table or {"": [None] * sum(counts)}, classes, prefix)
    rows = np.arange(len(frame))
    if max_samples is not None:
        rows = stratified_rows([None] * len(rows) if classes is None else classes.labels, max_samples)
        frame = frame.iloc[rows].reset_index(drop=True)
    files = ShardImages(tuple(shards), tuple(np.cumsum(counts).tolist()), layout.image)
    return SampleSet(frame, open_pictures(files, rows, resolution), "own" if classes is None else classes.order)


@dataclass(frozen=True, slots=True, eq=False)
class ShardImages:
    """One column of images over several files, numbered through."""

    shards: tuple[ParquetImages, ...]
    ends: tuple[int, ...]
    """Number of rows up to the end of each shard."""
    column: str

    def read(self, numbers: Sequence[int]) -> list[bytes]:
        """Return the bytes of these images' files."""
        rows = np.asarray(numbers, dtype=np.int64)
        owner = np.searchsorted(self.ends, rows, side="right")
        found: dict[int, bytes] = {}
        for shard in np.unique(owner):
            own = rows[owner == shard]
            start = self.ends[shard - 1] if shard else 0
            found |= dict(zip(own.tolist(), self.shards[shard].files(own - start, self.column), strict=True))
        return [found[number] for number in numbers]

    def name(self, number: int) -> str:
        """Return the file and row of an image."""
        shard = int(np.searchsorted(self.ends, number, side="right"))
        return f"in row {number - (self.ends[shard - 1] if shard else 0)} of {self.shards[shard].path}"


def _files(location: str) -> tuple[list[Path], str]:
    """Return the files that a location names, and the prefix of the ids of their rows."""
    path, split = Path(location), ""
    if not path.exists() and ":" in location:
        name, _, split = location.rpartition(":")
        path = Path(name)
    if path.is_file():
        return [path], path.stem
    if not path.is_dir():
        raise SampleSetError(f"the sample set {location} does not exist; write parquet:<file or folder of shards>")
    by_split: dict[str, list[Path]] = {}
    for file in sorted(path.rglob("*.parquet")):
        if any(part.startswith(".") for part in file.relative_to(path).parts):
            continue
        shard = _SHARD.fullmatch(file.stem)
        folder = file.parent.name if file.parent != path else ""
        name = shard["split"] if shard else (split_of(file.stem) or folder)
        by_split.setdefault(name, []).append(file)
    if not by_split:
        arrow = next(path.rglob("*.arrow"), None)
        raise SampleSetError(f"folder {path} holds no .parquet file" + (f"; write hf:{path}" if arrow else ""))
    if (split and split not in by_split) or (not split and len(by_split) > 1):
        known = ", ".join(sorted(name or "(without a name)" for name in by_split))
        raise SampleSetError(f"{path} holds the splits {known}; choose one: parquet:{path}:{max(by_split)}")
    chosen = split or next(iter(by_split))
    folders = sorted({str(file.parent) for file in by_split[chosen]})
    if len(folders) > 1:
        raise SampleSetError(
            f"{path} holds several sets, in {', '.join(folders[:5])}; choose one: parquet:{folders[0]}"
        )
    _check_whole(by_split[chosen])
    return by_split[chosen], chosen or path.name


def _check_whole(files: Sequence[Path]) -> None:
    """Refuse shards of which one is missing."""
    shards = [found for file in files if (found := _SHARD.fullmatch(file.stem))]
    there = {int(shard["number"]) for shard in shards}
    absent = sorted(set(range(max((int(shard["count"]) for shard in shards), default=0))) - there)
    if absent:
        raise SampleSetError(
            f"shard {absent[0]:05d} of {files[0].parent} is missing, of {shards[0]['count']}; bring it, or name a file"
        )


def _features(schema: pa.Schema) -> Mapping[str, Any]:
    """Return what Hugging Face's metadata says of the columns."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {str(name): feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _image_columns(schema: pa.Schema) -> list[str]:
    """Return the columns of images, and none that are said to be sound or film."""
    kinds = {name: feature.get("_type") for name, feature in _features(schema).items()}
    return [name for name in image_columns(schema) if kinds.get(name) not in ("Audio", "Video", "Pdf")]


def _class_lists(schema: pa.Schema) -> Mapping[str, Sequence[str]]:
    """Return the names of the classes that columns of labels count, as Hugging Face's metadata says."""
    return {
        name: [str(text) for text in feature["names"]]
        for name, feature in _features(schema).items()
        if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list) and feature["names"]
    }
