"""The map: a Datashader picture of all points; names, pictures, rings and denoising paths are drawn over it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import panel as pn
import panel_material_ui as pmui
import param
from bokeh.plotting import figure as Figure

from panel_app.components import MapKeys
from panel_app.fields import Part, row, section
from panel_app.layer_map import LayerMap
from panel_app.map.figure import WIDEST, MapFigure
from panel_app.map.legend import MapLegend
from panel_app.map.overlays import (
    DARK,
    LIGHT,
    DrawnPath,
    Emphasis,
    Look,
    emphasis_of,
    emphasised,
    path_columns,
    ring_columns,
)
from panel_app.map.plot import MapPlot
from panel_app.map.pointer import Pointing, Seen
from panel_app.map.thumbnails import Decoration
from panel_app.map.tools import BAR_HEIGHT, MapHand, MapTools
from panel_app.point_grid import Range
from panel_app.raster import Window
from panel_app.recent import Recent
from panel_app.session import Session

_SHIFT = 0.15
"""Share of the view by which an arrow key moves it."""

_NAME = "Map of the samples. Arrow keys move it, plus and minus zoom, 0 shows all, question mark lists all keys."


class EmbeddingMap(Part):
    """Shows the session's map and turns pointer and clicks into sample ids."""

    dark = param.Boolean(False, doc="whether the page is dark")
    paths = param.List(default=[], item_type=DrawnPath, doc="denoising paths on show")
    step = param.Integer(-1, doc="step marked on the paths; -1 marks none")
    labels = param.Boolean(True, label="Labels", doc="Names of classes, or words of prompts, where they are densest.")
    pictures = param.Boolean(
        True, label="Pictures when near", doc="Zoomed in far enough, the samples' pictures take the dots' place."
    )
    view = param.Parameter(None, doc="((x0, x1), (y0, y1)) that the visitor moved to, or None for all of the map")
    room_below = param.Integer(298, doc="pixels of the window left to what stands above and below the map")
    least = param.Integer(400, doc="pixels of its height on a low window")

    def __init__(self, session: Session, **params: Any) -> None:
        self.figure = MapFigure()
        self._radius = 3.0
        self._shown: tuple[str, str] | None = None
        self._is_another = False
        self._emphasis = Recent[Emphasis](1)
        self.decoration = Decoration(session, self.figure)
        self.plot = MapPlot(self.bounds, self.draw, self.adopt)
        self._pointing = Pointing(session, self.figure, lambda: self.seen)
        self.tools = MapTools(self.zoom, self.reset, lambda: self.hand.unmark())
        self.hand = MapHand(session, self.tools, self._moves())
        self.legend = MapLegend(session)
        super().__init__(session=session, **params)
        self._build()
        self.plot.listen(
            moved=lambda view: self.param.update(view=view), tapped=self.tapped, pointed=self.pointed,
            outlined=self.hand.mark_outline, boxed=self.hand.mark_box,
        )  # fmt: skip
        if session.map is not None:
            self._show_map()

    def _build(self) -> None:
        self.keys = MapKeys(self.hand.on_message, label=_NAME, sizing_mode=None, width=0, height=0, margin=0)
        self._canvas = section(self.plot, self._pointing.card, self.tools.keys, self.keys)
        self._fit()
        switches = [
            pmui.Switch.from_param(shown, description=shown.doc, size="small", margin=(2, 8, 2, 0))
            for shown in (self.param.labels, self.param.pictures)
        ]
        self._layout = pmui.Paper(
            row(self.legend.caption, self.tools, margin=(4, 6, 0, 0)),
            self.tools.bar,
            self._canvas,
            row(self.legend, pn.Column(*switches, margin=(4, 4, 4, 0), styles={"flex": "none"})),
            elevation=0, variant="outlined", sizing_mode="stretch_width", margin=0,
        )  # fmt: skip

    @param.depends("room_below", "tools.bar.visible", watch=True)
    def _fit(self) -> None:
        below = self.room_below + (BAR_HEIGHT if self.tools.bar.visible else 0)
        height = f"max({self.least}px, calc(100vh - {below}px))"
        self._canvas.styles = {"position": "relative", "height": height, "overflow": "hidden"}

    @param.depends("tools.tool", watch=True)
    def _take_tool(self) -> None:
        self.figure.take(self.tools.tool)

    def _moves(self) -> dict[str, Callable[[], None]]:
        """Return what the keys that move the view do."""
        return {
            "+": lambda: self.zoom(0.65),
            "=": lambda: self.zoom(0.65),
            "-": lambda: self.zoom(1 / 0.65),
            "0": self.reset,
            "ArrowLeft": lambda: self.pan(-_SHIFT, 0),
            "ArrowRight": lambda: self.pan(_SHIFT, 0),
            "ArrowUp": lambda: self.pan(0, _SHIFT),
            "ArrowDown": lambda: self.pan(0, -_SHIFT),
        }

    # -- what the plot asks and tells ------------------------------------------------------

    def bounds(self) -> tuple[Range, Range]:
        """Return the ranges of x and y of all of the map."""
        layer_map: LayerMap | None = self.session.map
        return ((0.0, 1.0), (0.0, 1.0)) if layer_map is None else layer_map.bounds

    def adopt(self, figure: Figure) -> None:
        """Begin at all of another map together with its first picture; put rings and paths on a new figure."""
        is_new = self.figure.adopt(figure, self.tools.tool)
        if is_new or self._is_another:
            self._is_another = False
            self.figure.begin(*self.bounds())
        if is_new:
            self._draw_rings()
            self._draw_paths()

    def draw(self, view: tuple[Range, Range], size: tuple[int, int], scale: float) -> np.ndarray:
        """Return the picture of a part of the map, and put names and pictures of samples over it."""
        layer_map: LayerMap | None = self.session.map
        if layer_map is None:
            return np.zeros((*size[::-1], 4), np.uint8)
        window = Window(*view, round(size[0] * scale), round(size[1] * scale))
        self._note_radius(layer_map.dot_radius(window, size[0] * size[1]))
        pixels = self._draw(layer_map, window, scale)
        self.decoration.show(layer_map, view, size, self._look(), labels=self.labels, pictures=self.pictures)
        return pixels

    def tapped(self, x: float, y: float) -> None:
        """Select the sample that a click means."""
        row = self._pointing.nearest(x, y)
        if row is not None:
            self.session.click(self.session.map.sample_at(row))

    def pointed(self, x: float | None, y: float | None) -> None:
        """Show which sample the pointer means."""
        self._pointing.hover(self._pointing.nearest(x, y))

    # -- drawing ---------------------------------------------------------------------------

    def _draw(self, layer_map: LayerMap, window: Window, ratio: float) -> np.ndarray:
        """Return the picture of a window; what comes forward is drawn over the shared picture of all points."""
        state, radius = self.session.state, self._radius * ratio
        pixels = layer_map.picture(window, state.colour_by, state.filter, radius=radius)
        key = (layer_map, state.colour_by, state.filter, state.group, state.highlight)
        emphasis = self._emphasis.get(key, lambda: emphasis_of(layer_map, state))
        if emphasis:
            colouring = layer_map.colouring(state.colour_by)
            look = self._look().ink
            pixels = emphasised(pixels, emphasis, window, colouring, radius=radius, ink=look, scale=ratio)
        if self.paths:  # step back, so that the path stands out
            pixels = pixels.copy()
            pixels[..., 3] = (pixels[..., 3] * 0.45).astype(np.uint8)
        return pixels

    @param.depends("session.map", watch=True)
    def _show_map(self) -> None:
        layer_map = self.session.map
        before, self._shown = self._shown, None if layer_map is None else (layer_map.layer.run_id, layer_map.map_run)
        is_another = self._shown != before  # the same points with other columns are seen, and pointed at, as before
        if is_another:
            self._pointing.hover(None)
        self._canvas.visible = layer_map is not None
        if layer_map is None:
            return
        if is_another:
            self._is_another = True
            self.plot.forget()
            self.view = None
            self._pointing.show()
        self._count_marks()
        self.plot.redraw()
        self._draw_rings()

    @param.depends(
        "session.state.filter", "session.state.colour_by", "session.state.group", "session.state.highlight", "paths",
        "dark", "labels", "pictures", watch=True,
    )  # fmt: skip
    def _redraw(self) -> None:
        self.plot.redraw()

    @param.depends("session.state.selection", "session.state.filter", "dark", watch=True)
    def _draw_rings(self) -> None:
        layer_map = self.session.map
        if layer_map is None:
            return
        state = self.session.state
        self.figure.put(rings=ring_columns(layer_map, state.selection, self._radius, self._look(), state.filter))

    @param.depends("paths", "step", "dark", watch=True)
    def _draw_paths(self) -> None:
        lines, dots, labels = path_columns(self.paths, self.step, self.seen.span, self._look())
        self.figure.put(lines=lines, dots=dots, labels=labels)

    def _look(self) -> Look:
        return DARK if self.dark else LIGHT

    # -- the visitor's hand ----------------------------------------------------------------

    def zoom(self, factor: float) -> None:
        """Zoom about the middle of the view; a factor below 1 comes nearer."""
        if self.session.map is None:
            return
        nearer = []
        for (low, high), (first, last) in zip(self.seen.view, self.session.map.bounds, strict=True):
            middle = (low + high) / 2
            half = min((high - low) * factor, WIDEST * (last - first)) / 2
            nearer.append((middle - half, middle + half))
        self.look_at(*nearer)

    def reset(self) -> None:
        """Show all of the map again."""
        if self.session.map is not None:
            self.look_at(*self.session.map.bounds)

    def pan(self, right: float, up: float) -> None:
        """Move the view by shares of its width and height."""
        (x0, x1), (y0, y1) = self.seen.view
        across, along = (x1 - x0) * right, (y1 - y0) * up
        self.look_at((x0 + across, x1 + across), (y0 + along, y1 + along))

    def look_at(self, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
        """Show a part of the map."""
        self.figure.move_to(x_range, y_range)
        self.plot.look_at(x_range, y_range)

    @param.depends("session.state.group", "session.state.filter", watch=True)
    def _count_marks(self) -> None:
        self.tools.count(self.session.map, self.session.state.group, self.session.state.filter)

    @property
    def seen(self) -> Seen:
        """What the visitor sees now."""
        return Seen(self.figure.view or self.bounds(), self.plot.size, self._radius, self.decoration.thumbnails)

    def _note_radius(self, radius: float) -> None:
        """Dots grow as one zooms in, and rings with them; a class filter changes neither."""
        if abs(radius - self._radius) > 0.3:
            self._radius = radius
            self._draw_rings()
