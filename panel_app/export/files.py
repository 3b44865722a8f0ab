"""Files made of a view: built from what was noted when they were asked for, so that a thread can do it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from diffviews.data.pictures import encode_png, thumbnail_png
from diffviews.errors import SelectionError
from diffviews.pipelines.export import file_stem, pictures_zip, samples_csv, samples_json
from diffviews.pipelines.report import Report, ReportedGeneration, ReportedSample, report_html
from panel_app.cards import run_facts
from panel_app.export.figure import MapView, figure_png, figure_svg
from panel_app.generation.gallery_entry import GalleryEntry
from panel_app.layer_map import LayerMap
from panel_app.points import LEVEL, PROMPT, SIGMA

Scope = Literal["selection", "marked", "shown"]
Format = Literal["png", "svg", "csv", "json", "zip", "html"]

_FIRST = ("sample_id", "class", "prompt", "x", "y", "z", "sigma")
_REPORT_DPI = 200
_REPORTED = 60
"""Marked samples in a report; all of them are in the table."""
_IMAGES = 8
"""Images of a generation in a report."""


@dataclass(frozen=True, slots=True, eq=False)
class ExportedView:
    """What is exported."""

    seen: MapView
    scope: Scope
    sample_ids: tuple[str, ...]
    """The samples of the scope."""
    distances: Mapping[str, float]
    """Of the neighbours to the selected sample."""
    marked: tuple[str, ...] = ()
    width: float = 180.0
    """Of the map in millimetres."""
    dpi: int = 300
    generations: Sequence[GalleryEntry] = ()
    """Of the session, the newest first."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Addresses of the view and of its runs by text."""
    generation_links: Mapping[str, str] = field(default_factory=dict)
    """Addresses of generations by run id."""

    @property
    def stem(self) -> str:
        """Beginning of the file names: model, layer, noise level."""
        layer_map = self.seen.map
        return file_stem(
            layer_map.layer.model, layer_map.layer.layer, None if layer_map.is_joint else layer_map.layer.sigma
        )


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """A file to save."""

    name: str
    kind: str
    """Its media type."""
    content: bytes


def make_file(view: ExportedView, kind: Format) -> ExportedFile:
    """Return a view as a file.

    Raises:
        SelectionError: if there is no sample to export, or they are too many.
        ConfigError: if the picture would be impossibly large.
    """
    part, media, make = _FILES[kind]
    if not part and not view.sample_ids:
        raise SelectionError("there is no sample to export; select, mark or show some")
    return ExportedFile(f"{view.stem}_{part or view.scope}.{kind}", media, make(view))


def samples_table(view: ExportedView) -> pd.DataFrame:
    """Return the samples of the scope with all that is known of them, in the order of the scope.

    Columns: sample_id, class, prompt, x, y, of a joint map sigma, those of the map and of the extraction, the role
    in the selection, and the distance to the selected sample. A joint map has a row for each noise level shown.
    """
    layer_map, chosen = view.seen.map, view.seen.selection
    if view.scope == "shown":
        rows = layer_map.shown(view.seen.filter)
    else:
        rows = layer_map.table.iloc[[layer_map.row_of[s] for s in view.sample_ids]]
    table = rows.drop(columns=[c for c in (SIGMA, PROMPT) if c in rows]).rename(columns={LEVEL: "sigma"})
    order = [c for c in _FIRST if c in table]
    table = table[[*order, *(c for c in table.columns if c not in order)]]
    roles = roles_of(view)
    ids = table["sample_id"].astype(str)
    return table.assign(
        role=[roles.get(s, "") for s in ids],
        distance_to_selected=[0.0 if s == chosen.sample_id else view.distances.get(s, np.nan) for s in ids],
    )


def roles_of(view: ExportedView) -> dict[str, str]:
    """Return what each selected or marked sample is."""
    chosen = view.seen.selection
    roles = dict.fromkeys(view.marked, "marked")
    roles |= dict.fromkeys(chosen.suggested, "suggested") | dict.fromkeys(chosen.manual, "chosen")
    return roles | ({chosen.sample_id: "selected"} if chosen.sample_id else {})


def report_of(view: ExportedView) -> Report:
    """Return what a report of a view tells."""
    seen, layer_map = view.seen, view.seen.map
    layer = layer_map.layer
    more = len(view.marked) - _REPORTED
    left_out = f"{more:,} further marked samples are left out; the table (CSV, JSON) has all."
    return Report(
        title=f"{layer.model}: {seen.title}",
        subtitle=f"{layer.dataset or ''} · {len(layer_map.samples):,} samples",
        map_png=figure_png(seen, width=view.width, dpi=_REPORT_DPI),
        map_text=f"{seen.title}, {seen.about}",
        run={**run_facts(layer_map), "Map run": layer_map.map_run, "Extraction": str(layer.parent_id)},
        parameters={str(k): str(v) for k, v in sorted(layer.params.items())},
        measures={str(k): float(v) for k, v in sorted(layer.metrics.items())},
        samples=_reported(view),
        samples_note=left_out if more > 0 else "",
        generations=[_generation(view, entry) for entry in view.generations],
        links=view.links,
        pixelated=layer_map.is_small,
    )


def _reported(view: ExportedView) -> list[ReportedSample]:
    layer_map, roles = view.seen.map, roles_of(view)
    chosen = [s for s in view.seen.selection.members if s in layer_map.row_of]
    chosen.sort(key=lambda s: -1.0 if s == view.seen.selection.sample_id else view.distances.get(s, np.inf))
    marked = [s for s in view.marked if s in layer_map.row_of and s not in chosen][:_REPORTED]
    ids = [*chosen, *marked]
    pictures = layer_map.samples.thumbnails_of(ids) if ids else []
    return [
        ReportedSample(s, roles[s], layer_map.text_of(s), layer_map.prompt_of(s) or "", picture, view.distances.get(s))
        for s, picture in zip(ids, pictures, strict=True)
    ]


def _generation(view: ExportedView, entry: GalleryEntry) -> ReportedGeneration:
    result = entry.generation.result
    baselines = () if result.baseline_images is None else result.baseline_images[:_IMAGES]
    return ReportedGeneration(
        title=entry.title,
        detail=entry.detail,
        pngs=tuple(_light(image) for image in result.images[:_IMAGES]),
        baseline_pngs=tuple(_light(image) for image in baselines),
        link=view.generation_links.get(entry.run_id),
        command=entry.generation.recipe.command(),
    )


def _light(image: np.ndarray) -> bytes:
    pixels = np.ascontiguousarray(image)
    return thumbnail_png(pixels) if max(pixels.shape[:2]) > 128 else encode_png(pixels)


def _about(view: ExportedView) -> dict[str, Any]:
    layer_map: LayerMap = view.seen.map
    layer = layer_map.layer
    return {
        "model": layer.model,
        "dataset": layer.dataset,
        "layer": layer.layer,
        "sigma": layer.sigma,
        "layer_run": layer.run_id,
        "map_run": layer_map.map_run,
        "scope": view.scope,
        "links": dict(view.links),
    }


_FILES: dict[Format, tuple[str, str, Callable[[ExportedView], bytes]]] = {
    "png": ("map", "image/png", lambda view: figure_png(view.seen, width=view.width, dpi=view.dpi)),
    "svg": ("map", "image/svg+xml", lambda view: figure_svg(view.seen, width=view.width, dpi=view.dpi)),
    "html": ("report", "text/html", lambda view: report_html(report_of(view))),
    "zip": ("", "application/zip", lambda view: pictures_zip(view.seen.map.samples, view.sample_ids)),
    "csv": ("", "text/csv", lambda view: samples_csv(samples_table(view))),
    "json": ("", "application/json", lambda view: samples_json(samples_table(view), _about(view))),
}
"""Of each kind what of the view it holds ('' the samples of the scope), its media type, and what makes it."""
