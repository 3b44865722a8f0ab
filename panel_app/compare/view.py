"""The compare view: two maps side by side, linked by their samples, and below them how the two differ."""

from typing import Any

import panel_material_ui as pmui
import param

from panel_app.cards import hint
from panel_app.compare.between import BetweenPanel
from panel_app.compare.changes import ChangesPanel
from panel_app.compare.cka_heatmap import CkaPanel
from panel_app.compare.comparison import Comparison
from panel_app.compare.heading import SideChooser
from panel_app.compare.quality import QualityTable
from panel_app.compare.zoom import ZoomLink
from panel_app.components import Html
from panel_app.fields import Part, row, section, switch, text
from panel_app.map.embedding_map import EmbeddingMap
from panel_app.places import BETWEEN, CHANGES, CKA, QUALITY, TOOLS
from panel_app.session import Session

_ROOM = {"room_below": 470, "least": 320}
"""The two maps leave room for their legends, and for the headings of what stands below them."""
_TITLES = {
    CHANGES: "Changed neighbours",
    CKA: "Similarity of layers",
    QUALITY: "All measures",
    BETWEEN: "From one to the other",
}


class CompareView(Part):
    """Two maps and what they share. Whatever is selected, hovered, marked or filtered on one is so on the other.

    Args:
        session: the visitor's session, whose map is the left one.
        drawing: the map of the map view, which knows whether the page is dark.
    """

    def __init__(self, session: Session, drawing: EmbeddingMap, **params: Any) -> None:
        self.drawing, self.comparison = drawing, (comparison := Comparison(session))
        self.left, self.right = EmbeddingMap(comparison.left, **_ROOM), EmbeddingMap(comparison.right, **_ROOM)
        self.zoom = ZoomLink(comparison, self.left, self.right)
        self.choosers = SideChooser(comparison, right=False), SideChooser(comparison, right=True)
        self.changes, self.cka = ChangesPanel(comparison), CkaPanel(comparison)
        self.quality, self.between = QualityTable(comparison), BetweenPanel(comparison)
        self._build()
        self.together.param.watch(lambda event: comparison.set(together=event.new), "value")
        self.following.param.watch(lambda event: comparison.set(follow=event.new), "value")
        self.tabs.param.watch(lambda event: comparison.set(tool=TOOLS[event.new]), "active")
        super().__init__(session=session, **params)

    def _build(self) -> None:
        self.shared = text(margin=(10, 12, 0, 2))
        self.together = switch(
            "Zoom together", False,
            "Zooming or moving one map shows the same part, by its share of the whole, of the other.", margin=(8, 10),
        )  # fmt: skip
        self.following = switch(
            "Follow the selection", False,
            "Keeps the selected sample in the middle of both maps, at the same magnification.", margin=(8, 10),
        )  # fmt: skip
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
        self._below = pmui.Paper(
            section(self.tabs, margin=(2, 14, 14, 14)), elevation=0, variant="outlined", sizing_mode="stretch_width",
            margin=(12, 0, 0, 0),
        )  # fmt: skip
        self._waiting = Html(hint("Opening the right-hand map…"), visible=False, margin=(40, 20))
        self._right_map = section(self.right, self._waiting)
        half = {"min-width": "0", "flex": "1 1 0"}
        self._layout = section(
            row(self.shared, self.busy, self.together, self.following, swap),
            self.problem,
            row(
                section(self.choosers[0], self.left, margin=(0, 7, 0, 0), styles=half),
                section(self.choosers[1], self._right_map, margin=(0, 0, 0, 7), styles=half),
            ),
            self._below,
        )

    @param.depends(
        "comparison.pairing", "comparison.opening", "comparison.measuring", "comparison.problem",
        "session.state.against", watch=True, on_init=True,
    )  # fmt: skip
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

    @param.depends("drawing.dark", watch=True, on_init=True)
    def _take_theme(self) -> None:
        self.left.dark = self.right.dark = self.between.pane.cloud.dark = self.drawing.dark


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
