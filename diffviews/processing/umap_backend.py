"""The one switch between cuML on a GPU and umap-learn on the CPU, and the conditions under which maps are fitted."""

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from diffviews.errors import CorruptDataError

FORCE_CPU = "DIFFVIEWS_FORCE_CPU"

SMALL_MAP, SMALL_MAP_EPOCHS = 10_000, 300
"""Up to this many points the descent takes this many epochs. umap-learn would take 500; from principal
coordinates as start, trustworthiness and continuity differ by less than 0.003, about as between two seeds."""

_EXPECTED_WARNINGS = (
    r"n_jobs value .* overridden to 1 by setting random_state",
    r"precomputed_knn\[2\] \(knn_search_index\) is not an NNDescent object",
)

# numba's threading layer and the BLAS thread count belong to the process, so fits take turns.
_FITTING = threading.RLock()


def forced_to_cpu() -> bool:
    """Return whether DIFFVIEWS_FORCE_CPU (1 or true) keeps maps and neighbours on the CPU."""
    return os.environ.get(FORCE_CPU, "").strip().lower() in ("1", "true")


def cuda_is_allowed() -> bool:
    """Return whether there is a CUDA device and it may be used."""
    if forced_to_cpu():
        return False
    import torch

    return torch.cuda.is_available()


def cuda_devices() -> list[str]:
    """Return the CUDA devices that neighbours may be computed on, none where that is forbidden."""
    if not cuda_is_allowed():
        return []
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


def cuml_is_used() -> bool:
    """Return whether maps are fitted by cuML: it is installed, there is a CUDA device, and it is not forbidden."""
    return not forced_to_cpu() and find_spec("cuml") is not None and cuda_is_allowed()


def get_backend_name() -> str:
    """Return 'cuml' or 'umap-learn'; it is part of a map's fingerprint, as the two give different maps."""
    return "cuml" if cuml_is_used() else "umap-learn"


def get_umap_class() -> type:
    """Return cuML's UMAP where it is used, umap-learn's elsewhere; imported on the first call."""
    if cuml_is_used():
        from cuml.manifold import UMAP
    else:
        from umap import UMAP

        keep_compiled()
    return UMAP


@cache
def keep_compiled() -> None:
    """Let numba keep on disk what it compiles of umap-learn, as the package asks for few of its functions.

    Otherwise the first map of each process waits for the compiler, longer than for the map itself. It lies where
    numba keeps what it compiles: beside the package, else in the user's cache, else where NUMBA_CACHE_DIR says.
    """
    import umap
    from numba.core.dispatcher import Dispatcher

    for module in (umap.umap_, umap.layouts, umap.utils, umap.aligned_umap):
        for function in vars(module).values():
            if isinstance(function, Dispatcher) and function.__module__ == module.__name__:
                with suppress(RuntimeError):  # no folder may be written to: compiled anew, as before
                    function.enable_caching()


def get_knn_class() -> type:
    """Return cuML's NearestNeighbors where it is used, scikit-learn's elsewhere; imported on the first call."""
    if cuml_is_used():
        from cuml.neighbors import NearestNeighbors
    else:
        from sklearn.neighbors import NearestNeighbors
    return NearestNeighbors


def to_gpu_array(data: Any) -> Any:
    """Return `data` as a CuPy array where cuML is used, as a NumPy array elsewhere."""
    if not cuml_is_used():
        return np.asarray(data)
    import cupy

    return cupy.asarray(data)


def to_numpy(data: Any) -> np.ndarray:
    """Return `data`, on whatever device, as a NumPy array."""
    if hasattr(data, "detach"):
        data = data.detach().cpu()
    return np.asarray(data.get() if hasattr(data, "get") else data)


@contextmanager
def fitting() -> Iterator[None]:
    """Hold BLAS to one thread inside the block, one block at a time in a process, and restore it after.

    The sums inside a matrix product depend on how threads share it, and UMAP's descent turns a
    difference in the last bit into another map. One thread gives the same coordinates whatever the
    number of cores; several maps are made faster by several processes.
    """
    import scipy.linalg  # noqa: F401  (only libraries that are loaded can be limited)
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with _FITTING, threadpool_limits(1, user_api="blas"):
        yield


def embed_neighbors(
    points: np.ndarray,
    indices: np.ndarray,
    distances: np.ndarray,
    *,
    initial: np.ndarray,
    min_dist: float,
    random_state: int,
) -> np.ndarray:
    """Return a UMAP embedding (McInnes et al. 2018) of points whose exact neighbours are known.

    Args:
        points: (N, d) float32.
        indices: (N, k) int, the k nearest points of each, itself first.
        distances: (N, k), to them.
        initial: (N, n) float32, where the descent starts; umap-learn only.
        min_dist: as in UMAP, at most 1.
        random_state: seed of the descent, which then runs on one thread.

    Returns:
        (N, n) float32.

    Raises:
        CorruptDataError: if the descent left coordinates that are not finite.
    """
    knn = (np.asarray(indices, dtype=np.int64), np.asarray(distances, dtype=np.float32))
    options: dict[str, Any] = {
        "n_neighbors": indices.shape[1],
        "n_components": initial.shape[1],
        "min_dist": min_dist,
        "random_state": random_state,
        "n_epochs": SMALL_MAP_EPOCHS if len(points) <= SMALL_MAP else None,
        "precomputed_knn": knn,
        # cuML takes no array here.
        "init": "spectral" if cuml_is_used() else initial,
    }
    with fitting(), expected_warnings_silenced():
        embedding = to_numpy(get_umap_class()(**options).fit_transform(to_gpu_array(points)))
    return finite_embedding(embedding)


def embed_aligned(
    points: Sequence[np.ndarray],
    *,
    n_neighbors: int,
    n_components: int,
    min_dist: float,
    metric: str,
    random_state: int,
) -> list[np.ndarray]:
    """Return one embedding (N, n) float32 a slice, row i of each slice being the same sample (AlignedUMAP).

    Args:
        points: slices, each (N, d) float32.
        n_neighbors, n_components, min_dist, metric, random_state: as in UMAP.

    Raises:
        CorruptDataError: if a coordinate is not finite.
    """
    from umap import AlignedUMAP

    keep_compiled()
    aligned = AlignedUMAP(
        n_neighbors=n_neighbors,
        n_components=n_components,
        min_dist=min_dist,
        metric=metric,
        random_state=random_state,
        transform_seed=random_state,
    )
    same = {row: row for row in range(len(points[0]))}
    with fitting(), expected_warnings_silenced():
        aligned.fit([np.asarray(part) for part in points], relations=[same] * (len(points) - 1))
    return [finite_embedding(np.asarray(embedding)) for embedding in aligned.embeddings_]


def finite_embedding(embedding: np.ndarray) -> np.ndarray:
    """Return coordinates as float32 after checking that UMAP left none undefined.

    Raises:
        CorruptDataError: if a coordinate is NaN or infinite.
    """
    lost = int(np.count_nonzero(~np.isfinite(embedding).all(axis=1)))
    if lost:
        raise CorruptDataError(
            f"UMAP gave {lost} of {len(embedding)} points no coordinates, as nothing connects them to the "
            "others; raise n_neighbors"
        )
    return np.ascontiguousarray(embedding, dtype=np.float32)


@contextmanager
def expected_warnings_silenced() -> Iterator[None]:
    """Silence, inside the block, the two warnings that a seed and given neighbours always cause."""
    with warnings.catch_warnings():
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message, category=UserWarning)
        yield


def warm_up(embed: Callable[..., np.ndarray] = embed_neighbors) -> None:
    """Make a tiny map, so that importing and compiling UMAP (seconds) is done before the first real one."""
    count, k = 24, 6
    line = np.linspace(0.0, 1.0, count, dtype=np.float32)
    points = np.stack([line, line**2], axis=1)
    gaps = np.linalg.norm(points[:, None] - points[None], axis=2)
    indices = np.argsort(gaps, axis=1, kind="stable")[:, :k]
    distances = np.take_along_axis(gaps, indices, axis=1)
    embed(points, indices, distances, initial=points, min_dist=0.1, random_state=0)
