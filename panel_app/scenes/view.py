"""What the views of a scene share: they find it beside the page, show it, or offer to have it made."""

from abc import abstractmethod
from collections.abc import Callable
from html import escape
from typing import Any, ClassVar

import panel as pn
import panel_material_ui as pmui

from diffviews.pipelines.model_runner import Runner
from panel_app.cards import quiet
from panel_app.computing.background import Background
from panel_app.computing.session_jobs import SessionJobs
from panel_app.generation.results import Results
from panel_app.html import Html
from panel_app.map.legend import MapLegend
from panel_app.scenes.cloud import CloudPane
from panel_app.scenes.order import MapOrder
from panel_app.scenes.paths import paths_on
from panel_app.scenes.scene import Scene
from panel_app.scenes.slices import SceneChoice
from panel_app.session import Session
from panel_app.theme import PANE_CSS


class SceneView(pn.viewable.Viewer):
    """A scene of the layer on show, with its caption, its legend and the order for a map that is lacking."""

    key: ClassVar[str]
    """What the address calls the view."""
    gestures: ClassVar[str]
    """What the hand can do, in a sentence below the scene."""

    def __init__(
        self, session: Session, runner: Runner, queue: SessionJobs, results: Results, pane: CloudPane, **params: Any
    ) -> None:
        super().__init__(**params)
        self.session, self.results, self.pane = session, results, pane
        self._loaded: tuple[Any, ...] | None = None
        self._following = False
        self._background = Background(self._failed)
        self.order = MapOrder(session, runner, queue, self._made)
        self.caption = Html("", margin=(7, 8, 0, 14), sizing_mode="stretch_width", stylesheets=[PANE_CSS])
        self.chooser = self._build_chooser()
        self.chooser.param.watch(self._choose, "value")
        self.legend = MapLegend(session)
        gestures = quiet(self.gestures)
        gestures.margin = (0, 14, 8, 14)
        self._shown = pn.Column(pane, self.legend, gestures, sizing_mode="stretch_width", margin=0, visible=False)
        self._layout = pmui.Paper(
            pn.Row(self.caption, self.chooser, sizing_mode="stretch_width", margin=0), self.order, self._shown,
            elevation=0, variant="outlined", sizing_mode="stretch_width", margin=0,
        )  # fmt: skip
        session.param.watch(lambda *_: self.follow(), ["map", "maps"])
        session.state.param.watch(lambda *_: self.follow(), ["view", "across"])
        session.state.param.watch(lambda *_: self._describe(), "filter")
        results.param.watch(lambda *_: self._draw_paths(), "tracks")
        results.drawing.param.watch(lambda event: setattr(pane.cloud, "dark", event.new), "dark")
        pane.cloud.dark = results.drawing.dark
        self.follow()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    # -- what each view says for itself ------------------------------------------------------

    @abstractmethod
    def _build_chooser(self) -> Any:
        """Return the widget beside the caption."""

    @abstractmethod
    def _choose(self, event: Any) -> None:
        """Take a value that the visitor chose there."""

    @abstractmethod
    def _wanted(self) -> tuple[tuple[Any, ...], str, Callable[[], SceneChoice]]:
        """Return what tells the scene wanted from others, what to say meanwhile, and what finds it."""

    @abstractmethod
    def _offer(self, levels: tuple[float, ...]) -> None:
        """Say what is lacking, and order it if that can be."""

    @abstractmethod
    def _what(self, scene: Scene) -> str:
        """Return what the scene is, for its caption."""

    def _stand(self, scene: Scene) -> None:
        """Bring the scene to where the state says."""

    # -- what is on show -------------------------------------------------------------------

    def follow(self) -> None:
        """Open what the session shows, unless it is open already or nobody looks."""
        if self.session.state.view != self.key or self.session.map is None:
            return
        asked, meanwhile, find = self._wanted()
        if asked == self._loaded:
            if self.pane.scene is not None:
                self._stand(self.pane.scene)
            return
        self._loaded = asked
        self._show(None)
        self.caption.object = ""
        self.order.say(meanwhile)
        self._background.start(find, self._found)

    def _found(self, found: SceneChoice) -> None:
        if found.lacking:
            self.session.tell(found.lacking, "warning")
        if found.scene is None:
            self._offer(found.levels)
        else:
            self.order.hide()
        self._show(found.scene)

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
        self._take(run_id)
        self.follow()

    def _take(self, run_id: str) -> None:
        """Ask for a map that was just made."""

    def _show(self, scene: Scene | None) -> None:
        self._shown.visible = scene is not None
        if scene is not None:
            self._stand(scene)
        self.pane.scene = scene
        self._describe()
        self._draw_paths()

    # -- what is said and drawn beside -----------------------------------------------------

    def _set_chooser(self, **values: Any) -> None:
        """Change the chooser without taking it for the visitor's choice."""
        self._following = True
        self.chooser.param.update(**values)
        self._following = False

    def _describe(self) -> None:
        scene = self.pane.scene
        if scene is not None:
            self.caption.object = _caption(self.session, scene, self._what(scene))

    def _draw_paths(self) -> None:
        """Draw the paths on show as far as they can be placed on the scene."""
        scene, known = self.pane.scene, self.pane.path_places
        tracks = [] if scene is None else self.results.tracks
        self.pane.draw_paths([path for track in tracks for path in paths_on(scene, track, known)])


def _caption(session: Session, scene: Scene, what: str) -> str:
    """Return what a scene is, how many samples it shows, and what it leaves out, as HTML."""
    drawn = len(scene.sample_ids)
    shown = int(scene.shown(session.map, session.state.filter).sum())
    left_out = "" if drawn == scene.total else f", chosen evenly from {scene.total:,}"
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:0 12px;align-items:baseline">'
        f'<span class="title">{escape(scene.maps[0].layer.layer)} '
        f'<span class="muted" style="font-weight:400">{escape(what)}</span></span>'
        f'<span class="muted num small">{shown:,} of {drawn:,} samples{left_out}</span></div>'
    )
