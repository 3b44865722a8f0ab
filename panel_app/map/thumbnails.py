"""What is put on the map besides dots: names of places, and pictures of samples where few are in view."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from diffviews.data.pictures import encode_png
from panel_app.computing.background import Background
from panel_app.layer_map import LayerMap
from panel_app.map.figure import MapFigure
from panel_app.map.labels import MapLabel, fitting, labels_of
from panel_app.map.overlays import Look, name_columns, picture_columns
from panel_app.pictures import PREVIEW, png_address
from panel_app.point_grid import PointGrid, Range
from panel_app.raster import Colouring, column_values
from panel_app.recent import Recent
from panel_app.session import Session

MOST = 150
"""Of more points in view none is shown as a picture."""
_SMALLEST, _LARGEST = 26, 64
"""Pixels on a side."""
_SHARE = 0.3
"""Share of the view that pictures may cover."""
_APART = 0.95
"""Least distance of two pictures, of their side, on one axis at least."""


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Points that are shown as pictures."""

    rows: tuple[int, ...] = ()
    """Rows of the map's table."""
    side: int = _SMALLEST
    """Pixels on a side of each picture."""


def thumbnails_in(
    grid: PointGrid, view: tuple[Range, Range], pixels: tuple[float, float], most: int = MOST
) -> Thumbnails:
    """Choose which points in view are shown as pictures: first come, first served, so that they do not hide each other.

    Args:
        grid: the points shown.
        view: visible part of the map.
        pixels: its width and height on the screen.
        most: of more points in view none is chosen.
    """
    if sum(span.stop - span.start for span in grid.spans(*view)) > 100 * most:
        return Thumbnails()
    places = grid.inside(*view)
    if not 0 < len(places) <= most:
        return Thumbnails()
    side = int(np.clip(np.sqrt(_SHARE * pixels[0] * pixels[1] / len(places)), _SMALLEST, _LARGEST))
    places = places[np.argsort(grid.rows[places])]  # the same ones however the view came about
    left = (grid.x[places] - view[0][0]) / (view[0][1] - view[0][0]) * pixels[0]
    top = (grid.y[places] - view[1][0]) / (view[1][1] - view[1][0]) * pixels[1]
    taken: list[int] = []
    for i in range(len(places)):
        gaps = np.maximum(np.abs(left[taken] - left[i]), np.abs(top[taken] - top[i]))
        if not len(taken) or gaps.min() >= _APART * side:
            taken.append(i)
    return Thumbnails(tuple(grid.rows[places[taken]].tolist()), side)


def addresses(layer_map: LayerMap, sample_ids: Sequence[str]) -> list[str]:
    """Return pictures as data addresses; small ones are enlarged pixel by pixel, for a canvas would blur them."""
    if not sample_ids:
        return []
    data = layer_map.samples.thumbnails_of(sample_ids)
    return [_enlarged(png) if layer_map.is_small else png_address(png, PREVIEW) for png in data]


class Previews:
    """Pictures that one visitor sees now as data addresses; what stays in view is not read again."""

    def __init__(self) -> None:
        self._shown: dict[tuple[str, str], str] = {}

    def has(self, layer_map: LayerMap, sample_ids: Sequence[str]) -> bool:
        """Whether nothing would have to be read."""
        return all((layer_map.layer.parent_id, sample_id) in self._shown for sample_id in sample_ids)

    def of(self, layer_map: LayerMap, sample_ids: Sequence[str]) -> list[str]:
        """Return the pictures of samples, and keep only these."""
        extraction, kept = layer_map.layer.parent_id, self._shown
        missing = [s for s in sample_ids if (extraction, s) not in kept]
        read = dict(zip(missing, addresses(layer_map, missing), strict=True))
        found = {(extraction, s): read.get(s) or kept[extraction, s] for s in sample_ids}
        self._shown = found
        return [found[extraction, s] for s in sample_ids]


def colours_of(layer_map: LayerMap, rows: Sequence[int], colouring: Colouring) -> list[str]:
    """Return the colour that each point has on the map, as #rrggbb."""
    values = column_values(layer_map.table[[colouring.column]].iloc[list(rows)], colouring)
    return [f"#{bytes(rgb).hex()}" for rgb in colouring.rgb(values)]


def _enlarged(png: bytes) -> str:
    with Image.open(io.BytesIO(png)) as picture:
        times = max(PREVIEW * 4 // 3 // max(picture.size), 1)
        large = picture.convert("RGB").resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    return png_address(encode_png(np.asarray(large)))


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
        self._names = Recent[tuple[MapLabel, ...]](1)
        self._previews = Previews()
        self.thumbnails = Thumbnails()

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
        colour_by, wanted = self._state.colour_by, self._state.filter
        grid = layer_map.points(colour_by, wanted).grid
        self.thumbnails = (
            thumbnails_in(grid, view, size) if pictures and is_near(layer_map.bounds, view) else Thumbnails()
        )
        names: tuple[MapLabel, ...] = ()
        if labels and not self.thumbnails.rows:
            key = (layer_map, colour_by, wanted)
            names = self._names.get(key, lambda: labels_of(layer_map, colour_by, wanted))
        self._plot.put(names=name_columns(fitting(names, view, size), look))
        self._place_pictures(layer_map)

    def _place_pictures(self, layer_map: LayerMap) -> None:
        """Put pictures in the place of dots; those that must be read first come a little later."""
        chosen, rows = self.thumbnails, list(self.thumbnails.rows)
        places = list(zip(*(layer_map.table[axis].to_numpy()[rows].tolist() for axis in "xy"), strict=True))
        colours = colours_of(layer_map, rows, layer_map.colouring(self._state.colour_by))
        sample_ids = [layer_map.sample_at(row) for row in rows]

        def show(shown: list[str]) -> None:
            if self.thumbnails is chosen:  # the view has not moved on meanwhile
                frames, pictures = picture_columns(places, shown, colours, chosen.side)
                self._plot.put(frames=frames, pictures=pictures)

        if self._previews.has(layer_map, sample_ids):
            show(self._previews.of(layer_map, sample_ids))
        else:
            self.reading.start(lambda: self._previews.of(layer_map, sample_ids), show)


def is_near(bounds: tuple[Range, Range], view: tuple[Range, Range]) -> bool:
    """Whether a view shows only a part of the map: all of a small map is no reason for pictures."""
    return all(seen[1] - seen[0] <= _NEAR * (whole[1] - whole[0]) for whole, seen in zip(bounds, view, strict=True))
