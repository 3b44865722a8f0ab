"""The analysis tab: the marked samples against the rest, clusters, outliers, and where the map can be trusted."""

from typing import Any

import param

from panel_app.analysis.cluster_section import ClusterSection
from panel_app.analysis.extremes_section import OUTLIERS, TRUSTED, ExtremesSection
from panel_app.analysis.group_section import GroupSection
from panel_app.cards import hint
from panel_app.computing.job_bar import SessionJobs, processor_queue
from panel_app.fields import Part, choice, section, text
from panel_app.session import Session


class AnalysisPanel(Part):
    """One of four analyses of the map on show; nothing is computed while the tab is not looked at.

    Args:
        session: the visit.
        queue: for what takes long; None makes the visitor's own way to this process's queue for analyses.
    """

    active = param.Boolean(False, doc="whether the tab is looked at")

    def __init__(self, session: Session, queue: SessionJobs | None = None) -> None:
        self._queue = queue or SessionJobs(processor_queue())
        self.group = GroupSection(session, self._queue)
        self.clusters = ClusterSection(session, self._queue)
        self.outliers = ExtremesSection(session, OUTLIERS)
        self.trust = ExtremesSection(session, TRUSTED)
        self._parts: dict[str, Any] = {
            "group": self.group, "clusters": self.clusters, "outliers": self.outliers, "trust": self.trust
        }  # fmt: skip
        self.part = choice(
            "Analysis", {name.capitalize(): name for name in self._parts}, "group",
            "What sets the marked samples apart; dense heaps of samples; samples far from all others; "
            "where the map can be believed.", margin=(12, 0, 8, 0),
        )  # fmt: skip
        self._nothing = text(hint("Nothing is open."), visible=False)
        self._stage = section(self.group)
        self._layout = section(self.part, self._nothing, self._stage, margin=(0, 16, 16, 16))
        super().__init__(session=session)

    @param.depends(
        "active", "session.map", "session.state.group", "session.state.selection", "session.state.filter",
        "session.state.colour_by", watch=True,
    )  # fmt: skip
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

    @param.depends("part.value", watch=True)
    def _turn(self) -> None:
        self._stage[:] = [self._parts[self.part.value]]
        self.show()
