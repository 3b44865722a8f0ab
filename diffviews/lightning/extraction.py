"""Extraction under Lightning: one forward pass per batch and sigma captures every wanted layer.

Work is cut into blocks of rows; a block holds whole chunks of every layer's array. Ranks take
blocks in turn and write their own chunks, so nothing is gathered and a killed run resumes at
the first unwritten block. Everything here can be sent to another process.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.condition import Condition
from diffviews.core.extractor import capture
from diffviews.data.activations import ActivationWriter, DoesNotFitError
from diffviews.data.samples import SampleSet

LayerKey = tuple[str, float]
"""(layer name, sigma): what one array of activations belongs to."""


@dataclass(frozen=True, slots=True)
class ExtractionBatch:
    """Rows [start, stop) of the sample set at one sigma."""

    sigma: float
    start: int
    stop: int
    ends_block: bool
    sample_ids: tuple[str, ...]
    images: np.ndarray
    """(B, H, W, 3) uint8."""
    conditions: tuple[Condition, ...] | None
    """What the model is conditioned on; None runs the unconditional pass."""


class ExtractionBatches(Dataset[ExtractionBatch]):
    """The batches of one rank: whole blocks, every sigma, smallest row first."""

    def __init__(
        self,
        samples: SampleSet,
        blocks: Sequence[tuple[float, int]],
        *,
        block_rows: int,
        batch_size: int,
        conditions: Sequence[Condition] | None,
    ) -> None:
        self._samples, self._conditions = samples, conditions
        self._spans: list[tuple[float, int, int, bool]] = []
        for sigma, block in blocks:
            first, last = block * block_rows, min(len(samples), (block + 1) * block_rows)
            for start in range(first, last, batch_size):
                stop = min(last, start + batch_size)
                self._spans.append((sigma, start, stop, stop == last))

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> ExtractionBatch:
        sigma, start, stop, ends_block = self._spans[index]
        ids = tuple(self._samples.sample_ids[start:stop])
        conditions = None if self._conditions is None else tuple(self._conditions[start:stop])
        return ExtractionBatch(sigma, start, stop, ends_block, ids, self._samples.images_of(ids), conditions)


def block_rows(writers: Mapping[LayerKey, ActivationWriter]) -> int:
    """Return how many rows hold whole chunks of every array."""
    return max(writer.chunk_rows for writer in writers.values())


def unfinished_blocks(writers: Mapping[LayerKey, ActivationWriter]) -> list[tuple[float, int]]:
    """Return the (sigma, block) pairs of which some array lacks a chunk."""
    size = block_rows(writers)
    return [
        (sigma, block)
        for sigma in sorted({sigma for _, sigma in writers})
        for block in range(-(-_num_rows(writers) // size))
        if not _is_done(writers, sigma, slice(block * size, (block + 1) * size))
    ]


def _num_rows(writers: Mapping[LayerKey, ActivationWriter]) -> int:
    return next(iter(writers.values())).shape[0]


def _is_done(writers: Mapping[LayerKey, ActivationWriter], sigma: float, rows: slice) -> bool:
    last = min(rows.stop, _num_rows(writers))
    return all(
        writer.is_done(chunk)
        for (_, at), writer in writers.items()
        if at == sigma
        for chunk in range(rows.start // writer.chunk_rows, -(-last // writer.chunk_rows))
    )


class ExtractionData(lightning.LightningDataModule):
    """Deals blocks of a sample set to the ranks in turn, whole blocks at a time.

    The blocks are settled before any rank begins: a rank that looked for itself would see what
    the others have written meanwhile, and blocks would fall between them.
    """

    def __init__(
        self,
        samples: SampleSet,
        blocks: Sequence[tuple[float, int]],
        *,
        block_rows: int,
        batch_size: int,
        conditions: Sequence[Condition] | None,
    ) -> None:
        super().__init__()
        self.samples, self.blocks, self.block_rows = samples, list(blocks), block_rows
        self.batch_size, self.conditions = batch_size, conditions

    def predict_dataloader(self) -> DataLoader[ExtractionBatch]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches = ExtractionBatches(
            self.samples,
            self.blocks[rank::world],
            block_rows=self.block_rows,
            batch_size=self.batch_size,
            conditions=self.conditions,
        )
        return DataLoader(batches, batch_size=None, collate_fn=_as_is)  # type: ignore[arg-type]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave batches on the host: the module moves what the network reads."""
        return batch


def _as_is(batch: ExtractionBatch) -> ExtractionBatch:
    return batch


class ExtractionModule(lightning.LightningModule):
    """Runs an adapter at `x0 + sigma · noise(sample_id)` and hands the layers' outputs to the writers.

    Args:
        adapter: the model.
        open_writers: {(layer, sigma): opens its array for writing}; each process opens its own.
        on_overflow: told once of a layer with a value beyond float16, which is skipped from then
            on; the job captures it again in float32.
    """

    def __init__(
        self,
        adapter: GeneratorAdapter,
        open_writers: Mapping[LayerKey, Callable[[], ActivationWriter]],
        on_overflow: Callable[[LayerKey], None],
    ) -> None:
        super().__init__()
        self._held = (adapter,)  # in a tuple: Lightning moves modules it knows back to the CPU at the end
        self._open_writers, self._on_overflow = dict(open_writers), on_overflow
        self._pending: dict[LayerKey, ChunkBuffer] = {}
        self._overflowed: set[LayerKey] = set()

    def on_predict_start(self) -> None:
        self._pending = {key: ChunkBuffer(open_writer()) for key, open_writer in self._open_writers.items()}
        if self.trainer.world_size > 1:
            self._held[0].to(self.device)

    def predict_step(self, batch: ExtractionBatch, batch_idx: int) -> int:
        """Capture one batch; return its number of samples."""
        (adapter,) = self._held
        layers = [layer for layer, sigma in self._pending if sigma == batch.sigma]
        given = {} if batch.conditions is None else adapter.condition(batch.conditions)
        x0 = adapter.encode(batch.images)
        captured = capture(adapter, x0, batch.sample_ids, given, batch.sigma, layers)
        for layer, activation in captured.items():
            self._store((layer, batch.sigma), batch, activation)
        return len(batch.sample_ids)

    def _store(self, key: LayerKey, batch: ExtractionBatch, activation: torch.Tensor) -> None:
        if key in self._overflowed:
            return
        try:
            self._pending[key].add(batch.start, activation.float().cpu().numpy(), batch.ends_block)
        except DoesNotFitError:
            self._overflowed.add(key)
            self._on_overflow(key)


class ChunkBuffer:
    """Collects consecutive rows of one layer and writes them as whole chunks, those that are there left alone."""

    def __init__(self, writer: ActivationWriter) -> None:
        self._writer = writer
        self._start = 0
        self._rows: list[np.ndarray] = []

    def add(self, start: int, rows: np.ndarray, ends_block: bool) -> None:
        """Take rows that begin at `start`; write every chunk they complete, or all at a block's end."""
        if not self._rows:
            self._start = start
        self._rows.append(rows)
        held = sum(map(len, self._rows))
        if held < self._writer.chunk_rows and not ends_block:
            return
        joined = np.concatenate(self._rows)
        whole = held if ends_block else held - held % self._writer.chunk_rows
        self._rows = [joined[whole:]] if whole < held else []
        for first, chunk in self._cut(joined[:whole]):
            if not self._writer.is_done(first // self._writer.chunk_rows):
                self._writer.write(first, chunk)
        self._start += whole

    def _cut(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for offset in range(0, len(rows), self._writer.chunk_rows):
            yield self._start + offset, rows[offset : offset + self._writer.chunk_rows]
