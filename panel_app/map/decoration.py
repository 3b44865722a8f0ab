"""What is put on the map besides dots: names of places, and pictures of samples where few are in view."""

from typing import Any

from panel_app.computing.background import Background
from panel_app.layer_map import LayerMap
from panel_app.map.figure import MapFigure
from panel_app.map.labels import MapLabel, fitting, labels_of
from panel_app.map.overlays import Look, name_columns, picture_columns
from panel_app.map.point_grid import Range
from panel_app.map.thumbnails import Placed, Previews, colours_of, placed
from panel_app.session import Session

_NEAR = 0.75
"""A view of at most this share of the map, on both axes, counts as near."""


class Decoration:
    """Names and pictures of one visitor's map.

    Args:
        session: its state says what is shown, and how it is coloured; it tells of pictures that cannot be read.
        plot: the figure that they are put on.
    """

    def __init__(self, session: Session, plot: MapFigure) -> None:
        self._state, self._plot = session.state, plot
        self.reading = Background(session.tell)
        self._names: tuple[Any, tuple[MapLabel, ...]] = (None, ())
        self._previews = Previews()
        self.placed = Placed()

    def show(
        self,
        layer_map: LayerMap,
        view: tuple[Range, Range],
        size: tuple[int, int],
        look: Look,
        *,
        labels: bool = True,
        pictures: bool = True,
    ) -> None:
        """Write the names that fit a view, or show pictures where there is room for them."""
        grid = layer_map.points(self._state.colour_by, self._state.filter).grid
        self.placed = placed(grid, view, size) if pictures and is_near(layer_map.bounds, view) else Placed()
        names = self._named(layer_map) if labels and not self.placed.rows else ()
        self._plot.put(names=name_columns(fitting(names, view, size), look))
        self._place_pictures(layer_map)

    def _named(self, layer_map: LayerMap) -> tuple[MapLabel, ...]:
        """Return the names that suit the view, found anew only when something of it changed."""
        key = (layer_map.map_run, layer_map.layer.run_id, self._state.colour_by, self._state.filter)
        if self._names[0] != key:
            self._names = key, labels_of(layer_map, self._state.colour_by, self._state.filter)
        return self._names[1]

    def _place_pictures(self, layer_map: LayerMap) -> None:
        """Put pictures in the place of dots; those that must be read first come a little later."""
        chosen, rows = self.placed, list(self.placed.rows)
        places = list(zip(*(layer_map.table[axis].to_numpy()[rows].tolist() for axis in "xy"), strict=True))
        colours = colours_of(layer_map, rows, layer_map.colouring(self._state.colour_by))
        sample_ids = [layer_map.sample_at(row) for row in rows]

        def show(shown: list[str]) -> None:
            if self.placed is chosen:  # the view has not moved on meanwhile
                frames, pictures = picture_columns(places, shown, colours, chosen.side)
                self._plot.put(frames=frames, pictures=pictures)

        if self._previews.has(layer_map, sample_ids):
            show(self._previews.of(layer_map, sample_ids))
        else:
            self.reading.start(lambda: self._previews.of(layer_map, sample_ids), show)


def is_near(bounds: tuple[Range, Range], view: tuple[Range, Range]) -> bool:
    """Whether a view shows only a part of the map: all of a small map is no reason for pictures."""
    return all(seen[1] - seen[0] <= _NEAR * (whole[1] - whole[0]) for whole, seen in zip(bounds, view, strict=True))
