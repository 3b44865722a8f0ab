"""Maps of the legacy layout: coordinates in `embeddings/*.csv`, their parameters in the `.json` beside."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffviews.data.legacy.datasets import LegacyDataset
from diffviews.data.legacy.records import read_json
from diffviews.errors import CorruptDataError, SampleSetError

logger = logging.getLogger(__name__)

AXES = ("umap_x", "umap_y", "umap_z")
MIN_POINTS = 4
"""Fewer points have no neighbourhoods that could be measured."""


@dataclass(frozen=True, slots=True, eq=False)
class LegacyMap:
    """Coordinates of samples of one data set."""

    path: Path
    samples: tuple[int, ...]
    """Place in `dataset.samples` of each row."""
    coordinates: np.ndarray
    """(n, 2) or (n, 3) float32, as recorded."""
    parameters: Mapping[str, Any]

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers that it was made of, as far as it says."""
        named = self.parameters.get("layers", self.parameters.get("layer", ()))
        names = [named] if isinstance(named, str) else named if isinstance(named, list) else []
        return tuple(str(name) for name in names)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files it was read from."""
        beside = self.path.with_suffix(".json")
        return (self.path, beside) if beside.exists() else (self.path,)


def read_maps(dataset: LegacyDataset, further: Sequence[Path] = ()) -> list[LegacyMap]:
    """Return the maps whose rows are samples of the data set, by file name.

    A map of other samples is left out; one of these and others as well, which the log says.

    Args:
        dataset: whose model's folder holds `embeddings/*.csv`.
        further: tables that lie elsewhere; those of the folder are read once.

    Raises:
        CorruptDataError: if a table cannot be read or a coordinate is not finite; the file is named.
    """
    names = [path.name for path in sorted(dataset.model.folder.glob("embeddings/*.csv"))]
    own = [dataset.model.inside("map", "embeddings", name) for name in names]
    tables = [*own, *(path for path in further if path.resolve() not in own)]
    return [found for path in tables if (found := _read_map(path, dataset)) is not None]


def tables_in(path: Path) -> list[Path]:
    """Return the tables that a path names: itself, or the `.csv` files of a folder by name.

    Raises:
        SampleSetError: if there is none.
    """
    found = sorted(path.glob("*.csv")) if path.is_dir() else [path] if path.is_file() else []
    if not found:
        raise SampleSetError(f"{path} is no table of coordinates and no folder of .csv files")
    return found


def _read_map(path: Path, dataset: LegacyDataset) -> LegacyMap | None:
    table = _read_table(path)
    axes = [name for name in AXES if name in table]
    if "sample_id" not in table or len(axes) < 2:
        logger.info("%s has no sample_id, umap_x and umap_y, so it is no map", path)
        return None
    table = table[~table["sample_id"].isin(list(dataset.left_out))]
    rows = _rows_of(table, dataset)
    known = [row for row in rows if row is not None]
    if len(known) < len(rows) or len(set(known)) < len(known) or not known:
        if known:
            logger.warning("%s is left out: %d of its rows are other samples", path, len(rows) - len(set(known)))
        return None
    coordinates = table[axes].apply(pd.to_numeric, errors="coerce").to_numpy(np.float32)
    bad = np.flatnonzero(~np.isfinite(coordinates).all(axis=1))
    if bad.size:
        raise CorruptDataError(f"{path} has no coordinates for sample {table['sample_id'].iloc[bad[0]]}")
    if len(known) < MIN_POINTS:
        logger.warning("%s is left out: %d points are no map", path, len(known))
        return None
    beside = path.with_suffix(".json")
    parameters = read_json(beside) if beside.exists() else {}
    return LegacyMap(path, tuple(known), coordinates, parameters if isinstance(parameters, dict) else {})


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype={"sample_id": "string"}, encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise CorruptDataError(f"{path} cannot be read as a table: {error}") from error


def _rows_of(table: pd.DataFrame, dataset: LegacyDataset) -> list[int | None]:
    """Return the sample of each row, by id and, where an id occurs at several noise levels, by sigma."""
    by_id: dict[str, list[int]] = {}
    for number, sample in enumerate(dataset.samples):
        by_id.setdefault(sample.recorded_id, []).append(number)
    name = next((name for name in ("conditioning_sigma", "sigma") if name in table), None)
    sigmas = [None] * len(table) if name is None else pd.to_numeric(table[name], errors="coerce").tolist()
    found: list[int | None] = []
    for recorded, sigma in zip(table["sample_id"], sigmas, strict=True):
        numbers = by_id.get(recorded, []) if isinstance(recorded, str) else []
        if len(numbers) > 1:
            numbers = [n for n in numbers if sigma is not None and np.isclose(dataset.samples[n].sigma, sigma)]
        found.append(numbers[0] if len(numbers) == 1 else None)
    return found
