"""What was generated in this session: images, steps, the path on the map, and a gallery."""

from html import escape
from typing import Any

import panel as pn
import panel_material_ui as pmui
import param

from panel_app.cards import hint_small, link
from panel_app.components import Gallery, ResultView
from panel_app.fields import Part, section, text
from panel_app.generation.gallery_entry import GalleryEntry, Track, path_colours
from panel_app.map.embedding_map import EmbeddingMap
from panel_app.pictures import PREVIEW, picture_address
from panel_app.session import Session

_KEPT = 24
"""Generations of a session kept on show; all of them stay logged."""
_ELSEWHERE = hint_small("Its path was placed on another map: choose that one's layer, σ and map to see it.")


class Results(Part):
    """The generation on show, its path on the map, and the gallery of this session."""

    current = param.ClassSelector(class_=GalleryEntry, default=None, doc="the generation on show")
    tracks = param.List(default=[], item_type=Track, doc="whose paths are on show, that of `current` first")

    def __init__(self, session: Session, drawing: EmbeddingMap) -> None:
        super().__init__(session=session)
        self.drawing = drawing
        self._entries: list[GalleryEntry] = []
        self._kept_paths: frozenset[str] = frozenset()
        self.view = ResultView(self._on_view, margin=(4, 16, 10, 16))
        self.gallery = Gallery(self._on_gallery, margin=0)
        self._heading = text(margin=(12, 16, 6, 16))
        self._elsewhere = text(_ELSEWHERE, visible=False, margin=(0, 16, 4, 16))
        overline = text('<div class="overline">This visit</div>', margin=(14, 0, 6, 0))
        self.gallery_section = section(overline, self.gallery, visible=False)
        self._layout = pmui.Paper(
            self._heading, self._elsewhere, self.view,
            elevation=0, variant="outlined", sizing_mode="stretch_width", margin=(14, 0, 0, 0), visible=False,
        )  # fmt: skip
        session.param.watch(lambda *_: self._draw_path(), "map")

    @property
    def entries(self) -> tuple[GalleryEntry, ...]:
        """The generations of this session, the newest first."""
        return tuple(self._entries)

    def add(self, entry: GalleryEntry) -> None:
        """Show a new generation first in the gallery."""
        self._entries = [entry, *(e for e in self._entries if e.run_id != entry.run_id)][:_KEPT]
        self.show(entry)

    def show(self, entry: GalleryEntry) -> None:
        """Show one generation of this session."""
        self.current = entry
        result, recipe = entry.generation.result, entry.generation.recipe
        self._layout.visible = self.gallery_section.visible = True
        self.drawing.room_below = 600
        url = self.session.store.library.run_url(entry.run_id)
        where = link(url, "MLflow run") or f'<span class="muted small">run {entry.run_id[:12]}</span>'
        what = f'{escape(entry.title)} <span class="muted" style="font-weight:400">{escape(entry.detail)}</span>'
        self._heading.object = (
            '<div style="display:flex;justify-content:space-between;align-items:baseline;gap:16px">'
            f'<span class="title">{what}</span><span class="small">{where}</span></div>'
        )
        with pn.io.hold():
            self.view.param.update(samples=entry.samples(), active=0, step=max(len(result.sigmas) - 1, 0))
            self.view.steps = entry.steps(0)
            self.view.param.update(recipe=recipe.to_json(), command=recipe.command())
        self._draw_path()

    def _draw_path(self) -> None:
        """Draw the path of the sample on show, and of generations kept beside it, on the map they were placed on."""
        self.tracks = self._tracked()
        paths = [path for track in self.tracks if self._fits(track.entry) for path in track.drawn()]
        current = self.current
        step = self.view.step if current is not None and self._fits(current) else -1
        placed = current is not None and current.generation.path is not None
        self._elsewhere.visible = placed and not self._fits(current)
        self.drawing.param.update(paths=paths, step=step)
        self._draw_gallery()

    def _tracked(self) -> list[Track]:
        current = self.current
        entries = [e for e in self._entries if e is not current and e.run_id in self._kept_paths]
        entries = entries if current is None else [current, *entries]
        colours = path_colours([e.run_id for e in entries], {t.entry.run_id: t.colour for t in self.tracks})
        return [Track(e, self.view.active if e is current else 0, colours[e.run_id], e is current) for e in entries]

    def _fits(self, entry: GalleryEntry) -> bool:
        """Whether a path lies on the map on show."""
        layer_map = self.session.map
        return layer_map is not None and entry.map_run == layer_map.map_run and entry.generation.path is not None

    def _draw_gallery(self) -> None:
        url = self.session.store.library.run_url
        colours = {track.entry.run_id: track.colour for track in self.tracks}
        self.gallery.entries = [
            {
                "id": e.run_id,
                "src": picture_address(e.generation.result.images[0], PREVIEW),
                "title": e.title,
                "detail": e.detail,
                "help": f"{e.title}, {e.detail}",
                "url": url(e.run_id),
                "active": e is self.current,
                "drawn": self._fits(e) and (e is self.current or e.run_id in self._kept_paths),
                "drawable": self._fits(e) and e is not self.current,
                "colour": colours.get(e.run_id, "") if self._fits(e) else "",
            }
            for e in self._entries
        ]

    def _on_view(self, message: dict[str, Any]) -> None:
        if isinstance(step := message.get("step"), int):
            self.view.step = self.drawing.step = step
        if isinstance(sample := message.get("sample"), int) and 0 <= sample < len(self.view.samples):
            with pn.io.hold():
                self.view.active = sample
                self.view.steps = self.current.steps(sample)
            self._draw_path()

    def _on_gallery(self, message: dict[str, Any]) -> None:
        if isinstance(run := message.get("path"), str):
            self._kept_paths = self._kept_paths | {run} if message.get("on") is True else self._kept_paths - {run}
            self._draw_path()
        chosen = next((e for e in self._entries if e.run_id == message.get("show")), None)
        if chosen is not None:
            self.show(chosen)
