"""Placing a denoising path on a map that a fresh process has loaded."""

import sys
import time
from pathlib import Path

import numpy as np

from diffviews.processing.fitting import fit_map
from diffviews.processing.projector import Projector
from diffviews.processing.umap_backend import get_umap_class
from experiments.benchmarks.benchmark import Benchmark, Measurement, Setting
from experiments.benchmarks.fresh import answer, ask_fresh
from experiments.benchmarks.measurement import Target, interleave
from experiments.benchmarks.synthetic import layer_like, sample_ids

STEPS = 18


def measure_path(setting: Setting) -> Measurement:
    """Fit a map here; load it and place a path in fresh processes, ours and umap-learn's way."""
    activations = layer_like(setting.size(1168, 64), setting.size(49_152, 512))
    projector, path = setting.folder / "projector.safetensors", setting.folder / "path.npy"
    fit_map(activations, sample_ids(len(activations))).projector.save(projector)
    np.save(path, activations[:STEPS] + np.float32(0.05))
    del activations
    answers = list[dict[str, float]]()

    def ask(way: str) -> float:
        answers.append(ask_fresh(__name__, way, str(projector), str(path)))
        return answers[-1]["seconds"]

    compared = interleave(
        lambda: ask("ours"), lambda: ask("alternative"), repeats=setting.repeats, alternative_repeats=1
    )
    own = answers[0]
    facts = {"loading the projector, ms": round(own["load"] * 1e3, 1)}
    compiled = "numba was loaded, so something may have been compiled." if own["numba"] else ""
    return Measurement(compared, facts, failure=compiled)


def place(projector_path: Path, path: np.ndarray) -> None:
    """Load a projector and place a path with it."""
    began = time.perf_counter()
    projector = Projector.load(projector_path)
    loaded = time.perf_counter()
    projector.transform(path)
    ended = time.perf_counter()
    answer({"load": loaded - began, "seconds": ended - loaded, "numba": float("numba" in sys.modules)})


def place_by_umap(projector_path: Path, path: np.ndarray) -> None:
    """Fit umap-learn to the same points, untimed as a reducer has no file but a pickle, and time its transform."""
    projector = Projector.load(projector_path)
    reducer = get_umap_class()(n_neighbors=15, min_dist=0.1, random_state=42).fit(projector.pca_points)
    began = time.perf_counter()
    reducer.transform(projector.project(path))
    answer({"seconds": time.perf_counter() - began})


PATH = Benchmark(
    "path",
    "placing an 18-step path in a fresh process, after load; map of 1,168 × 49,152",
    "`Projector.transform`, first call",
    "`umap.UMAP.transform`, first call",
    Target("seconds", 0.05),
    measure_path,
)

if __name__ == "__main__":
    {"ours": place, "alternative": place_by_umap}[sys.argv[1]](Path(sys.argv[2]), np.load(sys.argv[3]))
