"""The map's pixels: Datashader draws any number of points into one picture of the visible window."""

import warnings
from dataclasses import dataclass

import datashader as ds
import datashader.transfer_functions as tf
import numpy as np
import pandas as pd
import xarray as xr

FEW_POINTS = 20_000
"""Up to so many visible points each is drawn as a smooth disc; more are counted per pixel."""

_SUPERSAMPLING = 2


@dataclass(frozen=True, slots=True)
class Window:
    """What part of the map is drawn, and on how many pixels."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    width: int
    height: int

    def contains(self, frame: pd.DataFrame) -> np.ndarray:
        """Return a mask of the rows inside, a dot's radius generously included."""
        margins = [0.02 * (high - low) for low, high in (self.x_range, self.y_range)]
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        x, y = frame["x"].to_numpy(), frame["y"].to_numpy()
        return (x >= x0 - margins[0]) & (x <= x1 + margins[0]) & (y >= y0 - margins[1]) & (y <= y1 + margins[1])

    def count(self, frame: pd.DataFrame) -> int:
        """Return how many rows are inside."""
        return int(np.count_nonzero(self.contains(frame)))


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


def draw(
    frame: pd.DataFrame,
    window: Window,
    colouring: Colouring,
    *,
    radius: float = 3.0,
    few_points: int = FEW_POINTS,
) -> np.ndarray:
    """Draw points on a transparent picture.

    Args:
        frame: columns x, y (float) and `colouring.column`, categorical or numeric; one row a point.
        window: visible part and size in pixels.
        colouring: how points are coloured.
        radius: of a point's disc, in pixels, where points are few.
        few_points: up to so many visible points are drawn as discs.

    Returns:
        (height, width, 4) uint8, row 0 at the top, alpha not premultiplied.
    """
    visible = frame[window.contains(frame)]
    if visible.empty:
        return np.zeros((window.height, window.width, 4), np.uint8)
    if len(visible) <= few_points:
        return _discs(visible, window, colouring, radius)
    return _density(visible, window, colouring)


def disc_radius(count: int, pixels: int) -> float:
    """Return the radius in pixels that lets `count` dots fill a readable share of so many pixels."""
    area = 0.05 * pixels / max(count, 1)
    return float(np.clip(np.sqrt(area / np.pi), 2.0, 5.0))


def _discs(frame: pd.DataFrame, window: Window, colouring: Colouring, radius: float) -> np.ndarray:
    """Draw at twice the size, spread each point to a disc, and average down: round dots, smooth edges."""
    scale = _SUPERSAMPLING
    canvas = _canvas(window, scale)
    codes = _codes(frame, colouring)
    points = pd.DataFrame({"x": frame["x"].to_numpy(), "y": frame["y"].to_numpy(), "code": codes})
    grid = canvas.points(points, "x", "y", agg=ds.max("code"))
    values = grid.to_numpy()
    table = _colour_table(colouring)
    filled = np.isfinite(values)
    packed = np.zeros(values.shape, np.uint32)
    packed[filled] = table[values[filled].astype(np.intp)]
    image = tf.Image(xr.DataArray(packed, coords=grid.coords, dims=grid.dims))
    spread = tf.spread(image, px=max(round(radius * scale), 1), shape="circle").to_numpy()
    rgba = _unpack(spread).astype(np.float32)
    blocks = rgba.reshape(window.height, scale, window.width, scale, 4)
    alpha = blocks[..., 3:].sum(axis=(1, 3))
    colour = (blocks[..., :3] * blocks[..., 3:]).sum(axis=(1, 3)) / np.maximum(alpha, 1)
    return np.concatenate([colour, alpha * (0.92 / scale**2)], axis=-1).round().astype(np.uint8)[::-1]


def _density(frame: pd.DataFrame, window: Window, colouring: Colouring) -> np.ndarray:
    """Count points per pixel, mix the colours of what falls together, and spread where it is sparse."""
    canvas = _canvas(window, 1)
    # Datashader divides by the empty pixels' zero counts and masks the result itself.
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        if colouring.categorical:
            grid = canvas.points(frame, "x", "y", agg=ds.by(colouring.column, ds.count()))
            key = dict(zip(colouring.categories, colouring.colours, strict=True))
            image = tf.shade(grid, color_key=key, how="eq_hist", min_alpha=120)
        else:
            grid = canvas.points(frame, "x", "y", agg=ds.mean(colouring.column))
            span = (colouring.low, colouring.high if colouring.high > colouring.low else colouring.low + 1)
            image = tf.shade(grid, cmap=list(colouring.colours), how="linear", span=span)
        image = tf.dynspread(image, threshold=0.6, max_px=4)
    return _unpack(image.to_numpy())[::-1]


def _canvas(window: Window, scale: int) -> ds.Canvas:
    return ds.Canvas(
        plot_width=window.width * scale,
        plot_height=window.height * scale,
        x_range=window.x_range,
        y_range=window.y_range,
    )


def _codes(frame: pd.DataFrame, colouring: Colouring) -> np.ndarray:
    """Return the row of `_colour_table` for each point, float32."""
    values = frame[colouring.column]
    if colouring.categorical:
        codes = pd.Categorical(values, categories=colouring.categories).codes
        return np.asarray(codes, np.float32)
    width = colouring.high - colouring.low
    numbers = values.to_numpy(np.float64)
    scaled = (numbers - colouring.low) / width if width > 0 else np.zeros(len(frame))
    scaled = np.where(np.isfinite(scaled), np.clip(scaled, 0, 1), 0)
    return (1 + np.round(scaled * 254)).astype(np.float32)


def _colour_table(colouring: Colouring) -> np.ndarray:
    """Return packed opaque colours, uint32 as Datashader packs them (R lowest)."""
    stops = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colouring.colours], np.float64)
    if not colouring.categorical:
        position = np.linspace(0, len(stops) - 1, 255)
        ramp = np.stack([np.interp(position, np.arange(len(stops)), stops[:, i]) for i in range(3)], -1)
        stops = np.concatenate([ramp[:1], ramp])
    red, green, blue = stops.round().astype(np.uint32).T
    return red | (green << 8) | (blue << 16) | np.uint32(255 << 24)


def _unpack(packed: np.ndarray) -> np.ndarray:
    """Return (H, W, 4) uint8 from Datashader's packed (H, W) uint32."""
    return np.ascontiguousarray(packed).view(np.uint8).reshape(*packed.shape, 4)
