"""Names written on the map: of categories where they are densest, or of the words that prompts there share."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter, maximum_filter

from panel_app.filter import Filter
from panel_app.layer_map import LayerMap
from panel_app.point_grid import PointGrid, Range
from panel_app.points import CLASS, NO_CLUSTER, PROMPT, SIGMA, UNLABELLED, shortened
from panel_app.raster import Points

_CELLS = 48
"""Cells along a side in which points are counted."""
_MOST_COUNTED = 300_000
"""Of more points every so-manieth is counted."""
_MOST_CATEGORIES = 120
_MOST_PEAKS = 14
_LONGEST = 26
"""Letters of a label."""
_LETTER, _LINE = 7.2, 20.0
"""Width of a letter and height of a line in pixels, with some room around."""


@dataclass(frozen=True, slots=True)
class MapLabel:
    """A name at a place of the map."""

    x: float
    y: float
    text: str
    weight: float
    """Where two would overlap, the heavier stays."""


def labels_of(layer_map: LayerMap, colour_by: str, wanted: Filter) -> tuple[MapLabel, ...]:
    """Return the names that suit a view: of what colours it, else of its prompts' words, else of its classes."""
    colouring = layer_map.colouring(colour_by)
    numeric = not colouring.categorical
    column = CLASS if numeric and CLASS in layer_map.categorical_columns else colouring.column
    named = (
        set(layer_map.categories_of(column)) - {UNLABELLED, NO_CLUSTER}
        if column in layer_map.categorical_columns
        else ()
    )
    if (
        column not in (SIGMA, PROMPT)
        and 1 < len(named) <= _MOST_CATEGORIES
        and not (numeric and _has_prompts(layer_map))
    ):
        return category_labels(layer_map.points_with(column, wanted), layer_map.categories_of(column))
    if _has_prompts(layer_map):
        return word_labels(layer_map.points(layer_map.default_colour, wanted).grid, layer_map.table["prompt"])
    return ()


def category_labels(points: Points, categories: Sequence[str]) -> tuple[MapLabel, ...]:
    """Return a label for each category that is in the majority somewhere, where it is densest."""
    picked = _spread(len(points.grid))
    x, y, codes = points.grid.x[picked], points.grid.y[picked], points.values[picked].astype(np.int64)
    cells = _cells_of(points.grid, x, y)
    flat = np.bincount(codes * _CELLS**2 + cells, minlength=len(categories) * _CELLS**2)
    density = gaussian_filter(flat.reshape(-1, _CELLS, _CELLS).astype(np.float32), (0, 1.5, 1.5), mode="constant")
    total = np.maximum(density.sum(axis=0), 1e-9)
    labels = []
    for code, name in enumerate(categories):
        own = np.where(density[code] > 0.5 * total, density[code], 0.0)
        if name in (UNLABELLED, NO_CLUSTER) or not own.any():
            continue
        near = (codes == code) & _is_near(cells, int(own.argmax()))
        if near.any():
            labels.append(MapLabel(float(x[near].mean()), float(y[near].mean()), _short(name), float(own.max())))
    return tuple(sorted(labels, key=lambda label: -label.weight))


def word_labels(grid: PointGrid, prompts: pd.Series) -> tuple[MapLabel, ...]:
    """Return the words that tell the prompts of a dense place from all others, for the densest places."""
    picked = _spread(len(grid), 20_000)
    x, y, rows = grid.x[picked], grid.y[picked], grid.rows[picked]
    cells = _cells_of(grid, x, y)
    counts = np.bincount(cells, minlength=_CELLS**2).reshape(_CELLS, _CELLS).astype(np.float32)
    density = gaussian_filter(counts, 2.0, mode="constant")
    peaks = (density == maximum_filter(density, size=9)) & (density > 0.15 * density.max(initial=0)) & (density > 0)
    words = [_words(text) for text in prompts.iloc[rows]]
    everywhere = Counter(word for found in words for word in found)
    labels = []
    for peak in sorted(np.flatnonzero(peaks.ravel()), key=lambda cell: -density.ravel()[cell])[:_MOST_PEAKS]:
        near = np.flatnonzero(_is_near(cells, int(peak), reach=2))
        text = _telling(Counter(word for i in near for word in words[i]), everywhere, len(near), len(words))
        if text:
            weight = float(density.ravel()[peak])
            labels.append(MapLabel(float(x[near].mean()), float(y[near].mean()), text, weight))
    return tuple(labels)


def fitting(labels: Sequence[MapLabel], view: tuple[Range, Range], pixels: tuple[float, float]) -> tuple[MapLabel, ...]:
    """Return the labels in view that overlap no heavier one on a picture of so many pixels."""
    (x0, x1), (y0, y1) = view
    kept: list[tuple[MapLabel, float, float]] = []
    for label in sorted(labels, key=lambda one: -one.weight):
        if not (x0 <= label.x <= x1 and y0 <= label.y <= y1):
            continue
        left, top = (label.x - x0) / (x1 - x0) * pixels[0], (label.y - y0) / (y1 - y0) * pixels[1]
        if all(
            abs(left - x) > _LETTER * (len(label.text) + len(other.text)) / 2 or abs(top - y) > _LINE
            for other, x, y in kept
        ):
            kept.append((label, left, top))
    return tuple(label for label, _, _ in kept)


def _has_prompts(layer_map: LayerMap) -> bool:
    return layer_map.table["prompt"].nunique() > 1


def _spread(count: int, most: int = _MOST_COUNTED) -> slice:
    return slice(None, None, -(-count // most) or 1)


def _cells_of(grid: PointGrid, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the counting cell of each point, (n,) int64."""
    places = []
    for values, (low, high) in ((y, grid.y_range), (x, grid.x_range)):
        places.append(np.clip((values - low) / (high - low) * _CELLS, 0, _CELLS - 1).astype(np.int64))
    return np.asarray(places[0] * _CELLS + places[1])


def _is_near(cells: np.ndarray, middle: int, reach: int = 1) -> np.ndarray:
    rows, columns = np.divmod(cells, _CELLS)
    return np.asarray((np.abs(rows - middle // _CELLS) <= reach) & (np.abs(columns - middle % _CELLS) <= reach))


def _short(name: str) -> str:
    """Return a class without its number: '3: three' is 'three'."""
    number, _, rest = name.partition(": ")
    return shortened(rest if rest and number.isdecimal() else name, _LONGEST)


def _words(text: object) -> set[str]:
    return set(re.findall(r"\w{3,}", str(text).casefold())) if isinstance(text, str) else set()


def _telling(here: Counter[str], everywhere: Counter[str], near: int, total: int) -> str:
    """Return the two words that are much more frequent here than everywhere; '' where there are none."""
    scores = {
        word: count / near * log(count / near * total / everywhere[word])
        for word, count in here.items()
        if count >= 2 and count / near > 1.3 * everywhere[word] / total
    }
    best = sorted(scores, key=lambda word: (-scores[word], word))[:2]
    return shortened(" ".join(best), _LONGEST)
