"""Bringing some points of the map forward: the rest fades, and marked points have an outline."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import maximum_filter

from panel_app.layer_map import LayerMap
from panel_app.map.raster import Colouring, Points, Window, draw_points, over
from panel_app.state import ViewState

_FADED = 0.16
"""Share of their opacity that the other points keep."""
_OUTLINE = 2.0
"""Width of a marked point's outline in pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Emphasis:
    """Points brought forward."""

    highlighted: Points | None = None
    """Those of the category that is highlighted."""
    marked: Points | None = None
    """Those that are marked together."""

    def __bool__(self) -> bool:
        return self.highlighted is not None or self.marked is not None


class LastEmphasis:
    """Finds what one visitor's view brings forward, anew only when something of it changed."""

    def __init__(self) -> None:
        self._last: tuple[Any, Emphasis] = (None, Emphasis())

    def of(self, layer_map: LayerMap, state: ViewState) -> Emphasis:
        """Return what `emphasis_of` finds."""
        key = (layer_map.map_run, layer_map.layer.run_id, state.colour_by, state.filter, state.group, state.highlight)
        if self._last[0] != key:
            self._last = key, emphasis_of(layer_map, state)
        return self._last[1]


def emphasis_of(layer_map: LayerMap, state: ViewState) -> Emphasis:
    """Return what a view brings forward of the points that it shows."""
    colouring = layer_map.colouring(state.colour_by)
    points = layer_map.points(state.colour_by, state.filter)
    highlighted = marked = None
    if state.highlight in colouring.categories:
        highlighted = points.only(points.values == colouring.categories.index(state.highlight))
    if len(state.group):
        held = np.zeros(len(layer_map.table), dtype=bool)
        held[layer_map.rows_of(state.group.sample_ids)] = True
        marked = points.only(held[points.grid.rows])
    return Emphasis(highlighted, marked)


def emphasised(
    base: np.ndarray, emphasis: Emphasis, window: Window, colouring: Colouring, *, radius: float, ink: str, scale: float
) -> np.ndarray:
    """Return the picture with some points brought forward.

    Args:
        base: (H, W, 4) uint8, all points; it is not changed.
        emphasis: what comes forward.
        window: visible part and size in pixels.
        colouring: how points are coloured.
        radius: of a point's disc, in pixels of the picture.
        ink: colour of the outline around marked points.
        scale: pixels of the picture for each of the screen.
    """
    picture, faded = base, _FADED
    if emphasis.highlighted is not None:
        picture = over(draw_points(emphasis.highlighted, window, colouring, radius=radius), picture, faded)
        faded = 1.0
    if emphasis.marked is not None:
        dots = draw_points(emphasis.marked, window, colouring, radius=radius)
        picture = over(dots, over(_outline(dots, ink, scale), picture, faded))
    return picture


def _outline(dots: np.ndarray, ink: str, scale: float) -> np.ndarray:
    """Return everything within the outline's width of the dots, in one colour."""
    reach = max(round(_OUTLINE * scale), 1)
    around = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]) <= reach + 0.3
    picture = np.empty_like(dots)
    picture[..., :3] = [int(ink[i : i + 2], 16) for i in (1, 3, 5)]
    picture[..., 3] = maximum_filter(dots[..., 3], footprint=around)
    return picture
