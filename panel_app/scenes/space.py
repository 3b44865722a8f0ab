"""The view in space: an aligned map's slices stacked along log sigma, or a UMAP with three components."""

from dataclasses import replace
from typing import Any

import panel as pn
import panel_material_ui as pmui

from panel_app.cards import quiet
from panel_app.computing.background import Background
from panel_app.computing.jobs import JobQueue
from panel_app.computing.studio import Studio
from panel_app.generation.results import Results
from panel_app.html import Html
from panel_app.map.legend import MapLegend
from panel_app.points import short_sigma
from panel_app.scenes.cloud import CloudPane
from panel_app.scenes.noise import caption_of, draw_paths
from panel_app.scenes.order import ALIGNED, SOLID, MapOrder
from panel_app.scenes.place import SIGMA_AXIS, THREE_AXES
from panel_app.scenes.scene import Scene
from panel_app.scenes.slices import Found, aligned_scene, solid_maps, solid_scene
from panel_app.session import Session
from panel_app.theme import ONE_LINE, PANE_CSS

NAME = "3d"
"""What the address calls this view."""


class SpaceView(pn.viewable.Viewer):
    """Shows the layer on show in space, in one of two ways."""

    def __init__(self, session: Session, studio: Studio, queue: JobQueue, results: Results, **params: Any) -> None:
        super().__init__(**params)
        self.session, self.results = session, results
        self._loaded: tuple[Any, ...] | None = None
        self._following = False
        self._background = Background(self._failed)
        self.pane = CloudPane(session, solid=True, label="Samples in space; arrow keys turn, plus and minus zoom")
        self.order = MapOrder(session, studio, queue, self._made)
        self._build()
        session.param.watch(lambda *_: self.follow(), ["opened", "maps"])
        session.state.param.watch(lambda *_: self.follow(), ["view", "across"])
        session.state.param.watch(lambda *_: self._describe(), "filter")
        results.param.watch(lambda *_: self._draw_paths(), "tracks")
        results.drawing.param.watch(lambda event: setattr(self.pane.cloud, "dark", event.new), "dark")
        self.pane.cloud.dark = results.drawing.dark
        self.follow()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def _build(self) -> None:
        self.caption = Html("", margin=(7, 8, 0, 14), sizing_mode="stretch_width", stylesheets=[PANE_CSS])
        self.axis = pmui.RadioButtonGroup(
            label="Third dimension", options={"Noise level": SIGMA_AXIS, "UMAP": THREE_AXES}, value=self._wanted_axis(),
            size="small", margin=(4, 10), sx=ONE_LINE,
            description="Upwards: the slices of an aligned map by log σ, or the third component of a UMAP in 3-D.",
        )  # fmt: skip
        self.axis.param.watch(self._choose, "value")
        self.legend = MapLegend(self.session)
        help_text = quiet(
            "Drag or arrow keys to turn, wheel or + and − to zoom, 0 for the first view. A click selects; over noise "
            "levels a thread joins a selected sample's places."
        )
        help_text.margin = (0, 14, 8, 14)
        self._shown = pn.Column(self.pane, self.legend, help_text, sizing_mode="stretch_width", margin=0, visible=False)
        self._layout = pmui.Paper(
            pn.Row(self.caption, self.axis, sizing_mode="stretch_width", margin=0), self.order, self._shown,
            elevation=0, variant="outlined", sizing_mode="stretch_width", margin=0,
        )  # fmt: skip

    # -- what is on show -------------------------------------------------------------------

    def _wanted_axis(self) -> str:
        """Return the axis that the state names; a map in three dimensions on show asks for its own."""
        opened = self.session.opened
        own = THREE_AXES if opened is not None and "z" in opened.table else SIGMA_AXIS
        return self.session.state.across.axis or own

    def follow(self) -> None:
        """Open what the session shows, unless it is open already or nobody looks."""
        opened, state = self.session.opened, self.session.state
        if state.view != NAME or opened is None:
            return
        axis, layer, store, maps = self._wanted_axis(), opened.layer, self.session.store, list(self.session.maps)
        self._following = True
        self.axis.value = axis
        self._following = False
        if axis == SIGMA_AXIS:
            asked: tuple[Any, ...] = (axis, layer.parent_id, layer.layer, state.across.map_run)
        else:
            asked = (axis, opened.map_run, *(m.run_id for m in solid_maps(maps)))
        if asked == self._loaded:
            return
        self._loaded = asked
        self._show(None)
        self.caption.object = ""
        self.order.say("Opening the slices…" if axis == SIGMA_AXIS else "Opening the map…")
        if axis == SIGMA_AXIS:
            wanted = state.across.map_run
            self._background.start(lambda: aligned_scene(store, layer, wanted), self._found)
        else:
            self._background.start(lambda: solid_scene(store, opened, maps), self._found)

    def _found(self, found: Found) -> None:
        if found.lacking:
            self.session.tell(found.lacking, "warning")
        if found.scene is not None:
            self.order.hide()
        else:
            self._offer(found.levels)
        self._show(found.scene)

    def _failed(self, sentence: str) -> None:
        self._loaded = None
        self.order.say(sentence)

    def _made(self, layer: Any, run_id: str) -> None:
        """Look again; the new map is found if its layer is still on show."""
        opened = self.session.opened
        if opened is None or (opened.layer.parent_id, opened.layer.layer) != (layer.parent_id, layer.layer):
            self.session.tell(f"The map of {layer.layer} is logged; open that layer to see it.", "info")
            return
        self._loaded = None
        self.follow()

    def _offer(self, levels: tuple[float, ...]) -> None:
        if self.axis.value == THREE_AXES:
            sentence = (
                "A UMAP with three components has room for what two must fold away. Or choose the noise level as the "
                "third dimension."
            )
            self.order.offer(SOLID, "No map in 3-D of this layer run yet", sentence)
            return
        texts = ", ".join(short_sigma(sigma) for sigma in levels)
        if len(levels) > 1:
            sentence = f"It has a slice at each noise level, here σ {texts}, and keeps each sample near itself."
        else:
            sentence = f"This layer was captured at σ {texts} only; extract it at two noise levels or more."
        self.order.offer(ALIGNED, "No aligned map of this layer yet", sentence, possible=len(levels) > 1)

    def _choose(self, event: Any) -> None:
        if not self._following and event.new:
            self.session.state.across = replace(self.session.state.across, axis=event.new)

    def _show(self, scene: Scene | None) -> None:
        self._shown.visible = scene is not None
        self.pane.scene = scene
        self._describe()
        self._draw_paths()

    # -- what is said and drawn beside -----------------------------------------------------

    def _describe(self) -> None:
        scene = self.pane.scene
        if scene is None:
            return
        levels = ", ".join(short_sigma(sigma) for sigma in scene.sigmas)
        has_depth = scene.positions.shape[2] == 3
        what = f"UMAP in 3-D at σ {levels}" if has_depth else f"slices at σ {levels}, upwards noisier"
        self.caption.object = caption_of(self.session, scene, what)

    def _draw_paths(self) -> None:
        draw_paths(self.pane, self.results)
