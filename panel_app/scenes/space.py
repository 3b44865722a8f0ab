"""The view in space: an aligned map's slices stacked along log sigma, or a UMAP with three components."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import panel_material_ui as pmui

from diffviews.pipelines.model_runner import Runner
from panel_app.computing.session_jobs import SessionJobs
from panel_app.generation.results import Results
from panel_app.places import SIGMA_AXIS, SPACE, THREE_AXES
from panel_app.points import short_sigma
from panel_app.scenes.cloud import CloudPane
from panel_app.scenes.order import ALIGNED, SOLID
from panel_app.scenes.scene import Scene
from panel_app.scenes.slices import SceneChoice, aligned_scene, solid_maps, solid_scene
from panel_app.scenes.view import SceneView
from panel_app.session import Session
from panel_app.theme import ONE_LINE


class SpaceView(SceneView):
    """Shows the layer on show in space, in one of two ways."""

    key = SPACE
    gestures = (
        "Drag or arrow keys to turn, wheel or + and − to zoom, 0 for the first view. A click selects; over noise "
        "levels a thread joins a selected sample's places."
    )

    def __init__(self, session: Session, runner: Runner, queue: SessionJobs, results: Results, **params: Any) -> None:
        pane = CloudPane(session, solid=True, label="Samples in space; arrow keys turn, plus and minus zoom")
        super().__init__(session, runner, queue, results, pane, **params)

    def _build_chooser(self) -> pmui.RadioButtonGroup:
        return pmui.RadioButtonGroup(
            label="Third dimension", options={"Noise level": SIGMA_AXIS, "UMAP": THREE_AXES}, value=self._axis(),
            size="small", margin=(4, 10), sx=ONE_LINE,
            description="Upwards: the slices of an aligned map by log σ, or the third component of a UMAP in 3-D.",
        )  # fmt: skip

    def _choose(self, event: Any) -> None:
        if not self._following and event.new:
            self.session.state.across = replace(self.session.state.across, axis=event.new)

    def _axis(self) -> str:
        """Return the axis that the state names; a map in three dimensions on show asks for its own."""
        layer_map = self.session.map
        own = THREE_AXES if layer_map is not None and "z" in layer_map.table else SIGMA_AXIS
        return self.session.state.across.axis or own

    def _wanted(self) -> tuple[tuple[Any, ...], str, Callable[[], SceneChoice]]:
        axis, layer_map, store = self._axis(), self.session.map, self.session.store
        self._set_chooser(value=axis)
        if axis == SIGMA_AXIS:
            layer, wanted = layer_map.layer, self.session.state.across.map_run
            asked: tuple[Any, ...] = (axis, layer.parent_id, layer.layer, wanted)
            return asked, "Opening the slices…", lambda: aligned_scene(store, layer, wanted)
        maps = list(self.session.maps)
        asked = (axis, layer_map.map_run, *(m.run_id for m in solid_maps(maps)))
        return asked, "Opening the map…", lambda: solid_scene(store, layer_map, maps)

    def _offer(self, levels: tuple[float, ...]) -> None:
        if self.chooser.value == THREE_AXES:
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

    def _what(self, scene: Scene) -> str:
        levels = ", ".join(short_sigma(sigma) for sigma in scene.sigmas)
        has_depth = scene.positions.shape[2] == 3
        return f"UMAP in 3-D at σ {levels}" if has_depth else f"slices at σ {levels}, upwards noisier"
