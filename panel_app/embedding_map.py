"""The map: a Datashader picture of all points with rings, a hover card and denoising paths drawn over it."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import holoviews as hv
import numpy as np
import panel as pn
import panel_material_ui as pmui
import param
from bokeh.plotting import figure as Figure

from panel_app import raster
from panel_app.cards import hover_card
from panel_app.data import OpenMap
from panel_app.legend import MapLegend
from panel_app.overlays import DARK, LIGHT, DrawnPath, Look, add_glyphs, empty_sources, path_columns, ring_columns
from panel_app.session import Session
from panel_app.theme import PANE_CSS

_FIRST_SIZE = (820, 540)
_REACH = 11
"""Pixels around the pointer within which the nearest point counts as meant."""

_CARD = (330, 150)
"""Pixels that the hover card may take."""

Redraw = hv.streams.Stream.define("Redraw", version=0)


class EmbeddingMap(pn.viewable.Viewer):
    """Shows the session's map and turns pointer and clicks into sample ids."""

    dark = param.Boolean(False, doc="whether the page is dark")
    paths = param.List(default=[], item_type=DrawnPath, doc="denoising paths on show")
    step = param.Integer(-1, doc="step marked on the paths; -1 marks none")
    room_below = param.Integer(210, doc="pixels of the window left to what stands below the map")

    def __init__(self, session: Session, **params: Any) -> None:
        super().__init__(**params)
        self.session = session
        self._figure: Figure | None = None
        self._radius = 3.0
        self._hovered: int | None = None
        self._sources = empty_sources()
        self._build_plot()
        self._build_chrome()
        session.param.watch(lambda *_: self._show_map(), "opened")
        session.state.param.watch(lambda *_: self._redraw_picture(), ["filter", "colour_by"])
        session.state.param.watch(lambda *_: self._draw_rings(), "selection")
        self.param.watch(lambda *_: self._draw_paths(), ["paths", "step", "dark"])
        self.param.watch(lambda *_: self._redraw_picture(), "paths")
        self.param.watch(lambda *_: self._draw_rings(), "dark")
        self.param.watch(lambda *_: self._canvas.param.update(styles=self._canvas_styles()), "room_below")
        if session.opened is not None:
            self._show_map()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    # -- building --------------------------------------------------------------------------

    def _build_plot(self) -> None:
        if "bokeh" not in hv.Store.renderers:
            hv.extension("bokeh", logo=False)
        self._range = hv.streams.RangeXY()
        self._size = hv.streams.PlotSize(width=_FIRST_SIZE[0], height=_FIRST_SIZE[1])
        self._redraw = Redraw()
        picture = hv.DynamicMap(self._picture, streams=[self._range, self._size, self._redraw])
        self._tap = hv.streams.Tap(source=picture)
        self._pointer = hv.streams.PointerXY(source=picture)
        self._leave = hv.streams.MouseLeave(source=picture)
        self._tap.add_subscriber(self._on_tap)
        self._pointer.add_subscriber(self._on_pointer)
        self._leave.add_subscriber(lambda **_: self._hover(None))
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
                    active_tools=["pan", "wheel_zoom"],
                    hooks=[_hook_of(self._adopt_figure)],
                    framewise=False,
                    apply_ranges=False,
                )
            ),
            sizing_mode="stretch_both",
            margin=0,
        )

    def _build_chrome(self) -> None:
        buttons = [
            pmui.IconButton(icon=icon, label=text, description=text, size="small", on_click=action, margin=1)
            for icon, text, action in (
                ("add", "Zoom in", lambda _: self.zoom(0.65)),
                ("remove", "Zoom out", lambda _: self.zoom(1 / 0.65)),
                ("fit_screen", "Reset view", lambda _: self.reset()),
            )
        ]
        self._card = pn.pane.HTML("", visible=False, margin=0, stylesheets=[PANE_CSS])
        self._card.styles = {"position": "absolute", "left": "0", "top": "0"}
        self.legend = MapLegend(self.session)
        self._canvas = pn.Column(
            self._pane,
            self._card,
            sizing_mode="stretch_width",
            margin=0,
            styles=self._canvas_styles(),
        )
        self._layout = pmui.Paper(
            pn.Row(self.legend.caption, *buttons, sizing_mode="stretch_width", margin=(4, 6, 0, 0)),
            self._canvas,
            self.legend,
            elevation=0,
            variant="outlined",
            sizing_mode="stretch_width",
            margin=0,
        )

    def _canvas_styles(self) -> dict[str, str]:
        height = f"max(400px, calc(100vh - {self.room_below}px))"
        return {"position": "relative", "height": height, "overflow": "hidden"}

    def _adopt_figure(self, plot: Any, element: Any) -> None:
        """Prepare the Bokeh figure once: see-through, without axes, with the overlays' glyphs."""
        figure = plot.state
        if self._figure is figure:
            return
        self._figure = figure
        self._sources = empty_sources()
        figure.background_fill_alpha = figure.border_fill_alpha = 0
        figure.outline_line_color = None
        figure.min_border = 0
        figure.stylesheets = [".bk-Canvas { --highlight-color: transparent; }"]  # no dotted frame after a click
        figure.grid.visible = False
        add_glyphs(figure, self._sources)
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
            window = raster.Window((x0, x1), (y0, y1), round(size[0] * ratio), round(size[1] * ratio))
            state = self.session.state
            self._note_radius(raster.disc_radius(window.count(opened.table), size[0] * size[1]))
            pixels = raster.draw(
                opened.shown(state.filter), window, opened.colouring(state.colour_by), radius=self._radius * ratio
            )
            if self.paths:  # step back, so that the path stands out
                pixels[..., 3] = (pixels[..., 3] * 0.45).astype(np.uint8)
        return hv.RGB(pixels, bounds=(x0, y0, x1, y1), kdims=["x", "y"])

    def _show_map(self) -> None:
        opened = self.session.opened
        self._hover(None)
        self._canvas.visible = opened is not None
        if opened is None:
            return
        self._range.update(x_range=None, y_range=None)
        self._redraw_picture()
        self._set_ranges()
        self._draw_rings()

    def _redraw_picture(self) -> None:
        self._redraw.event(version=self._redraw.version + 1)

    def _set_ranges(self) -> None:
        if self._figure is None or self.session.opened is None:
            return
        self._move_to(*self.session.opened.bounds)

    def _draw_rings(self) -> None:
        opened = self.session.opened
        if opened is None:
            return
        self._put(rings=ring_columns(opened, self.session.state.selection, self._radius, self._look()))

    def _draw_paths(self) -> None:
        lines, dots, labels = path_columns(self.paths, self.step, self._span(), self._look())
        self._put(lines=lines, dots=dots, labels=labels)

    def _look(self) -> Look:
        return DARK if self.dark else LIGHT

    def _put(self, **columns: dict[str, list[Any]]) -> None:
        """Hand columns to the overlays' glyphs."""
        sources = self._sources

        def change() -> None:
            for name, data in columns.items():
                sources[name].data = data

        self._change_models(change)

    def _change_models(self, change: Callable[[], None]) -> None:
        """Change Bokeh models once the document's lock is free; stream callbacks and threads do not hold it."""
        if self._figure is None or self._figure.document is None:
            change()
        else:
            pn.state.execute(change, schedule=True)

    # -- the visitor's hand ----------------------------------------------------------------

    def zoom(self, factor: float) -> None:
        """Zoom about the middle of the view; a factor below 1 comes nearer."""
        nearer = []
        for low, high in self._view():
            middle, half = (low + high) / 2, (high - low) / 2 * factor
            nearer.append((middle - half, middle + half))
        self._move_to(*nearer)
        self._range.event(x_range=nearer[0], y_range=nearer[1])

    def reset(self) -> None:
        """Show all of the map again."""
        if self.session.opened is not None:
            bounds = self.session.opened.bounds
            self._move_to(*bounds)
            self._range.event(x_range=bounds[0], y_range=bounds[1])

    def _move_to(self, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
        figure = self._figure
        if figure is None:
            return

        def change() -> None:
            for axis, (low, high) in ((figure.x_range, x_range), (figure.y_range, y_range)):
                axis.update(start=low, end=high, reset_start=low, reset_end=high)

        self._change_models(change)

    def _view(self) -> tuple[tuple[float, float], tuple[float, float]]:
        figure, opened = self._figure, self.session.opened
        if figure is not None and figure.x_range.start is not None:
            return (figure.x_range.start, figure.x_range.end), (figure.y_range.start, figure.y_range.end)
        return opened.bounds if opened is not None else ((0.0, 1.0), (0.0, 1.0))

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
        within = (_REACH * spans[0] / pixels[0], _REACH * spans[1] / pixels[1])
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
            self._put(hover={"x": [], "y": [], "size": []})
            self._card.visible = False
            return
        state.hovered = opened.sample_at(row)
        x, y = (float(opened.table[axis].iloc[row]) for axis in "xy")
        self._put(hover={"x": [x], "y": [y], "size": [2 * self._radius + 6]})
        self._card.param.update(object=hover_card(opened, row), styles=self._card_place(x, y), visible=True)

    def _card_place(self, x: float, y: float) -> dict[str, str]:
        """Place the card beside its point, on the side where there is room."""
        (x0, _), (y0, _) = self._view()
        (dx, dy), (width, height) = self._span(), self._pixels()
        left, top = (x - x0) / dx * width, (1 - (y - y0) / dy) * height
        across = f"{left + 16:.0f}px" if left < width - _CARD[0] else f"{left - 16:.0f}px"
        shift_x = "0" if left < width - _CARD[0] else "-100%"
        shift_y = "0" if top < height - _CARD[1] else "-100%"
        return {
            "position": "absolute",
            "left": across,
            "top": f"{top:.0f}px",
            "transform": f"translate({shift_x}, {shift_y})",
            "pointer-events": "none",
            "z-index": "10",
        }


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
