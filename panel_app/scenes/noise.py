"""The view over noise levels: a player that moves every sample along the slices of an aligned map."""

from dataclasses import replace
from html import escape
from typing import Any

import numpy as np
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
from panel_app.scenes.order import ALIGNED, MapOrder
from panel_app.scenes.paths import paths_on
from panel_app.scenes.scene import Scene
from panel_app.scenes.slices import Found, aligned_scene
from panel_app.session import Session
from panel_app.theme import PANE_CSS

NAME = "noise"
"""What the address calls this view."""


class NoiseView(pn.viewable.Viewer):
    """Shows the newest aligned map of the layer on show, or the one that the state names."""

    def __init__(self, session: Session, studio: Studio, queue: JobQueue, results: Results, **params: Any) -> None:
        super().__init__(**params)
        self.session, self.results = session, results
        self._loaded: tuple[Any, ...] | None = None
        self._following = False
        self._background = Background(self._failed)
        self.pane = CloudPane(
            session, solid=False, label="Samples on the aligned map; the player moves them over noise levels",
            on_level=self._stand_at,
        )  # fmt: skip
        self.order = MapOrder(session, studio, queue, self._made)
        self._build()
        session.param.watch(lambda *_: self.follow(), "opened")
        session.state.param.watch(lambda *_: self.follow(), ["view", "across"])
        session.state.param.watch(self._follow_sigma, "sigma")
        session.state.param.watch(lambda *_: self._describe(), "filter")
        results.param.watch(lambda *_: self._draw_paths(), "tracks")
        results.drawing.param.watch(lambda event: setattr(self.pane.cloud, "dark", event.new), "dark")
        self.pane.cloud.dark = results.drawing.dark
        self.follow()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def _build(self) -> None:
        self.caption = Html("", margin=(7, 8, 0, 14), sizing_mode="stretch_width", stylesheets=[PANE_CSS])
        self.choice = pmui.Select(
            label="Aligned map", description="Aligned maps of this layer that are logged, newest first.", size="small",
            width=260, visible=False, margin=(4, 10),
        )  # fmt: skip
        self.choice.param.watch(self._choose, "value")
        self.legend = MapLegend(self.session)
        help_text = quiet("Drag to move, wheel or + and − to zoom, 0 to see all, space to play. A click selects.")
        help_text.margin = (0, 14, 8, 14)
        self._shown = pn.Column(self.pane, self.legend, help_text, sizing_mode="stretch_width", margin=0, visible=False)
        head = pn.Row(self.caption, self.choice, sizing_mode="stretch_width", margin=0)
        self._layout = pmui.Paper(
            head, self.order, self._shown, elevation=0, variant="outlined", sizing_mode="stretch_width", margin=0,
        )  # fmt: skip

    # -- what is on show -------------------------------------------------------------------

    def follow(self) -> None:
        """Open what the session shows, unless it is open already or nobody looks."""
        opened, state = self.session.opened, self.session.state
        if state.view != NAME or opened is None:
            return
        asked = (opened.layer.parent_id, opened.layer.layer, state.across.map_run)
        if asked == self._loaded:
            self._stand()
            return
        self._loaded = asked
        store, layer, wanted = self.session.store, opened.layer, state.across.map_run
        self._show(None)
        self.caption.object = ""
        self.order.say("Opening the slices…")
        self._background.start(lambda: aligned_scene(store, layer, wanted), self._found)

    def _found(self, found: Found) -> None:
        if found.lacking:
            self.session.tell(found.lacking, "warning")
        if found.scene is None:
            self._offer(found.levels)
        else:
            self.order.hide()
        self._show(found.scene)
        self._offer_maps(found)

    def _failed(self, sentence: str) -> None:
        self._loaded = None
        self.order.say(sentence)

    def _made(self, layer: Any, run_id: str) -> None:
        """Show a map that was ordered here, if its layer is still on show."""
        opened = self.session.opened
        if opened is None or (opened.layer.parent_id, opened.layer.layer) != (layer.parent_id, layer.layer):
            self.session.tell(f"The aligned map of {layer.layer} is logged; open that layer to see it.", "info")
            return
        self._loaded = None
        self.session.state.across = replace(self.session.state.across, map_run=run_id)
        self.follow()

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

    def _offer_maps(self, found: Found) -> None:
        options = {_map_label(m, len(found.maps) - i): m.run_id for i, m in enumerate(found.maps)}
        value = found.scene.map_run if found.scene is not None else None
        self._following = True
        self.choice.param.update(options=options, value=value, visible=len(options) > 1)
        self._following = False

    def _choose(self, event: Any) -> None:
        if not self._following and event.new:
            self.session.state.across = replace(self.session.state.across, map_run=event.new)

    def _show(self, scene: Scene | None) -> None:
        self._shown.visible = scene is not None
        if scene is not None:
            self._stand(scene)
        self.pane.scene = scene
        self._describe()
        self._draw_paths()

    # -- the noise level on show -----------------------------------------------------------

    def _stand(self, scene: Scene | None = None) -> None:
        """Move the player to the noise level that the state names, as far as the slices reach."""
        scene, state = scene or self.pane.scene, self.session.state
        sigma = state.across.sigma or state.sigma
        if scene is not None and sigma:
            self.pane.cloud.at = float(np.log(np.clip(sigma, scene.sigmas[0], scene.sigmas[-1])))

    def _stand_at(self, at: float) -> None:
        """Note where the visitor moved the player."""
        self.session.state.across = replace(self.session.state.across, sigma=float(f"{np.exp(at):.4g}"))

    def _follow_sigma(self, event: Any) -> None:
        """Go to the noise level that was chosen in the sidebar."""
        if event.old is not None and self.session.state.view == NAME:
            self.session.state.across = replace(self.session.state.across, sigma=None)

    # -- what is said and drawn beside -----------------------------------------------------

    def _describe(self) -> None:
        scene = self.pane.scene
        if scene is None:
            return
        levels = ", ".join(short_sigma(sigma) for sigma in scene.sigmas)
        self.caption.object = caption_of(self.session, scene, f"aligned over σ {levels}")

    def _draw_paths(self) -> None:
        draw_paths(self.pane, self.results)


def caption_of(session: Session, scene: Scene, what: str) -> str:
    """Return what a scene is, how many samples it shows, and what it leaves out, as HTML."""
    drawn = len(scene.sample_ids)
    shown = int(scene.shown(session.opened, session.state.filter).sum())
    left_out = "" if drawn == scene.total else f", chosen evenly from {scene.total:,}"
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:0 12px;align-items:baseline">'
        f'<span class="title">{escape(scene.maps[0].layer.layer)} '
        f'<span class="muted" style="font-weight:400">{escape(what)}</span></span>'
        f'<span class="muted num small">{shown:,} of {drawn:,} samples{left_out}</span></div>'
    )


def draw_paths(pane: CloudPane, results: Results) -> None:
    """Draw the paths on show as far as they can be placed on the pane's scene."""
    scene, known = pane.scene, pane.placed
    tracks = [] if scene is None else results.tracks
    pane.draw_paths([path for track in tracks for path in paths_on(scene, track, known)])


def _map_label(record: Any, number: int) -> str:
    shown = record.params
    levels = shown.get("sigmas", "").replace(",", ", ")
    return f"{number}: σ {levels} · {shown.get('n_neighbors', '?')} neighbours, min_dist {shown.get('min_dist', '?')}"
