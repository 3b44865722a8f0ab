"""The analysis tab: the marked samples against the rest, clusters, outliers, and where the map can be trusted."""

import functools
from typing import Any

import panel as pn
import panel_material_ui as pmui
import param

from diffviews.serving import jobs as serving
from diffviews.serving.limits import Limits
from panel_app.analysis.cluster_section import ClusterSection
from panel_app.analysis.enrichment_table import GroupSection
from panel_app.analysis.extremes_section import OUTLIERS, TRUSTED, ExtremesSection
from panel_app.cards import hint
from panel_app.computing.jobs import JobQueue
from panel_app.html import Html
from panel_app.session import Session
from panel_app.theme import PANE_CSS


class AnalysisPanel(pn.viewable.Viewer):
    """One of four analyses of the map on show; nothing is computed while the tab is not looked at.

    Args:
        session: the visit.
        queue: for what takes long; None makes the visitor's own way to this process's queue for analyses.
    """

    active = param.Boolean(False, doc="whether the tab is looked at")

    def __init__(self, session: Session, queue: JobQueue | None = None, **params: Any) -> None:
        super().__init__(**params)
        self.session = session
        self._queue = queue or JobQueue(analysis_queue())
        self.group = GroupSection(session, self._queue)
        self.clusters = ClusterSection(session, self._queue)
        self.outliers = ExtremesSection(session, OUTLIERS)
        self.trust = ExtremesSection(session, TRUSTED)
        self._parts: dict[str, Any] = {
            "group": self.group,
            "clusters": self.clusters,
            "outliers": self.outliers,
            "trust": self.trust,
        }
        self.part = pmui.RadioButtonGroup(
            label="Analysis",
            options={"Group": "group", "Clusters": "clusters", "Outliers": "outliers", "Trust": "trust"},
            value="group",
            size="small",
            margin=(12, 0, 8, 0),
            sizing_mode="stretch_width",
            description="What sets the marked samples apart; dense heaps of samples; samples far from all others; "
            "where the map can be believed.",
        )
        self._nothing = Html(hint("Nothing is open."), stylesheets=[PANE_CSS], visible=False)
        self._stage = pn.Column(self.group, sizing_mode="stretch_width", margin=0)
        self._layout = pn.Column(
            self.part, self._nothing, self._stage, sizing_mode="stretch_width", margin=(0, 16, 16, 16)
        )
        self.part.param.watch(lambda _: self._turn(), "value")
        self.param.watch(lambda _: self.show(), "active")
        session.param.watch(lambda *_: self.show(), "map")
        session.state.param.watch(lambda *_: self.show(), ["group", "selection", "filter", "colour_by"])

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def show(self) -> None:
        """Show the analysis that is looked at."""
        if not self.active:
            return
        empty = self.session.map is None
        self._nothing.visible, self._stage.visible = empty, not empty
        if not empty:
            self._parts[self.part.value].show()

    def leave(self) -> None:
        """End what this visitor has still queued."""
        self._queue.leave()

    def _turn(self) -> None:
        self._stage[:] = [self._parts[self.part.value]]
        self.show()


@functools.cache
def analysis_queue() -> serving.JobQueue:
    """Return this process's queue for work that needs no accelerator, so that none waits for a generation."""
    return serving.JobQueue(Limits(waiting_jobs=64, kept_jobs=0), "server")
