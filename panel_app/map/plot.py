"""The HoloViews plot under a map: draws what is in view, and passes on what the pointer does there."""

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import holoviews as hv
import numpy as np
import panel as pn
from holoviews.plotting.bokeh.raster import RGBPlot
from panel.io.state import set_curdoc

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


class MapOwner(Protocol):
    """What draws the map, and answers the pointer."""

    def bounds(self) -> tuple[Range, Range]:
        """Return the ranges of x and y of all of the map."""

    def draw(self, view: tuple[Range, Range], size: tuple[int, int], scale: float) -> np.ndarray:
        """Return the picture of a part of the map, (height × scale, width × scale, 4) uint8."""

    def adopt(self, figure: Any) -> None:
        """Take a figure over that HoloViews made or changed."""

    def moved(self, view: tuple[Range, Range] | None) -> None:
        """Hear what is in view now; None is all of the map."""

    def tapped(self, x: float, y: float) -> None:
        """Answer a click at a place."""

    def pointed(self, x: float | None, y: float | None) -> None:
        """Answer the pointer at a place, or (None) beside the map."""

    def outlined(self, outline: np.ndarray | None) -> None:
        """Answer a lasso, (m, 2) corners."""

    def boxed(self, box: tuple[float, float, float, float] | None) -> None:
        """Answer a box: left, bottom, right, top."""


class MapPlot(pn.viewable.Viewer):
    """Shows the pictures that its owner draws.

    Args:
        owner: the map.
    """

    def __init__(self, owner: MapOwner) -> None:
        super().__init__()
        load_plots()
        self._owner = owner
        self.range = hv.streams.RangeXY()
        self._size = hv.streams.PlotSize(width=_FIRST_SIZE[0], height=_FIRST_SIZE[1])
        self._redraw = Redraw()
        picture = hv.DynamicMap(self._picture, streams=[self.range, self._size, self._redraw])
        self._listen(picture)
        self.pane = pn.pane.HoloViews(
            picture.opts(
                hv.opts.RGB(
                    responsive=True,
                    xaxis=None,
                    yaxis=None,
                    toolbar=None,
                    show_frame=False,
                    border=0,
                    default_tools=["pan", "wheel_zoom"],
                    active_tools=["wheel_zoom"],  # what dragging does HoloViews would reset at each redraw
                    hooks=[_hook_of(self._adopt)],
                    framewise=False,
                    apply_ranges=False,
                )
            ),
            linked_axes=False,  # each map has coordinates of its own
            sizing_mode="stretch_both",
            margin=0,
        )

    def __panel__(self) -> pn.viewable.Viewable:
        return self.pane

    def _listen(self, picture: hv.DynamicMap) -> None:
        owner = self._owner
        self.range.add_subscriber(lambda x_range, y_range: owner.moved(_view(x_range, y_range)))
        # Bokeh makes a press, not a tap, of a click of over 300 ms.
        self._clicks = hv.streams.Tap(source=picture), hv.streams.PressUp(source=picture)
        for click in self._clicks:
            click.add_subscriber(lambda x=None, y=None: None if x is None or y is None else owner.tapped(x, y))
        self._pointer, self._leave = hv.streams.PointerXY(source=picture), hv.streams.MouseLeave(source=picture)
        self._pointer.add_subscriber(lambda x=None, y=None: owner.pointed(x, y))
        self._leave.add_subscriber(lambda **_: owner.pointed(None, None))
        self._lasso, self._box = hv.streams.Lasso(source=picture), hv.streams.BoundsXY(source=picture)
        self._lasso.add_subscriber(lambda geometry=None: owner.outlined(geometry))
        self._box.add_subscriber(lambda bounds=None: owner.boxed(bounds))

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

    def _picture(
        self, x_range: Any, y_range: Any, width: int | None, height: int | None, version: int, scale: float = 1.0
    ) -> hv.RGB:
        bounds = self._owner.bounds()
        view = _finite(x_range) or bounds[0], _finite(y_range) or bounds[1]
        size = int(width or _FIRST_SIZE[0]), int(height or _FIRST_SIZE[1])
        pixels = self._owner.draw(view, size, min(float(scale or 1), _SHARPEST))
        (x0, x1), (y0, y1) = view
        return hv.RGB(pixels, bounds=(x0, y0, x1, y1), kdims=["x", "y"])

    def _adopt(self, plot: Any, element: Any) -> None:
        self._owner.adopt(plot.state)


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
