"""The worker's queue: one job at a time in a thread of its own, with place, progress, cancel and an end in words."""

import base64
import logging
import re
import secrets
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from diffviews.errors import CancelledError, ConfigError, DiffViewsError
from diffviews.serving.errors import JobNotFoundError, QueueFullError, WorkerStoppedError
from diffviews.serving.limits import Limits
from diffviews.serving.protocol import JobStatus, State, as_png
from diffviews.tracking.connection import redact

logger = logging.getLogger(__name__)

Kind = Literal["generate", "extract"]
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(slots=True, eq=False)
class Job:
    """One piece of work; its queue's lock guards `state`."""

    id: str
    kind: Kind
    work: Callable[["Job"], str]
    """Returns the id of the run it logged."""
    state: State = "queued"
    step: int = 0
    total: int = 0
    run_id: str | None = None
    error: str | None = None
    preview: np.ndarray | None = None
    """Present estimate of the first image, (H, W, 3) uint8."""
    ended: float = 0.0
    end: DiffViewsError | None = field(default=None)
    """What to raise at the next step, once the job is to end."""

    def check(self) -> None:
        """Go on, or end.

        Raises:
            CancelledError: if the caller cancelled the job. WorkerStoppedError: if the worker is being stopped.
        """
        if self.end is not None:
            raise self.end

    def report(self, step: int, total: int, preview: np.ndarray | None = None) -> None:
        """Note progress; raises as `check` does."""
        self.step, self.total = step, total
        if preview is not None:
            self.preview = preview
        self.check()


class JobQueue:
    """Runs jobs in the order they came.

    Args:
        limits: how many may wait, and how long those that are over are kept.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._jobs: dict[str, Job] = {}
        self._waiting: list[Job] = []
        self._running: Job | None = None
        self._stopped: str | None = None
        self._busy_until = time.monotonic()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def submit(self, kind: Kind, work: Callable[[Job], str], job_id: str | None = None) -> Job:
        """Queue `work`; an id that is known already answers with its job, so that a request can be repeated.

        Raises:
            ConfigError: if the id has another form. QueueFullError: if too many wait.
            WorkerStoppedError: if the worker is being stopped.
        """
        if job_id is not None and not _ID.fullmatch(job_id):
            raise ConfigError("a job's id has 32 hexadecimal digits; leave it out to be given one")
        with self._changed:
            self._forget()
            if job_id in self._jobs:
                return self._jobs[job_id]
            if self._stopped:
                raise WorkerStoppedError(self._stopped)
            if len(self._waiting) >= self._limits.waiting_jobs:
                raise QueueFullError(f"{len(self._waiting)} jobs wait already, this worker holds no more; try later")
            job = Job(job_id or secrets.token_hex(16), kind, work)
            self._jobs[job.id] = job
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="diffviews-worker-jobs", daemon=True)
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
                f"no job {job_id[:40]!r} is known here; it was forgotten, or the worker has been started anew since"
            )
        return job

    def status(self, job: Job, *, preview: bool = False) -> JobStatus:
        """Return a job as it is now."""
        with self._changed:
            ahead = self._waiting.index(job) + (self._running is not None) if job in self._waiting else 0
            shown = job.preview if preview else None
            values = (job.id, job.kind, job.state, ahead, job.step, job.total, job.run_id, job.error)
        return JobStatus(*values, preview=None if shown is None else base64.b64encode(as_png(shown)).decode())

    def jobs(self) -> list[Job]:
        """Return all jobs that are known, oldest first."""
        with self._changed:
            self._forget()
            return list(self._jobs.values())

    def cancel(self, job: Job) -> None:
        """End a job: at once while queued, between two steps while running, not at all when it is over."""
        with self._changed:
            job.end = job.end or CancelledError(f"cancelled at step {job.step} of {job.total}")
            if job in self._waiting:
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
                self._running.end = WorkerStoppedError(reason)
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
            state = _run(job)
            with self._changed:
                self._over(job, state)
                self._running = None
                self._changed.notify_all()

    def _over(self, job: Job, state: State) -> None:
        job.state, job.preview = state, None
        job.ended = self._busy_until = time.monotonic()

    def _forget(self) -> None:
        """Drop jobs that have been over for long, and the oldest where there are too many."""
        over = sorted((job for job in self._jobs.values() if job.ended), key=lambda job: job.ended)
        oldest = time.monotonic() - self._limits.kept_seconds
        surplus = len(over) - self._limits.kept_jobs
        for number, job in enumerate(over):
            if number < surplus or job.ended < oldest:
                del self._jobs[job.id]


def _run(job: Job) -> State:
    """Do a job's work; what goes wrong becomes a sentence."""
    try:
        job.check()
        job.run_id = job.work(job)
    except CancelledError:
        return "cancelled"
    except DiffViewsError as error:
        job.error = redact(str(error))
        return "failed"
    except Exception as error:  # noqa: BLE001 - the worker outlives any job; the cause is in its log
        logger.error("job %s failed\n%s", job.id, traceback.format_exc())
        job.error = _unforeseen(job.kind, error)
        return "failed"
    return "finished"


def _unforeseen(kind: Kind, error: Exception) -> str:
    if type(error).__name__ == "OutOfMemoryError":
        return "the accelerator ran out of memory; ask for fewer images or a smaller batch"
    return f"{kind} failed unexpectedly ({type(error).__name__}); the worker's log has the details"
