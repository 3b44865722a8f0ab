"""One map with its samples: what a view asks of it, answered once and shared by all visitors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from diffviews.data.class_order import same_classes
from diffviews.data.samples import SampleSet
from diffviews.errors import SelectionError
from diffviews.processing.projector import Projector
from diffviews.tracking.records import LayerRecord
from panel_app.filter import SHOW_ALL, Filter, RowFilter
from panel_app.model_facts import NOTHING_NOTED, ModelFacts
from panel_app.pictures import PREVIEW, png_address
from panel_app.point_grid import PointGrid, Range
from panel_app.points import CLASS, LEVEL, NO_CLUSTER, SIGMA, UNLABELLED, short_sigma
from panel_app.raster import Colouring, Points, Window, column_values, disc_radius, draw_points
from panel_app.recent import Recent
from panel_app.state import Space
from panel_app.theme import SEQUENTIAL, category_colours, ordered_colours

_COLOURINGS, _POINTS, _PICTURES = 16, 3, 6
"""Colourings, sets of points and pictures that a map keeps: those that its visitors look at, mostly."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A sample near another, and how far."""

    sample_id: str
    distance: float


@dataclass(frozen=True, slots=True, eq=False)
class LayerMap:
    """A map with its samples: immutable and shared."""

    layer: LayerRecord
    """LayerRecord of the layer run."""
    map_run: str
    """Run whose map this is: the layer run, or a re-computed map of it."""
    table: pd.DataFrame
    """sample_id, x, y, class (text), prompt, columns of categories and of numbers; row order means nothing outside."""
    row_of: Mapping[str, int]
    """Row of each sample; on a joint map the one at the layer run's sigma."""
    samples: SampleSet
    projector: Projector
    projector_row_of: Mapping[str, int]
    facts: ModelFacts = NOTHING_NOTED
    """What the extraction noted of its model."""
    painted: str | None = None
    """Column that colours it, whatever is asked for."""
    rows: RowFilter = field(init=False, repr=False)
    grid: PointGrid = field(init=False, repr=False)
    """All points, by place."""
    bounds: tuple[Range, Range] = field(init=False, repr=False)
    """Ranges of x and y with a margin around the points."""
    numeric_columns: tuple[str, ...] = field(init=False, repr=False)
    """Columns that can colour the map by a number."""
    _colourings: Recent[Colouring] = field(init=False, repr=False)
    _points: Recent[Points] = field(init=False, repr=False)
    _pictures: Recent[np.ndarray] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", RowFilter(self.table))
        object.__setattr__(self, "grid", PointGrid.of(self.table["x"].to_numpy(), self.table["y"].to_numpy()))
        object.__setattr__(self, "bounds", (_padded(self.table["x"]), _padded(self.table["y"])))
        object.__setattr__(self, "numeric_columns", _numeric(self.table))
        object.__setattr__(self, "_colourings", Recent(_COLOURINGS))
        object.__setattr__(self, "_points", Recent(_POINTS))
        object.__setattr__(self, "_pictures", Recent(_PICTURES))

    @property
    def categorical_columns(self) -> tuple[str, ...]:
        """Columns with categories, the class first; a class that no sample has is left out if there are others."""
        others = [c for c in self.table.select_dtypes("category").columns if c != CLASS]
        has_classes = self.categories_of(CLASS) != (UNLABELLED,)
        return tuple([CLASS, *others] if has_classes or not others else others)

    @property
    def default_colour(self) -> str:
        """Column that colours the map unless another is chosen."""
        return self.categorical_columns[0]

    @property
    def is_small(self) -> bool:
        """Whether its pictures are so small that each pixel should be seen."""
        return max(self.samples.pictures.size) <= 64

    @property
    def is_joint(self) -> bool:
        """Whether it holds each sample once for each of several noise levels."""
        return SIGMA in self.table

    def with_columns(self, **columns: Any) -> "LayerMap":
        """Return this map with further columns, each (N,) by row of the table; a column of that name is replaced."""
        return replace(self, table=self.table.assign(**columns))

    def categories_of(self, column: str) -> tuple[str, ...]:
        """Return the values of a column with categories, in order."""
        return tuple(self.table[column].cat.categories)

    def range_of(self, column: str) -> tuple[float, float]:
        """Return the least and the greatest number of a column."""
        values = self.table[column].to_numpy(np.float64)
        finite = values[np.isfinite(values)]
        return float(finite.min()), float(finite.max())

    def fitting(self, wanted: Filter) -> Filter:
        """Return a filter without what this map lacks."""
        columns = {column: self.categories_of(column) for column in self.categorical_columns}
        return wanted.only(columns, self.numeric_columns)

    def position(self, sample_id: str) -> tuple[float, float]:
        """Return (x, y) of a sample."""
        row = self.row_of[sample_id]
        return float(self.table["x"].iloc[row]), float(self.table["y"].iloc[row])

    def shown(self, wanted: Filter) -> pd.DataFrame:
        """Return the rows that a filter shows. The table itself stays whole."""
        return self.table[self.mask(wanted)] if wanted else self.table

    def mask(self, wanted: Filter) -> np.ndarray:
        """Return which rows a filter shows, (N,) bool, not to be written to; what this map lacks hides nothing."""
        return self.rows.mask(self.fitting(wanted))

    def count_shown(self, wanted: Filter) -> int:
        """Return how many rows a filter shows."""
        return int(np.count_nonzero(self.mask(wanted)))

    def points(self, colour_by: str, wanted: Filter = SHOW_ALL) -> Points:
        """Return the shown points, by place, with what colours them."""
        return self.points_with(self.painted or colour_by, wanted)

    def points_with(self, column: str, wanted: Filter = SHOW_ALL) -> Points:
        """Return the shown points, by place, with the values of a column."""
        return self._points.get((column, wanted), lambda: self._gather(column, wanted))

    def _gather(self, column: str, wanted: Filter) -> Points:
        grid = self.grid.only(self.mask(wanted)[self.grid.rows]) if wanted else self.grid
        return Points(grid, column_values(self.table, self._colouring_of(column))[grid.rows])

    def picture(self, window: Window, colour_by: str, wanted: Filter = SHOW_ALL, *, radius: float = 3.0) -> np.ndarray:
        """Return the shown points as a picture, (height, width, 4) uint8; it must not be written to."""
        return self._pictures.get(
            (window, colour_by, wanted, radius),
            lambda: draw_points(self.points(colour_by, wanted), window, self.colouring(colour_by), radius=radius),
        )

    def dot_radius(self, window: Window, pixels: int) -> float:
        """Return the radius of a dot in a window of so many pixels; no filter changes it."""
        return disc_radius(self.grid.count(window.x_range, window.y_range), pixels)

    def rows_of(self, sample_ids: Sequence[str]) -> np.ndarray:
        """Return every row of samples, (n,) int64; on a joint map a sample has one for each noise level."""
        if self.is_joint:
            return np.flatnonzero(self.table["sample_id"].isin(list(sample_ids)).to_numpy(dtype=bool))
        return np.array([self.row_of[s] for s in sample_ids if s in self.row_of], np.int64)

    @property
    def model_classes(self) -> dict[int, str]:
        """{class: name} of what the model can be asked for: its own classes, those that occur where they are the same.

        An older run, which did not note the model's names, has those of its samples.
        """
        occurring, names = self.samples.classes, self.facts.class_names
        if not names or (occurring and same_classes(self.samples, list(names.values()))):
            return occurring
        return dict(names)

    def samples_at(self, rows: np.ndarray) -> tuple[str, ...]:
        """Return the samples of points, each once, in the order of the rows."""
        return tuple(dict.fromkeys(self.table["sample_id"].iloc[rows].tolist()))

    def row_near(self, x: float, y: float, *, within: tuple[float, float], wanted: Filter = SHOW_ALL) -> int | None:
        """Return the row of the shown point nearest to (x, y), or None when none lies within (dx, dy) of it."""
        grid = self.points(self.default_colour, wanted).grid if wanted else self.grid
        return grid.nearest(x, y, within)

    def sample_at(self, row: int) -> str:
        """Return the sample of a point."""
        return str(self.table["sample_id"].iloc[row])

    def sigma_at(self, row: int) -> str:
        """Return the noise level of a point as text."""
        return str(self.table[SIGMA].iloc[row]) if self.is_joint else f"σ {short_sigma(self.layer.sigma)}"

    def text_of(self, sample_id: str) -> str:
        """Return a sample's class as shown, '3: three', or its prompt where it has no class."""
        text = str(self.table[CLASS].iloc[self.row_of[sample_id]])
        return self.prompt_of(sample_id) or text if text == UNLABELLED else text

    def prompt_of(self, sample_id: str) -> str | None:
        """Return a sample's prompt, None where it has none."""
        prompt = self.table["prompt"].iloc[self.row_of[sample_id]]
        return None if pd.isna(prompt) else str(prompt)

    def colouring(self, colour_by: str) -> Colouring:
        """Return how points are coloured; colours do not depend on any filter."""
        return self._colouring_of(self.painted or colour_by)

    def _colouring_of(self, column: str) -> Colouring:
        return self._colourings.get(column, lambda: self._choose_colours(column))

    def _choose_colours(self, colour_by: str) -> Colouring:
        if colour_by in self.numeric_columns:
            low, high = self.range_of(colour_by)
            return Colouring(colour_by, SEQUENTIAL, low=low, high=high)
        column = colour_by if colour_by in self.categorical_columns else self.default_colour
        categories = self.categories_of(column)
        colours = ordered_colours(categories) if column == SIGMA else category_colours(categories, _nothing(categories))
        return Colouring(column, tuple(colours.values()), tuple(colours))

    def neighbours(self, sample_id: str, k: int, space: Space) -> tuple[Neighbour, ...]:
        """Return the k samples nearest to one, itself left out, nearest first.

        Raises:
            SelectionError: if the map has no such sample or too few others.
        """
        ids, others = self.projector.sample_ids, len(self.projector_row_of) - 1
        if k > others:
            raise SelectionError(f"{k} neighbours were asked for, but there are only {others} other samples")
        own = self._projector_row(sample_id)
        levels = self.projector.row_sigmas if self.is_joint else None
        if levels is None:
            rows, gaps = self.projector.neighbors(own, k, space)
        else:  # only samples at the same noise level are averaged
            rows, gaps = self.projector.neighbors(own, len(ids) - 1, space)
            same = np.flatnonzero(levels[rows] == self.layer.sigma)[:k]
            rows, gaps = rows[same], gaps[same]
        return tuple(Neighbour(ids[int(row)], float(gap)) for row, gap in zip(rows, gaps, strict=True))

    def distances(self, sample_id: str, others: Sequence[str], space: Space) -> dict[str, float]:
        """Return how far each of `others` is from a sample, as `neighbours` measures it."""
        on_map = space == "map"
        points = self.projector.embedding if on_map else self.projector.pca_points
        metric = "euclidean" if on_map else self.projector.parameters.metric
        rows = [self._projector_row(other) for other in others]
        if not rows:
            return {}
        own = points[[self._projector_row(sample_id)]].astype(np.float64)
        gaps = cdist(own, points[rows].astype(np.float64), "cityblock" if metric == "manhattan" else metric)[0]
        return dict(zip(others, gaps.tolist(), strict=True))

    def thumbnail(self, sample_id: str) -> str:
        """Return a sample's picture as a data address."""
        return png_address(self.samples.thumbnails_of([sample_id])[0])

    def thumbnails(self, sample_ids: Sequence[str]) -> list[str]:
        """Return small pictures of samples as data addresses, in this order."""
        data = self.samples.thumbnails_of(sample_ids) if sample_ids else []
        return [png_address(picture, PREVIEW) for picture in data]

    def _projector_row(self, sample_id: str) -> int:
        if sample_id not in self.projector_row_of:
            raise SelectionError(f"sample {sample_id!r} is not on this map")
        return self.projector_row_of[sample_id]


def _nothing(categories: Sequence[str]) -> str:
    """Return the category that is grey."""
    return NO_CLUSTER if NO_CLUSTER in categories else UNLABELLED


def _numeric(table: pd.DataFrame) -> tuple[str, ...]:
    hidden = {"x", "y", "z", "class_label", "seed", LEVEL}
    numeric = table.select_dtypes("number").columns
    return tuple(c for c in numeric if c not in hidden and np.isfinite(table[c].to_numpy(np.float64)).any())


def _padded(values: pd.Series, share: float = 0.06) -> tuple[float, float]:
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    margin = (high - low) * share or 1.0
    return low - margin, high + margin
