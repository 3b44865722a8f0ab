"""Extractions that are being made: how far their runs say they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

import panel as pn
import param

from diffviews.tracking.catalog import Catalog
from panel_app.computing.background import Background
from panel_app.fields import Part, text
from panel_app.session import Session

_SHOWN = 4
_EVERY_MS = 5000


@dataclass(frozen=True, slots=True)
class Pending:
    """An extraction that has not ended."""

    run_id: str
    model: str
    dataset: str
    started: datetime
    done: int
    """Layer runs that are finished."""
    total: int
    """Layer runs there will be; 0 while that is not known."""


def pending_of(catalog: Catalog, experiment: str) -> list[Pending]:
    """Return the extractions of an experiment whose runs are RUNNING, newest first."""
    running = [r for r in catalog.extractions(experiment, unfinished=True) if r.status == "RUNNING"][:_SHOWN]
    found = []
    for run in running:
        levels = [level for level in run.params.get("sigmas", "").split(",") if level]
        layers = run.params.get("layers", "")
        total = int(layers) * len(levels) if layers.isdecimal() else 0
        done = len(catalog.layers(run.run_id))
        found.append(Pending(run.run_id, run.model or "a model", run.dataset or "", run.start_time, done, total))
    return found


class PendingPanel(Part):
    """Lists what is being extracted, and looks again while anything is."""

    def __init__(self, session: Session) -> None:
        self._known: frozenset[str] = frozenset()
        self._poll = pn.state.add_periodic_callback(self.look, period=_EVERY_MS, start=False)
        self._work = Background(lambda _: None)  # the page tells of a store that is down elsewhere
        self._layout = text(margin=(6, 0), visible=False)
        super().__init__(session=session)

    @param.depends("session.extractions", watch=True)
    def look(self) -> None:
        """Ask the tracking store what is being extracted."""
        experiment, library = self.session.state.experiment, self.session.store.library
        if experiment is not None and not self._work.busy:
            self._work.start(lambda: library.pending(experiment), self._show)

    def leave(self) -> None:
        """Look no more: the visitor has left."""
        self._work.leave()
        self._poll.stop()

    def _show(self, pending: Sequence[Pending]) -> None:
        ended = self._known - {p.run_id for p in pending}
        self._known = frozenset(p.run_id for p in pending)
        self._layout.param.update(object="".join(map(_line, pending)), visible=bool(pending))
        if pending and not self._poll.running:
            self._poll.start()
        elif not pending:
            self._poll.stop()
        if ended:
            self.session.refresh()


def _line(pending: Pending) -> str:
    far = f"{pending.done} of {pending.total} layer runs" if pending.total else "preparing"
    share = 100 * pending.done / pending.total if pending.total else 0
    when = pending.started.astimezone().strftime("%d %b %H:%M")
    return (
        f'<div style="margin-bottom:6px"><div class="small">Being extracted: {escape(pending.model)} on '
        f'{escape(pending.dataset)}</div><div class="muted small num">{far}, since {when}</div>'
        '<div style="height:4px;border-radius:2px;background:var(--dv-faint);margin-top:3px">'
        f'<div style="height:4px;border-radius:2px;background:var(--dv-primary);width:{share:.0f}%"></div></div></div>'
    )
