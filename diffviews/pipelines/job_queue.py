"""The queue of everything that computes: one job at a time in one thread, with place, progress, cancel and an end
in words. The worker has one, and so has the dashboard that computes by itself.
"""

import logging
import re
import secrets
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from diffviews.errors import CancelledError, ConfigError, DiffViewsError
from diffviews.tracking.connection import redact

logger = logging.getLogger(__name__)

State = Literal["queued", "running", "finished", "failed", "cancelled"]
_ID = re.compile(r"[0-9a-f]{32}")


class QueueFullError(DiffViewsError, RuntimeError):
    """The queue takes no further job now."""


class QueueStoppedError(DiffViewsError, RuntimeError):
    """The queue was stopped before the job was done."""


class JobNotFoundError(DiffViewsError, LookupError):
    """No job of this id is known."""


class JobFailedError(DiffViewsError, RuntimeError):
    """A job ended without a result; the message says why."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Job:
    """One piece of work, which is given the job to report to; its queue's lock guards `state`."""

    id: str
    kind: str
    """What it is, as the sentence on its failure begins: `generate`, `extract`, “Computing the map”."""
    work: Callable[["Job"], Any] | None
    """Returns the result, of a worker's jobs the id of the run that was logged; let go of once it is over."""
    state: State = "queued"
    step: int = 0
    total: int = 0
    note: str = ""
    """What keeps a running job from going on, such as a worker that wakes."""
    run_id: str | None = None
    """Run that it logs, once that is known."""
    result: Any = None
    error: str | None = None
    preview: np.ndarray | None = None
    """Present estimate of the first image, (H, W, 3) uint8."""
    ended: float = 0.0
    end: DiffViewsError | None = field(default=None)
    """What to raise at the next step, once the job is to end."""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("finished", "failed", "cancelled")

    def check(self) -> None:
        """Go on, or end.

        Raises:
            CancelledError: if it was cancelled. QueueStoppedError: if its queue is being stopped.
        """
        if self.end is not None:
            raise self.end

    def report(self, step: int, total: int, preview: np.ndarray | None = None, note: str = "") -> None:
        """Note progress, how it looks, and what keeps it from going on; raises as `check` does."""
        self.step, self.total, self.note = step, total, note
        if preview is not None:
            self.preview = preview
        self.check()


class JobQueue:
    """Runs jobs in the order they came.

    Args:
        waiting: jobs that may wait.
        kept: jobs that are over and can still be asked about; who holds a job itself needs none.
        kept_seconds: how long those are kept.
        host: what computes, as sentences call it.
    """

    def __init__(
        self, waiting: int = 64, *, kept: int = 0, kept_seconds: float = 3600.0, host: str = "server"
    ) -> None:
        self._most_waiting, self._most_kept, self._kept_seconds, self._host = waiting, kept, kept_seconds, host
        self._jobs: dict[str, Job] = {}
        self._waiting: list[Job] = []
        self._running: Job | None = None
        self._stopped: str | None = None
        self._busy_until = time.monotonic()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def submit(self, kind: str, work: Callable[[Job], Any], job_id: str | None = None) -> Job:
        """Queue `work`; an id that is known already answers with its job, so that a request can be repeated.

        Raises:
            ConfigError: if the id has another form. QueueFullError: if too many wait.
            QueueStoppedError: if the queue is being stopped.
        """
        if job_id is not None and not _ID.fullmatch(job_id):
            raise ConfigError("a job's id has 32 hexadecimal digits; leave it out to be given one")
        with self._changed:
            self._forget()
            if job_id in self._jobs:
                return self._jobs[job_id]
            if self._stopped:
                raise QueueStoppedError(self._stopped)
            if len(self._waiting) >= self._most_waiting:
                raise QueueFullError(
                    f"{len(self._waiting)} jobs wait already, this {self._host} holds no more; try later"
                )
            job = Job(job_id or secrets.token_hex(16), kind, work)
            self._jobs[job.id] = job
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="diffviews-jobs", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return job

    def find(self, job_id: str) -> Job:
        """Return the job of this id.

        Raises:
            JobNotFoundError: if there is none, or it has been forgotten.
        """
        with self._changed:
            self._forget()
            job = self._jobs.get(job_id)
        if job is None:
            raise JobNotFoundError(
                f"no job {job_id[:40]!r} is known here; it was forgotten, or the {self._host} has been started anew "
                "since"
            )
        return job

    def ahead_of(self, job: Job) -> int:
        """Return how many jobs run before this one, the running one included; 0 when it runs or is over."""
        with self._changed:
            return self._waiting.index(job) + (self._running is not None) if job in self._waiting else 0

    def jobs(self) -> list[Job]:
        """Return all jobs that are known, oldest first."""
        with self._changed:
            self._forget()
            return list(self._jobs.values())

    def cancel(self, job: Job, *, queued_only: bool = False) -> None:
        """End a job: at once while queued, between two steps while running, not at all when it is over.

        Args:
            job: to end.
            queued_only: let it go on if it runs already.
        """
        with self._changed:
            queued = job in self._waiting
            if queued or not queued_only:
                job.end = job.end or CancelledError(f"cancelled at step {job.step} of {job.total}")
            if queued:
                self._waiting.remove(job)
                self._over(job, "cancelled")

    def stop(self, reason: str, seconds: float = 60.0) -> None:
        """Take no more jobs, end all there are with `reason`, and wait until the running one has ended."""
        with self._changed:
            self._stopped = reason
            for job in self._waiting:
                job.error = reason
                self._over(job, "failed")
            self._waiting.clear()
            if self._running is not None:
                self._running.end = QueueStoppedError(reason)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._running is None, seconds)

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last job ended, 0 while there is one."""
        with self._changed:
            busy = self._running is not None or bool(self._waiting)
            return 0.0 if busy else time.monotonic() - self._busy_until

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting) or self._stopped is not None)
                if not self._waiting:
                    return
                job = self._running = self._waiting.pop(0)
                job.state = "running"
            state = _run(job, self._host)
            with self._changed:
                self._over(job, state)
                self._running = None
                self._forget()
                self._changed.notify_all()
            del job  # else its result would stay until the next one comes

    def _over(self, job: Job, state: State) -> None:
        job.work = job.preview = job.end = None  # what it raised holds the frames it passed, and the model in them
        job.state = state
        job.ended = self._busy_until = time.monotonic()

    def _forget(self) -> None:
        """Drop jobs that have been over for long, and the oldest where there are too many."""
        over = sorted((job for job in self._jobs.values() if job.ended), key=lambda job: job.ended)
        oldest = time.monotonic() - self._kept_seconds
        surplus = len(over) - self._most_kept
        for number, job in enumerate(over):
            if number < surplus or job.ended < oldest:
                del self._jobs[job.id]


def _run(job: Job, host: str) -> State:
    """Do a job's work; what goes wrong becomes a sentence."""
    assert job.work is not None
    try:
        job.check()
        job.result = job.work(job)
    except CancelledError:
        return "cancelled"
    except DiffViewsError as error:
        job.error = redact(str(error))
        return "failed"
    except Exception as error:  # noqa: BLE001 - the queue outlives any job; the cause is in the log
        logger.error("job %s failed\n%s", job.id, traceback.format_exc())
        job.error = _unforeseen(job.kind, error, host)
        return "failed"
    if isinstance(job.result, str):
        job.run_id = job.result
    return "finished"


def _unforeseen(kind: str, error: Exception, host: str) -> str:
    if type(error).__name__ == "OutOfMemoryError":
        return "the accelerator ran out of memory; ask for fewer images or a smaller batch"
    return f"{kind} failed unexpectedly ({type(error).__name__}); the {host}'s log has the details"
