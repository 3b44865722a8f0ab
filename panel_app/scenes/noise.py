"""The view over noise levels: a player that moves every sample along the slices of an aligned map."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import panel_material_ui as pmui

from diffviews.pipelines.model_runner import Runner
from panel_app.computing.session_jobs import SessionJobs
from panel_app.generation.results import Results
from panel_app.places import NOISE
from panel_app.points import short_sigma
from panel_app.scenes.cloud import CloudPane
from panel_app.scenes.order import ALIGNED
from panel_app.scenes.scene import Scene
from panel_app.scenes.slices import SceneChoice, aligned_scene
from panel_app.scenes.view import SceneView
from panel_app.session import Session


class NoiseView(SceneView):
    """Shows the newest aligned map of the layer on show, or the one that the state names."""

    key = NOISE
    gestures = "Drag to move, wheel or + and − to zoom, 0 to see all, space to play. A click selects."

    def __init__(self, session: Session, runner: Runner, queue: SessionJobs, results: Results, **params: Any) -> None:
        pane = CloudPane(
            session, solid=False, label="Samples on the aligned map; the player moves them over noise levels",
            on_level=self._stand_at,
        )  # fmt: skip
        super().__init__(session, runner, queue, results, pane, **params)
        session.state.param.watch(self._follow_sigma, "sigma")

    def _build_chooser(self) -> pmui.Select:
        return pmui.Select(
            label="Aligned map", description="Aligned maps of this layer that are logged, newest first.", size="small",
            width=260, visible=False, margin=(4, 10),
        )  # fmt: skip

    def _choose(self, event: Any) -> None:
        if not self._following and event.new:
            self._take(event.new)

    def _take(self, run_id: str) -> None:
        self.session.state.across = replace(self.session.state.across, map_run=run_id)

    def _wanted(self) -> tuple[tuple[Any, ...], str, Callable[[], SceneChoice]]:
        layer, store = self.session.map.layer, self.session.store
        wanted = self.session.state.across.map_run
        asked = (layer.parent_id, layer.layer, wanted)
        return asked, "Opening the slices…", lambda: aligned_scene(store, layer, wanted)

    def _found(self, found: SceneChoice) -> None:
        super()._found(found)
        options = {_map_label(m, len(found.maps) - i): m.run_id for i, m in enumerate(found.maps)}
        value = found.scene.map_run if found.scene is not None else None
        self._set_chooser(options=options, value=value, visible=len(options) > 1)

    def _offer(self, levels: tuple[float, ...]) -> None:
        texts = ", ".join(short_sigma(sigma) for sigma in levels)
        if len(levels) < 2:
            sentence = (
                f"This layer was captured at one noise level only, σ {texts}. Extract it at two or more to follow its "
                "samples from one to the next."
            )
        else:
            sentence = (
                f"An aligned map has a slice at each noise level, here σ {texts}, and keeps each sample near itself, "
                "so that one can follow it. Fitting them together takes some minutes."
            )
        self.order.offer(ALIGNED, "No aligned map of this layer yet", sentence, possible=len(levels) > 1)

    def _what(self, scene: Scene) -> str:
        return f"aligned over σ {', '.join(short_sigma(sigma) for sigma in scene.sigmas)}"

    # -- the noise level on show -----------------------------------------------------------

    def _stand(self, scene: Scene) -> None:
        """Move the player to the noise level that the state names, as far as the slices reach."""
        sigma = self.session.state.across.sigma or self.session.state.sigma
        if sigma:
            self.pane.cloud.at = float(np.log(np.clip(sigma, scene.sigmas[0], scene.sigmas[-1])))

    def _stand_at(self, at: float) -> None:
        """Note where the visitor moved the player."""
        self.session.state.across = replace(self.session.state.across, sigma=float(f"{np.exp(at):.4g}"))

    def _follow_sigma(self, event: Any) -> None:
        """Go to the noise level that was chosen in the sidebar."""
        if event.old is not None and self.session.state.view == self.key:
            self.session.state.across = replace(self.session.state.across, sigma=None)


def _map_label(record: Any, number: int) -> str:
    shown = record.params
    levels = shown.get("sigmas", "").replace(",", ", ")
    return f"{number}: σ {levels} · {shown.get('n_neighbors', '?')} neighbours, min_dist {shown.get('min_dist', '?')}"
