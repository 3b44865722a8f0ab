"""The point that is pointed at: found under the pointer, ringed on the map, told by a card."""

from collections.abc import Callable
from typing import NamedTuple

import param

from panel_app.cards import hover_card
from panel_app.components import Html
from panel_app.failures import failures_to
from panel_app.map.figure import MapFigure
from panel_app.map.overlays import columns
from panel_app.map.thumbnails import Thumbnails
from panel_app.point_grid import Range
from panel_app.session import Session

_ROOM = (330, 150)
"""Pixels that the card may take."""
_GAP = 16
_CORNER = {"position": "absolute", "left": "0", "top": "0"}
_REACH = 11
"""Pixels around the pointer within which the nearest point counts as meant."""


class Seen(NamedTuple):
    """What a visitor sees of a map."""

    view: tuple[Range, Range]
    """The visible ranges of x and y."""
    pixels: tuple[float, float]
    """Width and height of the map on the screen."""
    radius: float
    """Of a dot, in pixels."""
    thumbnails: Thumbnails
    """The points that are shown as pictures."""

    @property
    def span(self) -> tuple[float, float]:
        """Width and height of the visible part."""
        (x0, x1), (y0, y1) = self.view
        return x1 - x0, y1 - y0

    def diameter(self, row: int | None = None) -> float:
        """Return how large the ring of a point is, in pixels; None is any that is no picture."""
        return self.thumbnails.side + 8 if row in self.thumbnails.rows else 2 * self.radius + 6


class Pointing(param.Parameterized):
    """Knows which point is meant, here or elsewhere on the page.

    Args:
        session: whose samples are pointed at.
        plot: the figure that the ring is put on.
        seen: returns what the visitor sees now.
    """

    def __init__(self, session: Session, plot: MapFigure, seen: Callable[[], Seen]) -> None:
        self.session, self._plot, self._seen = session, plot, seen
        self._row: int | None = None
        """The point under the pointer on this map."""
        self.card = Html(visible=False, margin=0, styles=_CORNER)
        """Lies over the map's canvas and never takes the pointer."""
        super().__init__()

    def nearest(self, x: float | None, y: float | None) -> int | None:
        """Return the row of the shown point that a place means, if any."""
        layer_map = self.session.map
        if layer_map is None or x is None or y is None:
            return None
        seen = self._seen()
        reach = max(_REACH, seen.thumbnails.side / 2 if seen.thumbnails.rows else 0)
        within = (reach * seen.span[0] / seen.pixels[0], reach * seen.span[1] / seen.pixels[1])
        found: int | None = layer_map.row_near(float(x), float(y), within=within, wanted=self.session.state.filter)
        return found

    def hover(self, row: int | None) -> None:
        """Point at a row of the map's table, or (None) at nothing."""
        state, layer_map = self.session.state, self.session.map
        if row == self._row:
            return
        self._row = row
        if row is None or layer_map is None:
            state.hovered = None
            self._ring([])
            self.card.visible = False
            return
        state.hovered = layer_map.sample_at(row)
        seen = self._seen()
        x, y = (float(layer_map.table[axis].iloc[row]) for axis in "xy")
        self._ring([(x, y, seen.diameter(row))])
        with failures_to(self.session.tell, "pointing at a sample"):
            card = hover_card(layer_map, row)
            self.card.param.update(object=card, styles=_beside(x, y, seen), visible=True)

    def show(self) -> None:
        """Ring on another map what was pointed at on the one before."""
        layer_map, sample_id = self.session.map, self.session.state.hovered
        known = layer_map is not None and sample_id in layer_map.row_of
        self._ring([(*layer_map.position(sample_id), self._seen().diameter())] if known else [])

    @param.depends("session.state.hovered", watch=True)
    def _point_elsewhere(self) -> None:
        """Ring a sample that is pointed at elsewhere: on another map, or in a list."""
        layer_map, sample_id = self.session.map, self.session.state.hovered
        if layer_map is None or (self._row is not None and sample_id == layer_map.sample_at(self._row)):
            return
        self._row = None
        self.card.visible = False
        self.show()

    def _ring(self, rings: list[tuple[float, float, float]]) -> None:
        self._plot.put(hover=columns("hover", rings))


def _beside(x: float, y: float, seen: Seen) -> dict[str, str]:
    """Return the styles that put a card beside a point, on the side where there is room."""
    (x0, x1), (y0, y1) = seen.view
    left, top = (x - x0) / (x1 - x0) * seen.pixels[0], (1 - (y - y0) / (y1 - y0)) * seen.pixels[1]
    has_right, has_below = left < seen.pixels[0] - _ROOM[0], top < seen.pixels[1] - _ROOM[1]
    return {
        "position": "absolute",
        "left": f"{left + (_GAP if has_right else -_GAP):.0f}px",
        "top": f"{top:.0f}px",
        "transform": f"translate({'0' if has_right else '-100%'}, {'0' if has_below else '-100%'})",
        "pointer-events": "none",
        "z-index": "10",
    }
