"""Pictures of samples in the place of their dots, where so few are in view that there is room for them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from diffviews.data.pictures import encode_png
from panel_app.layer_map import LayerMap
from panel_app.map.point_grid import PointGrid, Range
from panel_app.map.raster import Colouring
from panel_app.pictures import PREVIEW, png_address

MOST = 150
"""Of more points in view none is shown as a picture."""
_SMALLEST, _LARGEST = 26, 64
"""Pixels on a side."""
_SHARE = 0.3
"""Share of the view that pictures may cover."""
_APART = 0.95
"""Least distance of two pictures, of their side, on one axis at least."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Points that are shown as pictures."""

    rows: tuple[int, ...] = ()
    """Rows of the map's table."""
    side: int = _SMALLEST
    """Pixels on a side of each picture."""


def placed(grid: PointGrid, view: tuple[Range, Range], pixels: tuple[float, float], most: int = MOST) -> Placed:
    """Choose which points in view are shown as pictures: first come, first served, so that they do not hide each other.

    Args:
        grid: the points shown.
        view: visible part of the map.
        pixels: its width and height on the screen.
        most: of more points in view none is chosen.
    """
    if sum(span.stop - span.start for span in grid.spans(*view)) > 100 * most:
        return Placed()
    places = grid.inside(*view)
    if not 0 < len(places) <= most:
        return Placed()
    side = int(np.clip(np.sqrt(_SHARE * pixels[0] * pixels[1] / len(places)), _SMALLEST, _LARGEST))
    places = places[np.argsort(grid.rows[places])]  # the same ones however the view came about
    left = (grid.x[places] - view[0][0]) / (view[0][1] - view[0][0]) * pixels[0]
    top = (grid.y[places] - view[1][0]) / (view[1][1] - view[1][0]) * pixels[1]
    taken: list[int] = []
    for i in range(len(places)):
        gaps = np.maximum(np.abs(left[taken] - left[i]), np.abs(top[taken] - top[i]))
        if not len(taken) or gaps.min() >= _APART * side:
            taken.append(i)
    return Placed(tuple(grid.rows[places[taken]].tolist()), side)


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
    values = layer_map.table[colouring.column].iloc[list(rows)]
    if colouring.categorical:
        key = dict(zip(colouring.categories, colouring.colours, strict=True))
        return [key[str(value)] for value in values]
    return [colouring.colour_at(float(value)) for value in values]


def _enlarged(png: bytes) -> str:
    with Image.open(io.BytesIO(png)) as picture:
        times = max(PREVIEW * 4 // 3 // max(picture.size), 1)
        large = picture.convert("RGB").resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    return png_address(encode_png(np.asarray(large)))
