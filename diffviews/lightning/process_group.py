"""The processes of one job: all run the same code, and torch's process group carries what they share.

    with joined_process_group() as group:                  # of one process where nothing started others
        plan = group.from_first(lambda: look_up(…))        # rank 0 alone looks, all know
        for block in group.share(plan.blocks):             # each takes its own
            …
        group.wait()                                       # all have done theirs

`torchrun` starts the processes, on one host or several; `run_processes` does the same on this host for `devices: N`.
A process that fails leaves its reason where the others find it when their connection breaks.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from diffviews.device import resolve_device
from diffviews.errors import ConfigError, DiffViewsError, WorkerError

T = TypeVar("T")
logger = logging.getLogger(__name__)

_PATIENCE = timedelta(days=7)  # a rank may wait while another makes images; a dead one ends all at once
_REASON = "reason"
_GONE = "a process of the job is gone, or it was ended from outside; what is written is kept, see its messages"


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """This process among those of its job; by default it is alone."""

    rank: int = 0
    """Number of this process, 0 … size − 1."""
    size: int = 1
    """How many processes the job has."""
    local_rank: int = 0
    """Number of this process among those of its host."""
    local_size: int = 1
    """How many of the processes are on this host."""
    notes: dist.Store | None = None
    """Where a process that fails leaves its reason."""

    @property
    def leads(self) -> bool:
        """True in the one process that writes to MLflow and talks to people."""
        return self.rank == 0

    def own_device(self, device: str) -> str:
        """Return the device of this process: on a host with several GPUs each process takes its own."""
        return f"cuda:{self.local_rank}" if self.size > 1 and resolve_device(device).type == "cuda" else device

    def share(self, work: Sequence[T]) -> list[T]:
        """Return this process's part of `work`; every process gives the same, and one may get nothing."""
        return list(work[self.rank :: self.size])

    def from_first(self, find: Callable[[], T]) -> T:
        """Have rank 0 alone call `find`, and return what it found, which is small, in every process.

        Raises:
            WorkerError: if rank 0 failed.
        """
        found = [find() if self.leads else None]
        if self.size > 1:
            with self.connected():
                dist.broadcast_object_list(found, src=0)
        return found[0]  # type: ignore[return-value]

    def wait(self) -> None:
        """Wait until every process is here.

        Raises:
            WorkerError: if one of them failed.
        """
        if self.size > 1:
            with self.connected():
                dist.barrier()

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Say why another process ended when the connection to it breaks inside the block.

        Raises:
            WorkerError: then, with the reason if it left one.
        """
        try:
            yield
        except RuntimeError as error:
            if self.notes is None or isinstance(error, DiffViewsError):
                raise
            reason = _left_reason(self.notes)
            if reason is None and not isinstance(error, dist.DistError) and "gloo" not in str(error):
                raise
            raise WorkerError(reason or _GONE) from error


ALONE = ProcessGroup()


def is_launched() -> bool:
    """Say whether this process is one of several that torchrun or `run_processes` started."""
    return torch.distributed.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1


@contextmanager
def joined_process_group() -> Iterator[ProcessGroup]:
    """Join the other processes of the job for the block, which is left together; a lone process joins nobody.

    Raises:
        WorkerError: if another process failed, with its reason, or is gone, or cannot be reached.
    """
    if not is_launched():
        yield ALONE
        return
    group = _join()
    try:
        with _ended_by_signal():
            yield group
            group.wait()
    except WorkerError:
        raise
    except BaseException as error:
        with suppress(RuntimeError):
            assert group.notes is not None
            said = str(error) if isinstance(error, DiffViewsError) else f"{type(error).__name__}: {error}"
            group.notes.set(_REASON, f"process {group.rank} of the job failed, what is written is kept: {said}")
        raise
    finally:
        dist.destroy_process_group()  # whoever still waits for this process learns by the broken connection


def _join() -> ProcessGroup:
    rank, size, local_rank, local_size = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        store, *_ = next(iter(dist.rendezvous("env://", timeout=_PATIENCE)))
        turn = store.add(f"jobs of {rank}", 1)  # the jobs of one program, one after the other, have a store in common
        notes = dist.PrefixStore(f"job {turn}", store)
        dist.init_process_group(backend, store=notes, rank=rank, world_size=size, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise WorkerError(f"process {rank} cannot reach the others: {error}") from error
    return ProcessGroup(rank, size, local_rank, local_size, notes)


def _left_reason(notes: dist.Store) -> str | None:
    """Return the reason that the first process to fail has left, if it could."""
    try:
        return str(notes.get(_REASON).decode()) if notes.check([_REASON]) else None
    except RuntimeError:
        return None  # the store went with the process that kept it


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Let the signal by which torchrun or a scheduler ends a process be an error, so that its run says so."""

    def end(number: int, frame: FrameType | None) -> None:
        if sys.exc_info()[0] is None:  # else it is ending already
            raise WorkerError(_GONE)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_processes(count: int, job: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call a job in `count` processes of this host, as `torchrun` would, and return what rank 0 returns.

    Args:
        count: how many.
        job: a function of a module; it joins the process group itself.
        arguments, options: of the job; they are sent to the processes.

    Raises:
        ConfigError: if this is one of several processes already.
        WorkerError: if a process is gone.
        DiffViewsError: that of the process that failed first.
    """
    if is_launched():
        raise ConfigError(f"torchrun decides how many processes there are; leave out devices={count}")
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for telling_everything in ("torch.distributed.elastic", "torch.multiprocessing.spawn", "torchelastic-events-null"):
        logging.getLogger(telling_everything).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        1, 1, count, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0, run_id="diffviews"
    )
    try:
        answers = elastic_launch(config, _answer)(job, arguments, options)
    except SignalException:
        raise KeyboardInterrupt from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        said = failure.message["message"] if isinstance(failure.message, dict) else failure.message
        raise WorkerError(f"process {rank} of the job failed, what is written is kept: {said}") from error
    errors = [answer for answer in answers.values() if isinstance(answer, DiffViewsError)]
    if errors:  # of the others some say only that one of them failed
        raise min(errors, key=lambda error: isinstance(error, WorkerError))
    return answers[0]


def _answer(job: Callable[..., T], arguments: Sequence[Any], options: dict[str, Any]) -> T | DiffViewsError:
    logging.basicConfig(level=logging.INFO if os.environ["RANK"] == "0" else logging.WARNING, format="%(message)s")
    try:
        return job(*arguments, **options)
    except DiffViewsError as error:
        return error
