"""The map as one visitor sees it, as a figure for print: dots as pixels, rings, paths, names and legend as shapes."""

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from diffviews.errors import ConfigError
from panel_app.cards import column_label
from panel_app.filter import Filter
from panel_app.layer_map import LayerMap
from panel_app.map.embedding_map import EmbeddingMap
from panel_app.map.labels import fitting, labels_of
from panel_app.map.overlays import LIGHT, DrawnPath, Emphasis, emphasis_of, emphasised, path_columns, ring_columns
from panel_app.map.thumbnails import Thumbnails, colours_of, thumbnails_in
from panel_app.points import short_sigma, shortened
from panel_app.raster import Colouring, Window, draw_points
from panel_app.session import Session
from panel_app.state import Selection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, DPI = 180.0, 300
"""Millimetres across, the text width of a page of paper, and pixels an inch."""

MM_PER_INCH = 25.4
POINTS_PER_MM = 72 / MM_PER_INCH
LARGEST_SIDE = 12_000
"""Pixels a side of a PNG."""

_EDGE, _TOP = 3.0, 13.0
"""Millimetres around the figure, and above the map."""
_TITLE, _SMALL = 10.0, 7.5
"""Sizes of letters in points."""
_ROW, _COLUMN = 4.2, 40.0
"""Millimetres between lines of the legend, and a column's least width."""
_MOST_ENTRIES = 24
_BEHIND_PATHS = 0.45
"""Share of their opacity that dots keep behind denoising paths."""
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

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

    @property
    def title(self) -> str:
        """Layer and noise level."""
        layer = self.map.layer
        where = "over several σ" if self.map.is_joint else f"at σ {short_sigma(layer.sigma)}"
        return f"{layer.layer} {where}"

    @property
    def about(self) -> str:
        """How many points are shown, and what colours them."""
        shown = len(self.map.points(self.colour_by, self.filter).grid)
        return f"{shown:,} of {len(self.map.table):,} shown, coloured by {column_label(self.colour_by).lower()}"


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


def figure_png(seen: MapView, *, width: float = WIDTH, dpi: int = DPI) -> bytes:
    """Return the map for print as a PNG file that knows its resolution; arguments and errors as of `map_figure`."""
    stream = io.BytesIO()
    map_figure(seen, width=width, dpi=dpi).savefig(stream, format="png", dpi=dpi)
    return stream.getvalue()


def figure_svg(seen: MapView, *, width: float = WIDTH, dpi: int = DPI) -> bytes:
    """Return the map for print as an SVG file: words and shapes as such, pictures within; it asks for nothing else."""
    import matplotlib

    stream = io.BytesIO()
    about = {"Title": _text(seen.title), "Date": None, "Creator": None}
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        map_figure(seen, width=width, dpi=dpi).savefig(stream, format="svg", dpi=dpi, metadata=about)
    return stream.getvalue()


def map_figure(seen: MapView, *, width: float = WIDTH, dpi: int = DPI) -> "Figure":
    """Return the map for print, on white: title, map, legend.

    Args:
        seen: the map.
        width: of the figure in millimetres; its height follows from the shape of the view.
        dpi: resolution of the dots' pixels.

    Raises:
        ConfigError: if it would have more than `LARGEST_SIDE` pixels a side.
    """
    from matplotlib.figure import Figure

    across = width - 2 * _EDGE
    high = across * seen.pixels[1] / seen.pixels[0]
    colouring = seen.map.colouring(seen.colour_by)
    entries = _entries(seen, colouring)
    columns = max(int(across // _COLUMN), 1)
    legend = _TOP + high + 3.0
    height = legend + (-(-len(entries) // columns) * _ROW if colouring.categorical else 8.0) + _EDGE
    size = round(width * dpi / MM_PER_INCH), round(height * dpi / MM_PER_INCH)
    if not 0 < max(size) <= LARGEST_SIDE or min(size) < 1:
        raise ConfigError(f"a picture of {size[0]}×{size[1]} pixels is not possible; its sides are 1 to {LARGEST_SIDE}")
    figure = Figure(figsize=((size[0] + 0.01) / dpi, (size[1] + 0.01) / dpi), dpi=dpi, facecolor=LIGHT.paper)
    figure.suppressComposite = True
    page = _axes(figure, (0, 0, 1, 1), (0, width), (height, 0))
    _heading(page, seen)
    box = (_EDGE / width, 1 - (_TOP + high) / height, across / width, high / height)
    _draw_map(_axes(figure, box, *seen.view), seen, colouring, across, dpi)
    if colouring.categorical:
        _legend(page, entries, columns, legend, across)
    else:
        _scale(page, seen, colouring, legend)
    return figure


def _axes(figure: "Figure", box: tuple[float, float, float, float], x: Any, y: Any) -> "Axes":
    axes = figure.add_axes(box)
    axes.set(xlim=x, ylim=y)
    axes.axis("off")
    return axes


def _heading(page: "Axes", seen: MapView) -> None:
    layer = seen.map.layer
    about = f"{layer.model or ''} · {layer.dataset or ''} · {seen.about.replace(', coloured', ' · coloured')}"
    _write(page, _EDGE, _EDGE + 2.0, seen.title, _TITLE, fontweight="bold")
    _write(page, _EDGE, _EDGE + 6.4, shortened(about, 140), _SMALL, color="#5b6470")


def _write(axes: "Axes", x: float, y: float, text: str, size: float, **looks: Any) -> None:
    """Write a line of text, `size` points high, whose middle is at y."""
    looks = {"color": LIGHT.ink, "va": "center_baseline", **looks}
    axes.text(x, y, _text(text), fontsize=size, parse_math=False, zorder=9, **looks)


def _write_clearly(axes: "Axes", x: float, y: float, text: str, size: float, **looks: Any) -> None:
    """Write a text that can be read on anything: over a pale copy of itself, for only plain text stays text in SVG."""
    from matplotlib.patheffects import Stroke

    halo = [Stroke(linewidth=0.22 * size, foreground=LIGHT.paper)]
    for effects in (halo, None):
        axes.annotate(
            _text(text), (x, y), textcoords="offset points", annotation_clip=False, fontsize=size, fontweight="bold",
            color=LIGHT.ink, va="center_baseline", parse_math=False, zorder=8, path_effects=effects, **looks,
        )  # fmt: skip


def _text(text: str) -> str:
    """Return one line of a text, without the characters that no XML file may hold."""
    return " ".join(_NO_XML.sub("\ufffd", text).split())


def _draw_map(axes: "Axes", seen: MapView, colouring: Colouring, across: float, dpi: int) -> None:
    """Draw the dots as one picture, and everything over them; a pixel of the screen is `across / width` millimetres."""
    pixel = across / seen.pixels[0] * POINTS_PER_MM
    (x0, x1), (y0, y1) = seen.view
    size = tuple(max(round(side * across / seen.pixels[0] * dpi / MM_PER_INCH), 1) for side in seen.pixels)
    axes.imshow(
        _dots(seen, colouring, Window(*seen.view, *size)), extent=(x0, x1, y0, y1), interpolation="none", aspect="auto"
    )
    near = Thumbnails()
    if seen.pictures:
        near = thumbnails_in(seen.map.points(seen.colour_by, seen.filter).grid, seen.view, seen.pixels)
    _draw_pictures(axes, seen, colouring, near)
    _draw_paths(axes, seen, pixel)
    _draw_rings(axes, seen, pixel)
    if seen.labels and not near.rows:
        for name in fitting(labels_of(seen.map, seen.colour_by, seen.filter), seen.view, seen.pixels):
            _write_clearly(axes, name.x, name.y, name.text, 13 * pixel, xytext=(0, 0), ha="center")


def _dots(seen: MapView, colouring: Colouring, window: Window) -> np.ndarray:
    """Return the dots as drawn on the screen, with the pixels of the print, (height, width, 4) uint8."""
    finer = window.width / seen.pixels[0]
    radius = seen.map.dot_radius(window, round(seen.pixels[0] * seen.pixels[1])) * finer
    pixels = draw_points(seen.map.points(seen.colour_by, seen.filter), window, colouring, radius=radius)
    if seen.emphasis:
        pixels = emphasised(pixels, seen.emphasis, window, colouring, radius=radius, ink=LIGHT.ink, scale=finer)
    if seen.paths:
        pixels = pixels.copy()
        pixels[..., 3] = (pixels[..., 3] * _BEHIND_PATHS).astype(np.uint8)
    return pixels


def _draw_pictures(axes: "Axes", seen: MapView, colouring: Colouring, near: Thumbnails) -> None:
    """Draw pictures of samples in the place of their dots, each in a frame of its point's colour."""
    from matplotlib.patches import Rectangle

    if not near.rows:
        return
    layer_map, ((x0, x1), (y0, y1)) = seen.map, seen.view
    unit = np.array([(x1 - x0) / seen.pixels[0], (y1 - y0) / seen.pixels[1]])
    places = layer_map.table[["x", "y"]].iloc[list(near.rows)].to_numpy(np.float64)
    side, half = unit * (near.side + 6), unit * near.side / 2
    files = layer_map.samples.thumbnails_of([layer_map.sample_at(row) for row in near.rows])
    for place, colour, file in zip(places, colours_of(layer_map, near.rows, colouring), files, strict=True):
        corner = (float(place[0] - side[0] / 2), float(place[1] - side[1] / 2))
        axes.add_patch(Rectangle(corner, *side, facecolor=colour, edgecolor="none", zorder=2))
        with Image.open(io.BytesIO(file)) as picture:
            axes.imshow(
                np.asarray(picture.convert("RGB")),
                extent=(place[0] - half[0], place[0] + half[0], place[1] - half[1], place[1] + half[1]),
                interpolation="none" if layer_map.is_small else "hanning", aspect="auto", zorder=2,
            )  # fmt: skip


def _draw_paths(axes: "Axes", seen: MapView, pixel: float) -> None:
    (x0, x1), (y0, y1) = seen.view
    lines, dots, labels = path_columns(seen.paths, seen.step, (x1 - x0, y1 - y0), LIGHT)
    round_: dict[str, Any] = {"solid_capstyle": "round", "solid_joinstyle": "round"}
    for xs, ys, colour, dash, width, paper in zip(*lines.values(), strict=True):
        style: Any = {"solid": "solid", "dashed": (0, (3, 3)), "dotted": (0, (0.5, 2))}[dash]
        axes.plot(xs, ys, color=paper, linewidth=6 * pixel, alpha=0.85, zorder=4, **round_)
        axes.plot(xs, ys, color=colour, linewidth=width * pixel, linestyle=style, zorder=4, **round_)
    _draw_circles(axes, dots, pixel, facecolors=dots["colour"], edgecolors=dots["edge"], linewidths=1.5 * pixel)
    for x, y, text in zip(labels["x"], labels["y"], labels["text"], strict=True):
        _write_clearly(axes, x, y, text, 12 * pixel, xytext=(9 * pixel, 14 * pixel))


def _draw_rings(axes: "Axes", seen: MapView, pixel: float) -> None:
    from matplotlib.colors import to_rgba_array

    window = Window(*seen.view, round(seen.pixels[0]), round(seen.pixels[1]))
    radius = seen.map.dot_radius(window, round(seen.pixels[0] * seen.pixels[1]))
    rings = ring_columns(seen.map, seen.selection, radius, LIGHT, seen.filter)
    for colours, widths in ((rings["halo"], [6.0] * len(rings["x"])), (rings["colour"], rings["width"])):
        edges: Any = to_rgba_array(colours, rings["alpha"]) if colours else []
        _draw_circles(axes, rings, pixel, facecolors="none", edgecolors=edges, linewidths=np.multiply(widths, pixel))


def _draw_circles(axes: "Axes", columns: dict[str, list[Any]], pixel: float, **looks: Any) -> None:
    """Draw circles `size` pixels across, later ones above earlier ones."""
    areas = np.multiply(columns["size"], pixel) ** 2
    axes.scatter(columns["x"], columns["y"], s=areas, zorder=5, **looks)


def _entries(seen: MapView, colouring: Colouring) -> list[tuple[str, str, int]]:
    """Return the names, colours and counts of the legend; what does not fit is one entry without a colour."""
    values = seen.map.points(seen.colour_by, seen.filter).values
    if not colouring.categorical:
        return []
    counts = np.bincount(values, minlength=len(colouring.categories)).tolist()
    entries = list(zip(colouring.categories, colouring.colours, counts, strict=True))
    rest = entries[_MOST_ENTRIES:]
    return [*entries[:_MOST_ENTRIES], *([(f"and {len(rest)} more", "none", sum(e[2] for e in rest))] if rest else [])]


def _legend(page: "Axes", entries: list[tuple[str, str, int]], columns: int, top: float, across: float) -> None:
    for index, (name, colour, count) in enumerate(entries):
        x, y = _EDGE + index % columns * across / columns, top + (index // columns + 0.5) * _ROW
        page.scatter([x + 1.2], [y], s=(2.4 * POINTS_PER_MM) ** 2, color=colour, linewidths=0)
        _write(page, x + 3.6, y, f"{shortened(name, 22)}  {count:,}", _SMALL)


def _scale(page: "Axes", seen: MapView, colouring: Colouring, top: float) -> None:
    steps = np.linspace(colouring.low, colouring.high, 128)
    left, right = _EDGE + 50, _EDGE + 110
    page.imshow(colouring.rgb(steps)[None], extent=(left, right, top + 3.6, top), interpolation="none", aspect="auto")
    _write(page, _EDGE, top + 1.8, column_label(seen.colour_by), _SMALL)
    _write(page, left, top + 6, f"{colouring.low:.3g}", _SMALL)
    _write(page, right, top + 6, f"{colouring.high:.3g}", _SMALL, ha="right")
