"""Which logged maps show a layer over sigma or in space, and how they are opened."""

from collections.abc import Sequence
from dataclasses import dataclass

from diffviews.errors import RunNotFoundError
from diffviews.noise import format_sigma
from diffviews.tracking.records import LayerRecord, MapRecord
from panel_app.data import DataStore
from panel_app.layer_map import LayerMap
from panel_app.scenes.scene import Scene


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
