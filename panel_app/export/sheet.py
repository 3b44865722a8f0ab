"""The map as one visitor sees it, for print: dots as pixels, rings, paths, names and legend as shapes and words."""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffviews.data.pictures import encode_png
from diffviews.processing.sheet import MM_PER_INCH, PT, Box, Circle, Item, Line, Picture, Sheet, Words
from panel_app.cards import column_label
from panel_app.filter import Filter
from panel_app.layer_map import LayerMap
from panel_app.map.embedding_map import EmbeddingMap
from panel_app.map.emphasis import Emphasis, emphasis_of, emphasised
from panel_app.map.labels import fitting, labels_of
from panel_app.map.overlays import LIGHT, DrawnPath, path_columns, picture_columns, ring_columns
from panel_app.map.raster import Colouring, Window, draw_points
from panel_app.map.thumbnails import Placed, addresses, colours_of, placed
from panel_app.points import short_sigma, shortened
from panel_app.session import Session
from panel_app.state import Selection

WIDTH, DPI = 180.0, 300
"""Millimetres across, the text width of a page of paper, and pixels an inch."""

_EDGE = 3.0
_TITLE, _SMALL = 10 * PT, 7.5 * PT
_ROW = 4.2
"""Millimetres between lines of the legend."""
_COLUMN = 40.0
_MOST_ENTRIES = 24
_BEHIND_PATHS = 0.45
"""Share of their opacity that dots keep behind denoising paths."""

View = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, slots=True, eq=False)
class MapView:
    """A map as it is seen at one moment; nothing of it changes, so that a thread can draw it."""

    map: LayerMap
    colour_by: str
    filter: Filter
    selection: Selection
    emphasis: Emphasis
    view: View
    """Visible ranges of x and y."""
    pixels: tuple[float, float]
    """Width and height on the screen."""
    paths: tuple[DrawnPath, ...] = ()
    step: int = -1
    labels: bool = True
    pictures: bool = True


def view_of(session: Session, drawing: EmbeddingMap) -> MapView:
    """Return what a visitor sees of the map."""
    layer_map, state = session.map, session.state
    seen = drawing.seen
    return MapView(
        map=layer_map,
        colour_by=state.colour_by,
        filter=state.filter,
        selection=state.selection,
        emphasis=emphasis_of(layer_map, state),
        view=seen.view,
        pixels=seen.pixels,
        paths=tuple(drawing.paths),
        step=drawing.step,
        labels=drawing.labels,
        pictures=drawing.pictures,
    )


def map_sheet(seen: MapView, *, width: float = WIDTH, dpi: int = DPI) -> Sheet:
    """Return the map for print, on white: title, map, legend.

    Args:
        seen: the map.
        width: of the sheet in millimetres; its height follows from the shape of the view.
        dpi: resolution of the dots' pixels.
    """
    across = width - 2 * _EDGE
    scale = across / seen.pixels[0]
    area = (_EDGE, _EDGE + 10.0, across, seen.pixels[1] * scale)
    colouring = seen.map.colouring(seen.colour_by)
    legend, below = _legend(seen, colouring, area[1] + area[3] + 3.0, across)
    title = _title(seen)
    items = (*_heading(seen, title, across), *_map(seen, colouring, area, scale, dpi), *legend)
    return Sheet(width, below + _EDGE, items, title=title, clip=area)


def _title(seen: MapView) -> str:
    layer = seen.map.layer
    where = "over several σ" if seen.map.is_joint else f"at σ {short_sigma(layer.sigma)}"
    return f"{layer.layer} {where}"


def _heading(seen: MapView, title: str, across: float) -> list[Item]:
    layer_map, shown = seen.map, len(seen.map.points(seen.colour_by, seen.filter).grid)
    about = (
        f"{layer_map.layer.model or ''} · {layer_map.layer.dataset or ''} · {shown:,} of {len(layer_map.table):,} shown"
    )
    coloured = f"coloured by {column_label(seen.colour_by).lower()}"
    return [
        Words(_EDGE, _EDGE + 2.0, title, _TITLE, LIGHT.ink, bold=True),
        Words(_EDGE, _EDGE + 6.4, shortened(f"{about} · {coloured}", 140), _SMALL, "#5b6470"),
    ]


def _map(seen: MapView, colouring: Colouring, area: Any, scale: float, dpi: int) -> list[Item]:
    """Return the dots as one picture, and everything over them."""
    left, top, across, high = area
    items: list[Item] = [Picture(left, top, across, high, _dots(seen, colouring, across, high, dpi))]
    near = (
        placed(seen.map.points(seen.colour_by, seen.filter).grid, seen.view, seen.pixels) if seen.pictures else Placed()
    )
    items += _pictures(seen, colouring, near, area, scale)
    items += _paths(seen, area, scale)
    items += _rings(seen, area, scale)
    if seen.labels and not near.rows:
        names = fitting(labels_of(seen.map, seen.colour_by, seen.filter), seen.view, seen.pixels)
        for name in names:
            x, y = _place(seen, area, name.x, name.y)
            items.append(Words(x, y, name.text, 13 * scale, LIGHT.ink, bold=True, anchor="middle", halo=LIGHT.paper))
    return items


def _dots(seen: MapView, colouring: Colouring, across: float, high: float, dpi: int) -> bytes:
    """Return the dots as drawn on the screen, with the pixels of the print, as PNG."""
    size = tuple(max(round(side * dpi / MM_PER_INCH), 1) for side in (across, high))
    window = Window(*seen.view, *size)
    finer = size[0] / seen.pixels[0]
    radius = seen.map.dot_radius(window, round(seen.pixels[0] * seen.pixels[1])) * finer
    points = seen.map.points(seen.colour_by, seen.filter)
    pixels = draw_points(points, window, colouring, radius=radius)
    if seen.emphasis:
        pixels = emphasised(pixels, seen.emphasis, window, colouring, radius=radius, ink=LIGHT.ink, scale=finer)
    if seen.paths:
        pixels = pixels.copy()
        pixels[..., 3] = (pixels[..., 3] * _BEHIND_PATHS).astype(np.uint8)
    return encode_png(pixels)


def _pictures(seen: MapView, colouring: Colouring, near: Placed, area: Any, scale: float) -> list[Item]:
    layer_map, rows = seen.map, near.rows
    places = [(float(x), float(y)) for x, y in layer_map.table[["x", "y"]].iloc[list(rows)].to_numpy()]
    shown = addresses(layer_map, [layer_map.sample_at(row) for row in rows])
    frames, pictures = picture_columns(places, shown, colours_of(layer_map, rows, colouring), near.side)
    items: list[Item] = []
    for fx, fy, size, colour, address in zip(
        frames["x"], frames["y"], frames["size"], frames["colour"], pictures["url"], strict=True
    ):
        x, y = _place(seen, area, fx, fy)
        for side, made in ((size * scale, None), (near.side * scale, address)):
            corner = (x - side / 2, y - side / 2, side, side)
            if made is None:
                items.append(Box(*corner, colour))
            else:
                items.append(Picture(*corner, base64.b64decode(made.partition(",")[2]), sharp=layer_map.is_small))
    return items


def _rings(seen: MapView, area: Any, scale: float) -> list[Item]:
    window = Window(*seen.view, round(seen.pixels[0]), round(seen.pixels[1]))
    radius = seen.map.dot_radius(window, round(seen.pixels[0] * seen.pixels[1]))
    rings = ring_columns(seen.map, seen.selection, radius, LIGHT, seen.filter)
    rows = list(zip(*(rings[name] for name in ("x", "y", "size", "width", "colour", "alpha")), strict=True))
    items: list[Item] = []
    for halo in (True, False):
        for rx, ry, size, width, colour, alpha in rows:
            x, y = _place(seen, area, rx, ry)
            stroke, wide = (LIGHT.paper, 6.0) if halo else (colour, width)
            items.append(Circle(x, y, size * scale / 2, stroke=stroke, width=wide * scale, opacity=float(alpha)))
    return items


def _paths(seen: MapView, area: Any, scale: float) -> list[Item]:
    (x0, x1), (y0, y1) = seen.view
    lines, dots, labels = path_columns(seen.paths, seen.step, (x1 - x0, y1 - y0), LIGHT)
    items: list[Item] = []
    for xs, ys, colour, dash, width in zip(
        lines["xs"], lines["ys"], lines["colour"], lines["dash"], lines["width"], strict=True
    ):
        way = tuple(_place(seen, area, x, y) for x, y in zip(xs, ys, strict=True))
        items.append(Line(way, LIGHT.paper, 6 * scale, opacity=0.85))
        items.append(Line(way, colour, width * scale, dashed=dash != "solid"))
    for dx, dy, colour, size, edge in zip(
        dots["x"], dots["y"], dots["colour"], dots["size"], dots["edge"], strict=True
    ):
        x, y = _place(seen, area, dx, dy)
        items.append(Circle(x, y, size * scale / 2, fill=colour, stroke=edge, width=1.5 * scale))
    for lx, ly, text in zip(labels["x"], labels["y"], labels["text"], strict=True):
        x, y = _place(seen, area, lx, ly)
        items.append(Words(x + 9 * scale, y - 14 * scale, text, 12 * scale, LIGHT.ink, bold=True, halo=LIGHT.paper))
    return items


def _place(seen: MapView, area: Any, x: float, y: float) -> tuple[float, float]:
    """Return where a place of the map is on the sheet."""
    left, top, across, high = area
    (x0, x1), (y0, y1) = seen.view
    return left + (x - x0) / (x1 - x0) * across, top + (y1 - y) / (y1 - y0) * high


def _legend(seen: MapView, colouring: Colouring, top: float, across: float) -> tuple[list[Item], float]:
    """Return the key to the colours and where it ends."""
    if not colouring.categorical:
        return _scale(seen, colouring, top), top + 8.0
    counts = np.bincount(
        seen.map.points(seen.colour_by, seen.filter).values, minlength=len(colouring.categories)
    ).tolist()
    entries = [(*e, True) for e in zip(colouring.categories, colouring.colours, counts, strict=True)]
    if len(entries) > _MOST_ENTRIES:
        rest = entries[_MOST_ENTRIES:]
        entries = [*entries[:_MOST_ENTRIES], (f"and {len(rest)} more", "", sum(e[2] for e in rest), False)]
    columns = max(int(across // _COLUMN), 1)
    items: list[Item] = []
    for index, (name, colour, count, dotted) in enumerate(entries):
        x, y = _EDGE + index % columns * across / columns, top + (index // columns + 0.5) * _ROW
        if dotted:
            items.append(Circle(x + 1.2, y, 1.2, fill=colour, free=True))
        items.append(Words(x + 3.6, y, f"{shortened(name, 22)}  {count:,}", _SMALL, LIGHT.ink))
    return items, top + -(-len(entries) // columns) * _ROW


def _scale(seen: MapView, colouring: Colouring, top: float) -> list[Item]:
    steps = np.linspace(colouring.low, colouring.high, 128)
    row = [[int(colouring.colour_at(v)[i : i + 2], 16) for i in (1, 3, 5)] for v in steps]
    strip = encode_png(np.array([row] * 4, dtype=np.uint8))
    label = column_label(seen.colour_by)
    return [
        Words(_EDGE, top + 1.8, label, _SMALL, LIGHT.ink),
        Picture(_EDGE + 50, top, 60, 3.6, strip),
        Words(_EDGE + 50, top + 6, f"{colouring.low:.3g}", _SMALL, LIGHT.ink),
        Words(_EDGE + 110, top + 6, f"{colouring.high:.3g}", _SMALL, LIGHT.ink, anchor="end"),
    ]
