"""Reading stored activations, from a folder or any artifact store, by fetching only the chunks asked for."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Self, TypeVar

import google_crc32c
import numpy as np

from diffviews.data.layout import CHECKSUM_BYTES, chunk_rows
from diffviews.data.sample_index import SampleIndex
from diffviews.errors import CorruptDataError, SampleSetError, SchemaVersionError, SelectionError

Result = TypeVar("Result")
Fetch = Callable[[str], bytes | None]
"""Returns the bytes stored under a key such as 'zarr.json' or 'c/0/0/0/0', or None if there are none."""
ChunkDigest = tuple[bytes, int]
"""sha256 of the values of one chunk, and how many of them are not finite."""

SCHEMA_VERSION = 1
ATTRIBUTE = "diffviews"
METADATA_KEY = "zarr.json"
PARALLEL_REMOTE, PARALLEL_LOCAL = 8, 2
"""Chunks read at once: a store answers slowly but in parallel, a disk gains little from more than two."""

DTYPES = ("float16", "float32")
_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
_REQUIRED: dict[str, type | tuple[type, ...]] = {
    "layer": str,
    "sigma": (int, float),
    "model_digest": str,
    "dataset_digest": str,
    "finished": bool,
}


class ActivationReader:
    """One stored array of activations, (N, *layer_shape), whose rows are found by sample id.

    Nothing but the array's metadata is held in memory. Safe to share between threads.
    """

    def __init__(
        self, fetch: Fetch, name: str, parallel: int = PARALLEL_REMOTE, index: SampleIndex | None = None
    ) -> None:
        """Read the metadata; `open` is the ordinary way to get here."""
        self._fetch, self._parallel = fetch, parallel
        self.name = name
        raw = fetch(METADATA_KEY)
        if raw is None:
            raise CorruptDataError(f"{name} holds no activations: {METADATA_KEY} is missing")
        metadata = _parse(raw, f"{name}/{METADATA_KEY}")
        attrs: dict[str, Any] = metadata["attributes"][ATTRIBUTE]
        self.shape: tuple[int, ...] = tuple(metadata["shape"])
        self.dtype = np.dtype(metadata["data_type"])
        self.chunk_rows = int(metadata["chunk_grid"]["configuration"]["chunk_shape"][0])
        self._index = _index(attrs["sample_ids"], index, f"{name}/{METADATA_KEY}")
        self.attrs: Mapping[str, Any] = {**attrs, "sample_ids": self._index.sample_ids}

    @classmethod
    def open(
        cls,
        source: str | os.PathLike[str] | Fetch,
        *,
        allow_unfinished: bool = False,
        name: str = "activations",
        index: SampleIndex | None = None,
    ) -> Self:
        """Open an array in a folder, or behind a function that fetches bytes by key.

        Args:
            source: the array's folder, or `fetch(key) -> bytes | None`, called from several threads.
            allow_unfinished: open an array that is still being written.
            name: what errors call the array when it is fetched.
            index: ids that the array may have; then it shares them, and a million are held once for all layers.

        Raises:
            CorruptDataError: if there is no array, it is damaged, or it is unfinished.
            SchemaVersionError: if another version of the format wrote it.
        """
        if callable(source):
            fetch, parallel = source, PARALLEL_REMOTE
        else:
            fetch, parallel, name = partial(_read_file, Path(source)), PARALLEL_LOCAL, str(source)
        reader = cls(fetch, name, parallel, index)
        if not (reader.finished or allow_unfinished):
            raise CorruptDataError(f"the activations {reader.name} were never finished; resume the extraction")
        return reader

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """Row i belongs to sample_ids[i]."""
        return self._index.sample_ids

    @property
    def layer(self) -> str:
        """Name of the layer."""
        return str(self.attrs["layer"])

    @property
    def sigma(self) -> float:
        """Noise level at which the activations were captured."""
        return float(self.attrs["sigma"])

    @property
    def finished(self) -> bool:
        """Whether the array is whole."""
        return bool(self.attrs["finished"])

    @property
    def digest(self) -> str:
        """The digest that the writer recorded, '' while unfinished."""
        return str(self.attrs.get("digest", ""))

    @property
    def nonfinite(self) -> int:
        """Number of NaN and infinite values in the whole array, recorded when it was finished."""
        return int(self.attrs.get("nonfinite", 0))

    @property
    def num_chunks(self) -> int:
        """Number of chunks; the last may hold fewer rows."""
        return -(-self.shape[0] // self.chunk_rows)

    def rows(self, selection: Iterable[str] | Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the activations of some samples, (n, *layer_shape), in the order asked, repeats included.

        Args:
            selection: sample ids; or integers, which count this array's own `sample_ids`.

        Raises:
            SelectionError: if the selection is empty or names a sample or row that is not there.
            CorruptDataError: if a chunk is missing or damaged; it is named.
        """
        wanted = self._rows_of(selection)
        result = np.empty((len(wanted), *self.shape[1:]), dtype=self.dtype)
        chunk_of = wanted // self.chunk_rows
        for chunk, values in self._each(np.unique(chunk_of).tolist(), _unchanged):
            places = np.flatnonzero(chunk_of == chunk)
            result[places] = values[wanted[places] - chunk * self.chunk_rows]
        return result

    def chunk(self, chunk: int) -> np.ndarray:
        """Return the rows of one chunk, (≤ chunk_rows, *layer_shape).

        Raises:
            CorruptDataError: if its file is missing or damaged; it is named.
        """
        key, start = self.chunk_key(chunk), chunk * self.chunk_rows
        data = self._fetch(key)
        if data is None:
            raise CorruptDataError(f"{self.name}/{key} is missing; extract it or fetch it again")
        values, checksum = np.frombuffer(data, np.uint8)[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
        size = self.chunk_rows * prod(self.shape[1:]) * self.dtype.itemsize
        if len(values) != size or google_crc32c.value(values) != int.from_bytes(checksum, "little"):
            raise CorruptDataError(f"{self.name}/{key} is damaged; extract it or fetch it again")
        stored = values.view(self.dtype.newbyteorder("<")).reshape(self.chunk_rows, *self.shape[1:])
        return stored[: len(self) - start].astype(self.dtype, copy=False)

    def chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, rows) of every chunk in order, reading a few ahead."""
        for chunk, values in self._each(range(self.num_chunks), _unchanged):
            yield chunk * self.chunk_rows, values

    def array(self) -> np.ndarray:
        """Return all activations, (N, *layer_shape)."""
        result = np.empty(self.shape, dtype=self.dtype)
        for start, values in self.chunks():
            result[start : start + len(values)] = values
        return result

    def chunk_key(self, chunk: int) -> str:
        """Return the key under which a chunk is stored."""
        return "/".join(["c", str(chunk), *["0"] * (len(self.shape) - 1)])

    def compute_digest(self, known: Mapping[int, ChunkDigest] | None = None) -> tuple[str, int]:
        """Return the sha256 over shape, dtype, sample order and all values, and how many are not finite.

        Args:
            known: digests of chunks, which are then not read.
        """
        header = {"shape": self.shape, "dtype": self.dtype.name, "sample_ids": self.sample_ids}
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        nonfinite, known = 0, known or {}
        unread = self._each([chunk for chunk in range(self.num_chunks) if chunk not in known], digest_chunk)
        for chunk in range(self.num_chunks):
            part, count = known[chunk] if chunk in known else next(unread)[1]
            digest.update(part)
            nonfinite += count
        return digest.hexdigest(), nonfinite

    def verify(self) -> None:
        """Read everything and raise CorruptDataError unless it has the recorded digest."""
        digest, _ = self.compute_digest()
        if digest != self.digest:
            raise CorruptDataError(f"the activations {self.name} changed after they were finished; extract anew")

    def _rows_of(self, selection: Iterable[str] | Sequence[int] | np.ndarray) -> np.ndarray:
        if isinstance(selection, str):
            return self._index.rows_of(selection)
        wanted = selection if isinstance(selection, np.ndarray) else list(selection)
        texts = sum(isinstance(item, str) for item in wanted)
        if texts == 0:
            return self._index.check_rows(wanted)
        if texts < len(wanted):
            raise SelectionError("a selection holds either sample ids or row numbers, not both")
        return self._index.rows_of(map(str, wanted))

    def _each(self, chunks: Sequence[int], compute: Callable[[np.ndarray], Result]) -> Iterator[tuple[int, Result]]:
        """Yield (chunk, compute(its rows)) in order, a few chunks at once and never more in memory."""
        if not chunks:
            return
        if len(chunks) == 1:
            yield chunks[0], compute(self.chunk(chunks[0]))
            return
        with ThreadPoolExecutor(self._parallel) as pool:
            pending: deque[tuple[int, Future[Result]]] = deque()
            try:
                for chunk in chunks:
                    pending.append((chunk, pool.submit(lambda number: compute(self.chunk(number)), chunk)))
                    if len(pending) == self._parallel:
                        first, future = pending.popleft()
                        yield first, future.result()
                while pending:
                    first, future = pending.popleft()
                    yield first, future.result()
            finally:
                for _, future in pending:
                    future.cancel()


def _read_file(folder: Path, key: str) -> bytes | None:
    try:
        return (folder / key).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _index(found: list[Any], given: SampleIndex | None, name: str) -> SampleIndex:
    if given is not None and list(given.sample_ids) == found:
        return given
    try:
        return SampleIndex(tuple(found))
    except SampleSetError as error:
        raise CorruptDataError(f"{name} is damaged: {error}") from error


def _unchanged(values: np.ndarray) -> np.ndarray:
    return values


def digest_chunk(values: np.ndarray) -> ChunkDigest:
    """Return the sha256 of a chunk's values, and how many are not finite."""
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return hashlib.sha256(little.data).digest(), count_nonfinite(values)


def count_nonfinite(values: np.ndarray) -> int:
    """Return how many of `values`, floats of any width, are NaN or infinite."""
    # A float16 is finite exactly when its bits without the sign are below 0x7C00. Their maximum
    # costs a fifteenth of `isfinite`, which NumPy evaluates one float16 at a time.
    half = values.dtype == np.float16 and values.size
    if half and (values.view(np.uint16) & 0x7FFF).max() < 0x7C00:
        return 0
    return values.size - int(np.count_nonzero(np.isfinite(values)))


def _parse(raw: bytes, name: str) -> dict[str, Any]:
    """Return Zarr metadata after checking that this project's writer could have made it.

    Only then is it believed: the file decides how its chunks are read and how much is allocated.
    """
    try:
        metadata = json.loads(raw)
        own = metadata["attributes"][ATTRIBUTE]
        schema = own["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptDataError(f"{name} does not describe activations: {error!r}") from error
    if schema != SCHEMA_VERSION:
        raise SchemaVersionError(f"{name} has schema {schema}, but this version reads {SCHEMA_VERSION}; extract anew")
    try:
        problem = _problem(metadata, own)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptDataError(f"{name} is not complete: {error!r}") from error
    if problem:
        raise CorruptDataError(f"{name} is damaged: {problem}")
    return dict(metadata)


def _problem(metadata: dict[str, Any], own: dict[str, Any]) -> str:
    """Return what is wrong with the metadata, or ''."""
    shape, dtype = metadata["shape"], metadata["data_type"]
    kind = (metadata["zarr_format"], metadata["node_type"])
    if kind != (3, "array") or dtype not in DTYPES:
        return f"it is a {metadata['node_type']} of {dtype}, not an array of floats"
    possible = len(shape) >= 2 and all(type(side) is int and side > 0 for side in shape)
    if not possible or prod(shape) >= 2**50:
        return f"its shape is {shape}"
    if metadata["codecs"] != _CODECS:
        return "its chunks are not little-endian values with their CRC32C"
    grid = metadata["chunk_grid"]
    expected = [chunk_rows(shape[1:], dtype, shape[0]), *shape[1:]]
    if grid["name"] != "regular" or list(grid["configuration"]["chunk_shape"]) != expected:
        return f"its chunks are {grid}, not of shape {expected}"
    if len(own["sample_ids"]) != shape[0]:
        return f"it has {shape[0]} rows, but {len(own['sample_ids'])} sample ids"
    wrong = [key for key, kind in _REQUIRED.items() if not isinstance(own[key], kind)]
    return f"{', '.join(wrong)} has no possible value" if wrong else ""
