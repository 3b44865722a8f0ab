"""The source `lmdb:<path>`: images as DMD2 keeps ImageNet-64, read in place and only where asked for.

Keys: `images_shape`, the text "N C H W"; `images_{i}_data`, raw uint8 in that shape; `labels_{i}_data`,
one int64. DMD2 writes channels first, from the ImageNet-64 of EDM, whose labels count the sorted synset
folders: the standard order. So a database whose labels go up to 999 is taken for ImageNet, and one of fewer or
more classes is not, unless one says:

    lmdb:some_classes_of_imagenet?order=standard
    lmdb:imagenet64_lmdb?order=downsampled      the order of the down-sampled data set, turned into the standard one
    lmdb:flowers_lmdb?order=own                 classes without names
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd

from diffviews.data.class_labels import load_class_labels, remap_imagenet64_labels_to_standard
from diffviews.data.class_order import IMAGENET_CLASSES
from diffviews.data.pictures import StoredPictures, check_resolution, resize_images
from diffviews.data.samples import SampleSet, stratified_rows
from diffviews.errors import CorruptDataError, SampleSetError, unknown_name

logger = logging.getLogger(__name__)

ORDERS = ("standard", "downsampled", "own")
_OPENING = Lock()
"""LMDB refuses to open a database twice in one process, so reads take turns."""


def lmdb_samples(location: str, max_samples: int | None, resolution: int | None) -> SampleSet:
    """Return the samples of an LMDB database; labels are read first, images when asked for.

    Args:
        location: folder or file of the database, then perhaps `?order=` and one of ORDERS: what its
            labels count. Without it: standard where they go up to 999, else own.
        max_samples: keep at most so many, evenly over the classes.
        resolution: side to fit the images to; None keeps their size.

    Raises:
        SampleSetError: if the package lmdb is missing, there is no database, or a label is impossible.
        CorruptDataError: if the database, a key or a value is damaged; both are named.
    """
    path, order = _parse(location)
    database = LmdbImages.open(path)
    labels = database.labels()
    rows = np.arange(database.count)
    if max_samples is not None:
        rows = stratified_rows([None] * len(rows) if labels is None else labels.tolist(), max_samples)
    order = order or _order_of(labels, path)
    standard = None if labels is None else _standard(labels[rows], order, path)
    names = load_class_labels() if order != "own" else {}
    side = None if resolution is None else check_resolution(resolution)
    frame = pd.DataFrame({"sample_id": [f"lmdb-{row:07d}" for row in rows]}, dtype=object)
    frame["source"] = f"lmdb:{path.name}"
    if standard is not None:
        frame["class_label"] = [None if label == -1 else label for label in standard.tolist()]
        frame["class_name"] = [names.get(label) for label in standard.tolist()]
    pictures = LmdbPictures(rows, database.size if side is None else (side, side), database)
    return SampleSet(frame, pictures, "own" if order == "own" else "standard")


@dataclass(frozen=True, slots=True)
class LmdbImages:
    """Where a database lies and what its images look like; it is opened for each batch of reads.

    So it can be sent to other processes, which LMDB's own handles must not cross.
    """

    path: Path
    count: int
    shape: tuple[int, int, int]
    """Of one image as stored: (C, H, W), or (H, W, C)."""

    @classmethod
    def open(cls, path: Path) -> "LmdbImages":
        """Read and check the shape of the images."""
        with _reading(path) as read:
            text = read("images_shape")
            entries = read.entries
        sides = _numbers(text)
        if len(sides) != 4 or min(sides) < 1 or max(sides[1:]) > 8192:
            raise CorruptDataError(f"images_shape of {path} is {text[:40]!r}, not the text 'N C H W'")
        count, *shape = sides
        if count > entries:
            raise CorruptDataError(f"images_shape of {path} claims {count} images, but it has {entries} entries")
        if 3 not in (shape[0], shape[2]):
            raise SampleSetError(f"the images of {path} are {shape}; only 3 colour channels, first or last, are read")
        return cls(path, count, (shape[0], shape[1], shape[2]))

    @property
    def channels_first(self) -> bool:
        """Whether images are (C, H, W), as DMD2 writes them."""
        return self.shape[0] == 3

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every image, in pixels."""
        return self.shape[1:] if self.channels_first else self.shape[:2]

    def labels(self) -> np.ndarray | None:
        """Return the label of each image, (N,) int64, or None in a database without labels."""
        with _reading(self.path) as read:
            if not read.has("labels_0_data") and not read.has("labels_shape"):
                return None
            values = b"".join(read(f"labels_{row}_data", 8) for row in range(self.count))
        return np.frombuffer(values, dtype="<i8")

    def images(self, rows: Iterable[int]) -> np.ndarray:
        """Return the images of `rows`, (n, H, W, 3) uint8."""
        size = int(np.prod(self.shape))
        with _reading(self.path) as read:
            values = [read(f"images_{row}_data", size) for row in rows]
        stored = np.frombuffer(b"".join(values), np.uint8).reshape(-1, *self.shape)
        return np.ascontiguousarray(stored.transpose(0, 2, 3, 1) if self.channels_first else stored)


@dataclass(frozen=True, slots=True, eq=False)
class LmdbPictures(StoredPictures):
    """Some images of a database."""

    source: LmdbImages

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """Return (n, H, W, 3) uint8."""
        images = self.source.images(self.rows[rows].tolist())
        return images if self.size == self.source.size else resize_images(images, self.size[0])


class _Reader:
    """One open database: values by key, checked."""

    def __init__(self, path: Path, environment: Any) -> None:
        self._path = path
        self._transaction = environment.begin()
        self.entries = int(environment.stat()["entries"])

    def has(self, key: str) -> bool:
        return self._transaction.get(key.encode()) is not None

    def __call__(self, key: str, size: int | None = None) -> bytes:
        """Return the value of `key`, of `size` bytes if given."""
        value = self._transaction.get(key.encode())
        if value is None:
            raise CorruptDataError(f"{self._path} has no key {key}; it is not whole, or not in DMD2's layout")
        if size is not None and len(value) != size:
            raise CorruptDataError(f"{key} of {self._path} has {len(value)} bytes instead of {size}; copy it again")
        return bytes(value)


@contextmanager
def _reading(path: Path) -> Iterator[_Reader]:
    """Open a database for reading, without a lock file and without writing anything."""
    try:
        import lmdb
    except ImportError as error:
        raise SampleSetError("the source lmdb needs a package: pip install 'diffviews[lmdb]'") from error
    with _OPENING:
        try:
            environment = lmdb.open(
                str(path), subdir=path.is_dir(), readonly=True, lock=False, create=False, readahead=False
            )
        except lmdb.Error as error:
            raise CorruptDataError(f"{path} is damaged or no LMDB database: {error}") from error
        try:
            _check_whole(path, environment)
            yield _Reader(path, environment)
        except lmdb.Error as error:
            raise CorruptDataError(f"{path} is damaged: {error}") from error
        finally:
            environment.close()


def _check_whole(path: Path, environment: Any) -> None:
    """Refuse a file that is shorter than it says: reading past its end would kill the process."""
    expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    file = path / "data.mdb" if path.is_dir() else path
    if file.stat().st_size < expected:
        raise CorruptDataError(f"{file} is cut short: it has {file.stat().st_size} bytes of {expected}; copy it again")


def _parse(location: str) -> tuple[Path, str]:
    """Return path and label order of `<path>[?order=<name>]`, '' for none."""
    name, marked, order = location.partition("?order=")
    if marked and order not in ORDERS:
        raise SampleSetError(f"{unknown_name('label order', order, ORDERS)}; write lmdb:<path>?order=downsampled")
    path = Path(name)
    if not name or not (path.is_file() or (path / "data.mdb").is_file()):
        raise SampleSetError(f"there is no LMDB database at {name!r}; write lmdb:<folder that holds data.mdb>")
    return path, order


def _order_of(labels: np.ndarray | None, path: Path) -> str:
    """Return the order of labels of which nobody says what they count."""
    if labels is None or not labels.size or labels.max() == IMAGENET_CLASSES - 1:
        return "standard"
    logger.info(
        "the labels of %s go up to %d and not to 999, so they are not taken for ImageNet's; write "
        "lmdb:%s?order=standard if they are", path, labels.max(), path,
    )  # fmt: skip
    return "own"


def _standard(labels: np.ndarray, order: str, path: Path) -> np.ndarray:
    """Return labels of `order` as labels of the standard order; those of a database's own are kept."""
    if order == "downsampled":
        return remap_imagenet64_labels_to_standard(labels)
    if order == "standard" and labels.size and not 0 <= labels.min() <= labels.max() < IMAGENET_CLASSES:
        outside = labels[(labels < 0) | (labels >= IMAGENET_CLASSES)][0]
        raise SampleSetError(
            f"label {outside} in {path} is no class of ImageNet; write lmdb:{path}?order=own if it is other data"
        )
    return labels


def _numbers(text: bytes) -> list[int]:
    """Return the whole numbers that a text consists of, none when it holds anything else."""
    words = text[:200].split()
    return [int(word) for word in words] if all(word.isdigit() and len(word) < 12 for word in words) else []
