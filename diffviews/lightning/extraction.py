"""Extraction under Lightning: one forward pass per batch and sigma captures every wanted layer.

Work is cut into blocks of rows; a block holds whole chunks of every layer's array. Processes take
blocks in turn and write their own chunks, so nothing is gathered and a killed run resumes at
the first unwritten block.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffviews.core.session import Keep
from diffviews.data.activations import ActivationWriter
from diffviews.data.known_rows import KnownRows
from diffviews.data.layout import LayerKey
from diffviews.errors import ShapeError
from diffviews.lightning.chunks import ChunkBuffer, WriteBehind
from diffviews.lightning.projection import Projection, store_sum
from diffviews.lightning.runner import PredictModule
from diffviews.processing.sketch import Sketch

KNOWN_AT_ONCE = 256
"""Rows of an earlier array that are read at once."""

Capture = Callable[[float, Sequence[str], np.ndarray, Keep], Mapping[str, Any]]
"""Runs the model at a sigma on rows of the sample set, has some layers' outputs kept, and says which were reached."""


@dataclass(frozen=True, slots=True)
class ExtractionBatch:
    """Rows [start, stop) of the sample set at one sigma."""

    sigma: float
    start: int
    stop: int
    ends_block: bool
    rows: np.ndarray
    """Those that the model runs on, ascending, (n,) int64; the others are known."""


def batches_of(
    blocks: Sequence[tuple[float, int]],
    total: int,
    *,
    block_rows: int,
    batch_size: int,
    known: Mapping[float, np.ndarray | None] | None = None,
) -> list[ExtractionBatch]:
    """Return the batches of whole blocks, each at its sigma, of `total` samples; smallest row first.

    Args:
        blocks: (sigma, block) pairs.
        total: number of samples.
        block_rows: rows of a block.
        batch_size: rows that the model runs on in one batch.
        known: by sigma, which rows are known, (N,) bool, and need no pass; None: none.
    """
    batches = []
    for sigma, block in blocks:
        first, last = block * block_rows, min(total, (block + 1) * block_rows)
        rows, there = np.arange(first, last), (known or {}).get(sigma)
        if there is not None:
            rows = rows[~there[first:last]]
        parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)] or [rows]
        for part in parts[:-1]:
            batches.append(ExtractionBatch(sigma, first, int(part[-1]) + 1, ends_block=False, rows=part))
            first = batches[-1].stop
        batches.append(ExtractionBatch(sigma, first, last, ends_block=True, rows=parts[-1]))
    return batches


def _runs(rows: np.ndarray) -> list[slice]:
    """Return where consecutive numbers stand in ascending `rows`: [3, 4, 9] → those at 0–1, and at 2."""
    cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    return [slice(a, b) for a, b in pairwise(cuts) if a < b]


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
    """Runs a model on batches of the sample set and has the layers' outputs written.

    Hooks cast and copy a layer's output straight into the chunks to be written, while the model runs;
    a thread writes them while it computes the next batch.

    Args:
        capture: runs the model.
        device: where it runs.
        writers: {(layer, sigma): writer of its array}.
        sketches: {(layer, sigma): file of the fitted sketch} of layers whose arrays hold a sketch's vectors. What
            a chunk's outputs sum up to is then stored beside it, before it.
        known: {(layer, sigma): rows that an earlier array holds}; those that a batch leaves out are taken from it.
        on_overflow: told once of a layer with a value beyond float16, which is skipped from then
            on; the job captures it again in float32.
    """

    def __init__(
        self,
        capture: Capture,
        device: torch.device,
        writers: Mapping[LayerKey, ActivationWriter],
        on_overflow: Callable[[LayerKey], None],
        sketches: Mapping[LayerKey, Path] | None = None,
        known: Mapping[LayerKey, KnownRows] | None = None,
    ) -> None:
        super().__init__()
        self._capture, self._known = capture, known or {}
        self._projections = {
            key: Projection(Sketch.load(path), writers[key].chunk_rows, device)
            for key, path in (sketches or {}).items()
        }
        self._paths = {key: writer.path for key, writer in writers.items()}
        self._behind = behind = WriteBehind()
        self._chunks = {key: ChunkBuffer(writer, behind, partial(on_overflow, key)) for key, writer in writers.items()}

    def predict_step(self, batch: ExtractionBatch, batch_idx: int) -> int:
        """Capture one batch; return the number of samples that the model ran on."""
        buffers = {layer: buffer for (layer, sigma), buffer in self._chunks.items() if sigma == batch.sigma}

        def keep(layer: str, own: torch.Tensor) -> bool:
            projection = self._projections.get((layer, batch.sigma))
            if projection is not None:  # of all rows: a sketch's are never known
                buffers[layer].put(batch.start, projection(batch.start, own))
                return True
            for part in runs:
                buffers[layer].put(int(batch.rows[part.start]), own[part])
            return True

        runs = _runs(batch.rows)
        self._put_known(batch, buffers)
        reached = self._capture(batch.sigma, list(buffers), batch.rows, keep) if runs else buffers
        for layer, buffer in buffers.items():
            if layer not in reached:
                raise ShapeError(f"layer {layer!r} was not reached in a forward pass, so it has nothing to store")
            self._store_sums((layer, batch.sigma), batch)
            buffer.pass_on(batch.stop, ends_block=batch.ends_block)
        return len(batch.rows)

    def _put_known(self, batch: ExtractionBatch, buffers: Mapping[str, ChunkBuffer]) -> None:
        """Copy what the batch leaves out, no more rows at once than it has room for."""
        rows = np.setdiff1d(np.arange(batch.start, batch.stop), batch.rows, assume_unique=True)
        for layer, buffer in buffers.items() if len(rows) else ():
            for start in range(0, len(rows), KNOWN_AT_ONCE):
                part = rows[start : start + KNOWN_AT_ONCE]
                values = torch.from_numpy(self._known[layer, batch.sigma].rows(part))
                for run in _runs(part):
                    buffer.put(int(part[run.start]), values[run])

    def _store_sums(self, key: LayerKey, batch: ExtractionBatch) -> None:
        if key not in self._projections:
            return
        self._projections[key].count()
        for chunk, outputs in self._projections[key].take_sums(batch.stop, ends_block=batch.ends_block).items():
            self._behind.submit(partial(store_sum, self._paths[key], chunk, outputs))

    def on_predict_end(self) -> None:
        self._behind.close()

    def abandon(self) -> None:
        """Write nothing more, after a failure; without one there is nothing left to write."""
        self._behind.abandon()
