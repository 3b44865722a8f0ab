"""What was generated in this visit: images, steps, the path on the map, and a gallery."""

from dataclasses import dataclass
from html import escape
from typing import Any

import panel as pn
import panel_material_ui as pmui
import param

from panel_app.cards import hint_small, link
from panel_app.components import Gallery, ResultView
from panel_app.generation.recipe_text import command_of
from panel_app.generation.tracks import Track, path_colours
from panel_app.html import Html
from panel_app.map.embedding_map import EmbeddingMap
from panel_app.map.overlays import DrawnPath
from panel_app.pictures import FRAME, INSET, PREVIEW, difference_address, picture_address
from panel_app.points import short_sigma
from panel_app.session import Session
from panel_app.theme import PANE_CSS

_KEPT = 24
"""Generations of a visit kept on show; all of them stay logged."""
_ELSEWHERE = hint_small("Its path was placed on another map: choose that one's layer, σ and map to see it.")


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A generation of this visit."""

    outcome: Any
    title: str
    detail: str
    map_run: str
    """Map that its path was placed on."""
    usual_distance: float | None = None
    """Median distance to the data of that map's own samples."""


class Results(pn.viewable.Viewer):
    """The generation on show, its path on the map, and the gallery of this visit."""

    shown = param.Parameter(None)
    tracks = param.List(default=[], item_type=Track, doc="whose paths are on show, that of `shown` first")

    def __init__(self, session: Session, drawing: EmbeddingMap, **params: Any) -> None:
        super().__init__(**params)
        self.session, self.drawing = session, drawing
        self._all: list[Shown] = []
        self._kept_paths: frozenset[str] = frozenset()
        self.view = ResultView(self._on_view, margin=(4, 16, 10, 16))
        self.gallery = Gallery(self._on_gallery, margin=0)
        self._heading = Html("", stylesheets=[PANE_CSS], sizing_mode="stretch_width", margin=(12, 16, 6, 16))
        self._elsewhere = Html(_ELSEWHERE, stylesheets=[PANE_CSS], visible=False, margin=(0, 16, 4, 16))
        self.past = pn.Column(
            Html('<div class="overline">This visit</div>', stylesheets=[PANE_CSS], margin=(14, 0, 6, 0)),
            self.gallery,
            sizing_mode="stretch_width",
            margin=0,
            visible=False,
        )
        self._layout = pmui.Paper(
            self._heading,
            self._elsewhere,
            self.view,
            elevation=0,
            variant="outlined",
            sizing_mode="stretch_width",
            margin=(14, 0, 0, 0),
            visible=False,
        )
        session.param.watch(lambda *_: self._draw_path(), "map")

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    @property
    def made(self) -> tuple[Shown, ...]:
        """The generations of this visit, the newest first."""
        return tuple(self._all)

    def add(self, shown: Shown) -> None:
        """Show a new generation first in the gallery."""
        others = [s for s in self._all if s.outcome.run_id != shown.outcome.run_id]
        self._all = [shown, *others][:_KEPT]
        self.show(shown)

    def show(self, shown: Shown) -> None:
        """Show one generation of this visit."""
        self.shown = shown
        result = shown.outcome.result
        self._layout.visible = self.past.visible = True
        self.drawing.room_below = 600
        url = self.session.store.library.run_url(shown.outcome.run_id)
        where = link(url, "MLflow run") or f'<span class="muted small">run {shown.outcome.run_id[:12]}</span>'
        detail = f"{escape(shown.detail)} · seed {result.seed}"
        what = f'{escape(shown.title)} <span class="muted" style="font-weight:400">{detail}</span>'
        self._heading.object = (
            '<div style="display:flex;justify-content:space-between;align-items:baseline;gap:16px">'
            f'<span class="title">{what}</span><span class="small">{where}</span></div>'
        )
        with pn.io.hold():
            self.view.param.update(samples=_samples(shown), active=0, step=max(len(result.sigmas) - 1, 0))
            self.view.steps = self._steps(0)
            self.view.param.update(recipe=shown.outcome.recipe.to_json(), command=command_of(shown.outcome.recipe))
        self._draw_path()

    def _steps(self, sample: int) -> list[dict[str, Any]]:
        result, path = self.shown.outcome.result, self.shown.outcome.path
        if result.intermediates is None:
            return []
        far, noised = _distances(path, sample), result.noised_inputs
        usual = f" (samples: {self.shown.usual_distance:.2f})" if self.shown.usual_distance else ""
        return [
            {
                "frame": picture_address(result.intermediates[step][sample], FRAME),
                "noised": None if noised is None else picture_address(noised[step][sample], INSET),
                "sigma": short_sigma(sigma),
                "note": f"distance to the data {far[step]:.2f}{usual}" if step in far else "",
            }
            for step, sigma in enumerate(result.sigmas)
        ]

    def _draw_path(self) -> None:
        """Draw the path of the sample on show, and of generations kept beside it, on the map they were placed on."""
        self.tracks = self._tracked()
        paths = [path for track in self.tracks if self._fits(track.shown) for path in _drawn(track)]
        shown = self.shown
        step = self.view.step if shown is not None and self._fits(shown) else -1
        self._elsewhere.visible = shown is not None and shown.outcome.path is not None and not self._fits(shown)
        self.drawing.param.update(paths=paths, step=step)
        self._draw_gallery()

    def _tracked(self) -> list[Track]:
        others = [s for s in self._all if s is not self.shown and s.outcome.run_id in self._kept_paths]
        generations = others if self.shown is None else [self.shown, *others]
        colours = path_colours(
            [s.outcome.run_id for s in generations], {t.shown.outcome.run_id: t.colour for t in self.tracks}
        )
        return [
            Track(s, self.view.active if s is self.shown else 0, colours[s.outcome.run_id], s is self.shown)
            for s in generations
        ]

    def _fits(self, shown: Shown) -> bool:
        """Whether a path lies on the map on show."""
        layer_map = self.session.map
        return layer_map is not None and shown.map_run == layer_map.map_run and shown.outcome.path is not None

    def _draw_gallery(self) -> None:
        url = self.session.store.library.run_url
        colours = {track.shown.outcome.run_id: track.colour for track in self.tracks}
        self.gallery.entries = [
            {
                "id": s.outcome.run_id,
                "src": picture_address(s.outcome.result.images[0], PREVIEW),
                "title": s.title,
                "detail": s.detail,
                "help": f"{s.title}, {s.detail}",
                "url": url(s.outcome.run_id),
                "active": s is self.shown,
                "drawn": self._fits(s) and (s is self.shown or s.outcome.run_id in self._kept_paths),
                "drawable": self._fits(s) and s is not self.shown,
                "colour": colours.get(s.outcome.run_id, "") if self._fits(s) else "",
            }
            for s in self._all
        ]

    def _on_view(self, message: dict[str, Any]) -> None:
        if isinstance(step := message.get("step"), int):
            self.view.step = step
            self.drawing.step = step
        if isinstance(sample := message.get("sample"), int) and 0 <= sample < len(self.view.samples):
            with pn.io.hold():
                self.view.active = sample
                self.view.steps = self._steps(sample)
            self._draw_path()

    def _on_gallery(self, message: dict[str, Any]) -> None:
        if isinstance(run := message.get("path"), str):
            self._kept_paths = self._kept_paths | {run} if message.get("on") is True else self._kept_paths - {run}
            self._draw_path()
        chosen = next((s for s in self._all if s.outcome.run_id == message.get("show")), None)
        if chosen is not None:
            self.show(chosen)


def _samples(shown: Shown) -> list[dict[str, Any]]:
    result = shown.outcome.result
    rows = []
    for index, image in enumerate(result.images):
        row: dict[str, Any] = {"image": picture_address(image), "title": f"{shown.title}, sample {index + 1}"}
        if result.baseline_images is not None:
            row["baseline"] = picture_address(result.baseline_images[index])
            row["difference"] = difference_address(result.difference_images[index])
        rows.append(row)
    return rows


def _distances(path: Any, sample: int) -> dict[int, float]:
    if path is None:
        return {}
    rows = path[(path["sample"] == sample) & (path["variant"] == "masked")]
    return dict(zip(rows["step"].astype(int), rows["distance"].astype(float), strict=True))


def _drawn(track: Track) -> list[DrawnPath]:
    drawn, path = [], track.shown.outcome.path
    for variant in ("baseline", "masked") if track.has_baseline else ("masked",):
        rows = path[(path["sample"] == track.sample) & (path["variant"] == variant)].sort_values("step")
        if len(rows):
            x, y, sigmas, distances = (tuple(rows[c].astype(float)) for c in ("x", "y", "sigma", "distance"))
            drawn.append(DrawnPath(x, y, sigmas, distances, baseline=variant == "baseline", colour=track.colour))
    return drawn
