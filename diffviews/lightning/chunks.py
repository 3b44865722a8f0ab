"""Whole chunks made of a model's batches, and a thread that writes them while the model computes the next.

    with WriteBehind() as behind:
        buffer = ChunkBuffer(writer, behind)
        for start, rows in batches:              # rows: (n, *layer_shape), on any device
            buffer.put(start, rows)
            buffer.pass_on(start + len(rows))    # what is whole is cast, copied and on its way to the disk
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from diffviews.data.activation_reader import count_nonfinite
from diffviews.data.activations import ActivationWriter
from diffviews.errors import ShapeError

CHUNKS_WAITING = 8
"""Chunks, 4 MiB each, that may wait for the disk before the model does."""

Job = Callable[[], None]


class WriteBehind:
    """Does jobs one after the other in a thread of its own; the first that fails ends the work.

    Its error is raised in the thread that submits, when the queue is full next or at `close`; jobs still
    waiting are dropped, so that nothing is written after a failure.
    """

    def __init__(self, waiting: int = CHUNKS_WAITING) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="chunk-writer")
        self._limit, self._waiting = waiting, deque[Future[None]]()
        self._dropped = False

    def submit(self, job: Job) -> None:
        """Have `job` done; waits while the queue is full, which holds the model back to the disk's speed."""
        if len(self._waiting) == self._limit:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._do, job))

    def close(self) -> None:
        """Wait for the jobs submitted; raise the error of the one that failed."""
        self._pool.shutdown()
        for job in self._waiting:
            job.result()

    def abandon(self) -> None:
        """Drop the jobs that have not begun, and wait for the one that has."""
        self._dropped = True
        self._pool.shutdown()

    def _do(self, job: Job) -> None:
        try:
            if not self._dropped:
                job()
        except BaseException:
            self._dropped = True
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc_type is None:
            self.close()
        else:
            self.abandon()


@dataclass(slots=True, eq=False)
class _Chunk:
    """Rows of one chunk on their way, in the array's dtype."""

    rows: Tensor
    lost: list[Tensor | bool] = field(default_factory=list)
    """Of each part put in: whether a finite value became infinite in the array's dtype."""
    arrived: "torch.cuda.Event | None" = None
    """Recorded behind the copies from the device."""

    def has_lost(self) -> bool:
        if self.arrived is not None:
            self.arrived.synchronize()
        return any(map(bool, self.lost))


class ChunkBuffer:
    """Collects consecutive rows of one layer and has them written as whole chunks; those that are there stay.

    Rows are cast on the device they come from and copied once, into the memory that is written.

    Args:
        writer: of the array.
        behind: the thread that writes.
        on_overflow: called once, in that thread, when a finite value does not fit the array's dtype. The chunk
            that has one is not written, nor is any after it.
    """

    def __init__(self, writer: ActivationWriter, behind: WriteBehind, on_overflow: Callable[[], None]) -> None:
        self._writer, self._behind, self._on_overflow = writer, behind, on_overflow
        self._dtype: torch.dtype = getattr(torch, writer.dtype.name)
        self._open: dict[int, _Chunk] = {}
        self._free: SimpleQueue[Tensor] = SimpleQueue()
        self._overflowed = False
        self._device = torch.device("cpu")

    def put(self, start: int, values: Tensor) -> None:
        """Copy rows `start` …, (n, *layer_shape), to where they belong; what was put there before is replaced.

        Raises:
            ShapeError: if they are not of the array's shape.
        """
        if tuple(values.shape[1:]) != self._writer.shape[1:]:
            raise ShapeError(
                f"a batch of the layer has shape {tuple(values.shape)}, but the array at {self._writer.path} holds "
                f"rows of {self._writer.shape[1:]}"
            )
        if self._overflowed:
            return
        size, stop = self._writer.chunk_rows, start + len(values)
        if values.device.type != "cpu":  # rows that are known come from memory, between those of the device
            self._device = values.device
        narrow = values if values.device.type == "cpu" else values.to(self._dtype)
        overlaps = values.device.type == "cuda"  # elsewhere nothing says when such a copy has arrived
        for number in range(start // size, -(-stop // size)):
            chunk = self._open.get(number)
            if chunk is None:
                chunk = self._open[number] = _Chunk(self._memory(values.device))
            first, last = max(start, number * size), min(stop, (number + 1) * size)
            target = chunk.rows[first - number * size : last - number * size]
            target.copy_(narrow[first - start : last - start], non_blocking=overlaps)
            if self._dtype == torch.float16 and values.dtype != torch.float16:
                part = slice(first - start, last - start)
                chunk.lost.append(_lost(values[part], target if narrow is values else narrow[part]))

    def pass_on(self, stop: int, *, ends_block: bool = False) -> None:
        """Hand on every chunk that ends at row `stop` or before it, or all at a block's end."""
        arrived = None if self._device.type != "cuda" else torch.cuda.current_stream(self._device).record_event()
        for number in sorted(self._open):
            if not ends_block and self._writer.rows_of(number).stop > stop:
                break
            chunk = self._open.pop(number)
            chunk.arrived = arrived
            self._behind.submit(lambda number=number, chunk=chunk: self._write(number, chunk))  # type: ignore[misc]

    def _write(self, number: int, chunk: _Chunk) -> None:
        if chunk.has_lost() and not self._overflowed:
            self._overflowed = True
            self._on_overflow()
        if not self._overflowed and not self._writer.is_done(number):
            span = self._writer.rows_of(number)
            self._writer.write(span.start, chunk.rows[: span.stop - span.start].numpy())
        self._free.put(chunk.rows)

    def _memory(self, device: torch.device) -> Tensor:
        """Return memory for one chunk, used again where there is some: fresh memory costs more than the copy."""
        if not self._free.empty():
            return self._free.get()
        shape = (self._writer.chunk_rows, *self._writer.shape[1:])
        return torch.empty(shape, dtype=self._dtype, pin_memory=device.type == "cuda")


def _lost(values: Tensor, narrow: Tensor) -> Tensor | bool:
    """Say whether a finite value became infinite; on a device without waiting for it."""
    if values.device.type == "cpu" and not count_nonfinite(narrow.numpy()):
        return False
    lost = (torch.isinf(narrow) & torch.isfinite(values)).any()
    return lost.to("cpu", non_blocking=values.device.type == "cuda")
