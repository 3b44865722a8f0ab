"""What leaves the dashboard as files: tables and pictures of samples, and the run that keeps them."""

import csv
import io
import json
import math
import re
import unicodedata
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from diffviews.data.pictures import encode_png
from diffviews.data.samples import SampleSet
from diffviews.errors import ConfigError, RunNotFoundError, SelectionError
from diffviews.noise import format_sigma
from diffviews.pipelines.workspace import Workspace
from diffviews.tracking.notes import NOTE
from diffviews.tracking.records import RunRecord
from diffviews.tracking.schema import Kind

LARGEST_ZIP = 200_000_000
"""Bytes of pixels of the images in one zip; more is refused, for a browser has to take it in one piece."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A spreadsheet runs a cell of text that begins so."""

_LONGEST_NAME = 100
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def samples_csv(table: pd.DataFrame) -> bytes:
    """Return a table as CSV in UTF-8.

    Text that a spreadsheet would run as a formula gets an apostrophe before it, which spreadsheets hide; JSON
    has it as it is. Missing values are empty.
    """
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow([_harmless(str(name)) for name in table.columns])
    writer.writerows([_cell(value) for value in row] for row in zip(*_columns(table), strict=True))
    return stream.getvalue().encode()


def samples_json(table: pd.DataFrame, about: Mapping[str, Any]) -> bytes:
    """Return a table as JSON, {…about, "samples": [{column: value}]}; missing values are null.

    Args:
        table: one row a sample.
        about: what is said of all of them.
    """
    names = [str(name) for name in table.columns]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*_columns(table), strict=True)]
    return (json.dumps({**about, "samples": rows}, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def pictures_zip(samples: SampleSet, sample_ids: Sequence[str]) -> bytes:
    """Return the samples' images as PNG files in one zip, with `samples.csv` that says which file is which sample.

    Raises:
        SelectionError: if there are none, or they are too many for one file.
    """
    if not sample_ids:
        raise SelectionError("there is no sample to export; select, mark or show some")
    height, width = samples.pictures.size
    size = len(sample_ids) * height * width * 3
    if size > LARGEST_ZIP:
        most = LARGEST_ZIP // (height * width * 3)
        raise SelectionError(
            f"{len(sample_ids):,} images of {width}×{height} pixels are too many for one file; choose up to {most:,}"
        )
    names = file_names(sample_ids)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for sample_id, name in zip(sample_ids, names, strict=True):
            archive.writestr(name, encode_png(samples.images_of([sample_id])[0]))
        listed = pd.DataFrame({"sample_id": list(sample_ids), "file": names})
        archive.writestr("samples.csv", samples_csv(listed), zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def file_names(sample_ids: Sequence[str], ending: str = ".png") -> list[str]:
    """Return a file name for each sample: its id where that can be one, never a path, each different."""
    taken: set[str] = set()
    names = []
    for sample_id in sample_ids:
        stem = safe_name(sample_id)
        name, number = stem + ending, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}{ending}"
        taken.add(name.casefold())
        names.append(name)
    return names


def safe_name(text: str) -> str:
    """Return a text as part of a file name on any system: letters, digits, dot, dash and underscore."""
    plain = unicodedata.normalize("NFC", text)
    kept = re.sub(r"[^\w.-]+", "_", plain).strip("._-")[:_LONGEST_NAME].rstrip("._-")
    return f"_{kept}" if not kept or _RESERVED.fullmatch(kept) else kept


def file_stem(model: str | None, layer: str, sigma: float | None) -> str:
    """Return the beginning of an export's file name: model, layer, noise level."""
    level = [] if sigma is None else [f"sigma{format_sigma(sigma)}"]
    return "_".join(safe_name(part) for part in (model or "model", layer, *level))


def log_export(workspace: Workspace, source_run: str, files: Mapping[str, bytes], *, title: str, link: str = "") -> str:
    """Log files made of a layer run's map as a run of their own, and return its id.

    A layer run is finished and its manifest never changes, and every other kind of run is expected to hold what
    its kind says: so an export is a run of the kind 'export' whose `diffviews.source_run` is the run exported.

    Args:
        workspace: where the source run is, and where the export is logged.
        source_run: layer run or re-computed map that the files show.
        files: content by artifact name.
        title: what the MLflow UI shows.
        link: address of the view in the dashboard, written into the run's description.

    Raises:
        ConfigError: if there is nothing to log.
        RunNotFoundError: if there is no such run.
    """
    if not files:
        raise ConfigError("there is no file to log")
    source = _source(workspace, source_run)
    with workspace.tracker.start(Kind.EXPORT, title, source.derived_tags(map=source.map)) as run:
        for name, content in files.items():
            run.log_artifact_bytes(content, f"export/{safe_name(name)}")
        told = f"Exported from run {source_run}."
        run.set_tag(NOTE, f"{told} [Open this view in the dashboard]({link})" if link else told)
    return run.run_id


def _source(workspace: Workspace, run_id: str) -> RunRecord:
    try:
        return workspace.catalog.layer(run_id)
    except RunNotFoundError:
        return workspace.catalog.map(run_id)


def _columns(table: pd.DataFrame) -> list[list[Any]]:
    """Return the values of each column as JSON knows them; float32 with as many digits as it has."""
    columns = []
    for name in table.columns:
        short = table[name].dtype in (np.float32, np.float16)
        columns.append([_plain(float(str(v)) if short else v) for v in table[name].array])
    return columns


def _cell(value: Any) -> Any:
    return "" if value is None else _harmless(value) if isinstance(value, str) else value


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it; what is missing or not finite is None."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, str | bool | int | float) else str(value)
