"""What is drawn when the same samples lie in several places: slices along sigma, or one map in three dimensions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import pandas as pd

from diffviews.errors import ConfigError, RunNotFoundError, SelectionError
from diffviews.noise import format_sigma
from diffviews.processing.palette import UNLABELLED
from diffviews.processing.procrustes import overlay
from diffviews.tracking.records import LayerRecord, MapRecord
from panel_app.data import DataStore
from panel_app.filter import Filter
from panel_app.layer_map import LayerMap
from panel_app.points import short_sigma
from panel_app.raster import Colouring, column_values
from panel_app.state import Group, Selection

MOST_PLACES = 400_000
"""Up to so many places are sent to a browser; of larger maps evenly chosen samples are drawn."""

_MOST_GROUP_MARKS = 400
"""Marked samples of a group beyond these get no ring, which would hide everything else."""

_GREY = np.array(list(bytes.fromhex(UNLABELLED[1:])), np.uint8)
FAINT = 48
"""Alpha of what is not highlighted, of 255."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """The same samples on one or several maps: immutable; each sample is addressed by its place in `sample_ids`."""

    map_run: str
    maps: tuple[LayerMap, ...]
    """Slices, in the order of `levels`, or the one map."""
    sample_ids: tuple[str, ...]
    """Samples drawn, those that every map has."""
    rows: np.ndarray
    """(L, N) int64: row of each sample in each map's table."""
    positions: np.ndarray
    """(L, N, D) float32: D is 2 for slices, 3 for a map in three dimensions."""
    total: int
    """Samples there are, drawn or not."""
    levels: tuple[tuple[str, float], ...] = ()
    """Each slice's name and its place along the player, ascending; none of a map in three dimensions."""
    index_of: Mapping[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "index_of", {s: index for index, s in enumerate(self.sample_ids)})

    @classmethod
    def of_slices(cls, map_run: str, slices: Sequence[LayerMap]) -> Self:
        """Stack the slices of an aligned map.

        Raises:
            ConfigError: if there are fewer than two.
        """
        if len(slices) < 2:
            raise ConfigError(f"an aligned map needs slices at two noise levels or more, not {len(slices)}")
        ascending = sorted(slices, key=lambda layer_map: layer_map.layer.sigma)
        levels = [(f"σ {short_sigma(m.layer.sigma)}", float(np.log(m.layer.sigma))) for m in ascending]
        return cls._of(map_run, ascending, ["x", "y"], levels)

    @classmethod
    def from_one_to_the_other(cls, left: LayerMap, right: LayerMap, sample_ids: Sequence[str]) -> tuple[Self, float]:
        """Lay two maps over each other; return the scene and their Procrustes correlation, 0 to 1.

        The right map is turned, mirrored and scaled onto the left one by the samples that both have, at least 2; the
        left one stands at 0 and the right one at −1 along the player.
        """
        pair = (right, left)
        levels = [(f"{m.layer.layer} at σ {m.layer.sigma:g}", at) for m, at in zip(pair, (-1.0, 0.0), strict=True)]
        scene = cls._of(f"{left.map_run}-{right.map_run}", pair, ["x", "y"], levels, sample_ids)
        theirs, ours = scene.positions
        laid = overlay(ours, theirs)
        return replace(scene, positions=np.stack([laid.second, laid.first]).astype(np.float32)), laid.agreement

    @classmethod
    def of_solid(cls, layer_map: LayerMap) -> Self:
        """Show a map of three components.

        Raises:
            ConfigError: if the map has but two.
        """
        if "z" not in layer_map.table:
            raise ConfigError("this map has two dimensions; compute one with three to see it in space")
        return cls._of(layer_map.map_run, [layer_map], ["x", "y", "z"])

    @classmethod
    def _of(
        cls,
        map_run: str,
        maps: Sequence[LayerMap],
        axes: list[str],
        levels: Sequence[tuple[str, float]] = (),
        shared: Sequence[str] | None = None,
    ) -> Self:
        if shared is None:
            shared = [s for s in maps[0].row_of if all(s in other.row_of for other in maps[1:])]
        step = -(-len(shared) * len(maps) // MOST_PLACES) or 1
        drawn = tuple(shared[::step])
        rows = np.array([[layer_map.row_of[s] for s in drawn] for layer_map in maps], np.int64).reshape(len(maps), -1)
        places = [
            layer_map.table[axes].to_numpy(np.float32)[chosen] for layer_map, chosen in zip(maps, rows, strict=True)
        ]
        return cls(map_run, tuple(maps), drawn, rows, np.stack(places), len(shared), tuple(levels))

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise level of each slice."""
        return tuple(float(layer_map.layer.sigma) for layer_map in self.maps)

    def colours(self, on_map: LayerMap, colour_by: str, wanted: Filter, highlight: str | None = None) -> np.ndarray:
        """Return the samples' colours as the map beside has them, (N, 4) uint8; a hidden sample has alpha 0.

        Args:
            on_map: the map whose table colours and filters, so that one legend serves both.
            colour_by: column of its table.
            wanted: which samples are shown; one that the map lacks is grey, and shown only without a filter.
            highlight: category of the column that is brought forward; all others are faint.
        """
        rows = np.array([on_map.row_of.get(s, -1) for s in self.sample_ids], np.int64)
        known = rows >= 0
        colouring = on_map.colouring(colour_by)
        colours = np.empty((len(rows), 4), np.uint8)
        colours[~known, :3] = _GREY
        colours[known, :3] = rgb_of(on_map.table[[colouring.column]].iloc[rows[known]], colouring)
        alpha = np.full(len(rows), 255, np.uint8)
        if highlight in colouring.categories:
            alpha[:] = FAINT
            alpha[known] = np.where(on_map.table[colouring.column].iloc[rows[known]] == highlight, 255, FAINT)
        colours[:, 3] = np.where(self.shown(on_map, wanted), alpha, 0)
        return colours

    def shown(self, on_map: LayerMap, wanted: Filter) -> np.ndarray:
        """Return which samples a filter shows on a map, (N,) bool; those that the map lacks, only without a filter."""
        if not wanted:
            return np.ones(len(self.sample_ids), dtype=bool)
        mask = on_map.mask(wanted)
        return np.array([s in on_map.row_of and mask[on_map.row_of[s]] for s in self.sample_ids], dtype=bool)

    def marks(self, selection: Selection, group: Group, hovered: str | None = None) -> list[dict[str, Any]]:
        """Return what is ringed, by index: the group below, the selected sample and the hovered one on top."""
        rings = [(s, "group") for s in group.sample_ids[:_MOST_GROUP_MARKS]]
        rings += [(s, "suggested") for s in selection.suggested] + [(s, "manual") for s in selection.manual]
        rings += [(selection.sample_id, "selected")] if selection.sample_id else []
        rings += [(hovered, "hovered")] if hovered else []
        return [{"index": self.index_of[s], "kind": kind} for s, kind in rings if s in self.index_of]

    def sample_at(self, index: Any) -> str:
        """Return the sample that a browser names by its index.

        Raises:
            SelectionError: if there is none.
        """
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(self.sample_ids):
            raise SelectionError(f"there is no sample number {index!r} on this map of {len(self.sample_ids)}")
        return self.sample_ids[index]


def rgb_of(frame: pd.DataFrame, colouring: Colouring) -> np.ndarray:
    """Return the colours of a column's values as on the map, (N, 3) uint8; what has none is grey."""
    values = column_values(frame, colouring)
    known = values >= 0 if colouring.categorical else np.isfinite(values)
    return np.where(known[:, None], colouring.rgb(values), _GREY)


@dataclass(frozen=True, slots=True, eq=False)
class SceneChoice:
    """What there is to show of a layer."""

    maps: tuple[MapRecord, ...] = ()
    """MapRecords that could be shown, newest first."""
    scene: Scene | None = None
    """The one chosen, opened; None where there is none."""
    levels: tuple[float, ...] = ()
    """Noise levels at which the layer was captured, ascending."""
    lacking: str = ""
    """A sentence where another map is shown than was asked for."""


def aligned_scene(store: DataStore, layer: LayerRecord, wanted: str | None = None) -> SceneChoice:
    """Open an aligned map of a layer over noise levels.

    Args:
        store: of the logged runs.
        layer: LayerRecord of the layer at any noise level.
        wanted: run id of the map; None takes the newest.

    Raises:
        RunNotFoundError: if a slice's layer run is gone.
        DiffViewsError: if the map cannot be read.
    """
    records = {r.sigma: r for r in store.library.layers(layer.parent_id) if r.layer == layer.layer}
    levels = tuple(sorted(records))
    maps = tuple(store.library.aligned_maps([records[sigma].run_id for sigma in levels]))
    if not maps:
        return SceneChoice(levels=levels)
    chosen = next((m for m in maps if m.run_id == wanted), maps[0])
    lost = wanted is not None and chosen.run_id != wanted
    slices = []
    for sigma in map_sigmas(chosen):
        if sigma not in records:
            gone = f"the aligned map has a slice at sigma {format_sigma(sigma)}, whose layer run is gone"
            raise RunNotFoundError(f"{gone}; compute it again")
        slices.append(records[sigma])
    scene = Scene.of_slices(chosen.run_id, store.slices(chosen.run_id, slices))
    lacking = "The aligned map of this address is not one of this layer; its newest is shown." if lost else ""
    return SceneChoice(maps, scene, levels, lacking)


def map_sigmas(record: MapRecord) -> tuple[float, ...]:
    """Return the noise levels of a map over several, ascending."""
    return tuple(sorted(float(text) for text in record.params.get("sigmas", "").split(",") if text))


def solid_maps(maps: Sequence[MapRecord]) -> tuple[MapRecord, ...]:
    """Return those re-computed maps that have three dimensions, in the order given."""
    return tuple(m for m in maps if m.params.get("n_components") == "3")


def solid_scene(store: DataStore, layer_map: LayerMap, maps: Sequence[MapRecord]) -> SceneChoice:
    """Open a map in three dimensions: the one on show if it has them, else the newest of its layer run.

    Args:
        store: of the logged runs.
        layer_map: the map on show.
        maps: MapRecords of its layer run, newest first.
    """
    found = solid_maps(maps)
    if "z" in layer_map.table:
        return SceneChoice(found, Scene.of_solid(layer_map))
    if not found:
        return SceneChoice()
    return SceneChoice(found, Scene.of_solid(store.open(layer_map.layer, found[0].run_id)))
