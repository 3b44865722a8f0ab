"""The bar that follows one job: its place in the queue, its progress, its end, and a cancel button."""

from collections.abc import Callable
from typing import Any

import panel as pn
import panel_material_ui as pmui

from diffviews.pipelines.job_queue import Job, QueueFullError
from panel_app.cards import hint
from panel_app.computing.session_jobs import SessionJobs
from panel_app.fields import Part, row, section, text
from panel_app.html import Html
from panel_app.pictures import PREVIEW, picture_address
from panel_app.session import Severity

_POLL_MS = 200


class JobBar(Part):
    """Submits work to the queue and shows it until it is over; one job at a time."""

    def __init__(
        self,
        jobs: SessionJobs,
        *,
        on_over: Callable[[], None],
        on_done: Callable[[Any], None],
        on_told: Callable[[str, Severity], None],
        **params: Any,
    ) -> None:
        """Follow one of a session's jobs.

        Args:
            jobs: of the session.
            on_over: called once a job is over, however it ended.
            on_done: called with the result of a job that finished.
            on_told: called with a sentence when a job failed or was cancelled.
        """
        super().__init__(**params)
        self._jobs, self._on_over, self._on_done, self._on_told = jobs, on_over, on_done, on_told
        self._job: Job | None = None
        self._poll: Any = None
        self.text = text(margin=(0, 0, 4, 0))
        self.progress = pmui.LinearProgress(variant="indeterminate", value=0, margin=0, sizing_mode="stretch_width")
        self.preview = Html(margin=(0, 10, 0, 0), visible=False)
        self.cancel = pmui.Button(
            label="Cancel", icon="close", variant="outlined", size="small", margin=(0, 0, 0, 8),
            on_click=lambda _: self._cancel(),
        )  # fmt: skip
        self._layout = row(self.preview, section(self.text, self.progress, margin=(4, 0)), self.cancel, margin=(8, 0))
        self._layout.visible = False

    @property
    def busy(self) -> bool:
        """Whether a job of this bar is queued or running."""
        return self._job is not None

    def start(self, title: str, work: Callable[[Job], Any]) -> None:
        """Queue work and follow it."""
        if self.busy:
            return
        try:
            self._job = self._jobs.submit(title, work)
        except QueueFullError as error:
            self._on_told(str(error), "warning")
            self._on_over()
            return
        self._layout.visible = True
        self.preview.visible = False
        self.cancel.disabled = False
        self._show(self._job)
        self._poll = pn.state.add_periodic_callback(self.follow, period=_POLL_MS)

    def follow(self) -> None:
        """Show the job as it is now; once it is over, hand over what came of it."""
        job = self._job
        if job is None:
            return
        if not job.over:
            self._show(job)
            return
        self._job = None
        if self._poll is not None:
            self._poll.stop()
        self._layout.visible = False
        self._on_over()
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
