"""Every sample's way from its place on the left map to its place on the right one: a scene of two slices."""

from typing import Any

import param

from panel_app.cards import hint
from panel_app.compare.comparison import Comparison
from panel_app.comparisons import FEWEST
from panel_app.fields import Part, section, text
from panel_app.places import BETWEEN
from panel_app.scenes.cloud import CloudPane
from panel_app.scenes.scene import Scene

_ROOM_BELOW = 470
"""Pixels of the window left to what stands around the scene."""
_WORDS = {
    "slider": "Between the maps: 0 left, 1 right",
    "help": "Moves every sample from its place on the left map to its place on the right one",
    "play": "Play from the left map to the right one",
    "previous": "The left map",
    "next": "The right map",
    "share": True,
}


class BetweenPanel(Part):
    """Both maps in one scene, with a player between them."""

    def __init__(self, comparison: Comparison, **params: Any) -> None:
        self.comparison = comparison
        self._key: tuple[Any, ...] | None = None
        self.summary = text(margin=(10, 0, 8, 0))
        self.pane = CloudPane(
            comparison.left, solid=False, label="Samples between their places on the left and on the right map",
            on_level=lambda at: comparison.set(share=min(max(round(-at, 3), 0.0), 1.0)), words=_WORDS,
        )  # fmt: skip
        self.pane.cloud.room_below = _ROOM_BELOW
        self._layout = section(self.summary, self.pane)
        super().__init__(session=comparison.session, **params)

    @param.depends(
        "comparison.pairing", "session.map", "session.state.against", watch=True, on_init=True
    )  # fmt: skip
    def show(self) -> None:
        """Lay the two maps over each other, if this is looked at."""
        comparison = self.comparison
        if comparison.against.tool != BETWEEN:
            return
        self.pane.cloud.at = -comparison.against.share
        left, right, pairing = comparison.session.map, comparison.right.plain, comparison.pairing
        if (left, right, pairing) == self._key:
            return
        self._key = left, right, pairing
        if left is None or right is None or pairing is None:
            self.pane.scene, self.summary.object = None, hint("Opening both maps…")
        elif len(pairing) < FEWEST:
            few = f"The two maps share fewer than {FEWEST} samples, so nothing can move between them."
            self.pane.scene, self.summary.object = None, hint(few)
        else:
            self.pane.scene, agreement = Scene.from_one_to_the_other(left, right, pairing.sample_ids)
            self.summary.object = hint(_sentence(self.pane.scene, agreement))


def _sentence(scene: Scene, agreement: float) -> str:
    drawn = len(scene.sample_ids)
    some = "" if drawn == scene.total else f" {drawn:,} of {scene.total:,} samples are drawn, chosen evenly."
    return (
        "The right map is turned, mirrored and scaled to lie as well as it can over the left one; every sample "
        f"then moves straight from one to the other. How alike the two layouts are: {agreement:.2f} of 1 "
        f"(Procrustes correlation). Colours as on the left.{some}"
    )
