"""Extraction under Lightning: one forward pass per batch and sigma captures every wanted layer.

Work is cut into blocks of rows; a block holds whole chunks of every layer's array. Processes take
blocks in turn and write their own chunks, so nothing is gathered and a killed run resumes at
the first unwritten block.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.condition import Condition
from diffviews.core.extractor import capture
from diffviews.data.activations import ActivationWriter
from diffviews.data.layout import LayerKey
from diffviews.data.samples import SampleSet
from diffviews.errors import ShapeError
from diffviews.lightning.chunks import ChunkBuffer, WriteBehind
from diffviews.lightning.projection import Projection, RunningMean
from diffviews.lightning.runner import PredictModule
from diffviews.processing.sketch import Sketch


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
    """The batches of one process: whole blocks, each at its sigma, smallest row first."""

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
    size, total = block_rows(writers), next(iter(writers.values())).shape[0]
    return [
        (sigma, block)
        for sigma in sorted({sigma for _, sigma in writers})
        for block in range(-(-total // size))
        if not all(w.has(block * size, (block + 1) * size) for (_, at), w in writers.items() if at == sigma)
    ]


class ExtractionModule(PredictModule):
    """Runs an adapter at `x0 + sigma · noise(sample_id)` and has the layers' outputs written.

    Hooks cast and copy a layer's output straight into the chunks to be written, while the model runs;
    a thread writes them while it computes the next batch.

    Args:
        adapter: the model.
        writers: {(layer, sigma): writer of its array}.
        sketches: {(layer, sigma): file of the fitted sketch} of layers whose arrays hold a sketch's vectors. What
            a chunk's outputs sum up to is then stored beside it, before it.
        on_overflow: told once of a layer with a value beyond float16, which is skipped from then
            on; the job captures it again in float32.
    """

    def __init__(
        self,
        adapter: GeneratorAdapter,
        writers: Mapping[LayerKey, ActivationWriter],
        on_overflow: Callable[[LayerKey], None],
        sketches: Mapping[LayerKey, Path] | None = None,
    ) -> None:
        super().__init__()
        self._held = (adapter,)  # in a tuple: Lightning moves modules it knows back to the CPU at the end
        self._projections = {
            key: Projection(Sketch.load(path), writers[key].chunk_rows, adapter.device)
            for key, path in (sketches or {}).items()
        }
        self._means = {key: RunningMean(writers[key].path) for key in self._projections}
        self._behind = behind = WriteBehind()
        self._chunks = {key: ChunkBuffer(writer, behind, partial(on_overflow, key)) for key, writer in writers.items()}

    def predict_step(self, batch: ExtractionBatch, batch_idx: int) -> int:
        """Capture one batch; return its number of samples."""
        (adapter,) = self._held
        buffers = {layer: buffer for (layer, sigma), buffer in self._chunks.items() if sigma == batch.sigma}

        def keep(layer: str, own: torch.Tensor) -> bool:
            projection = self._projections.get((layer, batch.sigma))
            buffers[layer].put(batch.start, own if projection is None else projection(batch.start, own))
            return True

        given = {} if batch.conditions is None else adapter.condition(batch.conditions)
        x0 = adapter.encode(batch.images)
        reached = capture(adapter, x0, batch.sample_ids, given, batch.sigma, list(buffers), keep)
        for layer, buffer in buffers.items():
            if layer not in reached:
                raise ShapeError(f"layer {layer!r} was not reached in a forward pass, so it has nothing to store")
            self._store_sums((layer, batch.sigma), batch)
            buffer.pass_on(batch.stop, ends_block=batch.ends_block)
        return len(batch.sample_ids)

    def _store_sums(self, key: LayerKey, batch: ExtractionBatch) -> None:
        if key not in self._projections:
            return
        self._projections[key].count()
        for chunk, outputs in self._projections[key].take_sums(batch.stop, ends_block=batch.ends_block).items():
            self._behind.submit(partial(self._means[key].add, chunk, outputs))

    def on_predict_end(self) -> None:
        self._behind.close()

    def abandon(self) -> None:
        """Write nothing more, after a failure; without one there is nothing left to write."""
        self._behind.abandon()
