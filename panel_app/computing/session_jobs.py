"""A session's jobs in the queues of this process; those that nobody waits for any more are not begun."""

import functools
import weakref
from collections.abc import Callable
from typing import Any

from diffviews.pipelines.job_queue import Job, JobQueue


class SessionJobs:
    """One session's way to a queue that all sessions share.

    Args:
        queue: of the process; None makes one for this session alone.
    """

    def __init__(self, queue: JobQueue | None = None) -> None:
        self.queue = queue or JobQueue()
        self._own: weakref.WeakSet[Job] = weakref.WeakSet()

    def submit(self, title: str, work: Callable[[Job], Any]) -> Job:
        """Queue `work(job)` and return its job.

        Raises:
            QueueFullError: if too many jobs wait.
        """
        job = self.queue.submit(title, work)
        self._own.add(job)
        return job

    def leave(self) -> None:
        """End what this session has still queued; what runs already goes on and is logged."""
        for job in list(self._own):
            self.queue.cancel(job, queued_only=True)


@functools.cache
def accelerator_queue() -> JobQueue:
    """Return this process's queue for what touches the accelerator: no other may."""
    return JobQueue()


@functools.cache
def processor_queue() -> JobQueue:
    """Return this process's queue for work that needs no accelerator, so that none waits for a generation."""
    return JobQueue()
