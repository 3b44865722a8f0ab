"""Drawing and looking up points of large maps on the server, against drawing and searching all of them."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from typing import Any, TypeVar

import datashader as ds
import datashader.transfer_functions as tf
import numpy as np
import pandas as pd

from diffviews.data.pictures import encode_png
from experiments.benchmarks.benchmark import (
    Benchmark,
    Measurement,
    Row,
    Setting,
    Target,
    benchmark,
    interleave,
    seconds_of,
)
from experiments.benchmarks.synthetic import CLUSTERS, cluster_of
from panel_app.layer_map import LayerMap
from panel_app.raster import Window, draw_points

T = TypeVar("T")

WIDTH, HEIGHT = 820, 540
"""Pixels of the map in a window of 1,280."""

ZOOMS = (1.0, 0.7, 0.5, 0.5, 0.3, 0.1, 0.1, 0.02)
"""Share of the map's width in each window of the walk; every window also lies a little further."""

COLUMN = "class"


def large_map(count: int) -> LayerMap:
    """Return a map of so many points in ten clusters; it knows places and classes and nothing else."""
    random = np.random.default_rng(0)
    centres = random.uniform(-12, 12, (CLUSTERS, 2)).astype(np.float32)
    classes = cluster_of(count)
    places = centres[classes] + random.standard_normal((count, 2), dtype=np.float32)
    codes = pd.Series(classes.astype(str), dtype="category")
    table = pd.DataFrame({"x": places[:, 0], "y": places[:, 1], COLUMN: codes})
    nothing: Any = None
    return LayerMap(
        layer=nothing, map_run="", table=table, row_of={}, samples=nothing, projector=nothing, projector_row_of={}
    )


def measure_drawing(setting: Setting, count: int) -> Measurement:
    """Draw one window after another as PNG."""
    layer_map = large_map(setting.size(count, 30_000))
    colouring, points, table = layer_map.colouring(COLUMN), layer_map.points(COLUMN), layer_map.table
    walk = list(_windows(layer_map))

    def ours(window: Window) -> bytes:
        return encode_png(draw_points(points, window, colouring))

    def theirs(window: Window) -> bytes:
        return _plain_png(table, window)

    for window in walk:  # each may be the first of its kind to be compiled
        ours(window), theirs(window)
    compared = interleave(
        _in_turn(ours, walk), _in_turn(theirs, walk),
        repeats=len(walk) * min(setting.repeats, 3), alternative_repeats=len(walk),
    )  # fmt: skip
    times = [round(float(np.median(compared.ours[turn :: len(walk)])) * 1e3, 1) for turn in range(len(walk))]
    rows: list[Row] = [
        {"window, share of the map's width": f"{zoom:.0%}", "ours, ms": own, "alternative, ms": round(other * 1e3, 1)}
        for zoom, own, other in zip(ZOOMS, times, compared.alternative, strict=True)
    ]
    return Measurement(compared, {"points": len(table), "slowest window, ms": max(times)}, rows)


@benchmark(
    "look-up",
    "hover or click look-up at 10 M points",
    "`LayerMap.row_near`, by the grid of cells",
    "the distance to every point",
    Target("seconds", 0.01),
)
def lookup(setting: Setting) -> Measurement:
    """Find the point under the pointer at many places."""
    layer_map = large_map(setting.size(10_000_000, 30_000))
    x, y = (layer_map.table[axis].to_numpy() for axis in "xy")
    random = np.random.default_rng(1)
    places = [(float(x[row] + 0.01), float(y[row] - 0.01)) for row in random.integers(0, len(x), 40)]
    reach = ((x.max() - x.min()) * 11 / WIDTH, (y.max() - y.min()) * 11 / HEIGHT)

    def ours(place: tuple[float, float]) -> int | None:
        return layer_map.row_near(*place, within=reach)

    def theirs(place: tuple[float, float]) -> int:
        return int(np.argmin(np.square((x - place[0]) / reach[0]) + np.square((y - place[1]) / reach[1])))

    wrong = sum(ours(place) != theirs(place) for place in places[:5])
    compared = interleave(_in_turn(ours, places), _in_turn(theirs, places), repeats=len(places), alternative_repeats=5)
    return Measurement(
        compared, {"points": len(x)}, failure=f"{wrong} of 5 look-ups found another point." if wrong else ""
    )


def _windows(layer_map: LayerMap) -> Iterator[Window]:
    """Yield the windows of a walk: zooming in on a point in the crowd, panning on the way."""
    (x0, x1), (y0, y1) = layer_map.bounds
    goal = layer_map.table.iloc[0]
    for turn, zoom in enumerate(ZOOMS):
        shift = zoom * 0.1 * (turn % 3)
        ranges = [
            ((low + (place - low) * (1 - zoom)) + shift * (high - low) * 0.1, zoom * (high - low))
            for low, high, place in ((x0, x1, goal["x"]), (y0, y1, goal["y"]))
        ]
        (left, wide), (low, tall) = ranges
        yield Window((left, left + wide), (low, low + tall), WIDTH, HEIGHT)


def _in_turn(work: Callable[[T], object], items: Sequence[T]) -> Callable[[], float]:
    """Return a measure that takes the next item each time."""
    rest = cycle(items)
    return lambda: seconds_of(partial(work, next(rest)))()


def _plain_png(table: pd.DataFrame, window: Window) -> bytes:
    """Draw all points by Datashader alone, as its guide does."""
    canvas = ds.Canvas(window.width, window.height, window.x_range, window.y_range)
    image = tf.shade(canvas.points(table, "x", "y", agg=ds.count_cat(COLUMN)), how="eq_hist")
    return encode_png(np.asarray(tf.dynspread(image, threshold=0.6, max_px=4).to_pil()))


OURS = f"only the cells of the window are drawn; PNG of {WIDTH} × {HEIGHT}"
PLAIN = "Datashader over all points, as in its guide; PNG"

SLOW_DRAWING = (
    "A profile shows a third of the time in PNG compression and most of the rest in mixing the classes' colours, a "
    "few passes over classes × pixels. Next: that mix in one compiled pass, and the raw picture instead of a PNG, "
    "which is what the page is sent."
)

DRAWING = tuple(
    Benchmark(
        f"draw-{millions}m", f"pan and zoom of {millions} M points, server side with PNG", OURS, PLAIN,
        Target("seconds", limit), partial(measure_drawing, count=millions * 1_000_000), SLOW_DRAWING,
    )
    for millions, limit in ((1, 0.06), (10, 0.2))
)  # fmt: skip
