"""What is drawn over the map's picture: names, pictures, rings, denoising paths; and points brought forward in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure as Figure
from scipy.ndimage import maximum_filter

from panel_app.filter import SHOW_ALL, Filter
from panel_app.layer_map import LayerMap
from panel_app.map.labels import MapLabel
from panel_app.points import short_sigma
from panel_app.raster import Colouring, Points, Window, draw_points, over
from panel_app.state import Selection, ViewState
from panel_app.theme import BASELINE_PATH, NEIGHBOUR, PATH, SELECTED

Columns = dict[str, list[Any]]
"""Data of a Bokeh source, by column."""


@dataclass(frozen=True, slots=True)
class Look:
    """Colours that depend on the page's theme."""

    ink: str
    """Text and marked steps."""
    paper: str
    """Halos behind rings, lines and text."""


_HIDDEN = 0.28
"""Opacity of a ring whose sample a filter hides."""

LIGHT, DARK = Look("#1b1f24", "#ffffff"), Look("#f2f4f6", "#181c21")


@dataclass(frozen=True, slots=True)
class DrawnPath:
    """One sample's way over the map, step by step."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    sigmas: tuple[float, ...]
    distances: tuple[float, ...]
    baseline: bool = False
    colour: str = PATH
    """Of a path with the mask; all baselines look alike."""
    unusual: tuple[bool, ...] = ()
    """Steps that lie beyond 95 % of held-out samples, whose places mean little; empty where that is not known."""


def ring_columns(
    layer_map: LayerMap, selection: Selection, radius: float, look: Look, wanted: Filter = SHOW_ALL
) -> Columns:
    """Return the rings of a selection: thin for suggested neighbours, thick for chosen ones, blue for the selected.

    Args:
        layer_map: the map; samples that it lacks get no ring.
        selection: what is ringed.
        radius: of a point's dot, in pixels.
        look: the page's colours.
        wanted: what is shown; rings of hidden samples are faint.
    """
    size = 2 * radius + 9
    shown = layer_map.mask(wanted)
    rings = [(s, size, 1.6, NEIGHBOUR) for s in selection.suggested]
    rings += [(s, size + 2, 3.6, NEIGHBOUR) for s in selection.manual]
    rings += [(selection.sample_id, size + 4, 4.0, SELECTED)] if selection.sample_id else []
    rows = [
        (*layer_map.position(s), diameter, width, colour, look.paper, 1.0 if shown[layer_map.row_of[s]] else _HIDDEN)
        for s, diameter, width, colour in rings
        if s in layer_map.row_of
    ]
    return columns("rings", rows)


def name_columns(labels: Sequence[MapLabel], look: Look) -> Columns:
    """Return the names written on the map."""
    return columns("names", [(label.x, label.y, label.text, look.ink, look.paper) for label in labels])


def picture_columns(
    places: Sequence[tuple[float, float]], addresses: Sequence[str], colours: Sequence[str], side: int
) -> tuple[Columns, Columns]:
    """Return the frames, in the colours of their points, and the pictures in them, `side` pixels each."""
    frames = [(*place, side + 6, colour) for place, colour in zip(places, colours, strict=True)]
    pictures = [(*place, address, side) for place, address in zip(places, addresses, strict=True)]
    return columns("frames", frames), columns("pictures", pictures)


def path_columns(
    paths: Sequence[DrawnPath], step: int, span: tuple[float, float], look: Look
) -> tuple[Columns, Columns, Columns]:
    """Return the lines, dots and labels of denoising paths; steps beyond 95 % of held-out samples hollow, and dotted.

    Args:
        paths: what is drawn; only the first that is no baseline is labelled.
        step: step marked on the paths that are no baselines; -1 marks none.
        span: width and height of the visible part of the map.
        look: the page's colours.
    """
    lines, dots = [], []
    for path in paths:
        colour = BASELINE_PATH if path.baseline else path.colour
        dash, width = ("dashed", 1.6) if path.baseline else ("solid", 3.0)
        for start, stop, dotted in stretches(path.unusual, len(path.x)):
            part = slice(start, stop + 1)
            looks = colour, "dotted" if dotted else dash, width, look.paper
            lines.append((list(path.x[part]), list(path.y[part]), *looks))
        for index, place in enumerate(zip(path.x, path.y, strict=True)):
            marked = index == step and not path.baseline
            size = 15 if marked else 4 if path.baseline else 8
            fill, edge = colour, look.ink if marked else look.paper
            if any(path.unusual[index : index + 1]):
                fill, edge = look.paper, look.ink if marked else colour
            dots.append((*place, fill, size, edge))
    labels = [
        (path.x[i], path.y[i], f"σ {short_sigma(path.sigmas[i])}", look.ink, look.paper)
        for path in [path for path in paths if not path.baseline][:1]
        for i in label_steps(path, span)
    ]
    return columns("lines", lines), columns("dots", dots), columns("labels", labels)


def stretches(unusual: Sequence[bool], steps: int) -> list[tuple[int, int, bool]]:
    """Return the stretches (first step, last step, dotted) a path is drawn in, dotted to and from unusual steps."""
    if not any(unusual):
        return [(0, steps - 1, False)]
    dotted = [unusual[i] or unusual[i + 1] for i in range(steps - 1)] or [True]
    starts = [i for i in range(len(dotted)) if not i or dotted[i] != dotted[i - 1]]
    return [(i, j, dotted[i]) for i, j in zip(starts, [*starts[1:], steps - 1], strict=True)]


def label_steps(path: DrawnPath, span: tuple[float, float], apart: float = 0.06) -> list[int]:
    """Return the steps whose sigma is written: first, last, and those at least `apart` of the view from one another."""
    chosen: list[int] = []
    last = len(path.x) - 1
    for index in (0, last, *range(1, last)):
        spot = np.array([path.x[index] / span[0], path.y[index] / span[1]])
        others = [np.array([path.x[i] / span[0], path.y[i] / span[1]]) for i in chosen]
        if all(np.linalg.norm(spot - other) >= apart for other in others):
            chosen.append(index)
    return sorted(set(chosen))


def empty_sources() -> dict[str, ColumnDataSource]:
    """Return the overlays' data, by overlay, without rows."""
    return {name: ColumnDataSource(columns(name, [])) for name in _COLUMNS}


_COLUMNS = {
    "hover": ("x", "y", "size"),
    "rings": ("x", "y", "size", "width", "colour", "halo", "alpha"),
    "frames": ("x", "y", "size", "colour"),
    "pictures": ("x", "y", "url", "side"),
    "names": ("x", "y", "text", "ink", "paper"),
    "lines": ("xs", "ys", "colour", "dash", "width", "paper"),
    "dots": ("x", "y", "colour", "size", "edge"),
    "labels": ("x", "y", "text", "ink", "paper"),
}


def columns(overlay: str, rows: Sequence[tuple[Any, ...]]) -> Columns:
    """Return the data of an overlay, of which each row is one thing that is drawn."""
    return {name: [row[i] for row in rows] for i, name in enumerate(_COLUMNS[overlay])}


_TEXT = {"text_color": "ink", "text_font": {"value": "Roboto"}, "text_font_style": {"value": "bold"}}
_NAME = {**_TEXT, "text_align": "center", "text_baseline": "middle", "text_font_size": {"value": "13px"}}
_ROUND = {"line_join": "round", "line_cap": "round"}
_GLYPHS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("frames", "scatter", {"marker": "square", "fill_color": "colour", "line_color": None}),
    ("pictures", "image_url", {"w": "side", "h": "side", "anchor": "center", "w_units": "screen", "h_units": "screen"}),
    # The halo is drawn over its own text, so the text comes once more.
    ("names", "text", {**_NAME, "text_outline_color": "paper", "text_outline_width": 4}),
    ("names", "text", _NAME),
    ("lines", "multi_line", {**_ROUND, "line_color": "paper", "line_width": 6, "line_alpha": 0.85}),
    ("lines", "multi_line", {**_ROUND, "line_color": "colour", "line_width": "width", "line_dash": "dash"}),
    ("dots", "scatter", {"fill_color": "colour", "line_color": "edge", "line_width": 1.5}),
    ("hover", "scatter", {"fill_color": None, "line_color": "#8a8f98", "line_width": 2}),
    # Each ring has a pale halo, so that it shows on any colour.
    ("rings", "scatter", {"fill_color": None, "line_color": "halo", "line_width": 6, "line_alpha": "alpha"}),
    ("rings", "scatter", {"fill_color": None, "line_color": "colour", "line_width": "width", "line_alpha": "alpha"}),
    ("labels", "text", {
        **_TEXT, "text_font_size": {"value": "12px"}, "x_offset": 9, "y_offset": -9, "background_fill_color": "paper",
        "background_fill_alpha": 0.82, "border_radius": 4, "padding": 3,
    }),
)  # fmt: skip
"""What is drawn of each overlay, and how; later ones lie above."""
_OWN_NAMES = ("x", "y", "xs", "ys", "size", "text", "url")
"""Columns that are called like the property that they are for."""


def add_glyphs(figure: Figure, sources: dict[str, ColumnDataSource]) -> None:
    """Add the glyphs of all overlays."""
    for overlay, kind, looks in _GLYPHS:
        own = {name: name for name in _COLUMNS[overlay] if name in _OWN_NAMES}
        getattr(figure, kind)(source=sources[overlay], **own, **looks)


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


def emphasis_of(layer_map: LayerMap, state: ViewState) -> Emphasis:
    """Return what a view brings forward of the points that it shows."""
    colouring = layer_map.colouring(state.colour_by)
    points = layer_map.points(state.colour_by, state.filter)
    highlighted = marked = None
    if state.highlight in colouring.categories:
        highlighted = points.only(points.values == colouring.categories.index(state.highlight))
    if len(state.group):
        mask = np.zeros(len(layer_map.table), dtype=bool)
        mask[layer_map.rows_of(state.group.sample_ids)] = True
        marked = points.only(mask[points.grid.rows])
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
