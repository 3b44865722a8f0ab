"""Placing a denoising path on a map that a fresh process has loaded."""

import sys
import time
from pathlib import Path

import numpy as np

from diffviews.processing.fitting import fit_map
from diffviews.processing.projector import Projector
from diffviews.processing.umap_backend import get_umap_class
from experiments.benchmarks.benchmark import Measurement, Setting, benchmark
from experiments.benchmarks.fresh import Answer, in_turn
from experiments.benchmarks.measurement import Target
from experiments.benchmarks.synthetic import layer_like, sample_ids

STEPS = 18


@benchmark(
    "path",
    "placing an 18-step path in a fresh process, after load; map of 1,168 × 49,152",
    "`Projector.transform`, first call",
    "`umap.UMAP.transform`, first call",
    Target("seconds", 0.05),
)
def path(setting: Setting) -> Measurement:
    """Fit a map here; load it and place a path in fresh processes, ours and umap-learn's way."""
    activations = layer_like(setting.size(1168, 64), setting.size(49_152, 512))
    projector, path = setting.folder / "projector.safetensors", setting.folder / "path.npy"
    fit_map(activations, sample_ids(len(activations))).projector.save(projector)
    np.save(path, activations[:STEPS] + np.float32(0.05))
    del activations
    words = (str(projector), str(path))
    compared, own = in_turn(place, place_by_umap, *words, repeats=setting.repeats, theirs_repeats=1)
    facts = {"loading the projector, ms": round(own["load"] * 1e3, 1)}
    compiled = "numba was loaded, so something may have been compiled." if own["numba"] else ""
    return Measurement(compared, facts, failure=compiled)


def place(projector_path: str, path: str) -> Answer:
    """Load a projector and place a path with it."""
    points = np.load(path)
    began = time.perf_counter()
    projector = Projector.load(Path(projector_path))
    loaded = time.perf_counter()
    projector.transform(points)
    ended = time.perf_counter()
    return {"load": loaded - began, "seconds": ended - loaded, "numba": float("numba" in sys.modules)}


def place_by_umap(projector_path: str, path: str) -> Answer:
    """Fit umap-learn to the same points, untimed as a reducer has no file but a pickle, and time its transform."""
    projector, points = Projector.load(Path(projector_path)), np.load(path)
    reducer = get_umap_class()(n_neighbors=15, min_dist=0.1, random_state=42).fit(projector.pca_points)
    began = time.perf_counter()
    reducer.transform(projector.project(points))
    return {"seconds": time.perf_counter() - began}
