"""The views of a scene, a player over noise levels and a stack in space: found beside the page, shown, or ordered."""

from collections.abc import Callable
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np
import panel as pn
import panel_material_ui as pmui
import param

from diffviews.pipelines.model_runner import Runner
from panel_app.cards import quiet
from panel_app.computing.background import Background
from panel_app.computing.job_bar import SessionJobs
from panel_app.fields import Steering, offer, section, text
from panel_app.generation.results import Results
from panel_app.map.legend import MapLegend
from panel_app.places import NOISE, SIGMA_AXIS, SPACE, THREE_AXES
from panel_app.points import short_sigma
from panel_app.scenes.cloud import CloudPane
from panel_app.scenes.order import ALIGNED, SOLID, MapOrder
from panel_app.scenes.paths import paths_on
from panel_app.scenes.scene import Scene, SceneChoice, aligned_scene, solid_maps, solid_scene
from panel_app.session import Session
from panel_app.theme import ONE_LINE

_FLAT = "Drag to move, wheel or + and − to zoom, 0 to see all, space to play. A click selects."
_SOLID = (
    "Drag or arrow keys to turn, wheel or + and − to zoom, 0 for the first view. A click selects; over noise levels a "
    "thread joins a selected sample's places."
)


class SceneView(Steering):
    """A scene of the layer on show, with its caption, its legend and the order for a map that is lacking.

    Args:
        session: of the visitor.
        runner: what computes a map that is ordered.
        queue: where that job waits.
        results: whose denoising paths are drawn.
        solid: whether it is turned in space: an aligned map's slices stacked along log sigma, or a UMAP with three
            components. Else a player moves every sample along the slices of an aligned map.
    """

    def __init__(
        self, session: Session, runner: Runner, queue: SessionJobs, results: Results, *, solid: bool, **params: Any
    ) -> None:
        self.results, self._is_solid, self.key = results, solid, SPACE if solid else NOISE
        self._loaded: tuple[Any, ...] | None = None
        self._background = Background(self._failed)
        self.pane = CloudPane(
            session, solid=solid, on_level=None if solid else self._stand_at,
            label="Samples in space; arrow keys turn, plus and minus zoom" if solid
            else "Samples on the aligned map; the player moves them over noise levels",
        )  # fmt: skip
        self.order = MapOrder(session, runner, queue, self._made)
        self.caption = text(margin=(7, 8, 0, 14))
        self.chooser = self._build_chooser()
        self._gestures = quiet(_SOLID if solid else _FLAT)
        self._gestures.margin = (0, 14, 8, 14)
        self._shown = section(self.pane, MapLegend(session), self._gestures, visible=False)
        self._layout = pmui.Paper(
            pn.Row(self.caption, self.chooser, sizing_mode="stretch_width", margin=0), self.order, self._shown,
            elevation=0, variant="outlined", sizing_mode="stretch_width", margin=0,
        )  # fmt: skip
        super().__init__(session=session, **params)
        self.steer(self.chooser, self._choose)
        session.state.param.watch(self._leave_level, "sigma")

    def _build_chooser(self) -> Any:
        if self._is_solid:
            return pmui.RadioButtonGroup(
                label="Third dimension", options={"Noise level": SIGMA_AXIS, "UMAP": THREE_AXES}, value=SIGMA_AXIS,
                size="small", margin=(4, 10), sx=ONE_LINE,
                description="Upwards: the slices of an aligned map by log σ, or the third component of a UMAP in 3-D.",
            )  # fmt: skip
        return pmui.Select(
            label="Aligned map", description="Aligned maps of this layer that are logged, newest first.", size="small",
            width=260, visible=False, margin=(4, 10),
        )  # fmt: skip

    def _choose(self, value: str) -> None:
        self._go(**{"axis" if self._is_solid else "map": value})

    def _go(self, **place: Any) -> None:
        self.session.state.across = replace(self.session.state.across, **place)

    # -- what is on show -------------------------------------------------------------------

    @param.depends(
        "session.map", "session.maps", "session.state.view", "session.state.across", watch=True, on_init=True
    )
    def follow(self) -> None:
        """Open what the session shows, unless it is open already or nobody looks."""
        super().follow()

    def _follow(self) -> None:
        if self.session.state.view != self.key or self.session.map is None:
            return
        key, meanwhile, find = self._wanted()
        if key == self._loaded:
            self._stand()
            return
        self._loaded = key
        self._show(None)
        self.caption.object = ""
        self.order.say(meanwhile)
        self._background.start(find, self._found)

    def _wanted(self) -> tuple[tuple[Any, ...], str, Callable[[], SceneChoice]]:
        """Return what tells the scene wanted from others, what to say meanwhile, and what finds it."""
        layer_map, store, across = self.session.map, self.session.store, self.session.state.across
        if self._is_solid:  # a map in three dimensions on show asks for its own
            self.chooser.value = across.axis or (THREE_AXES if "z" in layer_map.table else SIGMA_AXIS)
        if self.chooser.value == THREE_AXES:
            maps = list(self.session.maps)
            key: tuple[Any, ...] = (layer_map.map_run, *(m.run_id for m in solid_maps(maps)))
            return key, "Opening the map…", lambda: solid_scene(store, layer_map, maps)
        layer, wanted = layer_map.layer, across.map
        key = SIGMA_AXIS, layer.parent_id, layer.layer, wanted
        return key, "Opening the slices…", lambda: aligned_scene(store, layer, wanted)

    def _found(self, found: SceneChoice) -> None:
        if found.lacking:
            self.session.tell(found.lacking, "warning")
        if found.scene is None:
            self._offer(found.levels)
        else:
            self.order.hide()
        if not self._is_solid:
            options = {_map_label(m, len(found.maps) - i): m.run_id for i, m in enumerate(found.maps)}
            self._alone(offer, self.chooser, options, found.scene and found.scene.map_run)
            self.chooser.visible = len(options) > 1
        self._show(found.scene)

    def _offer(self, levels: tuple[float, ...]) -> None:
        """Say what is lacking, and order it if that can be."""
        if self.chooser.value == THREE_AXES:
            self.order.offer(
                SOLID, "No map in 3-D of this layer run yet", "A UMAP with three components has room for what two must "
                "fold away. Or choose the noise level as the third dimension.",
            )  # fmt: skip
            return
        texts = ", ".join(short_sigma(sigma) for sigma in levels)
        sentence = (
            f"An aligned map has a slice at each noise level, here σ {texts}, and keeps each sample near itself, so "
            "that one can follow it. Fitting them together takes some minutes."
            if len(levels) > 1
            else f"This layer was captured at one noise level only, σ {texts}. Extract it at two or more to follow its "
            "samples from one to the next."
        )
        self.order.offer(ALIGNED, "No aligned map of this layer yet", sentence, possible=len(levels) > 1)

    def _failed(self, sentence: str) -> None:
        self._loaded = None
        self.order.say(sentence)

    def _made(self, layer: Any, run_id: str) -> None:
        """Show a map that was ordered here, if its layer is still on show."""
        layer_map = self.session.map
        if layer_map is None or (layer_map.layer.parent_id, layer_map.layer.layer) != (layer.parent_id, layer.layer):
            self.session.tell(f"The map of {layer.layer} is logged; open that layer to see it.", "info")
            return
        self._loaded = None
        if not self._is_solid:
            self._go(map=run_id)
        self.follow()

    def _show(self, scene: Scene | None) -> None:
        self._shown.visible = scene is not None
        self.pane.scene = scene
        self._stand()
        self._describe()
        self._draw_paths()

    # -- the noise level on show -----------------------------------------------------------

    def _stand(self) -> None:
        """Move the player to the noise level that the state names, as far as the slices reach."""
        scene, sigma = self.pane.scene, self.session.state.across.sigma or self.session.state.sigma
        if scene is not None and sigma and not self._is_solid:
            self.pane.cloud.at = float(np.log(np.clip(sigma, scene.sigmas[0], scene.sigmas[-1])))

    def _stand_at(self, at: float) -> None:
        """Note where the visitor moved the player."""
        self._go(sigma=float(f"{np.exp(at):.4g}"))

    def _leave_level(self, event: Any) -> None:
        """Go to the noise level that was chosen in the sidebar."""
        if event.old is not None and self.session.state.view == self.key and not self._is_solid:
            self._go(sigma=None)

    # -- what is said and drawn beside -----------------------------------------------------

    @param.depends("session.state.filter", watch=True)
    def _describe(self) -> None:
        """Say what the scene is, how many samples it shows, and what it leaves out."""
        scene, session = self.pane.scene, self.session
        if scene is None:
            return
        levels, has_depth = ", ".join(short_sigma(sigma) for sigma in scene.sigmas), scene.positions.shape[2] == 3
        stack = f"slices at σ {levels}, upwards noisier" if self._is_solid else f"aligned over σ {levels}"
        what = f"UMAP in 3-D at σ {levels}" if has_depth else stack
        drawn, shown = len(scene.sample_ids), int(scene.shown(session.map, session.state.filter).sum())
        left_out = "" if drawn == scene.total else f", chosen evenly from {scene.total:,}"
        self.caption.object = (
            '<div style="display:flex;flex-wrap:wrap;gap:0 12px;align-items:baseline">'
            f'<span class="title">{escape(scene.maps[0].layer.layer)} '
            f'<span class="muted" style="font-weight:400">{escape(what)}</span></span>'
            f'<span class="muted num small">{shown:,} of {drawn:,} samples{left_out}</span></div>'
        )

    @param.depends("results.tracks", watch=True)
    def _draw_paths(self) -> None:
        """Draw the paths on show as far as they can be placed on the scene."""
        scene, known = self.pane.scene, self.pane.path_places
        tracks = [] if scene is None else self.results.tracks
        self.pane.cloud.paths = [path for track in tracks for path in paths_on(scene, track, known)]

    @param.depends("results.drawing.dark", watch=True, on_init=True)
    def _take_theme(self) -> None:
        self.pane.cloud.dark = self.results.drawing.dark


def _map_label(record: Any, number: int) -> str:
    shown = record.params
    levels = shown.get("sigmas", "").replace(",", ", ")
    return f"{number}: σ {levels} · {shown.get('n_neighbors', '?')} neighbours, min_dist {shown.get('min_dist', '?')}"
