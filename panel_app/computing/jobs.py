"""A visitor's jobs in the one queue of this process; those that nobody waits for any more are not begun."""

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from diffviews.serving import jobs as serving
from diffviews.serving.jobs import Job
from diffviews.serving.limits import Limits
from diffviews.serving.protocol import State

__all__ = ["Job", "JobQueue", "JobView", "Report", "shared_queue"]


_LIMITS = Limits(waiting_jobs=64, kept_jobs=0)
"""Who asked for a job holds it; kept here, results would outlive their visitors."""


class Report(Protocol):
    """Called by the work between steps; raises CancelledError once cancelled."""

    def __call__(self, step: int, total: int, preview: Any = None, note: str = "") -> None:
        """Note `step` of `total`, a picture of how it looks, or what keeps the work from going on."""


@dataclass(frozen=True, slots=True)
class JobView:
    """A job at one moment, safe to show."""

    status: State
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


class JobQueue:
    """One visitor's way to the queue.

    Args:
        shared: the queue of the process; None makes one of its own.
    """

    def __init__(self, shared: serving.JobQueue | None = None) -> None:
        self._shared = shared or serving.JobQueue(_LIMITS, "server")
        self._own: weakref.WeakSet[Job] = weakref.WeakSet()

    def submit(self, title: str, work: Callable[[Report], Any]) -> Job:
        """Queue `work(report)` and return its job.

        Raises:
            QueueFullError: if too many jobs wait.
        """
        job = self._shared.submit(title, lambda job: work(job.report))
        self._own.add(job)
        return job

    def view(self, job: Job) -> JobView:
        """Return a job's state and its place in the queue."""
        return JobView(
            job.state, self._shared.ahead_of(job), job.step, job.total, job.preview, job.error, job.note
        )

    def cancel(self, job: Job) -> None:
        """End a job: at once while queued, between two steps while running."""
        self._shared.cancel(job)

    def leave(self) -> None:
        """End what this visitor has still queued; what runs already goes on and is logged."""
        for job in list(self._own):
            self._shared.cancel(job, queued_only=True)


@functools.cache
def shared_queue() -> serving.JobQueue:
    """Return this process's queue, the only one that touches the accelerator."""
    return serving.JobQueue(_LIMITS, "server")
