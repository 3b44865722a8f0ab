"""Making a map of a wide layer, against the three libraries called one after the other."""

from functools import partial

import numpy as np

from diffviews.processing.fitting import fit_map
from diffviews.processing.umap_backend import expected_warnings_silenced, get_umap_class
from experiments.benchmarks.benchmark import Measurement, Setting, benchmark
from experiments.benchmarks.measurement import Target, interleave, seconds_of
from experiments.benchmarks.synthetic import layer_like, sample_ids

TOLERANCE = 0.01
"""By which our map's trustworthiness may be lower."""


@benchmark(
    "map",
    "map of 1,168 × 49,152 float32 (synthetic: rank 40, ten clusters, noise)",
    "`fit_map`: scaler and PCA by the Gram matrix, exact neighbours, UMAP from principal coordinates",
    "StandardScaler, PCA(50) and umap-learn, each called as usual",
    Target("ratio", 0.5),
)
def wide_map(setting: Setting) -> Measurement:
    """Fit a map of 1,168 × 49,152 activations both ways and compare time and trustworthiness."""
    activations = layer_like(setting.size(1168, 64), setting.size(49_152, 512))
    embeddings = dict[str, np.ndarray]()

    def ours() -> None:
        fitted = fit_map(activations, sample_ids(len(activations)))
        embeddings["ours"] = fitted.projector.embedding

    def theirs() -> None:
        embeddings["alternative"] = usual_map(activations)

    for warm in (partial(fit_map, activations[:64], sample_ids(64)), partial(usual_map, activations[:64])):
        warm()
    compared = interleave(seconds_of(ours), seconds_of(theirs), repeats=min(setting.repeats, 3))
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
