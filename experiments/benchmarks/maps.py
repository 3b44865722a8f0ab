"""Maps and what they are made of, against the libraries called one after the other, and how they grow."""

import shutil
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from diffviews.data.layout import LayerKey
from diffviews.pipelines.capture.arrays import capture_activations
from diffviews.pipelines.capture.layer_array import LayerArray
from diffviews.pipelines.layers.runs import make_results
from diffviews.processing.fitting import fit_map
from diffviews.processing.neighbors import exact_neighbors, near_neighbors
from diffviews.processing.projector import Projector
from diffviews.processing.quality import map_quality
from diffviews.processing.umap_backend import (
    expected_warnings_silenced,
    fitting,
    get_knn_class,
    get_umap_class,
    warm_up,
)
from experiments.benchmarks.benchmark import (
    DOUBLING,
    Comparison,
    Measure,
    Measurement,
    Row,
    Setting,
    Target,
    benchmark,
    measure_doubling,
    seconds_of,
)
from experiments.benchmarks.extraction import digits_plan
from experiments.benchmarks.fresh import Answer, ask_fresh, compare_fresh
from experiments.benchmarks.synthetic import layer_like, sample_ids

TOLERANCE = 0.01
"""By which our map's trustworthiness may be lower."""
COLUMNS, NEIGHBORS, STEPS = 512, 15, 18
LAYERS = ("encoder_block_3", "encoder_bottleneck", "midblock", "decoder_block_4")


@benchmark(
    "map",
    "map of 1,168 × 49,152 float32 (synthetic: rank 40, ten clusters, noise)",
    "`fit_map`: scaler and PCA by the Gram matrix, exact neighbours, UMAP from principal coordinates",
    "StandardScaler, PCA(50) and umap-learn, each called as usual",
    Target("ratio", 0.5),
)
def wide_map(setting: Setting) -> Measurement:
    """Fit a map both ways and compare time and trustworthiness."""
    activations = layer_like(setting.size(1168, 64), setting.size(49_152, 512))
    embeddings = dict[str, np.ndarray]()

    def ours() -> None:
        embeddings["ours"] = fit_map(activations, sample_ids(len(activations))).projector.embedding

    def theirs() -> None:
        embeddings["alternative"] = usual_map(activations)

    fit_map(activations[:64], sample_ids(64)), usual_map(activations[:64])
    compared = setting.compare(seconds_of(ours), seconds_of(theirs), most=3)
    trust = {name: trustworthiness(activations, embedding) for name, embedding in embeddings.items()}
    worse = trust["alternative"] - trust["ours"] > TOLERANCE
    return Measurement(
        compared,
        {f"trustworthiness, {name}": round(value, 4) for name, value in trust.items()},
        failure=f"the map is less trustworthy by more than {TOLERANCE}." if worse else "",
    )


def usual_map(activations: np.ndarray) -> np.ndarray:
    """Return the map that scikit-learn and umap-learn make when called as in their guides."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit_transform(activations)
    points = PCA(n_components=min(50, len(scaled) - 1), random_state=42).fit_transform(scaled)
    with expected_warnings_silenced():
        return get_umap_class()(n_neighbors=15, min_dist=0.1, random_state=42).fit_transform(points)


def trustworthiness(activations: np.ndarray, embedding: np.ndarray) -> float:
    """Return scikit-learn's trustworthiness of a map, 10 neighbours, against the standardised activations."""
    from sklearn.manifold import trustworthiness as measure
    from sklearn.preprocessing import StandardScaler

    return float(measure(StandardScaler().fit_transform(activations), embedding, n_neighbors=10))


@benchmark(
    "map-workers",
    "maps and measures of four layers, edm-digits, 10,000 samples, on two cores",
    "`workers 2`: two processes, started for it",
    "`workers 1`: one after the other",
    Target("ratio", 0.6),
)
def map_workers(setting: Setting) -> Measurement:
    """Map and measure four layers with two workers, whose start counts, and with one; compare what they wrote."""
    plan = digits_plan(setting.size(10_000, 40), LAYERS)
    arrays = capture_activations(plan, plan.keys, setting.folder / "arrays", progress=False)
    written = dict[int, dict[str, bytes]]()

    def maps(workers: int) -> Measure:
        def make() -> None:
            for array in arrays.values():
                shutil.rmtree(array.results, ignore_errors=True)
            make_results(arrays, plan.samples, plan.recipe.maps, plan.recipe.model, workers=workers)
            written[workers] = _files(arrays)

        return seconds_of(make)

    warm_up()
    compared = setting.compare(maps(2), maps(1), most=3)
    same = written[1] == written[2]
    facts = {"samples": len(plan.samples), "layers": len(LAYERS), "files": "the same bytes" if same else "differ"}
    return Measurement(compared, facts, failure="" if same else "the two ways write other bytes.")


def _files(arrays: dict[LayerKey, LayerArray]) -> dict[str, bytes]:
    paths = [path for array in arrays.values() for path in sorted(array.results.rglob("*")) if path.is_file()]
    return {str(path): path.read_bytes() for path in paths}


@benchmark(
    "path",
    f"placing an {STEPS}-step path in a fresh process, after load; map of 1,168 × 49,152",
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
    compared, own = compare_fresh(place, place_by_umap, *words, repeats=setting.repeats, theirs_repeats=1)
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
    return {"seconds": seconds_of(lambda: reducer.transform(projector.project(points)))()}


@benchmark("projection-scaling", "placing growing sets on a map of 2,000 × 4,096", *DOUBLING)
def projection(setting: Setting) -> Measurement:
    """Place growing sets on a map of fixed size; doubling the set may double the time."""
    rows, width = setting.size(2000, 64), setting.size(4096, 64)
    projector = fit_map(layer_like(rows, width), sample_ids(rows)).projector
    return measure_doubling(
        lambda rows: seconds_of(partial(projector.transform, layer_like(rows, width, seed=1))),
        setting.sizes([6250, 12_500, 25_000], [50_000, 100_000], [32, 64]),
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
    for size in setting.sizes([2000, 10_000], [50_000], [100, 200]):
        points = layer_like(size, 50)
        usual = get_knn_class()(n_neighbors=NEIGHBORS + 1, algorithm="brute").fit(points)
        ours, theirs = partial(exact_neighbors, points, NEIGHBORS), partial(usual.kneighbors, points)
        compared = setting.compare(seconds_of(ours), seconds_of(theirs), most=3)
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


@benchmark(
    "maps-scaling",
    f"maps of growing sets, {COLUMNS} features, each in a fresh process with UMAP compiled",
    "`fit_map` of the largest",
)
def maps(setting: Setting) -> Measurement:
    """Fit maps of growing sets, each in a process of its own."""
    rows = list[Row]()
    for size in setting.sizes([1000, 10_000, 100_000], [1_000_000], [100, 200]):
        found = ask_fresh(make_map, str(size))
        rows.append({
            "samples": size,
            "map, s": round(found["seconds"], 2),
            "of it neighbours, s": round(found["neighbors"], 2),
            "peak memory, MB": round(found["peak_memory"] / 1e6),
            "data, MB": round(4e-6 * size * COLUMNS),
            "trustworthiness": round(found["trustworthiness"], 4),
        })  # fmt: skip
    return Measurement(Comparison((found["seconds"],)), {"features": COLUMNS}, rows)


def make_map(samples: str) -> Answer:
    """Fit one map and tell its time and memory."""
    warm_up()
    size = int(samples)
    activations, ids = layer_like(size, COLUMNS), sample_ids(size)
    began = time.perf_counter()
    fitted = fit_map(activations, ids)
    seconds = time.perf_counter() - began
    with fitting():
        neighbors = seconds_of(lambda: near_neighbors(fitted.projector.pca_points, NEIGHBORS))()
    quality = map_quality(fitted).summary["trustworthiness"]
    return {"seconds": seconds, "neighbors": neighbors, "trustworthiness": quality}
