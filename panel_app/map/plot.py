"""The HoloViews plot under a map: draws what is in view, and passes on what the pointer does there."""

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import holoviews as hv
import numpy as np
import panel as pn
from bokeh.plotting import figure as Figure
from holoviews.plotting.bokeh.raster import RGBPlot
from panel.io.state import set_curdoc

from panel_app.fields import Part
from panel_app.point_grid import Range


class PatientPlot(RGBPlot):
    """Draws anew once its page is ready.

    `Plot.refresh` puts itself off to the next tick for as long as the browser has not said that it shows the page. A
    visitor who leaves before that would keep the server busy, and the session alive, for ever: a session that has
    something to do does not end.
    """

    _waits = False

    def refresh(self, **kwargs: Any) -> None:
        """Draw anew, or as soon as the page is ready; however often that was asked for, once."""
        with set_curdoc(self.document):
            waits = self.document is not None and not pn.state.loaded
            if waits and not self._waits:
                pn.state.onload(partial(self._begin, **kwargs))
        self._waits = waits
        if not waits:  # not as if the document were the current one: HoloViews looks whether it is
            super().refresh(**kwargs)

    def _begin(self, **kwargs: Any) -> None:
        self._waits = False
        super().refresh(**kwargs)


def load_plots() -> None:
    """Make HoloViews draw with Bokeh, and pictures patiently."""
    if hv.Store.registry.get("bokeh", {}).get(hv.RGB) is not PatientPlot:
        hv.extension("bokeh", logo=False)
        hv.Store.registry["bokeh"][hv.RGB] = PatientPlot


_FIRST_SIZE = (820, 540)
_SHARPEST = 2.0
"""Screens with more pixels for each of the page's get a picture of this many."""

Redraw = hv.streams.Stream.define("Redraw", version=0)


class MapPlot(Part):
    """Shows a map's picture.

    Args:
        bounds: returns the ranges of x and y of all of the map.
        draw: returns the picture of a part of the map: (view, width and height in pixels, pixels of the picture for
            each) -> (height, width, 4) uint8.
        adopt: called with a Bokeh figure that HoloViews made or changed.
    """

    def __init__(
        self,
        bounds: Callable[[], tuple[Range, Range]],
        draw: Callable[[tuple[Range, Range], tuple[int, int], float], np.ndarray],
        adopt: Callable[[Figure], None],
    ) -> None:
        super().__init__()
        load_plots()
        self._bounds, self._draw, self._adopt_figure = bounds, draw, adopt
        self.range = hv.streams.RangeXY()
        self._size = hv.streams.PlotSize(width=_FIRST_SIZE[0], height=_FIRST_SIZE[1])
        self._redraw = Redraw()
        self._picture = hv.DynamicMap(self._draw_picture, streams=[self.range, self._size, self._redraw])
        self._listeners: list[Any] = []
        looks = hv.opts.RGB(
            responsive=True, xaxis=None, yaxis=None, toolbar=None, show_frame=False, border=0,
            default_tools=["pan", "wheel_zoom"],
            active_tools=["wheel_zoom"],  # what dragging does HoloViews would reset at each redraw
            hooks=[_hook_of(self._adopt)], framewise=False, apply_ranges=False,
        )  # fmt: skip
        self._layout = self.pane = pn.pane.HoloViews(
            self._picture.opts(looks),
            linked_axes=False,  # each map has coordinates of its own
            sizing_mode="stretch_both",
            margin=0,
        )

    def listen(
        self,
        *,
        moved: Callable[[tuple[Range, Range] | None], None],
        tapped: Callable[[float, float], None],
        pointed: Callable[[float | None, float | None], None],
        outlined: Callable[[Any], None],
        boxed: Callable[[Any], None],
    ) -> None:
        """Say what the pointer does.

        Args:
            moved: called with what is in view; None is all of the map.
            tapped: called with the place of a click.
            pointed: called with the pointer's place; Nones beside the map.
            outlined: called with a lasso's (m, 2) corners.
            boxed: called with a box: left, bottom, right, top.
        """
        streams, picture = hv.streams, self._picture
        self.range.add_subscriber(lambda x_range, y_range: moved(_view(x_range, y_range)))

        def on_click(x: float | None = None, y: float | None = None) -> None:
            if x is not None and y is not None:
                tapped(x, y)

        for kind, answer in (
            (streams.Tap, on_click),
            (streams.PointerXY, lambda x=None, y=None: pointed(x, y)),
            (streams.MouseLeave, lambda **_: pointed(None, None)),
            (streams.Lasso, lambda geometry=None: outlined(geometry)),
            (streams.BoundsXY, lambda bounds=None: boxed(bounds)),
        ):
            stream = kind(source=picture)
            stream.add_subscriber(answer)
            self._listeners.append(stream)

    def redraw(self) -> None:
        """Draw the picture anew."""
        self._redraw.event(version=self._redraw.version + 1)

    def look_at(self, x_range: Range, y_range: Range) -> None:
        """Draw a part of the map."""
        self.range.event(x_range=x_range, y_range=y_range)

    def forget(self) -> None:
        """Draw all of the map next time."""
        self.range.update(x_range=None, y_range=None)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of the page."""
        return int(self._size.width or _FIRST_SIZE[0]), int(self._size.height or _FIRST_SIZE[1])

    def _draw_picture(
        self, x_range: Any, y_range: Any, width: int | None, height: int | None, version: int, scale: float = 1.0
    ) -> hv.RGB:
        (x0, x1), (y0, y1) = view = _view(x_range, y_range) or self._bounds()
        pixels = self._draw(view, self.size, min(float(scale or 1), _SHARPEST))
        return hv.RGB(pixels, bounds=(x0, y0, x1, y1), kdims=["x", "y"])

    def _adopt(self, plot: Any, element: Any) -> None:
        self._adopt_figure(plot.state)


def _hook_of(method: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Return a plot hook that does not keep its owner alive: HoloViews' options live as long as the process."""
    owned = weakref.WeakMethod(method)

    def hook(plot: Any, element: Any) -> None:
        adopt = owned()
        if adopt is not None:
            adopt(plot, element)

    return hook


def _view(x_range: Any, y_range: Any) -> tuple[Range, Range] | None:
    x_span, y_span = _finite(x_range), _finite(y_range)
    return None if x_span is None or y_span is None else (x_span, y_span)


def _finite(bounds: Sequence[float] | None) -> Range | None:
    if bounds is None or not all(b is not None and np.isfinite(b) for b in bounds) or bounds[0] == bounds[1]:
        return None
    return float(bounds[0]), float(bounds[1])
