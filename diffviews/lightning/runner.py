"""How jobs run under Lightning: one trainer for all, Ctrl-C said as ours, and generation in spans of samples."""

import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import lightning
import torch
from torch.utils.data import DataLoader, Dataset

from diffviews.adapters.base import GeneratorAdapter
from diffviews.core.generator import GenerationRequest, GenerationResult, generate


def trainer(device: torch.device, *, progress: bool = True, **options: Any) -> lightning.Trainer:
    """Return the Lightning trainer that every job runs on: no logger, no checkpoints, no output folder.

    Args:
        device: that of this process.
        progress: show a bar on a terminal.
        options: of `lightning.Trainer`, over and above.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    usual: dict[str, Any] = {
        "accelerator": "gpu" if device.type == "cuda" else device.type,
        "devices": 1 if device.index is None else [device.index],
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": progress and sys.stderr.isatty(),
    }
    return lightning.Trainer(**(usual | options))


class PredictModule(lightning.LightningModule):
    """A module whose batches stay on the host: it moves what its network reads."""

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch


@dataclass(frozen=True, slots=True)
class Span:
    """Samples [first, first + count) of a job."""

    first: int
    count: int


class GenerationModule(PredictModule):
    """Generates each span by the one `generate` and hands the result to `write`.

    Args:
        request: what to generate; each span is a part of it.
        write: called with the span and its result.
    """

    def __init__(
        self,
        adapter: GeneratorAdapter,
        request: GenerationRequest,
        write: Callable[[Span, GenerationResult], None],
    ) -> None:
        super().__init__()
        self._held = (adapter,)  # in a tuple: Lightning moves modules it knows back to the CPU at the end
        self._request, self._write = request, write

    def predict_step(self, batch: Span, batch_idx: int) -> int:
        """Generate one span; return its number of samples."""
        request = self._request.span(batch.first, batch.count)
        self._write(batch, generate(self._held[0], request, notices=batch_idx == 0))
        return batch.count


def predict(module: PredictModule, batches: Sequence[Any], device: torch.device, *, progress: bool = True) -> None:
    """Run a module over batches, one after the other, on the device of this process."""
    loader: DataLoader[Any] = DataLoader(cast("Dataset[Any]", batches), batch_size=None, collate_fn=lambda batch: batch)
    with interruptible():
        trainer(device, progress=progress).predict(module, loader, return_predictions=False)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C through as KeyboardInterrupt: Lightning exits on it and has the process ignore the next."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt from None
