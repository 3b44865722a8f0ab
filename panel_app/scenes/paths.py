"""Denoising paths of this visit's generations, placed on a scene: each step at its own noise level."""

from typing import Any

import numpy as np

from diffviews.pipelines.generate import LoggedGeneration
from diffviews.pipelines.paths import place_path, unusual_steps
from panel_app.generation.gallery_entry import Track
from panel_app.map.overlays import stretches
from panel_app.scenes.scene import Scene
from panel_app.theme import BASELINE_PATH

LEAST_SIGMA = 1e-12
"""Stands in for a step's noise level of 0 on the logarithmic scale."""


PathPlaces = dict[tuple[str, str], Any]
"""PathPlaces steps, or None where they cannot be, by the generation's run id and variant."""


def paths_on(scene: Scene, track: Track, known: PathPlaces | None = None) -> list[dict[str, Any]]:
    """Return a generation's paths as `PointCloud.paths`, the baseline first; none where they cannot be placed.

    Args:
        scene: slices, each step goes to the nearest; or one map.
        track: the generation and which of its samples.
        known: what was placed on this scene before, to which this is added: projecting takes its time.
    """
    known = {} if known is None else known
    drawn, generation = [], track.entry.generation
    for variant in ("baseline", "masked") if track.has_baseline else ("masked",):
        if (generation.run_id, variant) not in known:
            known[generation.run_id, variant] = _steps_on(scene, generation, track.entry.map_run, variant)
        steps = known[generation.run_id, variant]
        if steps is None:
            continue
        rows = steps[(steps["sample"] == track.sample) & (steps["variant"] == variant)].sort_values("step")
        if len(rows):
            place = {axis: rows[axis].astype(float).tolist() if axis in rows else None for axis in "xyz"}
            levels = np.log(np.maximum(rows["sigma"].to_numpy(np.float64), LEAST_SIGMA)).tolist()
            masked = variant == "masked"
            colour = track.colour if masked else BASELINE_PATH
            unusual = unusual_steps(rows).tolist()
            parts = [list(part) for part in stretches(unusual, len(rows))]
            drawn.append(
                {**place, "at": levels, "colour": colour, "dashed": not masked, "unusual": unusual, "stretches": parts}
            )
    return drawn


def _steps_on(scene: Scene, generation: LoggedGeneration, map_run: str, variant: str) -> Any:
    """Return the placed steps: as logged when made on this map, else from the activations that the result holds."""
    if map_run == scene.map_run:
        return generation.path
    name = "trajectory" if variant == "masked" else "baseline_trajectory"
    layer, layer_runs = scene.maps[0].layer.layer, {layer_map.layer.run_id for layer_map in scene.maps}
    kept = getattr(generation.result, name, None) or {}
    if generation.recipe.layer_run not in layer_runs or layer not in kept:
        return None
    projectors = {layer_map.layer.sigma: layer_map.projector for layer_map in scene.maps}
    return place_path(projectors, kept[layer], generation.result.sigmas, variant=variant)
