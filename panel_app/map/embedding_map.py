"""The map: a Datashader picture of all points; names, pictures, rings and denoising paths are drawn over it."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import holoviews as hv
import numpy as np
import panel as pn
import panel_material_ui as pmui
import param
from bokeh.plotting import figure as Figure

from panel_app.components import MapKeys
from panel_app.map.decoration import Decoration
from panel_app.map.emphasis import LastEmphasis, emphasised
from panel_app.map.figure import WIDEST, MapFigure
from panel_app.map.hand import MapHand
from panel_app.map.hover import HoverCard
from panel_app.map.legend import MapLegend
from panel_app.map.overlays import (
    DARK,
    LIGHT,
    DrawnPath,
    Look,
    path_columns,
    ring_columns,
)
from panel_app.map.patience import load_plots
from panel_app.map.raster import Window
from panel_app.map.tools import BAR_HEIGHT, MapTools
from panel_app.open_map import OpenMap
from panel_app.session import Session

_FIRST_SIZE = (820, 540)
_REACH = 11
"""Pixels around the pointer within which the nearest point counts as meant."""

_SHIFT = 0.15
"""Share of the view by which an arrow key moves it."""

_NAME = "Map of the samples. Arrow keys move it, plus and minus zoom, 0 shows all, question mark lists all keys."

Redraw = hv.streams.Stream.define("Redraw", version=0)


class EmbeddingMap(pn.viewable.Viewer):
    """Shows the session's map and turns pointer and clicks into sample ids."""

    dark = param.Boolean(False, doc="whether the page is dark")
    paths = param.List(default=[], item_type=DrawnPath, doc="denoising paths on show")
    step = param.Integer(-1, doc="step marked on the paths; -1 marks none")
    labels = param.Boolean(True, label="Labels", doc="Names of classes, or words of prompts, where they are densest.")
    pictures = param.Boolean(
        True, label="Pictures when near", doc="Zoomed in far enough, the samples' pictures take the dots' place."
    )
    view = param.Parameter(None, doc="((x0, x1), (y0, y1)) that the visitor moved to, or None for all of the map")
    room_below = param.Integer(316, doc="pixels of the window left to what stands below the map")

    def __init__(self, session: Session, **params: Any) -> None:
        super().__init__(**params)
        self.session = session
        self._plot = MapFigure()
        self._radius = 3.0
        self._hovered: int | None = None
        self._shown: tuple[str, str] | None = None
        self._emphasis = LastEmphasis()
        self.decoration = Decoration(session.state, self._plot)
        self._build_chrome()
        session.param.watch(lambda *_: self._show_map(), "opened")
        session.state.param.watch(lambda *_: self._redraw_picture(), ["filter", "colour_by", "group", "highlight"])
        session.state.param.watch(lambda *_: self._draw_rings(), ["selection", "filter"])
        session.state.param.watch(lambda *_: self._tell_marked(), ["group", "filter"])
        session.state.param.watch(lambda event: self._point_at(event.new), "hovered")
        self.param.watch(lambda *_: self._draw_paths(), ["paths", "step", "dark"])
        self.param.watch(lambda *_: self._redraw_picture(), ["paths", "dark", "labels", "pictures"])
        self.param.watch(lambda *_: self._draw_rings(), "dark")
        self.param.watch(lambda *_: self._fit(), "room_below")
        self.tools.bar.param.watch(lambda *_: self._fit(), "visible")
        if session.opened is not None:
            self._show_map()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    # -- building --------------------------------------------------------------------------

    def _build_plot(self) -> None:
        load_plots()
        self._range = hv.streams.RangeXY()
        self._size = hv.streams.PlotSize(width=_FIRST_SIZE[0], height=_FIRST_SIZE[1])
        self._range.add_subscriber(lambda x_range, y_range: self._note_view(x_range, y_range))
        self._redraw = Redraw()
        picture = hv.DynamicMap(self._picture, streams=[self._range, self._size, self._redraw])
        self._tap = hv.streams.Tap(source=picture)
        self._press = hv.streams.PressUp(source=picture)  # what Bokeh makes of a click of over 300 ms
        self._pointer = hv.streams.PointerXY(source=picture)
        self._leave = hv.streams.MouseLeave(source=picture)
        self._tap.add_subscriber(self._on_tap)
        self._press.add_subscriber(self._on_tap)
        self._pointer.add_subscriber(self._on_pointer)
        self._leave.add_subscriber(lambda **_: self._hover(None))
        self._lasso = hv.streams.Lasso(source=picture)
        self._bounds = hv.streams.BoundsXY(source=picture)
        self._lasso.add_subscriber(lambda geometry=None: self.hand.mark_outline(geometry))
        self._bounds.add_subscriber(lambda bounds=None: self.hand.mark_box(bounds))
        self._pane = pn.pane.HoloViews(
            picture.opts(
                hv.opts.RGB(
                    responsive=True,
                    xaxis=None,
                    yaxis=None,
                    toolbar=None,
                    show_frame=False,
                    border=0,
                    default_tools=["pan", "wheel_zoom"],
                    active_tools=[
                        "wheel_zoom"
                    ],  # dragging is the tools' to say; HoloViews would reset it at each redraw
                    hooks=[_hook_of(self._adopt_figure)],
                    framewise=False,
                    apply_ranges=False,
                )
            ),
            linked_axes=False,  # each map has coordinates of its own
            sizing_mode="stretch_both",
            margin=0,
        )

    def _build_chrome(self) -> None:
        self.tools = MapTools(self.zoom, self.reset, lambda: self.hand.unmark())
        self.tools.param.watch(lambda event: self._plot.take(event.new), "tool")
        self.hand = MapHand(self.session, self.tools, self._moves())
        self.keys = MapKeys(self.hand.on_message, label=_NAME, sizing_mode=None, width=0, height=0, margin=0)
        self._build_plot()
        self._card = HoverCard()
        self.legend = MapLegend(self.session)
        self._canvas = pn.Column(
            self._pane,
            self._card,
            self.tools.keys,
            self.keys,
            sizing_mode="stretch_width",
            margin=0,
            styles=self._canvas_styles(),
        )
        self._layout = pmui.Paper(
            pn.Row(self.legend.caption, self.tools, sizing_mode="stretch_width", margin=(4, 6, 0, 0)),
            self.tools.bar,
            self._canvas,
            pn.Row(self.legend, self._switches(), sizing_mode="stretch_width", margin=0),
            elevation=0,
            variant="outlined",
            sizing_mode="stretch_width",
            margin=0,
        )

    def _switches(self) -> pn.viewable.Viewable:
        sizes = {"size": "small", "margin": (2, 8, 2, 0)}
        return pn.Column(
            pmui.Switch.from_param(self.param.labels, description=self.param.labels.doc, **sizes),
            pmui.Switch.from_param(self.param.pictures, description=self.param.pictures.doc, **sizes),
            margin=(4, 4, 4, 0),
            styles={"flex": "none"},
        )

    def _canvas_styles(self) -> dict[str, str]:
        below = self.room_below + (BAR_HEIGHT if self.tools.bar.visible else 0)
        height = f"max(400px, calc(100vh - {below}px))"
        return {"position": "relative", "height": height, "overflow": "hidden"}

    def _fit(self) -> None:
        self._canvas.styles = self._canvas_styles()

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

    @property
    def _figure(self) -> Figure | None:
        return self._plot.figure

    def _adopt_figure(self, plot: Any, element: Any) -> None:
        """Put the rings and paths on a figure that HoloViews has made."""
        if self._plot.adopt(plot.state, self.tools.tool):
            self._set_ranges()
            self._draw_rings()
            self._draw_paths()

    # -- drawing ---------------------------------------------------------------------------

    def _picture(
        self, x_range: Any, y_range: Any, width: int | None, height: int | None, version: int, scale: float = 1.0
    ) -> hv.RGB:
        opened: OpenMap | None = self.session.opened
        ranges = opened.bounds if opened is not None else ((0.0, 1.0), (0.0, 1.0))
        x0, x1 = _finite(x_range) or ranges[0]
        y0, y1 = _finite(y_range) or ranges[1]
        size = (int(width or _FIRST_SIZE[0]), int(height or _FIRST_SIZE[1]))
        if opened is None:
            pixels = np.zeros((*size[::-1], 4), np.uint8)
        else:
            ratio = min(float(scale or 1), 2.0)
            window = Window((x0, x1), (y0, y1), round(size[0] * ratio), round(size[1] * ratio))
            self._note_radius(opened.dot_radius(window, size[0] * size[1]))
            pixels = self._draw(opened, window, ratio)
            self.decoration.show(
                opened, ((x0, x1), (y0, y1)), size, self._look(), labels=self.labels, pictures=self.pictures
            )
        return hv.RGB(pixels, bounds=(x0, y0, x1, y1), kdims=["x", "y"])

    def _draw(self, opened: OpenMap, window: Window, ratio: float) -> np.ndarray:
        """Return the picture of a window; what comes forward is drawn over the shared picture of all points."""
        state, radius = self.session.state, self._radius * ratio
        pixels = opened.picture(window, state.colour_by, state.filter, radius=radius)
        emphasis = self._emphasis.of(opened, state)
        if emphasis:
            colouring = opened.colouring(state.colour_by)
            look = self._look().ink
            pixels = emphasised(pixels, emphasis, window, colouring, radius=radius, ink=look, scale=ratio)
        if self.paths:  # step back, so that the path stands out
            pixels = pixels.copy()
            pixels[..., 3] = (pixels[..., 3] * 0.45).astype(np.uint8)
        return pixels

    def _show_map(self) -> None:
        opened = self.session.opened
        self._hover(None)
        self._canvas.visible = opened is not None
        before, self._shown = self._shown, None if opened is None else (opened.layer.run_id, opened.map_run)
        if opened is None:
            return
        is_another = self._shown != before  # the same points with other columns are seen from where one stood
        if is_another:
            self._range.update(x_range=None, y_range=None)
            self.view = None
        self._ring_hovered(self.session.state.hovered)
        self._tell_marked()
        self._redraw_picture()
        if is_another:
            self._set_ranges()
        self._draw_rings()

    def _redraw_picture(self) -> None:
        self._redraw.event(version=self._redraw.version + 1)

    def _set_ranges(self) -> None:
        if self.session.opened is not None:
            self._plot.limit(*self.session.opened.bounds)
            self._plot.move_to(*self.session.opened.bounds)

    def _draw_rings(self) -> None:
        opened = self.session.opened
        if opened is None:
            return
        state = self.session.state
        self._plot.put(rings=ring_columns(opened, state.selection, self._radius, self._look(), state.filter))

    def _draw_paths(self) -> None:
        lines, dots, labels = path_columns(self.paths, self.step, self._span(), self._look())
        self._plot.put(lines=lines, dots=dots, labels=labels)

    def _look(self) -> Look:
        return DARK if self.dark else LIGHT

    # -- the visitor's hand ----------------------------------------------------------------

    def zoom(self, factor: float) -> None:
        """Zoom about the middle of the view; a factor below 1 comes nearer."""
        if self.session.opened is None:
            return
        nearer = []
        for (low, high), (first, last) in zip(self._view(), self.session.opened.bounds, strict=True):
            middle = (low + high) / 2
            half = min((high - low) * factor, WIDEST * (last - first)) / 2
            nearer.append((middle - half, middle + half))
        self.look_at(*nearer)

    def reset(self) -> None:
        """Show all of the map again."""
        if self.session.opened is not None:
            self.look_at(*self.session.opened.bounds)

    def pan(self, right: float, up: float) -> None:
        """Move the view by shares of its width and height."""
        (x0, x1), (y0, y1) = self._view()
        across, along = (x1 - x0) * right, (y1 - y0) * up
        self.look_at((x0 + across, x1 + across), (y0 + along, y1 + along))

    def look_at(self, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
        """Show a part of the map."""
        self._plot.move_to(x_range, y_range)
        self._range.event(x_range=x_range, y_range=y_range)

    def _note_view(self, x_range: Any, y_range: Any) -> None:
        ranges = _finite(x_range), _finite(y_range)
        self.view = None if None in ranges else ranges

    def _tell_marked(self) -> None:
        state = self.session.state
        self.tools.tell(self.session.opened, state.group, state.filter)

    @property
    def seen(self) -> tuple[tuple[tuple[float, float], tuple[float, float]], tuple[float, float]]:
        """Ranges of x and y on show, and width and height in pixels."""
        return self._view(), self._pixels()

    def _view(self) -> tuple[tuple[float, float], tuple[float, float]]:
        opened = self.session.opened
        return self._plot.view or (opened.bounds if opened is not None else ((0.0, 1.0), (0.0, 1.0)))

    def _span(self) -> tuple[float, float]:
        (x0, x1), (y0, y1) = self._view()
        return x1 - x0, y1 - y0

    def _pixels(self) -> tuple[float, float]:
        return float(self._size.width or _FIRST_SIZE[0]), float(self._size.height or _FIRST_SIZE[1])

    def _note_radius(self, radius: float) -> None:
        """Dots grow as one zooms in, and rings with them; a class filter changes neither."""
        if abs(radius - self._radius) > 0.3:
            self._radius = radius
            self._draw_rings()

    def _nearest(self, x: float | None, y: float | None) -> int | None:
        opened = self.session.opened
        if opened is None or x is None or y is None:
            return None
        spans, pixels = self._span(), self._pixels()
        reach = max(_REACH, self.decoration.placed.side / 2 if self.decoration.placed.rows else 0)
        within = (reach * spans[0] / pixels[0], reach * spans[1] / pixels[1])
        return opened.row_near(float(x), float(y), within=within, wanted=self.session.state.filter)

    def _on_tap(self, x: float | None = None, y: float | None = None) -> None:
        row = self._nearest(x, y)
        if row is not None:
            self.session.click(self.session.opened.sample_at(row))

    def _on_pointer(self, x: float | None = None, y: float | None = None) -> None:
        self._hover(self._nearest(x, y))

    def _hover(self, row: int | None) -> None:
        state, opened = self.session.state, self.session.opened
        if row == self._hovered:
            return
        self._hovered = row
        if row is None or opened is None:
            state.hovered = None
            self._plot.put(hover={"x": [], "y": [], "size": []})
            self._card.hide()
            return
        state.hovered = opened.sample_at(row)
        x, y = (float(opened.table[axis].iloc[row]) for axis in "xy")
        size = self.decoration.placed.side + 8 if row in self.decoration.placed.rows else 2 * self._radius + 6
        self._plot.put(hover={"x": [x], "y": [y], "size": [size]})
        self._card.show(opened, row, self._view(), self._pixels())

    def _point_at(self, sample_id: str | None) -> None:
        """Ring a sample that is pointed at elsewhere: on another map, or in a list."""
        opened = self.session.opened
        if opened is None or (self._hovered is not None and sample_id == opened.sample_at(self._hovered)):
            return
        self._hovered = None
        self._card.hide()
        self._ring_hovered(sample_id)

    def _ring_hovered(self, sample_id: str | None) -> None:
        opened = self.session.opened
        places = [opened.position(sample_id)] if sample_id in opened.row_of else []
        size = 2 * self._radius + 6
        self._plot.put(hover={"x": [p[0] for p in places], "y": [p[1] for p in places], "size": [size] * len(places)})


def _hook_of(method: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Return a plot hook that does not keep its owner alive: HoloViews' options live as long as the process."""
    owned = weakref.WeakMethod(method)

    def hook(plot: Any, element: Any) -> None:
        adopt = owned()
        if adopt is not None:
            adopt(plot, element)

    return hook


def _finite(bounds: Sequence[float] | None) -> tuple[float, float] | None:
    if bounds is None or not all(b is not None and np.isfinite(b) for b in bounds) or bounds[0] == bounds[1]:
        return None
    return float(bounds[0]), float(bounds[1])
