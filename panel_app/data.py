"""What the dashboard shows, derived once and shared by all visitors: nothing here is ever changed in place."""

import base64
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from diffviews.data.samples import SampleSet
from diffviews.errors import RunNotFoundError, SelectionError
from diffviews.noise import format_sigma
from panel_app.raster import Colouring
from panel_app.state import BY_CLASS, Space
from panel_app.theme import SEQUENTIAL, category_colours

UNLABELLED = "unlabelled"
"""Class text of samples that have neither class nor prompt."""

T = TypeVar("T")


class Library(Protocol):
    """Where logged runs come from; `panel_app.library` reads them from MLflow."""

    def experiments(self) -> Sequence[str]:
        """Names of the experiments that hold DiffViews runs."""

    def extractions(self, experiment: str) -> Sequence[Any]:
        """Finished extractions, newest first."""

    def layers(self, extraction: str) -> Sequence[Any]:
        """Finished layer runs of an extraction."""

    def maps(self, layer_run: str) -> Sequence[Any]:
        """Finished re-computed maps of a layer run, newest first."""

    def samples(self, extraction: str) -> SampleSet:
        """The sample set of an extraction."""

    def points(self, map_run: str) -> pd.DataFrame:
        """The table of a layer run's or re-computed map's points."""

    def projector(self, map_run: str) -> Any:
        """The projector of a layer run's or re-computed map."""

    def run_url(self, run_id: str) -> str | None:
        """Address of a run in the MLflow UI, or None when no UI is known."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A sample near another, and how far."""

    sample_id: str
    distance: float


@dataclass(frozen=True, slots=True, eq=False)
class OpenMap:
    """A map with its samples: immutable and shared."""

    layer: Any
    """LayerRecord of the layer run."""
    map_run: str
    """Run whose map this is: the layer run, or a re-computed map of it."""
    table: pd.DataFrame
    """sample_id, x, y, class (text), numeric columns; row order means nothing outside."""
    row_of: Mapping[str, int]
    samples: SampleSet
    projector: Any
    projector_row_of: Mapping[str, int]
    tree: cKDTree

    @property
    def categories(self) -> tuple[str, ...]:
        """Class texts in class order."""
        return tuple(self.table["class"].cat.categories)

    @property
    def numeric_columns(self) -> tuple[str, ...]:
        """Columns that can colour the map by a number."""
        hidden = {"x", "y", "z", "class_label", "seed"}
        numeric = self.table.select_dtypes("number").columns
        return tuple(c for c in numeric if c not in hidden and self.table[c].notna().any())

    @property
    def bounds(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Ranges of x and y with a margin around the points."""
        return _padded(self.table["x"]), _padded(self.table["y"])

    def position(self, sample_id: str) -> tuple[float, float]:
        """Return (x, y) of a sample."""
        row = self.table.iloc[self.row_of[sample_id]]
        return float(row["x"]), float(row["y"])

    def shown(self, classes: Sequence[str]) -> pd.DataFrame:
        """Return the rows of these classes; none means all. The table itself stays whole."""
        return self.table[self.table["class"].isin(list(classes))] if classes else self.table

    def near(self, x: float, y: float, *, within: tuple[float, float], classes: Sequence[str] = ()) -> str | None:
        """Return the shown sample nearest to (x, y), or None when none lies within (dx, dy) of it."""
        if not len(self.table):
            return None
        reach = float(np.hypot(*within))
        rows = self.tree.query_ball_point((x, y), reach)
        if not rows:
            return None
        table = self.table.iloc[rows]
        offsets = np.stack([(table["x"] - x) / within[0], (table["y"] - y) / within[1]])
        distances = np.hypot(*offsets)
        if classes:
            distances = np.where(table["class"].isin(list(classes)), distances, np.inf)
        best = int(np.argmin(distances))
        return str(table["sample_id"].iloc[best]) if distances[best] <= 1 else None

    def text_of(self, sample_id: str) -> str:
        """Return a sample's class as shown: '3: three'."""
        return str(self.table["class"].iloc[self.row_of[sample_id]])

    def colouring(self, colour_by: str) -> Colouring:
        """Return how points are coloured; colours do not depend on any filter."""
        if colour_by == BY_CLASS or colour_by not in self.numeric_columns:
            colours = category_colours(self.categories, UNLABELLED)
            return Colouring("class", tuple(colours.values()), tuple(colours))
        values = self.table[colour_by].to_numpy(np.float64)
        finite = values[np.isfinite(values)]
        return Colouring(colour_by, SEQUENTIAL, low=float(finite.min()), high=float(finite.max()))

    def neighbours(self, sample_id: str, k: int, space: Space) -> tuple[Neighbour, ...]:
        """Return the k samples nearest to one, itself left out, nearest first.

        Raises:
            SelectionError: if the map has no such sample or too few others.
        """
        ids = self.projector.sample_ids
        if k >= len(ids):
            raise SelectionError(f"{k} neighbours were asked for, but there are only {len(ids) - 1} other samples")
        rows, distances = self.projector.neighbors(self._projector_row(sample_id), k, space)
        return tuple(Neighbour(ids[int(row)], float(gap)) for row, gap in zip(rows, distances, strict=True))

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
        """Return the pictures of samples as data addresses, in this order."""
        return [png_address(data) for data in self.samples.thumbnails_of(sample_ids)] if sample_ids else []

    def _projector_row(self, sample_id: str) -> int:
        if sample_id not in self.projector_row_of:
            raise SelectionError(f"sample {sample_id!r} is not on this map")
        return self.projector_row_of[sample_id]


class DataStore:
    """Opens maps and keeps the most recently used ones; safe to call from several threads."""

    def __init__(self, library: Library, *, max_maps: int = 16) -> None:
        self.library = library
        self._maps = _Recent[OpenMap](max_maps)
        self._samples = _Recent[SampleSet](4)

    def experiments(self) -> Sequence[str]:
        """Names of the experiments that hold extractions."""
        return self.library.experiments()

    def layer_run(self, extraction: str, layer: str, sigma: float) -> Any:
        """Return the layer run of an extraction at one noise level.

        Raises:
            RunNotFoundError: if there is none, naming what there is.
        """
        records = self.library.layers(extraction)
        for record in records:
            if record.layer == layer and record.sigma == sigma:
                return record
        known = sorted({f"{r.layer} at {format_sigma(r.sigma)}" for r in records})
        wanted = f"layer {layer!r} at sigma {format_sigma(sigma)}"
        raise RunNotFoundError(f"this extraction has no finished {wanted}; it has {', '.join(known[:8]) or 'none yet'}")

    def open(self, layer: Any, map_run: str | None = None) -> OpenMap:
        """Return a layer run's map, or a re-computed one of it."""
        run = map_run or layer.run_id
        return self._maps.get(run, lambda: self._load(layer, run))

    def samples(self, extraction: str) -> SampleSet:
        """Return the sample set of an extraction."""
        return self._samples.get(extraction, lambda: self.library.samples(extraction))

    def _load(self, layer: Any, run: str) -> OpenMap:
        samples = self.samples(layer.parent_id)
        table = join_points(self.library.points(run), samples)
        projector = self.library.projector(run)
        return OpenMap(
            layer=layer,
            map_run=run,
            table=table,
            row_of={s: i for i, s in enumerate(table["sample_id"])},
            samples=samples,
            projector=projector,
            projector_row_of={s: i for i, s in enumerate(projector.sample_ids)},
            tree=cKDTree(table[["x", "y"]].to_numpy(np.float64)),
        )


def join_points(points: pd.DataFrame, samples: SampleSet) -> pd.DataFrame:
    """Return the points with what is known of their samples, matched by sample_id.

    Points without coordinates are left out, for they can be neither drawn nor clicked.

    Raises:
        SelectionError: if a point's sample is not in the set.
    """
    placed = points[np.isfinite(points["x"]) & np.isfinite(points["y"])].reset_index(drop=True)
    ids = placed["sample_id"].astype(str).tolist()
    rows = samples.index_of(ids) if ids else np.zeros(0, np.int64)
    known = samples.table.iloc[rows].reset_index(drop=True)
    key = known["class_label"].astype("string").fillna("") + "\x1f" + known["prompt"].fillna("")
    firsts = np.flatnonzero(~key.duplicated().to_numpy())
    names = key.map({key.iloc[i]: samples.class_text(int(rows[i])) or UNLABELLED for i in firsts})
    order = known.assign(text=names).sort_values(["class_label", "text"])["text"].drop_duplicates().tolist()
    table = placed.drop(columns=[c for c in known.columns if c in placed and c != "sample_id"])
    table["sample_id"] = ids
    table["x"], table["y"] = placed["x"].astype("float32"), placed["y"].astype("float32")
    table["class"] = pd.Categorical(names, categories=order)
    return table.assign(**{c: known[c] for c in ("class_label", "prompt", "seed")})


def png_address(data: bytes) -> str:
    """Return PNG bytes as a data address for an <img>."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _padded(values: pd.Series, share: float = 0.06) -> tuple[float, float]:
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    margin = (high - low) * share or 1.0
    return low - margin, high + margin


class _Recent(Generic[T]):
    """The most recently used values by key; each is made once, even when several threads ask at a time."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._locks: dict[Hashable, threading.Lock] = {}
        self._guard = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        with self._guard:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            with self._guard:
                if key in self._values:
                    return self._values[key]
            value = make()
            with self._guard:
                self._values[key] = value
                self._locks.pop(key, None)
                while len(self._values) > self._size:
                    self._values.popitem(last=False)
            return value
