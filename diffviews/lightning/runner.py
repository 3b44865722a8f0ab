"""How jobs run under Lightning: one trainer for all of them, and failures and Ctrl-C said as ours."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import lightning
from torch.multiprocessing.spawn import ProcessException

from diffviews.errors import DiffViewsError


class WorkerError(DiffViewsError, RuntimeError):
    """One of the processes of a job on several devices failed."""


def trainer(accelerator: str, devices: int | list[int] = 1, progress: bool = True) -> lightning.Trainer:
    """Return the Lightning trainer that every job runs on: no logger, no checkpoints, no output folder.

    Args:
        accelerator: kind of device.
        devices: how many of them, or the numbers of those to take.
        progress: show a bar on a terminal.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    return lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(accelerator, accelerator),
        devices=devices,
        strategy="ddp_spawn" if isinstance(devices, int) and devices > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress and sys.stderr.isatty(),
        use_distributed_sampler=False,
    )


def predict(runner: lightning.Trainer, module: lightning.LightningModule, data: lightning.LightningDataModule) -> None:
    """Run a module over its data, on every device of the trainer.

    Raises:
        WorkerError: if one of several processes failed.
    """
    with interruptible():
        try:
            runner.predict(module, data, return_predictions=False)
        except ProcessException as error:
            reason = str(error).strip().splitlines()[-1]
            raise WorkerError(
                f"process {error.error_index} of the job failed, what is written is kept: {reason}"
            ) from error


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
