"""The source `hf:<id or folder>[:split]`: whatever Hugging Face `datasets` opens, on this machine or the hub.

    hf:cifar10:test                       a set of the hub, one of its splits
    hf:saved_to_disk                      a folder that `save_to_disk` wrote, or one of data files
    hf:glue:train?config=mnli             one of several configurations
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa

from diffviews.data.columns import TableLayout, image_columns
from diffviews.data.encoded import open_pictures
from diffviews.data.file_tree import MAX_FILE_BYTES
from diffviews.data.samples import SampleSet, stratified_rows
from diffviews.errors import CorruptDataError, SampleSetError, unknown_name

logger = logging.getLogger(__name__)

STREAM_BYTES = 4 * 2**30
"""A larger set of the hub is streamed where only some samples of it are wanted."""
STREAMED_ROWS = 20
"""Rows that are looked at for each that is wanted, so that rare classes are found."""

_BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".json": "json", ".jsonl": "json", ".csv": "csv"}
"""What of `datasets` reads a single file."""

_LOCATION = re.compile(r"(?P<name>.+?)(?::(?P<split>[\w.\-+]+(?:\[[^\]]*\])?))?(?:\?config=(?P<config>[\w.\-]+))?")


def hf_samples(location: str, max_samples: int | None, resolution: int | None) -> SampleSet:
    """Return the samples of a Hugging Face data set.

    Images are the column of the type `Image`, labels that of `ClassLabel`, with their names. Rows without a column
    of ids are numbered. Without a split it is the only one, or `train`.

    Raises:
        SampleSetError: if `datasets` is missing, or the set, its split or a column of images.
        CorruptDataError: if an image is damaged, or lies outside the data set.
    """
    data, prefix = open_dataset(location, max_samples)
    features = data.features
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    images = images or [name for name in image_columns(features.arrow_schema) if kinds[name] == "Value"]
    lists = {name: feature.names for name, feature in features.items() if type(feature).__name__ == "ClassLabel"}
    layout = TableLayout.of(f"hf:{location}", list(features), images, lists)
    wanted = list(layout.columns.values())
    with _datasets_errors(location):
        table = dict(data.select_columns(wanted)[:]) if wanted else {"": [None] * len(data)}
        stored = data.select_columns([layout.image]).cast_column(layout.image, _datasets().Image(decode=False))
    classes = layout.classes(table)
    frame = layout.frame(table, classes, prefix)
    rows = np.arange(len(frame))
    if max_samples is not None:
        rows = stratified_rows([None] * len(rows) if classes is None else classes.labels, max_samples)
        frame = frame.iloc[rows].reset_index(drop=True)
    files = DatasetImages(stored, layout.image, f"hf:{location}", _roots(location, data))
    return SampleSet(frame, open_pictures(files, rows, resolution), "own" if classes is None else classes.order)


def open_dataset(location: str, max_samples: int | None = None) -> tuple[Any, str]:
    """Return the rows that `<id or folder>[:split][?config=name]` names, and what to call them by.

    Args:
        location: of the data set.
        max_samples: how many are wanted; from a large set of the hub the first are streamed, evenly over its classes.
    """
    name, split, config = _parse(location)
    path = Path(name)
    with _datasets_errors(location):
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            data = _datasets().load_from_disk(str(path))
            if not hasattr(data, "column_names") or not isinstance(data.column_names, dict):
                if split and split != str(data.split):
                    raise SampleSetError(f"hf:{name} has no splits to choose from; leave :{split} out")
                return data, str(data.split or path.name)
            chosen = _choose(name, split, list(data))
            return data[chosen], chosen
        return _load(name, split, config, max_samples)


@dataclass(frozen=True, slots=True, eq=False)
class DatasetImages:
    """The column of images of a data set, by row."""

    data: Any
    """A `datasets.Dataset` of the one column, undecoded."""
    column: str
    place: str
    roots: tuple[Path, ...]
    """Folders that images which lie beside the data may be in."""

    def read(self, numbers: Sequence[int]) -> list[bytes]:
        """Return the bytes of these images' files."""
        found = self.data[list(numbers)][self.column]
        return [self._bytes(image, number) for image, number in zip(found, numbers, strict=True)]

    def name(self, number: int) -> str:
        """Return the row of an image."""
        return f"in row {number} of {self.place}"

    def _bytes(self, image: Any, number: int) -> bytes:
        if image is None or (image.get("bytes") is None and not image.get("path")):
            raise CorruptDataError(f"row {number} of {self.place} has no image; take such rows out with filter")
        if image.get("bytes") is not None:
            return bytes(image["bytes"])
        path = Path(image["path"]).resolve()
        if not any(path.is_relative_to(root) for root in self.roots):
            raise CorruptDataError(f"the image in row {number} of {self.place} is {path}, outside the data set")
        if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            raise CorruptDataError(f"the image in row {number} of {self.place}, {path}, is missing or no image file")
        return path.read_bytes()


def _load(name: str, split: str | None, config: str | None, max_samples: int | None) -> tuple[Any, str]:
    datasets, file = _datasets(), Path(name)
    if file.is_file():
        builder = _BUILDERS.get(file.suffix.lower())
        if builder is None:
            raise SampleSetError(f"hf:{name} is a file of a kind that datasets does not open by itself")
        return datasets.load_dataset(builder, data_files=name, split=split or "train"), file.stem
    builder = datasets.load_dataset_builder(name, config)
    known = list(builder.info.splits or {})
    plain = (split or "").partition("[")[0]
    chosen = split if plain and (not known or plain in known) else _choose(name, split, known) if known else None
    size = builder.info.splits[plain or chosen].num_bytes if known and chosen else None
    if max_samples is not None and size is not None and size > STREAM_BYTES:
        rows = datasets.load_dataset(name, config, split=chosen, streaming=True)
        return _streamed(rows, max_samples), str(chosen)
    data = datasets.load_dataset(name, config, split=chosen)
    if isinstance(data, dict):
        chosen = _choose(name, split, list(data))
        data = data[chosen]
    return data, str(chosen)


def _streamed(rows: Any, max_samples: int) -> Any:
    """Return the first rows of a stream, as evenly over its classes as STREAMED_ROWS times as many allow."""
    datasets, features = _datasets(), rows.features
    classes = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    for name, feature in features.items():
        if type(feature).__name__ == "Image":
            rows = rows.cast_column(name, datasets.Image(decode=False))
    share = -(-max_samples // max(features[classes[0]].num_classes, 1)) if classes else max_samples
    kept, counts = list[Any](), dict[Any, int]()
    for number, row in enumerate(rows):
        if len(kept) == max_samples or number == STREAMED_ROWS * max_samples:
            break
        label = row[classes[0]] if classes else None
        if counts.get(label, 0) < share:
            counts[label] = counts.get(label, 0) + 1
            kept.append(row)
    if len(kept) < max_samples:
        logger.info("%d samples of %d were found, at most %d a class", len(kept), max_samples, share)
    return datasets.Dataset.from_list(kept, features=rows.features)


def _choose(name: str, split: str | None, known: list[str]) -> str:
    if split is not None:
        if split not in known:
            raise SampleSetError(unknown_name("split", split, known))
        return split
    if len(known) == 1:
        return known[0]
    if "train" not in known:
        raise SampleSetError(f"hf:{name} has the splits {', '.join(known)}; choose one: hf:{name}:{known[0]}")
    others = ", ".join(known)
    logger.info("hf:%s has the splits %s; train is taken, write hf:%s:<split> for another", name, others, name)
    return "train"


def _parse(location: str) -> tuple[str, str | None, str | None]:
    if Path(location).exists() and location:
        return location, None, None
    found = _LOCATION.fullmatch(location)
    if found is None:
        raise SampleSetError("the source hf needs a name; write hf:<id or folder>, or hf:<id or folder>:<split>")
    return found["name"], found["split"], found["config"]


def _roots(location: str, data: Any) -> tuple[Path, ...]:
    """Return the folders of a set: its own on this machine, and those that `datasets` downloads to."""
    name, _, _ = _parse(location)
    own = [Path(name).resolve()] if Path(name).exists() else []
    config = _datasets().config
    return (*own, Path(config.HF_DATASETS_CACHE).resolve(), Path(config.HF_CACHE_HOME).resolve())


def _datasets() -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise SampleSetError("the source hf needs a package: pip install 'diffviews[hf]'") from error
    return datasets


@contextmanager
def _datasets_errors(location: str) -> Iterator[None]:
    """Say in a sentence what `datasets` cannot open."""
    try:
        yield
    except (SampleSetError, CorruptDataError):
        raise
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        archives = next(Path(location).glob("*.tar"), None) if location else None
        more = f"; write tar:{location} for its archives" if archives else ""
        raise SampleSetError(f"hf:{location} cannot be opened: {reason}{more}") from error
