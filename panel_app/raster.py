"""The map's pixels: Datashader draws any number of points into one picture of the visible window."""

import warnings
from dataclasses import dataclass
from typing import Self

import datashader as ds
import datashader.transfer_functions as tf
import numpy as np
import pandas as pd
import xarray as xr

from panel_app.point_grid import PointGrid, Range

FEW_POINTS = 20_000
"""Up to so many visible points each is drawn as a smooth disc; more are counted per pixel."""

_SUPERSAMPLING = 2
_FAINTEST = 120
"""Opacity of a pixel with the fewest points, of 255."""


@dataclass(frozen=True, slots=True)
class Window:
    """What part of the map is drawn, and on how many pixels."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    width: int
    height: int

    @property
    def reach(self) -> tuple[Range, Range]:
        """The ranges with a dot's radius around them, generously: dots at the edge are seen in part."""
        wider = [0.02 * (high - low) for low, high in (self.x_range, self.y_range)]
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        return (x0 - wider[0], x1 + wider[0]), (y0 - wider[1], y1 + wider[1])


@dataclass(frozen=True, slots=True)
class Colouring:
    """How a point gets its colour: by category, or by a number between `low` and `high`."""

    column: str
    colours: tuple[str, ...]
    categories: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0

    @property
    def categorical(self) -> bool:
        """Whether `column` holds categories."""
        return bool(self.categories)

    def rgb(self, values: np.ndarray) -> np.ndarray:
        """Return the colours of what `column_values` gave, (N, 3) uint8; a missing number counts as the least."""
        return _unpack(_colour_table(self)[_codes(values, self).astype(np.intp)])[..., :3]


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Points with what colours them; never changed."""

    grid: PointGrid
    values: np.ndarray
    """(N,) in the order of the grid: place of each point's category among all, or its number."""

    @classmethod
    def of(cls, frame: pd.DataFrame, colouring: Colouring) -> Self:
        """Return the rows of a frame as they come; drawing a window of many looks at all of them."""
        return cls(PointGrid.of(frame["x"].to_numpy(), frame["y"].to_numpy(), side=1), column_values(frame, colouring))

    def only(self, keep: np.ndarray) -> Self:
        """Return some of the points: `keep` is (N,) bool in the order of the grid."""
        return type(self)(self.grid.only(keep), self.values[keep])

    def at(self, spans: list[slice]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return x, y and values of stretches of the grid."""
        if len(spans) == 1:
            return self.grid.x[spans[0]], self.grid.y[spans[0]], self.values[spans[0]]
        columns = (self.grid.x, self.grid.y, self.values)
        x, y, values = (np.concatenate([c[:0], *(c[span] for span in spans)]) for c in columns)
        return x, y, values


def column_values(frame: pd.DataFrame, colouring: Colouring) -> np.ndarray:
    """Return the values of `Points` for each row of a frame: codes of categories, or float32 numbers."""
    values = frame[colouring.column]
    if not colouring.categorical:
        return values.to_numpy(np.float32)
    return np.asarray(pd.Categorical(values, categories=colouring.categories).codes)


def draw_points(
    points: Points,
    window: Window,
    colouring: Colouring,
    *,
    radius: float = 3.0,
    few_points: int = FEW_POINTS,
) -> np.ndarray:
    """Draw points on a transparent picture; only the cells of the window are looked at.

    Args:
        points: with what colours them.
        window: visible part and size in pixels.
        colouring: how points are coloured.
        radius: of a point's disc, in pixels, where points are few.
        few_points: up to so many visible points are drawn as discs.

    Returns:
        (height, width, 4) uint8, row 0 at the top, alpha not premultiplied.
    """
    spans = points.grid.spans(*window.reach)
    if sum(span.stop - span.start for span in spans) > 10 * few_points > 0:
        return _density(*points.at(spans), window, colouring)
    places = points.grid.inside(*window.reach)
    if not len(places):
        return np.zeros((window.height, window.width, 4), np.uint8)
    x, y, values = points.grid.x[places], points.grid.y[places], points.values[places]
    if len(places) <= few_points:
        colours = _colour_table(colouring)[_codes(values, colouring).astype(np.intp)]
        return _discs(x, y, colours, window, radius)
    return _density(x, y, values, window, colouring)


def over(above: np.ndarray, below: np.ndarray, faded: float = 1.0) -> np.ndarray:
    """Return one picture laid over another; both (H, W, 4) uint8, alpha not premultiplied.

    Args:
        above: what lies on top.
        below: what lies beneath.
        faded: share of its opacity that the lower picture keeps.
    """
    top = above[..., 3:].astype(np.float32) / 255
    bottom = below[..., 3:].astype(np.float32) * (faded / 255) * (1 - top)
    alpha = top + bottom
    colour = (above[..., :3] * top + below[..., :3] * bottom) / np.maximum(alpha, 1e-6)
    return np.concatenate([colour, alpha * 255], axis=-1).round().astype(np.uint8)


def disc_radius(count: int, pixels: int) -> float:
    """Return the radius in pixels that lets `count` dots fill a readable share of so many pixels."""
    area = 0.05 * pixels / max(count, 1)
    return float(np.clip(np.sqrt(area / np.pi), 2.0, 5.0))


def _discs(x: np.ndarray, y: np.ndarray, colours: np.ndarray, window: Window, radius: float) -> np.ndarray:
    """Draw discs at twice the size and average down: round dots, smooth edges. So few need no compiled code.

    Args:
        x: (n,) places, those just outside the window included.
        y: (n,).
        colours: (n,) packed; where two discs overlap, the later point is above.
        window: visible part and size in pixels.
        radius: in pixels.
    """
    scale = _SUPERSAMPLING
    reach = max(round(radius * scale), 1)
    margin = 2 * reach
    width, height = window.width * scale + 2 * margin, window.height * scale + 2 * margin
    column, row = _pixel(x, window.x_range, window.width * scale), _pixel(y, window.y_range, window.height * scale)
    # The margin holds whole the discs of which a part is seen; those further out are left out.
    seen = (column >= -reach) & (column < width - 2 * margin + reach)
    seen &= (row >= -reach) & (row < height - 2 * margin + reach)
    down, right = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.hypot(down, right) <= reach + 0.5
    middle = (row[seen] + margin) * width + column[seen] + margin
    canvas = np.zeros(height * width, np.uint32)
    canvas[middle[:, None] + (down[disc] * width + right[disc])] = colours[seen][:, None]
    rgba = _unpack(canvas.reshape(height, width))[margin:-margin, margin:-margin]
    return _averaged_down(rgba, scale)[::-1]


def _pixel(values: np.ndarray, extent: Range, count: int) -> np.ndarray:
    share = (values.astype(np.float64) - extent[0]) / (extent[1] - extent[0])
    return np.floor(share * count).astype(np.int64)


def _averaged_down(rgba: np.ndarray, scale: int) -> np.ndarray:
    """Return a picture whose pixels are opaque or empty at a `scale`-th of its size, slightly see-through."""
    parts = [rgba[i::scale, j::scale] for i in range(scale) for j in range(scale)]
    summed = np.asarray(np.sum(parts, axis=0, dtype=np.uint16))
    filled = summed[..., 3].astype(np.float32) / 255
    picture = np.zeros((*filled.shape, 4), np.uint8)
    picture[..., :3] = np.round(summed[..., :3] / np.maximum(filled, 1)[..., None])
    picture[..., 3] = np.round(filled * (0.92 * 255 / scale**2))
    return picture


def _density(x: np.ndarray, y: np.ndarray, values: np.ndarray, window: Window, colouring: Colouring) -> np.ndarray:
    """Count points per pixel, mix the colours of what falls together, and spread where it is sparse."""
    shade = _mixed if colouring.categorical else _averaged
    image = shade(x, y, values, window, colouring)
    return _unpack(tf.dynspread(image, threshold=0.6, max_px=4).to_numpy())[::-1]


def _mixed(x: np.ndarray, y: np.ndarray, codes: np.ndarray, window: Window, colouring: Colouring) -> tf.Image:
    """Mix the categories' colours by their counts; the more points, the more opaque.

    As Datashader's own shading with `eq_hist`, which takes ten times as long: the opacity is a pixel's rank.
    """
    category = pd.Categorical.from_codes(codes, categories=pd.Index(colouring.categories), validate=False)
    frame = pd.DataFrame({"x": x, "y": y, "category": category}, copy=False)
    grid = _canvas(window).points(frame, "x", "y", agg=ds.by("category", ds.count()))
    counts = grid.to_numpy()
    weights = np.column_stack([_stops(colouring), np.ones(len(colouring.colours))]).astype(np.float32)
    summed = counts.reshape(-1, counts.shape[-1]).astype(np.float32) @ weights  # colours, and how many points
    filled = np.flatnonzero(summed[:, 3])
    colour = np.zeros((*counts.shape[:2], 4), np.uint8)
    if len(filled):
        mixed = summed[filled]
        mixed[:, :3] /= mixed[:, 3:]
        mixed[:, 3] = _FAINTEST + (255 - _FAINTEST) * _ranks(mixed[:, 3].astype(np.int64))
        colour.reshape(-1, 4)[filled] = mixed.round()
    return tf.Image(xr.DataArray(colour.view(np.uint32)[..., 0], [grid.coords[name] for name in grid.dims[:2]]))


def _ranks(numbers: np.ndarray) -> np.ndarray:
    """Return the share of pixels with no more points than each has, from 0 for the fewest to 1 for the most."""
    below = np.cumsum(np.bincount(numbers)).astype(np.float32)
    least, most = below[numbers.min()], below[-1]
    return (below[numbers] - least) / (most - least) if most > least else np.ones(len(numbers), np.float32)


def _averaged(x: np.ndarray, y: np.ndarray, numbers: np.ndarray, window: Window, colouring: Colouring) -> tf.Image:
    """Show the mean of the numbers in a pixel."""
    frame = pd.DataFrame({"x": x, "y": y, "number": numbers}, copy=False)
    # Datashader divides by the empty pixels' zero counts and masks the result itself.
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        grid = _canvas(window).points(frame, "x", "y", agg=ds.mean("number"))
    means = grid.to_numpy()
    filled = np.isfinite(means)
    packed = np.zeros(means.shape, np.uint32)
    packed[filled] = _colour_table(colouring)[_codes(means[filled], colouring).astype(np.intp)]
    return tf.Image(xr.DataArray(packed, coords=grid.coords, dims=grid.dims))


def _canvas(window: Window) -> ds.Canvas:
    return ds.Canvas(window.width, window.height, window.x_range, window.y_range)


def _codes(values: np.ndarray, colouring: Colouring) -> np.ndarray:
    """Return the row of `_colour_table` for each value, float32."""
    if colouring.categorical:
        return values.astype(np.float32)
    width = colouring.high - colouring.low
    scaled = (values - colouring.low) / width if width > 0 else np.zeros(len(values))
    scaled = np.where(np.isfinite(scaled), np.clip(scaled, 0, 1), 0)
    return np.asarray(1 + np.round(scaled * 254), np.float32)


def _stops(colouring: Colouring) -> np.ndarray:
    """Return the colours as numbers, (n, 3) uint8."""
    return np.array([list(bytes.fromhex(colour[1:])) for colour in colouring.colours], np.uint8)


def _colour_table(colouring: Colouring) -> np.ndarray:
    """Return packed opaque colours, uint32 as Datashader packs them (R lowest)."""
    stops = _stops(colouring)
    if not colouring.categorical:
        position = np.linspace(0, len(stops) - 1, 255)
        ramp = np.stack([np.interp(position, np.arange(len(stops)), stops[:, i]) for i in range(3)], -1).round()
        stops = np.concatenate([ramp[:1], ramp]).astype(np.uint8)
    return np.ascontiguousarray(np.pad(stops, ((0, 0), (0, 1)), constant_values=255)).view(np.uint32)[:, 0]


def _unpack(packed: np.ndarray) -> np.ndarray:
    """Return (…, 4) uint8 from Datashader's packed (…) uint32."""
    return np.ascontiguousarray(packed).view(np.uint8).reshape(*packed.shape, 4)
