"""How jobs run under Lightning: one trainer for all of them, and Ctrl-C said as ours."""

import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import lightning
import torch
from torch.utils.data import DataLoader, Dataset


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


def predict(
    module: PredictModule, batches: Dataset[Any] | Sequence[Any], device: torch.device, *, progress: bool = True
) -> None:
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
