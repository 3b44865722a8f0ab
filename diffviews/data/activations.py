"""Activations of one layer at one sigma as a Zarr v3 array, written crash-safe and read by sample id.

    writer = ActivationWriter(path, sample_ids=ids, layer="midblock", shape=(128, 4, 4), dtype="float16",
                              sigma=2.0, model_digest=model, dataset_digest=samples.digest)
    writer.write(0, rows)              # whole chunks, in any order, from any process
    digest = writer.finish()           # only now is the array whole, and says so
    averaged = ActivationReader.open(path).rows(["digits-0007", "digits-0017"]).mean(axis=0)

Each chunk is one file with a CRC32C, present whole or not at all. `zarr.json` holds the ids in row
order, what the values depend on and, once finished, their digest.
"""

import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from io import RawIOBase
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.errors import ContainsArrayError
from zarr.storage import LocalStore

from diffviews.data.activation_reader import (
    ATTRIBUTE,
    DTYPES,
    SCHEMA_VERSION,
    ActivationReader,
    ChunkDigest,
    count_nonfinite,
    digest_chunk,
)
from diffviews.data.disk import named_disk_errors
from diffviews.data.layout import chunk_rows
from diffviews.data.sample_index import SampleIndex
from diffviews.errors import ConfigError, CorruptDataError, DiffViewsError, ShapeError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ActivationReader", "ActivationWriter", "DoesNotFitError"]


class DoesNotFitError(DiffViewsError, OverflowError):
    """A finite activation is too large for the array's dtype; store the layer as float32."""


@dataclass(frozen=True, slots=True)
class _Identity:
    """What an array was written for; a writer that says otherwise is refused."""

    layer: str
    sigma: float
    model_digest: str
    dataset_digest: str

    def __post_init__(self) -> None:
        if not (np.isfinite(self.sigma) and self.sigma >= 0):
            raise ConfigError(f"sigma must be a finite number of at least 0, not {self.sigma}")


class ActivationWriter:
    """Writes one array chunk by chunk; opening an array that was begun before goes on with it.

    Chunks may come in any order, from several threads or processes, and twice. Among several
    processes one opens the array first and, when all have written, finishes it. Sent to another
    process, a writer opens the array there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sample_ids: Sequence[str] | SampleIndex,
        layer: str,
        shape: Sequence[int],
        dtype: str | np.dtype,
        sigma: float,
        model_digest: str,
        dataset_digest: str,
    ) -> None:
        """Create the array at `path`, or go on with the one that is there.

        Args:
            path: folder of the array.
            sample_ids: id of each row, in order; an index is shared with the other arrays that have it.
            layer: name of the layer.
            shape: shape of the layer's output for one sample.
            dtype: float16 or float32.
            sigma: noise level at which the activations are captured.
            model_digest: digest of the model, as its adapter gives it.
            dataset_digest: digest of the sample set.

        Raises:
            ConfigError: if the array there was written for something else.
            CorruptDataError: if what is there cannot be read.
        """
        self.path = Path(path)
        self.dtype = np.dtype(dtype)
        if self.dtype.name not in DTYPES:
            raise ConfigError(f"activations are stored as {' or '.join(DTYPES)}, not {self.dtype}")
        self._identity = _Identity(str(layer), float(sigma), model_digest, dataset_digest)
        self.index = sample_ids if isinstance(sample_ids, SampleIndex) else SampleIndex(tuple(sample_ids))
        if not len(self.index):
            raise ConfigError(f"there are no samples to store activations of layer {layer!r} for")
        self.shape = (len(self.index), *(int(side) for side in shape))
        self.chunk_rows = chunk_rows(self.shape[1:], self.dtype, len(self.index))
        self._digests: dict[int, ChunkDigest] = {}
        self._present: set[int] = set()
        self._lock = Lock()
        self._scratch: Tensor | None = None
        if not (self.path / "zarr.json").is_file():
            self._create()
        self._opened: tuple[tuple[int, int], ActivationReader] | None = None
        self._check_same()

    @property
    def num_chunks(self) -> int:
        """Number of chunks; the last may hold fewer rows."""
        return -(-self.shape[0] // self.chunk_rows)

    @property
    def nonfinite(self) -> int:
        """How many NaN and infinite values this writer has been given so far."""
        with self._lock:
            return sum(count for _, count in self._digests.values())

    def rows_of(self, chunk: int) -> slice:
        """Return the rows that chunk number `chunk` holds."""
        if not 0 <= chunk < self.num_chunks:
            raise ConfigError(f"chunk {chunk} is outside 0 … {self.num_chunks - 1}")
        return slice(chunk * self.chunk_rows, min((chunk + 1) * self.chunk_rows, self.shape[0]))

    def is_done(self, chunk: int) -> bool:
        """Say whether a chunk is stored and passes its checksum; a damaged one is to be written again."""
        self.rows_of(chunk)  # refuses a number out of range
        if chunk in self._present:
            return True
        try:
            self._reader().chunk(chunk)
        except CorruptDataError:
            return False
        self._present.add(chunk)
        return True

    def has(self, start_row: int, stop_row: int) -> bool:
        """Say whether all chunks that hold some of these rows are done."""
        stop = min(stop_row, self.shape[0])
        return all(map(self.is_done, range(start_row // self.chunk_rows, -(-stop // self.chunk_rows))))

    def write(self, start_row: int, rows: np.ndarray) -> None:
        """Store whole chunks: rows `start_row` …, (n, *shape), of any float dtype.

        NaN and infinite values are stored as they are and counted in `nonfinite`.

        Raises:
            ShapeError: if the rows are not whole chunks of this array.
            DoesNotFitError: if a finite value is infinite in the array's dtype; its chunk is not written.
            DiskSpaceError: if the disk is full.
        """
        given = np.asarray(rows)
        stop = start_row + len(given)
        self._check_rows(start_row, stop, given)
        for chunk in range(start_row // self.chunk_rows, -(-stop // self.chunk_rows)):
            span = self.rows_of(chunk)
            with self._lock:
                values = self._cast(given[span.start - start_row : span.stop - start_row])
                self._store(chunk, values)
                self._digests[chunk] = digest_chunk(values)
                self._present.add(chunk)

    def fill(self, read: Callable[[slice], np.ndarray]) -> None:
        """Store all chunks, whose rows `read` returns, and finish."""
        for chunk in range(self.num_chunks):
            rows = self.rows_of(chunk)
            self.write(rows.start, read(rows))
        self.finish()

    def finish(self) -> str:
        """Check every chunk that others wrote, mark the array as finished and return its digest.

        The digest is a sha256 over shape, dtype, sample order and all values; how often the
        writing was interrupted does not enter.

        Raises:
            CorruptDataError: if a chunk is missing or damaged; it is named and nothing is marked.
        """
        reader = self._reader()
        if reader.finished:
            return reader.digest
        digest, nonfinite = reader.compute_digest(self._digests)
        for unfinished in self.path.rglob("*.partial"):
            unfinished.unlink(missing_ok=True)
        attributes = {**reader.attrs, "finished": True, "digest": digest, "nonfinite": nonfinite}
        opened = zarr.open_array(LocalStore(self.path), mode="r+", zarr_format=3)
        with _short_metadata():
            opened.update_attributes({ATTRIBUTE: attributes})
        self._scratch = None
        return digest

    def __reduce__(self) -> tuple[Any, ...]:
        options: dict[str, Any] = {
            "sample_ids": self.index, "shape": self.shape[1:], "dtype": self.dtype.name, **asdict(self._identity)
        }  # fmt: skip
        return partial(ActivationWriter, self.path, **options), ()

    def _create(self) -> None:
        attributes = {
            "schema": SCHEMA_VERSION,
            **asdict(self._identity),
            "sample_ids": list(self.index.sample_ids),
            "finished": False,
        }
        # Another process may be first; whether it means the same array is checked next.
        with suppress(ContainsArrayError), _short_metadata():
            zarr.create_array(
                LocalStore(self.path),
                shape=self.shape,
                dtype=self.dtype,
                chunks=(self.chunk_rows, *self.shape[1:]),
                filters=None,
                serializer=BytesCodec(endian="little"),
                # No compressor: on float16 activations zstd saves 8 % and halves the speed or worse.
                compressors=[Crc32cCodec()],
                fill_value=0,
                zarr_format=3,
                attributes={ATTRIBUTE: attributes},
            )

    def _check_same(self) -> None:
        reader = self._reader()
        wanted: dict[str, Any] = {**asdict(self._identity), "shape": self.shape, "dtype": self.dtype.name}
        found: dict[str, Any] = {name: reader.attrs.get(name) for name in asdict(self._identity)}
        found |= {"shape": reader.shape, "dtype": reader.dtype.name}
        different = [f"{name} {found[name]} and not {wanted[name]}" for name in wanted if found[name] != wanted[name]]
        if not different and reader.sample_ids != self.index.sample_ids:
            different = ["other samples or another order of them"]
        if different:
            raise ConfigError(
                f"the activations at {self.path} were written for {'; '.join(different)}; "
                "choose another folder or delete this one"
            )
        if reader.chunk_rows != self.chunk_rows:
            raise ConfigError(f"the activations at {self.path} are cut into other chunks; delete the folder")

    def _check_rows(self, start_row: int, stop: int, rows: np.ndarray) -> None:
        if rows.shape[1:] != self.shape[1:] or not np.issubdtype(rows.dtype, np.floating):
            raise ShapeError(
                f"rows of layer {self._identity.layer!r} have shape {rows.shape[1:]} {rows.dtype}, "
                f"but the array holds {self.shape[1:]} floats"
            )
        whole = start_row % self.chunk_rows == 0 and (stop % self.chunk_rows == 0 or stop == self.shape[0])
        if not (whole and 0 <= start_row < stop <= self.shape[0]):
            raise ShapeError(
                f"rows {start_row} … {stop} are not whole chunks of {self.chunk_rows} of the {self.shape[0]}"
            )
        if self._reader().finished:
            raise ConfigError(f"the activations at {self.path} are finished and never change; choose another path")

    def _cast(self, rows: np.ndarray) -> np.ndarray:
        """Return one chunk's rows in the array's dtype, in a buffer that the next call uses again.

        Memory fresh from the system costs several times the conversion itself, and torch
        converts to float16 an order of magnitude faster than NumPy.
        """
        if rows.dtype == self.dtype:
            return rows
        import torch  # here, because whoever only reads activations does not need it

        if self._scratch is None:
            self._scratch = torch.empty((self.chunk_rows, *self.shape[1:]), dtype=getattr(torch, self.dtype.name))
        source = rows if rows.flags.writeable else rows.copy()
        stored = self._scratch[: len(rows)].copy_(torch.from_numpy(source)).numpy()
        if count_nonfinite(stored) > count_nonfinite(rows):
            largest = np.abs(rows[np.isfinite(rows)]).max()
            raise DoesNotFitError(
                f"layer {self._identity.layer!r} at sigma {self._identity.sigma:g} reaches {largest:.6g}, "
                f"but {self.dtype.name} ends at {np.finfo(self.dtype).max:.6g}; store the layer as float32"
            )
        return stored

    def _store(self, chunk: int, values: np.ndarray) -> None:
        """Write one chunk's file as Zarr's codecs would: little-endian values, padded with zeros, and their CRC32C.

        Through Zarr the same bytes take three copies, which cost as much as a sixth of a small model's forward pass.
        """
        stored = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
        padding = bytes((self.chunk_rows - len(values)) * stored[:1].nbytes)
        checksum = google_crc32c.extend(google_crc32c.value(stored), padding)
        path = self.path / self._reader().chunk_key(chunk)
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")
        with named_disk_errors(path):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with temporary.open("xb", buffering=0) as file:
                    for part in (stored.view(np.uint8).data.cast("B"), padding, checksum.to_bytes(4, "little")):
                        _write_all(file, part)
                temporary.replace(path)
            except FileNotFoundError:
                # Another writer finished the array, so it has stored this chunk, and swept our temporary file.
                if not self._reader().finished:
                    raise
            except OSError:
                temporary.unlink(missing_ok=True)
                raise

    def _reader(self) -> ActivationReader:
        """Return a reader of what is there now; metadata is parsed again only when its file was replaced."""
        status = (self.path / "zarr.json").stat()
        version = (status.st_ino, status.st_mtime_ns)
        if self._opened is None or self._opened[0] != version:
            self._opened = version, ActivationReader.open(
                self.path, allow_unfinished=True, index=self.index
            )
        return self._opened[1]


def _short_metadata() -> Any:
    """Have Zarr write `zarr.json` on one line: with a line an id, those of a million samples take twice the space."""
    return zarr.config.set({"json_indent": None})


def _write_all(file: RawIOBase, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while len(view):
        view = view[file.write(view) :]
