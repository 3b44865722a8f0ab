"""The compare view: two maps side by side, linked by their samples, and below them how the two differ."""

from typing import Any

import panel as pn
import panel_material_ui as pmui

from panel_app.cards import hint
from panel_app.compare.between import BetweenPanel
from panel_app.compare.changes import ChangesPanel
from panel_app.compare.cka_heatmap import CkaPanel
from panel_app.compare.comparison import Comparison
from panel_app.compare.heading import SideChooser
from panel_app.compare.quality import QualityTable
from panel_app.compare.zoom import ZoomLink
from panel_app.html import Html
from panel_app.map.embedding_map import EmbeddingMap
from panel_app.places import BETWEEN, CHANGES, CKA, COMPARE, QUALITY, TOOLS
from panel_app.session import Session
from panel_app.theme import PANE_CSS

__all__ = ["COMPARE", "CompareView"]

_ROOM = {"room_below": 470, "least": 320}
"""The two maps leave room for their legends, and for the headings of what stands below them."""
_TITLES = {
    CHANGES: "Changed neighbours",
    CKA: "Similarity of layers",
    QUALITY: "All measures",
    BETWEEN: "From one to the other",
}


class CompareView(pn.viewable.Viewer):
    """Two maps and what they share. Whatever is selected, hovered, marked or filtered on one is so on the other.

    Args:
        session: the visitor's session, whose map is the left one.
        drawing: the map of the map view, which knows whether the page is dark.
    """

    def __init__(self, session: Session, drawing: EmbeddingMap, **params: Any) -> None:
        super().__init__(**params)
        self.comparison = Comparison(session)
        self.left = EmbeddingMap(self.comparison.left, **_ROOM)
        self.right = EmbeddingMap(self.comparison.right, **_ROOM)
        self.zoom = ZoomLink(self.comparison, self.left, self.right)
        self.choosers = SideChooser(self.comparison, right=False), SideChooser(self.comparison, right=True)
        self.changes = ChangesPanel(self.comparison)
        self.cka = CkaPanel(self.comparison)
        self.quality = QualityTable(self.comparison)
        self.between = BetweenPanel(self.comparison)
        self._build()
        self.comparison.param.watch(lambda *_: self.follow(), ["pairing", "opening", "measuring", "problem"])
        session.state.param.watch(lambda *_: self.follow(), "against")
        drawing.param.watch(lambda event: self._take_theme(event.new), "dark")
        self._take_theme(drawing.dark)
        self.follow()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def _build(self) -> None:
        self.shared = Html("", stylesheets=[PANE_CSS], sizing_mode="stretch_width", margin=(10, 12, 0, 2))
        self.together = pmui.Switch(
            label="Zoom together", size="small", margin=(8, 10),
            description="Zooming or moving one map shows the same part, by its share of the whole, of the other.",
        )  # fmt: skip
        self.following = pmui.Switch(
            label="Follow the selection", size="small", margin=(8, 10),
            description="Keeps the selected sample in the middle of both maps, at the same magnification.",
        )  # fmt: skip
        self.together.param.watch(lambda event: self.comparison.set(together=event.new), "value")
        self.following.param.watch(lambda event: self.comparison.set(follow=event.new), "value")
        swap = pmui.Button(
            label="Swap", icon="swap_horiz", variant="outlined", size="small", margin=(5, 0, 5, 8),
            description="Puts the left map on the right and the right one on the left.",
            on_click=lambda _: self.comparison.swap(),
        )  # fmt: skip
        self.busy = pmui.CircularProgress(value=0, variant="indeterminate", size=18, margin=(9, 8), visible=False)
        self.problem = pmui.Alert(object="", severity="info", visible=False, sizing_mode="stretch_width", margin=(8, 0))
        panels = (self.changes, self.cka, self.quality, self.between)
        self.tabs = pmui.Tabs(
            *((_TITLES[tool], panel) for tool, panel in zip(TOOLS, panels, strict=True)),
            sizing_mode="stretch_width", margin=0, dynamic=False,
        )  # fmt: skip
        self.tabs.param.watch(lambda event: self.comparison.set(tool=TOOLS[event.new]), "active")
        self._below = pmui.Paper(
            pn.Column(self.tabs, sizing_mode="stretch_width", margin=(2, 14, 14, 14)),
            elevation=0,
            variant="outlined",
            sizing_mode="stretch_width",
            margin=(12, 0, 0, 0),
        )
        self._waiting = Html(
            hint("Opening the right-hand map…"), stylesheets=[PANE_CSS], visible=False, margin=(40, 20)
        )
        self._right_map = pn.Column(self.right, self._waiting, sizing_mode="stretch_width", margin=0)
        columns = [
            pn.Column(
                chooser, drawing, sizing_mode="stretch_width", margin=margin, styles={"min-width": "0", "flex": "1 1 0"}
            )
            for chooser, drawing, margin in zip(
                self.choosers, (self.left, self._right_map), ((0, 7, 0, 0), (0, 0, 0, 7)), strict=True
            )
        ]
        self._layout = pn.Column(
            pn.Row(self.shared, self.busy, self.together, self.following, swap, sizing_mode="stretch_width", margin=0),
            self.problem,
            pn.Row(*columns, sizing_mode="stretch_width", margin=0),
            self._below,
            sizing_mode="stretch_width",
            margin=0,
        )

    def follow(self) -> None:
        """Show how the comparison stands."""
        comparison, against = self.comparison, self.comparison.against
        self.together.value, self.following.value = against.together, against.follow
        self.tabs.active = TOOLS.index(against.tool)
        self.problem.param.update(object=comparison.problem, visible=bool(comparison.problem))
        self.busy.visible = comparison.opening or comparison.measuring
        self._waiting.visible = comparison.opening and comparison.right.plain is None
        self._right_map.visible = comparison.right.plain is not None or comparison.opening
        self._below.visible = self._right_map.visible
        self.shared.object = f'<span class="title">{shared_sentence(comparison)}</span>'

    def _take_theme(self, dark: bool) -> None:
        self.left.dark = self.right.dark = self.between.pane.cloud.dark = dark


def shared_sentence(comparison: Comparison) -> str:
    """Say how many samples both maps have."""
    if comparison.opening:
        return "Opening the right-hand map…"
    pairing = comparison.pairing
    if pairing is None:
        return "Comparing…" if comparison.measuring else "Compare"
    count = len(pairing)
    if not count:
        return "No sample is on both maps; choose extractions of the same sample set"
    return f"{count:,} {'sample' if count == 1 else 'samples'} in both"
