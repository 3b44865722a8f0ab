"""Sample sets: images with their conditioning and stable ids, in one order that cannot drift apart.

samples = open_source("digits")
sevens = samples.of_classes([7])          # a new set; the old one is untouched
images = sevens.images_of(["digits-0007"])  # rows are found by id, never by position
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np
import pandas as pd

from diffviews.data.pictures import Pictures, PixelPictures
from diffviews.data.sample_index import SampleIndex
from diffviews.errors import SampleSetError, SelectionError

COLUMNS: dict[str, Literal["string", "Int64"]] = {
    "sample_id": "string",
    "class_label": "Int64",
    "class_name": "string",
    "prompt": "string",
    "seed": "Int64",
    "source": "string",
}
"""Columns of a sample set's table and their pandas types; <NA> where a sample has no such thing."""


@dataclass(frozen=True, slots=True, eq=False)
class SampleSet:
    """Immutable images, (N, H, W, 3) uint8, with one table row each; class -1 is the uniform label."""

    _frame: pd.DataFrame
    pictures: Pictures
    """The images by row, in memory or read from a Parquet file as needed."""
    class_order: str = "own"
    """What the class labels count: 'digits', 'standard' (ImageNet-1K), 'folders' (sorted names), 'model' (those of the
    model, by a class_map), 'shapes', 'categories' (of prompts) or 'own'."""
    index: SampleIndex = field(init=False, repr=False)
    _cache: dict[str, str] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        frame = _typed(self._frame)
        if len(frame) == 0:
            raise SampleSetError("a sample set needs at least one sample")
        if len(frame) != len(self.pictures):
            raise SampleSetError(f"a table of {len(frame)} rows does not fit {len(self.pictures)} images")
        object.__setattr__(self, "_frame", frame)
        object.__setattr__(self, "index", SampleIndex(tuple(frame["sample_id"].tolist())))

    @classmethod
    def from_images(
        cls,
        images: np.ndarray,
        sample_ids: Sequence[str],
        *,
        class_labels: Sequence[int | None] | np.ndarray | None = None,
        class_names: Sequence[str | None] | None = None,
        prompts: Sequence[str | None] | None = None,
        seeds: Sequence[int | None] | np.ndarray | None = None,
        sources: Sequence[str | None] | None = None,
        class_order: str = "own",
    ) -> Self:
        """Return the set of `images`, (N, H, W, 3) uint8, with one entry a sample in every list given."""
        given = {
            "sample_id": sample_ids,
            "class_label": class_labels,
            "class_name": class_names,
            "prompt": prompts,
            "seed": seeds,
            "source": sources,
        }
        for name, values in given.items():
            if values is not None and len(values) != len(images):
                raise SampleSetError(f"{len(values)} values of {name} were given for {len(images)} images")
        columns = {name: list(values) for name, values in given.items() if values is not None}
        frame = pd.DataFrame(columns, dtype=object)
        return cls(frame, PixelPictures(images), class_order)

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        height, width = self.pictures.size
        return f"SampleSet({len(self)} samples of {height}×{width}, {len(self.classes)} classes)"

    @property
    def table(self) -> pd.DataFrame:
        """A copy of the table (see COLUMNS), row i for sample_ids[i]; changing it does not change the set."""
        return self._frame.copy()

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """The ids in row order."""
        return self.index.sample_ids

    @property
    def images(self) -> np.ndarray:
        """All images, (N, H, W, 3) uint8; decoded anew when they come from a file."""
        return self.pictures.pixels(np.arange(len(self)))

    @property
    def class_labels(self) -> np.ndarray:
        """The class of each sample, (N,) int64, -1 where it is uniform or there is none."""
        return self._frame["class_label"].fillna(-1).to_numpy(dtype=np.int64)

    @property
    def prompts(self) -> tuple[str | None, ...]:
        """The prompt of each sample, None where it has none."""
        return tuple(None if prompt is pd.NA else str(prompt) for prompt in self._frame["prompt"])

    @property
    def classes(self) -> dict[int, str]:
        """{class label: name} of the classes that occur, by label; an unnamed class has the name ''."""
        pairs = self._frame[["class_label", "class_name"]].drop_duplicates("class_label")
        pairs = pairs.dropna(subset="class_label")
        named = {int(label): name for label, name in pairs.itertuples(index=False) if label >= 0}
        return {label: "" if named[label] is pd.NA else named[label] for label in sorted(named)}

    @property
    def digest(self) -> str:
        """Sha256 over ids, class labels, prompts and pixels in order: all that an extraction depends on."""
        if "digest" not in self._cache:
            self._cache["digest"] = self._compute_digest()
        return self._cache["digest"]

    def index_of(self, sample_ids: Iterable[str]) -> np.ndarray:
        """Return the rows of `sample_ids`, (n,) int64, in the order asked.

        Raises:
            SelectionError: if the selection is empty or an id is unknown.
        """
        return self.index.rows_of(sample_ids)

    def select(self, sample_ids: Iterable[str]) -> Self:
        """Return a new set of these samples in this order; images and table stay together."""
        return self.take(self.index_of(sample_ids))

    def take(self, rows: Sequence[int] | np.ndarray) -> Self:
        """Return a new set of the samples in `rows` of this one, in that order."""
        checked = self.index.check_rows(rows)
        if len(np.unique(checked)) != len(checked):
            raise SelectionError("the selection names a sample more than once; a sample set holds each once")
        return type(self)(self._frame.iloc[checked], self.pictures.take(checked), self.class_order)

    def without_images(self) -> Self:
        """Return the same table with black images of one pixel: little to send to another process."""
        blank = np.broadcast_to(np.zeros(3, np.uint8), (len(self), 1, 1, 3))
        return type(self)(self._frame, PixelPictures(blank), self.class_order)

    def of_classes(self, class_labels: Iterable[int]) -> Self:
        """Return a new set of the samples of these classes, in this set's order.

        Raises:
            SelectionError: if no sample is of these classes.
        """
        wanted = [int(label) for label in class_labels]
        rows = np.flatnonzero(self._frame["class_label"].isin(wanted).to_numpy(dtype=bool))
        if not rows.size:
            raise SelectionError(f"no sample is of class {', '.join(map(str, wanted)) or '(none given)'}")
        return self.take(rows)

    def stratified(self, max_samples: int) -> Self:
        """Return at most `max_samples` samples, evenly over the classes, the first of each, in order."""
        return self.take(stratified_rows(self._frame["class_label"].tolist(), max_samples))

    def images_of(self, sample_ids: Iterable[str]) -> np.ndarray:
        """Return the images of these samples in this order, (n, H, W, 3) uint8."""
        return self.pictures.pixels(self.index_of(sample_ids))

    def thumbnails_of(self, sample_ids: Iterable[str]) -> list[bytes]:
        """Return a PNG of at most 256 pixels a side for each of these samples, in this order."""
        return self.pictures.thumbnails(self.index_of(sample_ids))

    def class_text(self, row: int) -> str:
        """Return how row `row` is called: '0: zero', '3', 'uniform', or its prompt where it has no class."""
        record = self._frame.iloc[int(self.index.check_rows([row])[0])]
        label, name, prompt = record["class_label"], record["class_name"], record["prompt"]
        if label is pd.NA:
            return next((text for text in (prompt, name) if text is not pd.NA), "")
        if label == -1:
            return "uniform"
        return str(label) if name is pd.NA or name in ("", str(label), f"class {label}") else f"{label}: {name}"

    def write_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the set as a Parquet file that `datasets.load_dataset("parquet", …)` opens too."""
        from diffviews.data.parquet import write_samples

        write_samples(path, self._frame, self.pictures, self.class_order)

    @classmethod
    def read_parquet(cls, path: str | os.PathLike[str], resolution: int | None = None) -> Self:
        """Open a Parquet file of samples; images are decoded when asked for, fitted to `resolution` if given.

        Raises:
            CorruptDataError: if the file or one of its images is damaged.
            SampleSetError: if it does not exist or lacks the columns of a sample set.
            SchemaVersionError: if another version of the format wrote it.
        """
        from diffviews.data.parquet import read_samples

        frame, pictures, class_order = read_samples(path, resolution)
        return cls(frame, pictures, class_order)

    def _compute_digest(self) -> str:
        described = self._frame[["sample_id", "class_label", "prompt"]]
        described = described.astype(object).where(described.notna(), None)
        rows = described.to_numpy().tolist()
        header = {"samples": rows, "size": list(self.pictures.size)}
        digest = hashlib.sha256(json.dumps(header, ensure_ascii=True, sort_keys=True).encode())
        for start in range(0, len(self), 256):
            block = self.pictures.pixels(np.arange(start, min(start + 256, len(self))))
            digest.update(np.ascontiguousarray(block).data)
        return digest.hexdigest()


def concatenate(sets: Sequence[SampleSet]) -> SampleSet:
    """Return one set of all samples of `sets`, in memory; ids must differ and image sizes agree."""
    if not sets:
        raise SampleSetError("there is nothing to concatenate; give at least one sample set")
    sizes = {samples.pictures.size for samples in sets}
    orders = {samples.class_order for samples in sets}
    if len(sizes) > 1 or len(orders) > 1:
        raise SampleSetError(f"sizes {sorted(sizes)} and class orders {sorted(orders)} do not go together")
    frame = pd.concat([samples.table for samples in sets], ignore_index=True)
    images = np.concatenate([samples.images for samples in sets])
    return SampleSet(frame, PixelPictures(images), orders.pop())


def stratified_rows(class_labels: Sequence[int | None], max_samples: int) -> np.ndarray:
    """Return rows of at most `max_samples` samples, evenly over the classes, ascending.

    The choice is deterministic: the first of every class, then the second of every class, and so
    on. Samples without a class count as one class.
    """
    if max_samples < 1:
        raise SampleSetError(f"the number of samples must be at least 1, not {max_samples}")
    labels = pd.Series(pd.array(list(class_labels), dtype="Int64"))
    turn = labels.groupby(labels, dropna=False).cumcount().to_numpy()
    chosen = np.lexsort((labels.fillna(-2).to_numpy(dtype=np.int64), turn))[:max_samples]
    return np.sort(chosen)


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return `frame` with exactly the columns of a sample set, each of its type."""
    if "sample_id" not in frame:
        raise SampleSetError(f"a sample set needs the column sample_id, not only {', '.join(map(str, frame))}")
    if {name: str(frame[name].dtype) for name in frame} == COLUMNS:
        result = frame.reset_index(drop=True)
    else:
        result = pd.DataFrame({name: _column(frame, name) for name in COLUMNS})
    unnamed = np.flatnonzero(result["sample_id"].isna())
    if unnamed.size:
        raise SampleSetError(f"row {unnamed[0]} of the sample set has no sample_id")
    if (result["class_label"] < -1).any():
        raise SampleSetError(f"class {result['class_label'].min()} is not possible; classes count from 0")
    return result


def _column(frame: pd.DataFrame, name: str) -> pd.api.extensions.ExtensionArray:
    values = list(frame[name]) if name in frame else [None] * len(frame)
    try:
        return pd.array([None if pd.isna(value) else value for value in values], dtype=COLUMNS[name])
    except (TypeError, ValueError) as error:
        raise SampleSetError(f"column {name} of a sample set must be of {COLUMNS[name]}: {error}") from error
