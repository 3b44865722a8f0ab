"""The processes of one job that torchrun started: rank 0 leads, the others do their share of what it hands out."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from diffviews.device import resolve_device
from diffviews.errors import ConfigError, DiffViewsError
from diffviews.lightning.runner import WorkerError

logger = logging.getLogger(__name__)

_PATIENCE = timedelta(days=7)  # a rank may wait while the leader makes images; torchrun ends all when one dies


class Team:
    """This process among those of the job, joined on construction; only what is small is sent.

    Raises:
        WorkerError: if the others cannot be reached.
    """

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.local_rank, self.local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        try:
            dist.init_process_group("gloo", timeout=_PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise WorkerError(f"rank {self.rank} cannot reach the others: {error}") from error

    @property
    def leads(self) -> bool:
        """True in the one process that talks to MLflow."""
        return self.rank == 0

    def own_device(self, device: str) -> str:
        """Return the device of this process: on a host with several GPUs each process takes its own."""
        kind = resolve_device(device).type
        return f"cuda:{self.local_rank}" if kind == "cuda" else kind

    def hand_out(self, task: Any) -> None:
        """Send a task to every follower; None dismisses them."""
        dist.broadcast_object_list([task], src=0)

    def tasks(self) -> Iterator[Any]:
        """Yield what the leader hands out, until it dismisses.

        Raises:
            WorkerError: if the leader is gone.
        """
        while True:
            received = [None]
            try:
                dist.broadcast_object_list(received, src=0)
            except RuntimeError as error:
                raise WorkerError("the first process of the job is gone; see its messages") from error
            if received[0] is None:
                return
            yield received[0]

    def together(self, work: Callable[[], None]) -> None:
        """Do this process's share and wait for the others'.

        Raises:
            WorkerError: in every process, if one of them failed.
        """
        problem = None
        try:
            work()
        except (DiffViewsError, OSError, RuntimeError, ValueError) as error:
            problem = f"{type(error).__name__}: {error}"
        except BaseException:
            dist.destroy_process_group()  # the others learn of it by the broken connection, and do not wait
            raise
        problems: list[str | None] = [None] * self.size
        try:
            dist.all_gather_object(problems, problem)
        except RuntimeError as error:
            raise WorkerError("a process of the job is gone, what is written is kept; see its messages") from error
        for rank, text in enumerate(problems):
            if text is not None:
                raise WorkerError(f"process {rank} of the job failed, what is written is kept: {text}")


@contextmanager
def joined_team(devices: int) -> Iterator[Team | None]:
    """Join the processes that torchrun started, for the block; None where it started no others.

    The leader dismisses its followers at the latest on leaving, whatever happened.

    Raises:
        ConfigError: if `devices` asks for further processes.
    """
    if not torch.distributed.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield None
        return
    if devices > 1:
        raise ConfigError(f"torchrun decides how many processes there are; leave out devices={devices}")
    team = Team()
    try:
        yield team
    finally:
        dismiss(team)


def dismiss(team: Team | None) -> None:
    """Let the followers go, if there are any left; the leader needs them no more."""
    if team is None or not dist.is_initialized():
        return
    if team.leads:
        try:
            team.hand_out(None)
        except RuntimeError:
            logger.warning("a process of the job was gone before its end; see its messages")
    dist.destroy_process_group()
