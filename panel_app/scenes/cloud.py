"""The pane that draws a scene, in the plane or in space, and turns pointer and clicks into sample ids."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import param

from diffviews.errors import SelectionError
from panel_app.cards import hover_card
from panel_app.components import BrowserPane
from panel_app.fields import Part
from panel_app.raster import disc_radius
from panel_app.scenes.paths import PathPlaces
from panel_app.scenes.scene import Scene
from panel_app.session import Session

_ESM = Path(__file__).parents[1] / "esm"
_PARTS = ("pane.js", "cloud_places.js", "cloud_pixels.js", "cloud_player.js", "point_cloud.js")
_USUAL_PIXELS = 820 * 540

OVER_SIGMA = {
    "slider": "Noise level σ",
    "help": "Noise level on show; between two slices the samples are on their way",
    "play": "Play from the noisiest to the clearest slice",
    "previous": "Previous slice, noisier",
    "next": "Next slice, clearer",
}
"""What the player over noise levels says."""


class PointCloud(BrowserPane):
    """Points of a scene. Positions and colours travel as bytes; see `esm/cloud_places.js` for where they appear."""

    solid = param.Boolean(False, doc="whether it is turned in space; else a player moves it along sigma")
    key = param.String(doc="what is drawn; messages repeat it, so that a late one is known")
    label = param.String(doc="what is seen, for those who do not see it")
    positions = param.Bytes(b"", doc="float32, (slices, samples, 2 or 3)")
    colours = param.Bytes(b"", doc="uint8, (samples, 4); alpha 0 hides")
    levels = param.List(doc="[{label, at}] of the slices, ascending; at is log sigma")
    at = param.Number(0.0, doc="log sigma on show")
    words = param.Dict(default=OVER_SIGMA, doc="what the player says; with `share`, at is 0 to −1 and shown in %")
    marks = param.List(doc="[{index, kind}] of rings")
    paths = param.List(doc="[{x, y, z, at, colour, dashed, unusual, stretches}] of paths; z is None on slices")
    card = param.Dict(default={}, doc="{of, index, slice, html} of the hovered sample")
    radius = param.Number(3.0, doc="of a disc, in pixels")
    dark = param.Boolean(False, doc="whether the page is dark")
    room_below = param.Integer(370, doc="pixels of the window left to what stands below")

    @classmethod
    def _render_esm(cls, *_: Any, **__: Any) -> str:
        """Return the parts as one module: a component's module cannot import another file of ours."""
        return "\n".join((_ESM / part).read_text(encoding="utf-8") for part in _PARTS)


class CloudPane(Part):
    """Shows a scene with the session's colours, filter and selection, and answers with the samples meant.

    Args:
        session: of the visitor.
        solid: whether the scene is turned in space; else a player moves it along its slices.
        label: what is seen, for those who do not see it.
        on_level: called with the place along the slices to which the visitor moved the player.
        words: what the player says.
    """

    scene = param.ClassSelector(class_=Scene, default=None, allow_None=True)

    def __init__(
        self,
        session: Session,
        *,
        solid: bool,
        label: str,
        on_level: Callable[[float], None] | None = None,
        words: dict[str, Any] = OVER_SIGMA,
        **params: Any,
    ) -> None:
        self._on_level = on_level
        self.path_places: PathPlaces = {}
        self._layout = self.cloud = PointCloud(
            self._answer, solid=solid, label=label, words=words, visible=False, margin=(0, 6)
        )
        super().__init__(session=session, **params)

    @param.depends("scene", watch=True)
    def _load(self) -> None:
        scene = self.scene
        self.path_places = {}
        self._hover(None, 0)
        self.cloud.visible = scene is not None
        if scene is None:
            return
        self.cloud.param.update(
            key=scene.map_run,
            levels=[{"label": label, "at": at} for label, at in scene.levels],
            positions=scene.positions.tobytes(),
            colours=self._colours(),
            radius=disc_radius(scene.rows.shape[1], _USUAL_PIXELS),
            marks=self._marks(),
            paths=[],
        )

    def _colours(self) -> bytes:
        layer_map, state = self.session.map, self.session.state
        if layer_map is None:
            return b""
        return self.scene.colours(layer_map, state.colour_by, state.filter, state.highlight).tobytes()

    @param.depends(
        "session.map", "session.state.filter", "session.state.colour_by", "session.state.highlight", watch=True
    )
    def _colour(self) -> None:
        if self.scene is not None:
            self.cloud.colours = self._colours()

    @param.depends("session.state.selection", "session.state.group", "session.state.hovered", watch=True)
    def _mark(self) -> None:
        if self.scene is not None:
            self.cloud.marks = self._marks()

    def _marks(self) -> list[dict[str, Any]]:
        state = self.session.state
        elsewhere = None if self.cloud.card else state.hovered  # the browser itself rings what is pointed at here
        return self.scene.marks(state.selection, state.group, elsewhere)

    def _answer(self, message: dict[str, Any]) -> None:
        """Answer the browser; what it says of a scene that has been left means nothing."""
        scene = self.scene
        if scene is None or message.get("of") != scene.map_run:
            return
        try:
            if "hover" in message:
                self._hover(message["hover"], message.get("slice", 0))
            elif "click" in message:
                self.session.click(scene.sample_at(message["click"]))
            elif self._on_level is not None and isinstance(at := message.get("at"), int | float):
                self._on_level(float(at))
        except SelectionError as error:
            self.session.tell(str(error))

    def _hover(self, index: int | None, at_slice: int) -> None:
        scene, state = self.scene, self.session.state
        if scene is None or index is None:
            state.hovered, self.cloud.card = None, {}
            return
        sample_id = scene.sample_at(index)
        if not isinstance(at_slice, int) or not 0 <= at_slice < len(scene.maps):
            raise SelectionError(f"there is no slice number {at_slice!r} on this map of {len(scene.maps)}")
        html = hover_card(scene.maps[at_slice], int(scene.rows[at_slice, index]))
        self.cloud.card = {"of": scene.map_run, "index": index, "slice": at_slice, "html": html}
        state.hovered = sample_id
