"""Large matrices by blocks: activations wherever they lie (array, memory map, Zarr, stored layer), read as float32,
and threads that work on blocks and hand their results over in order, so that sums over them keep their bits."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from typing import Any, TypeVar

import numpy as np

from diffviews.errors import CorruptDataError, ShapeError

BLOCK_BYTES = 32 << 20
"""Size of one float32 block; each thread holds one."""

HELD_AT_ONCE = 2 << 30
"""Bytes of stored activations up to which they are read once and held; more are read again in each pass."""

MOST_THREADS = 16
"""Beyond these the memory of the blocks in flight costs more than the cores gain."""

_BYTES = {"float16": 2, "float32": 4, "float64": 8}

T = TypeVar("T")
R = TypeVar("R")


class ActivationSource:
    """Activations (N, *shape) as a matrix (N, D) of float32 that is read in blocks.

    `activations` is an ndarray or memory map, anything with `shape`, `dtype` and row slices (Zarr,
    HDF5), or a reader with `rows(integers)`. float16, float32 and float64 are taken.
    """

    def __init__(self, activations: Any) -> None:
        """Look at shape and dtype only.

        Raises:
            ShapeError: if there are no rows or columns, or the values are no floats.
        """
        if not hasattr(activations, "shape") or not hasattr(activations, "dtype"):
            activations = np.asarray(activations)
        shape, dtype = tuple(int(side) for side in activations.shape), activations.dtype
        if len(shape) < 2 or prod(shape) == 0:
            raise ShapeError(f"activations are (samples, *layer shape) and not empty, but these are {shape}")
        self._itemsize = _BYTES.get(str(dtype).removeprefix("torch."), 0)
        if not self._itemsize:
            raise ShapeError(f"activations are float16 or float32, but these are {dtype}")
        self._activations = activations
        self.num_rows, self.num_columns = shape[0], prod(shape[1:])

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows start … stop−1, (n, D) float32, a fresh array."""
        return np.array(self._read(start, stop), dtype=np.float32).reshape(-1, self.num_columns)

    def selected(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return some rows in the order asked, (n, D), in the dtype they are stored in."""
        wanted = np.asarray(rows, dtype=np.int64)
        if self._is_array:
            return np.asarray(self._activations[wanted]).reshape(len(wanted), self.num_columns)
        if hasattr(self._activations, "rows"):
            return np.asarray(self._activations.rows(wanted)).reshape(len(wanted), self.num_columns)
        return np.concatenate([self._read(row, row + 1) for row in wanted.tolist()])

    def row_spans(self) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of blocks over all rows; whoever works on a block reads it, with `rows`."""
        step = max(1, BLOCK_BYTES // (4 * self.num_columns))
        for start in range(0, self.num_rows, step):
            yield start, min(start + step, self.num_rows)

    def column_spans(self) -> Iterator[slice]:
        """Yield blocks over all columns, for `columns`. What is no array is first read into one."""
        self.array()
        step = max(1, BLOCK_BYTES // (4 * self.num_rows))
        for start in range(0, self.num_columns, step):
            yield slice(start, min(start + step, self.num_columns))

    def columns(self, span: slice) -> np.ndarray:
        """Return some columns, (N, c) float32, a fresh array."""
        return np.array(self.array()[:, span], dtype=np.float32, order="C")

    def hold(self) -> bool:
        """Read everything into memory unless it is too much for that; say whether it is there now."""
        if not self._is_array and self.num_rows * self.num_columns * self._itemsize <= HELD_AT_ONCE:
            self.array()
        return self._is_array

    def require_finite(self, sample_ids: Sequence[str]) -> None:
        """Raise CorruptDataError with the counts, and the samples they are in, unless all values are finite."""
        nans = infinite = 0
        found: list[str] = []
        for start, stop in self.row_spans():
            block = self.rows(start, stop)
            nans += int(np.count_nonzero(np.isnan(block)))
            infinite += int(np.count_nonzero(np.isinf(block)))
            bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
            found += [sample_ids[start + row] for row in bad.tolist()]
        if found:
            raise nonfinite_error(nans, infinite, found, self.num_rows)

    @property
    def _is_array(self) -> bool:
        return isinstance(self._activations, np.ndarray)

    def array(self) -> np.ndarray:
        """Return everything as (N, D) in the dtype it is stored in; an array or memory map is not copied."""
        if not self._is_array:
            whole = np.empty((self.num_rows, self.num_columns), dtype=self._read(0, 1).dtype)
            step = max(1, BLOCK_BYTES // (4 * self.num_columns))
            for start in range(0, self.num_rows, step):
                whole[start : start + step] = self._read(start, min(start + step, self.num_rows))
            self._activations = whole
        return np.asarray(self._activations).reshape(self.num_rows, self.num_columns)

    def _read(self, start: int, stop: int) -> np.ndarray:
        if not self._is_array and hasattr(self._activations, "rows"):
            part = self._activations.rows(np.arange(start, stop))
        else:
            part = self._activations[start:stop]
        return np.asarray(part).reshape(stop - start, self.num_columns)


class StackedRows:
    """Several sources of the same width, one below the other, of which only what is asked for is read."""

    def __init__(self, parts: Sequence[ActivationSource]) -> None:
        self._parts = list(parts)
        self._starts = np.cumsum([0, *(part.num_rows for part in parts)])
        widths = {part.num_columns for part in parts}
        if len(widths) > 1:
            raise ShapeError(f"activations of {sorted(widths)} values a sample are not of one layer")
        self.shape = (int(self._starts[-1]), *widths)
        self.dtype = np.result_type(*(part.selected([0]).dtype for part in parts))

    def rows(self, wanted: np.ndarray) -> np.ndarray:
        """Return rows, counted through all parts, (n, D)."""
        result = np.empty((len(wanted), self.shape[1]), self.dtype)
        owner = np.searchsorted(self._starts, wanted, side="right") - 1
        for number in np.unique(owner):
            mine = owner == number
            result[mine] = self._parts[number].selected(wanted[mine] - self._starts[number])
        return result


def nonfinite_error(nans: int, infinite: int, sample_ids: Sequence[str], total: int) -> CorruptDataError:
    """Return the error that counts NaN and infinite values and names the samples they are in."""
    shown = ", ".join(map(repr, sample_ids[:5])) + (" …" if len(sample_ids) > 5 else "")
    return CorruptDataError(
        f"activations hold {nans} NaN and {infinite} infinite values, in {len(sample_ids)} of {total} samples: "
        f"{shown}; leave these samples out, or extract in float32 if float16 was too narrow"
    )


def num_threads() -> int:
    """Return how many threads share the work: the cores of this process, or fewer by OMP_NUM_THREADS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "").strip()
    return min(cores, int(wanted) if wanted.isdecimal() and int(wanted) else cores, MOST_THREADS)


def in_order(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield `work(item)` of each item, in the items' order.

    NumPy lets go of the interpreter during products, so that threads gain where BLAS itself is held to one
    (`umap_backend.fitting`). An item is drawn only when a thread is free for it: one more than there are
    threads is held at most.
    """
    threads = num_threads()
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="blocks") as pool:
        under_way: deque[Future[R]] = deque()
        try:
            for item in items:
                under_way.append(pool.submit(work, item))
                del item
                if len(under_way) >= threads:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()
