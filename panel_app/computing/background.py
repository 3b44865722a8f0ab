"""Work beside the page: a thread computes while the page goes on and shows that it does."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import panel as pn

from panel_app.failures import failures_to

_POLL_MS = 100


@dataclass(slots=True)
class _Task:
    """One piece of work; the thread writes `result` or `error`, then `over`."""

    work: Callable[[], Any]
    on_done: Callable[[Any], None]
    over: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: str | None = None

    def run(self) -> None:
        with failures_to(self._fail, "work beside the page"):
            self.result = self.work()
        self.over.set()

    def _fail(self, sentence: str) -> None:
        self.error = sentence


class Background:
    """Does the newest piece of work asked for, one at a time; what was asked for before and waits is dropped.

    The work must not touch the page. Its result is handed over in the page's own thread.

    Args:
        on_failed: called with a sentence when work failed.
    """

    def __init__(self, on_failed: Callable[[str], None]) -> None:
        self._on_failed = on_failed
        self._running: _Task | None = None
        self._next: _Task | None = None
        self._poll = pn.state.add_periodic_callback(self.follow, period=_POLL_MS, start=False)

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits."""
        return self._running is not None

    def start(self, work: Callable[[], Any], on_done: Callable[[Any], None]) -> None:
        """Do `work()` in a thread and then `on_done(result)`; what runs already is finished, but not handed over."""
        self._next = _Task(work, on_done)
        if self._running is None:
            self._begin()
            self._poll.start()

    def follow(self) -> None:
        """Hand over what is finished, and begin what waits."""
        task = self._running
        if task is None or not task.over.is_set():
            return
        if self._next is not None:
            self._begin()
            return
        self._running = None
        self._poll.stop()
        if task.error is not None:
            self._on_failed(task.error)
        else:
            task.on_done(task.result)

    def leave(self) -> None:
        """Hand over nothing any more: the visitor has left."""
        self._running = self._next = None
        self._poll.stop()

    def _begin(self) -> None:
        task, self._next = self._next, None
        if task is not None:
            self._running = task
            threading.Thread(target=task.run, name="diffviews-background", daemon=True).start()
