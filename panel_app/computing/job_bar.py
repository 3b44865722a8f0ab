"""A session's jobs in the queues of this process, and the bar that follows one of them."""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import panel as pn
import panel_material_ui as pmui
import param

from diffviews.pipelines.job_queue import Job, JobQueue, QueueFullError
from panel_app.cards import hint
from panel_app.components import Html
from panel_app.fields import Part, row, section, text
from panel_app.pictures import PREVIEW, picture_address
from panel_app.session import Session, Severity

_POLL_MS = 200


class SessionJobs:
    """One session's way to a queue that all sessions share; what nobody waits for any more is not begun.

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


class JobBar(Part):
    """Submits work to the queue and shows it until it is over; one job at a time.

    Args:
        session: the visit.
        jobs: of the session.
        on_done: called with the result of a job that finished.
        on_told: called with a sentence when a job failed or was cancelled; None tells the session.
    """

    busy = param.Boolean(False, doc="whether a job of this bar is queued or running")

    def __init__(
        self,
        session: Session,
        jobs: SessionJobs,
        on_done: Callable[[Any], None],
        on_told: Callable[[str, Severity], None] | None = None,
    ) -> None:
        super().__init__(session=session)
        self._jobs, self._on_done, self._on_told = jobs, on_done, on_told or session.tell
        self._job: Job | None = None
        self._poll = pn.state.add_periodic_callback(self.follow, period=_POLL_MS, start=False)
        self.text = text(margin=(0, 0, 4, 0))
        self.progress = pmui.LinearProgress(variant="indeterminate", value=0, margin=0, sizing_mode="stretch_width")
        self.preview = Html(margin=(0, 10, 0, 0), visible=False)
        self.cancel = pmui.Button(
            label="Cancel", icon="close", variant="outlined", size="small", margin=(0, 0, 0, 8),
            on_click=lambda _: self._cancel(),
        )  # fmt: skip
        self._layout = row(self.preview, section(self.text, self.progress, margin=(4, 0)), self.cancel, margin=(8, 0))
        self._layout.visible = False

    def start(self, title: str, work: Callable[[Job], Any]) -> None:
        """Queue work and follow it."""
        if self.busy:
            return
        try:
            self._job = self._jobs.submit(title, work)
        except QueueFullError as error:
            self._on_told(str(error), "warning")
            return
        self._layout.visible = True
        self.preview.visible = False
        self.cancel.disabled = False
        self._show(self._job)
        self._poll.start()
        self.busy = True

    def follow(self) -> None:
        """Show the job as it is now; once it is over, hand over what came of it."""
        job = self._job
        if job is None:
            return
        if not job.over:
            self._show(job)
            return
        self._job = None
        self._poll.stop()
        self._layout.visible = False
        self.busy = False
        if job.state == "finished":
            self._on_done(job.result)
        elif job.state == "cancelled":
            self._on_told(f"{job.kind} was cancelled; nothing was logged as finished.", "info")
        else:
            self._on_told(job.error or f"{job.kind} failed", "error")

    def _cancel(self) -> None:
        if self._job is not None:
            self.cancel.disabled = True
            self._jobs.queue.cancel(self._job)
            self.text.object = hint("Cancelling after this step…")

    def _show(self, job: Job) -> None:
        if self.cancel.disabled:
            return
        if job.state == "queued":
            ahead = self._jobs.queue.ahead_of(job)
            jobs = "1 job" if ahead == 1 else f"{ahead} jobs"
            said = f"waiting, {jobs} ahead" if ahead else "starting"
        else:
            said = job.note or (f"step {job.step} of {job.total}" if job.total else "preparing")
        self.text.object = hint(f"{job.kind}: {said}")
        if job.state == "queued" or job.note or not job.total:
            self.progress.variant = "indeterminate"
            return
        self.progress.param.update(variant="determinate", value=round(100 * job.step / job.total))
        preview = job.preview  # the job's thread lets go of it when it is over
        if preview is not None:
            address = picture_address(preview, PREVIEW)
            self.preview.param.update(
                object=f'<img class="px" src="{address}" width="44" height="44" alt="">', visible=True
            )
