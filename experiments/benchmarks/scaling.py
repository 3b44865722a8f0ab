"""How time, memory and trustworthiness grow with the number of samples."""

import time
from functools import partial

import numpy as np

from diffviews.processing.fitting import fit_map
from diffviews.processing.neighbors import exact_neighbors, near_neighbors
from diffviews.processing.quality import map_quality
from diffviews.processing.umap_backend import fitting, get_knn_class, warm_up
from experiments.benchmarks.benchmark import Measurement, Row, Setting, benchmark
from experiments.benchmarks.doubling import LINEAR, TWICE, TWICE_THE_HALF, measure_doubling
from experiments.benchmarks.fresh import Answer, ask_fresh
from experiments.benchmarks.measurement import Comparison, interleave, seconds_of
from experiments.benchmarks.synthetic import layer_like, sample_ids

COLUMNS, NEIGHBORS = 512, 15


@benchmark(
    "maps-scaling",
    f"maps of growing sets, {COLUMNS} features, each in a fresh process with UMAP compiled",
    "`fit_map` of the largest",
)
def maps(setting: Setting) -> Measurement:
    """Fit maps of growing sets, each in a process of its own."""
    sizes = [100, 200] if setting.quick else [1000, 10_000, 100_000, *([1_000_000] if setting.large else [])]
    rows, seconds = list[Row](), list[float]()
    for size in sizes:
        found = ask_fresh(make_map, str(size))
        seconds.append(found["seconds"])
        rows.append({
            "samples": size,
            "map, s": round(found["seconds"], 2),
            "of it neighbours, s": round(found["neighbors"], 2),
            "peak memory, MB": round(found["peak_memory"] / 1e6),
            "data, MB": round(4e-6 * size * COLUMNS),
            "trustworthiness": round(found["trustworthiness"], 4),
        })  # fmt: skip
    return Measurement(Comparison((seconds[-1],)), {"features": COLUMNS}, rows)


@benchmark(
    "projection-scaling",
    "placing growing sets on a map of 2,000 × 4,096",
    TWICE,
    TWICE_THE_HALF,
    LINEAR,
)
def projection(setting: Setting) -> Measurement:
    """Place growing sets on a map of fixed size; doubling the set may double the time."""
    width = setting.size(4096, 64)
    projector = fit_map(layer_like(setting.size(2000, 64), width), sample_ids(setting.size(2000, 64))).projector
    sizes = [6250, 12_500, 25_000, *([50_000, 100_000] if setting.large else [])]
    return measure_doubling(
        lambda rows: seconds_of(partial(projector.transform, layer_like(rows, width, seed=1))),
        [32, 64] if setting.quick else sizes,
        repeats=min(setting.repeats, 3),
    )


@benchmark(
    "neighbours",
    "exact neighbours among themselves, 50 dimensions",
    "`exact_neighbors` of the largest set",
    "scikit-learn's NearestNeighbors, algorithm brute",
)
def neighbours(setting: Setting) -> Measurement:
    """Find exact neighbours, against scikit-learn's brute force."""
    rows = list[Row]()
    for size in [100, 200] if setting.quick else [2000, 10_000, *([50_000] if setting.large else [])]:
        points = layer_like(size, 50)
        usual = get_knn_class()(n_neighbors=NEIGHBORS + 1, algorithm="brute").fit(points)
        compared = interleave(
            seconds_of(partial(exact_neighbors, points, NEIGHBORS)),
            seconds_of(partial(usual.kneighbors, points)),
            repeats=min(setting.repeats, 3),
        )
        wrong = _disagreement(exact_neighbors(points, NEIGHBORS)[0], usual.kneighbors(points)[1])
        rows.append({
            "points": size,
            "ours, s": round(np.median(compared.ours), 3),
            "scikit-learn, s": round(np.median(compared.alternative), 3),
            "ratio": round(np.median(compared.ratios), 2),
            "other neighbours": f"{wrong:.2%}",
        })  # fmt: skip
    if setting.large:
        rows.append(_beyond_exact())
    return Measurement(compared, {"dimensions": 50, "neighbours": NEIGHBORS}, rows)


def _beyond_exact() -> Row:
    points = layer_like(100_000, 50)
    near_neighbors(points[:60_000], NEIGHBORS)
    seconds = seconds_of(partial(near_neighbors, points, NEIGHBORS))()
    some = np.arange(0, len(points), 100)
    exact = exact_neighbors(points, NEIGHBORS + 1, points[some])[0]
    wrong = _disagreement(near_neighbors(points, NEIGHBORS)[0][some], exact)
    return {"points": len(points), "ours, s": round(seconds, 3), "scikit-learn, s": "", "ratio": "",
            "other neighbours": f"{wrong:.2%} (approximate)"}  # fmt: skip


def _disagreement(ours: np.ndarray, with_self: np.ndarray) -> float:
    """Return the share of our neighbours that are not among the other way's, which count the point itself."""
    others = [len(set(own) - set(other)) for own, other in zip(ours.tolist(), with_self.tolist(), strict=True)]
    return float(np.mean(others)) / ours.shape[1]


def make_map(samples: str) -> Answer:
    """Fit one map and tell its time and memory."""
    warm_up()
    size = int(samples)
    activations, ids = layer_like(size, COLUMNS), sample_ids(size)
    began = time.perf_counter()
    fitted = fit_map(activations, ids)
    seconds = time.perf_counter() - began
    with fitting():
        began = time.perf_counter()
        near_neighbors(fitted.projector.pca_points, NEIGHBORS)
        neighbors = time.perf_counter() - began
    quality = map_quality(fitted).summary["trustworthiness"]
    return {"seconds": seconds, "neighbors": neighbors, "trustworthiness": quality}
