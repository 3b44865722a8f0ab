"""Two maps that zoom together: the same share of each, or the same sample in the middle of both."""

from typing import Any

from panel_app.compare.comparison import Comparison
from panel_app.layer_map import LayerMap
from panel_app.map.embedding_map import EmbeddingMap

Range = tuple[float, float]
View = tuple[Range, Range]
CLOSE = 0.25
"""Share of a map's width and height that is shown when a sample is followed on a map not zoomed into yet."""
_SAME = 1e-4
"""Views that differ by less than this share of their size are one; a browser answers with rounded numbers."""


def shares(view: View, bounds: View) -> View:
    """Return a part of a map as shares of its bounds: ((0, 1), (0, 1)) is all of it."""
    return tuple(
        ((low - b0) / (b1 - b0), (high - b0) / (b1 - b0)) for (low, high), (b0, b1) in zip(view, bounds, strict=True)
    )  # type: ignore[return-value]


def part(share: View, bounds: View) -> View:
    """Return the part of a map that lies at shares of its bounds."""
    return tuple(
        (b0 + low * (b1 - b0), b0 + high * (b1 - b0)) for (low, high), (b0, b1) in zip(share, bounds, strict=True)
    )  # type: ignore[return-value]


def around(place: tuple[float, float], share: View, bounds: View) -> View:
    """Return the part of a map with a place in its middle that is as large as `share`."""
    views = []
    for centre, (low, high), (b0, b1) in zip(place, share, bounds, strict=True):
        half = (high - low) * (b1 - b0) / 2
        views.append((centre - half, centre + half))
    return views[0], views[1]


def is_same(first: View, second: View) -> bool:
    """Return whether two views differ by less than a browser rounds."""
    return all(
        abs(a - b) <= _SAME * (high - low)
        for (low, high), other in zip(first, second, strict=True)
        for a, b in zip((low, high), other, strict=True)
    )


class ZoomLink:
    """Lets two maps follow each other's view while the visitor wants it."""

    def __init__(self, comparison: Comparison, left: EmbeddingMap, right: EmbeddingMap) -> None:
        self._comparison, self._maps = comparison, (left, right)
        self._linking = False
        for own, other in ((left, right), (right, left)):
            own.param.watch(lambda event, own=own, other=other: self._moved(own, other), "view")
        comparison.session.state.param.watch(lambda *_: self._centre(), "selection")
        comparison.session.state.param.watch(self._switched, "against")

    def _switched(self, event: Any) -> None:
        if event.new.follow and not event.old.follow:
            self._centre()
        elif event.new.together and not event.old.together:
            self._moved(*self._maps)

    def _moved(self, own: EmbeddingMap, other: EmbeddingMap) -> None:
        """Bring the other map to the same share of itself, or, following, to the same sample."""
        against, layer_map, beside = self._comparison.against, own.session.map, other.session.map
        if self._linking or layer_map is None or beside is None or not (against.together or against.follow):
            return
        share = shares(own.view or layer_map.bounds, layer_map.bounds)
        view = part(share, beside.bounds)
        if against.follow and own.view is not None and (place := self._place(beside)) is not None:
            view = around(place, share, beside.bounds)
        self._look(other, view)

    def _centre(self) -> None:
        """Put the selected sample into the middle of both maps."""
        if not self._comparison.against.follow:
            return
        for drawing in self._maps:
            layer_map = drawing.session.map
            place = None if layer_map is None else self._place(layer_map)
            if layer_map is None or place is None:
                continue
            share = shares(drawing.view, layer_map.bounds) if drawing.view else ((0.0, CLOSE), (0.0, CLOSE))
            self._look(drawing, around(place, share, layer_map.bounds))

    def _place(self, layer_map: LayerMap) -> tuple[float, float] | None:
        sample_id = self._comparison.session.state.selection.sample_id
        return layer_map.position(sample_id) if sample_id in layer_map.row_of else None

    def _look(self, drawing: EmbeddingMap, view: View) -> None:
        layer_map = drawing.session.map
        if layer_map is None or is_same(drawing.view or layer_map.bounds, view):
            return
        self._linking = True
        try:
            drawing.look_at(*view)
        finally:
            self._linking = False
