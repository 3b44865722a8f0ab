"""One queue for everything that computes: a single worker thread, with place, progress and cancel."""

import functools
import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, Protocol

from diffviews.errors import CancelledError, DiffViewsError

logger = logging.getLogger(__name__)

Status = Literal["queued", "running", "finished", "cancelled", "failed"]


class Report(Protocol):
    """Called by the work between steps; raises CancelledError once cancelled."""

    def __call__(self, step: int, total: int, preview: Any = None, note: str = "") -> None:
        """Note `step` of `total`, a picture of how it looks, or what keeps the work from going on."""


@dataclass(frozen=True, slots=True)
class JobView:
    """A job at one moment, safe to show."""

    status: Status
    ahead: int
    """Jobs that run before this one, the running one included; 0 when running or over."""
    step: int = 0
    total: int = 0
    preview: Any = None
    error: str | None = None
    note: str = ""
    """What keeps a running job from going on, such as a worker that wakes."""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in ("finished", "cancelled", "failed")


class Job:
    """One piece of work in the queue; made by `JobQueue.submit`."""

    def __init__(self, number: int, title: str, work: Callable[[Report], Any]) -> None:
        self.number, self.title = number, title
        self.result: Any = None
        self.error: str | None = None
        self.status: Status = "queued"
        self._work = work
        self._cancelled = threading.Event()
        self._progress: tuple[int, int, Any, str] = (0, 0, None, "")

    def cancel(self) -> None:
        """Ask for the end: at once while queued, between two steps while running."""
        self._cancelled.set()
        if self.status == "queued":
            self.status = "cancelled"

    def report(self, step: int, total: int, preview: Any = None, note: str = "") -> None:
        """Note progress.

        Raises:
            CancelledError: if the job was cancelled.
        """
        if self._cancelled.is_set():
            raise CancelledError(f"{self.title} was cancelled at step {step} of {total}")
        self._progress = (step, total, preview, note)

    def run(self) -> None:
        """Do the work; whatever happens ends up in `status`, `result` and `error`."""
        if self._cancelled.is_set():
            return
        self.status = "running"
        try:
            self.result = self._work(self.report)
            self.status = "finished"
        except CancelledError:
            self.status = "cancelled"
        except DiffViewsError as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001 - the worker must outlive any job; the cause is logged
            logger.error("job %d (%s) failed\n%s", self.number, self.title, traceback.format_exc())
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            self._fail(f"{self.title} failed: {reason}. The server's log has the details.")

    def _fail(self, reason: str) -> None:
        self.error = reason
        self.status = "failed"

    def progress(self) -> tuple[int, int, Any, str]:
        """Return (step, total, preview, note) as last reported."""
        return self._progress


class JobQueue:
    """Runs jobs one at a time in the order they came, in one thread that starts with the first job."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def submit(self, title: str, work: Callable[[Report], Any]) -> Job:
        """Queue `work(report)` and return its job."""
        with self._changed:
            job = Job(next(self._numbers), title, work)
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="diffviews-jobs", daemon=True)
                self._thread.start()
            self._changed.notify()
        return job

    def view(self, job: Job) -> JobView:
        """Return a job's state and its place in the queue."""
        with self._changed:
            if job.status == "queued" and job in self._waiting:
                live = [other for other in self._waiting if other.status == "queued"]
                ahead = live.index(job) + (self._running is not None)
            else:
                ahead = 0
            step, total, preview, note = job.progress()
            return JobView(job.status, ahead, step, total, preview, job.error, note)

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                job = self._running = self._waiting.popleft()
            job.run()
            with self._changed:
                self._running = None


@functools.cache
def shared_queue() -> JobQueue:
    """Return this process's queue, the only one that touches the accelerator."""
    return JobQueue()
