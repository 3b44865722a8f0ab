"""Extraction under Lightning: one forward pass per batch and sigma captures every wanted layer.

Work is cut into blocks of rows; a block holds whole chunks of every layer's array. Ranks take
blocks in turn and write their own chunks, so nothing is gathered and a killed run resumes at
the first unwritten block.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from diffviews.adapters.base import GeneratorAdapter
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
    class_ids: tuple[int, ...] | None
    """Classes the model is conditioned on, -1 uniform; None runs the unconditional pass."""


class ExtractionBatches(Dataset[ExtractionBatch]):
    """The batches of one rank: whole blocks, every sigma, smallest row first."""

    def __init__(
        self,
        samples: SampleSet,
        blocks: Sequence[tuple[float, int]],
        *,
        block_rows: int,
        batch_size: int,
        class_ids: Sequence[int] | None,
    ) -> None:
        self._samples, self._class_ids = samples, class_ids
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
        classes = None if self._class_ids is None else tuple(self._class_ids[start:stop])
        return ExtractionBatch(sigma, start, stop, ends_block, ids, self._samples.images_of(ids), classes)


class ExtractionData(lightning.LightningDataModule):
    """Deals the unfinished blocks of a sample set to the ranks, whole blocks at a time."""

    def __init__(
        self,
        samples: SampleSet,
        writers: Mapping[LayerKey, ActivationWriter],
        *,
        batch_size: int,
        class_ids: Sequence[int] | None,
    ) -> None:
        super().__init__()
        self.samples, self.writers = samples, writers
        self.batch_size, self.class_ids = batch_size, class_ids
        self.block_rows = max(writer.chunk_rows for writer in writers.values())

    def unfinished_blocks(self) -> list[tuple[float, int]]:
        """Return the (sigma, block) pairs of which some layer lacks a chunk."""
        blocks = range(-(-len(self.samples) // self.block_rows))
        sigmas = sorted({sigma for _, sigma in self.writers})
        return [(sigma, block) for sigma in sigmas for block in blocks if not self._is_done(sigma, block)]

    def _is_done(self, sigma: float, block: int) -> bool:
        first, last = block * self.block_rows, min(len(self.samples), (block + 1) * self.block_rows)
        return all(
            writer.is_done(chunk)
            for (_, at), writer in self.writers.items()
            if at == sigma
            for chunk in range(first // writer.chunk_rows, -(-last // writer.chunk_rows))
        )

    def predict_dataloader(self) -> DataLoader[ExtractionBatch]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches = ExtractionBatches(
            self.samples,
            self.unfinished_blocks()[rank::world],
            block_rows=self.block_rows,
            batch_size=self.batch_size,
            class_ids=self.class_ids,
        )
        return DataLoader(batches, batch_size=None, collate_fn=_as_is)  # type: ignore[arg-type]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave batches on the host: the module moves what the network reads."""
        return batch


def _as_is(batch: ExtractionBatch) -> ExtractionBatch:
    return batch


class ExtractionModule(lightning.LightningModule):
    """Runs an adapter at `x0 + sigma · noise(sample_id)` and hands the layers' outputs to the writers.

    A layer whose values overflow float16 is named in `overflowed` and skipped from then on; the
    job captures it again in float32.
    """

    def __init__(self, adapter: GeneratorAdapter, writers: Mapping[LayerKey, ActivationWriter]) -> None:
        super().__init__()
        self._held = (adapter,)  # in a tuple: Lightning moves modules it knows back to the CPU at the end
        self._pending = {key: ChunkBuffer(writer) for key, writer in writers.items()}
        self.overflowed: set[LayerKey] = set()

    def predict_step(self, batch: ExtractionBatch, batch_idx: int) -> None:
        (adapter,) = self._held
        layers = [layer for layer, sigma in self._pending if sigma == batch.sigma]
        labels = None if batch.class_ids is None else adapter.make_labels(batch.class_ids)
        x0 = adapter.encode(batch.images)
        captured = capture(adapter, x0, batch.sample_ids, labels, batch.sigma, layers)
        for layer, activation in captured.items():
            self._store((layer, batch.sigma), batch, activation)

    def _store(self, key: LayerKey, batch: ExtractionBatch, activation: torch.Tensor) -> None:
        if key in self.overflowed:
            return
        try:
            self._pending[key].add(batch.start, activation.float().cpu().numpy(), batch.ends_block)
        except DoesNotFitError:
            self.overflowed.add(key)


class ChunkBuffer:
    """Collects consecutive rows of one layer and writes them as whole chunks."""

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
            self._writer.write(first, chunk)
        self._start += whole

    def _cut(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for offset in range(0, len(rows), self._writer.chunk_rows):
            yield self._start + offset, rows[offset : offset + self._writer.chunk_rows]
