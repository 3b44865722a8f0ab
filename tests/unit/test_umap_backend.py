import random
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from diffviews.errors import CorruptDataError
from diffviews.processing import umap_backend
from diffviews.processing.neighbors import exact_neighbors

FAKE_CUML = """
class UMAP:
    made = []
    def __init__(self, **options):
        self.options = options
        self.made.append(self)
    def fit_transform(self, points):
        return Device(points[:, :2])

class Device:
    def __init__(self, values):
        self.values = values
    def get(self):
        return self.values
"""


@pytest.fixture
def cuml(tmp_path, monkeypatch):
    for name, source in (("manifold", FAKE_CUML), ("neighbors", "class NearestNeighbors: pass")):
        (tmp_path / "cuml").mkdir(exist_ok=True)
        (tmp_path / "cuml" / f"{name}.py").write_text(source)
    (tmp_path / "cuml" / "__init__.py").write_text("")
    (tmp_path / "cupy.py").write_text("import numpy\ndef asarray(data):\n    return numpy.asarray(data)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.delenv("DIFFVIEWS_FORCE_CPU", raising=False)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in ("cuml", "cupy")]:
        del sys.modules[name]


def neighbourhoods(count=40, k=6, seed=0):
    points = np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)
    indices, distances = exact_neighbors(points, k - 1)
    own = np.arange(count)[:, None]
    return points, np.hstack([own, indices]), np.hstack([np.zeros((count, 1)), distances])


def embed(seed=0, **options):
    points, indices, distances = neighbourhoods(seed=seed)
    chosen = {"initial": points[:, :2].copy(), "min_dist": 0.1, "random_state": 42, **options}
    return umap_backend.embed_neighbors(points, indices, distances, **chosen)


def test_backend_is_umap_learn_without_cuml():
    assert umap_backend.get_backend_name() == "umap-learn"
    assert umap_backend.get_umap_class().__module__.startswith("umap")
    assert umap_backend.get_knn_class().__module__.startswith("sklearn")


def test_backend_is_cuml_where_it_is_installed_with_a_gpu(cuml):
    assert umap_backend.get_backend_name() == "cuml"
    assert umap_backend.get_umap_class().__module__ == "cuml.manifold"
    assert umap_backend.get_knn_class().__module__ == "cuml.neighbors"


@pytest.mark.parametrize("value", ["1", "true", "TRUE"])
def test_backend_is_forced_to_the_cpu(cuml, monkeypatch, value):
    monkeypatch.setenv("DIFFVIEWS_FORCE_CPU", value)
    assert umap_backend.get_backend_name() == "umap-learn"
    assert not umap_backend.cuda_is_allowed()


def test_backend_is_umap_learn_without_a_gpu(cuml, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert umap_backend.get_backend_name() == "umap-learn"


def test_embedding_by_cuml_is_given_the_exact_neighbours(cuml):
    from cuml.manifold import UMAP

    points, indices, _ = neighbourhoods()
    result = embed()
    options = UMAP.made[-1].options
    np.testing.assert_array_equal(options["precomputed_knn"][0], indices)
    assert (options["n_neighbors"], options["n_components"], options["random_state"]) == (6, 2, 42)
    np.testing.assert_array_equal(result, points[:, :2])


def test_arrays_come_from_any_device():
    import torch

    np.testing.assert_array_equal(umap_backend.to_numpy(torch.ones(2, requires_grad=True)), np.ones(2))
    np.testing.assert_array_equal(umap_backend.to_numpy([1, 2]), [1, 2])
    assert isinstance(umap_backend.to_gpu_array([1.0]), np.ndarray)


def test_embedding_is_the_same_each_time_and_touches_no_global_state():
    import numba

    np.random.seed(3)
    random.seed(3)
    before = (np.random.get_state()[1].tolist(), random.getstate(), numba.get_num_threads())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = embed()
    assert (np.random.get_state()[1].tolist(), random.getstate(), numba.get_num_threads()) == before
    np.testing.assert_array_equal(first, embed())
    assert first.shape == (40, 2)
    assert first.dtype == np.float32
    assert not np.array_equal(first, embed(random_state=1))


def test_only_expected_warnings_are_silenced():
    with pytest.warns(UserWarning, match="something else"), umap_backend.expected_warnings_silenced():
        warnings.warn("something else", UserWarning, stacklevel=1)


def test_undefined_coordinates_are_an_error():
    with pytest.raises(CorruptDataError, match="2 of 3 points"):
        umap_backend.finite_embedding(np.array([[0, 1], [np.nan, 0], [0, np.inf]]))


def blas_threads():
    return sorted(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")


def test_fitting_restores_the_threads_of_blas_however_it_ends():
    import scipy.linalg  # noqa: F401

    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        with umap_backend.fitting():
            assert set(blas_threads()) == {1}
        assert blas_threads() == before
        with pytest.raises(KeyError), umap_backend.fitting():
            raise KeyError
        assert blas_threads() == before


def test_fits_take_turns_so_that_threads_are_restored():
    import scipy.linalg  # noqa: F401

    inside, most = [], []

    def fit():
        with umap_backend.fitting():
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.02)
            inside.pop()

    before = blas_threads()
    workers = [threading.Thread(target=fit) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert max(most) == 1
    assert blas_threads() == before


def test_warm_up_makes_a_small_map():
    made = []
    umap_backend.warm_up(lambda points, indices, distances, **options: made.append((points, indices)) or points)
    points, indices = made[0]
    assert (indices[:, 0] == np.arange(len(points))).all()


def test_importing_the_packages_imports_no_umap():
    code = (
        "import sys, diffviews.processing.fitting, diffviews.processing.quality, diffviews.processing.umap\n"
        "assert not {'umap', 'numba', 'sklearn', 'cuml'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_compiled_of_umap_is_kept_for_the_next_process():
    umap_backend.get_umap_class()
    import umap

    for function in (umap.umap_.smooth_knn_dist, umap.layouts._nb_optimize_layout_euclidean_single_epoch):
        assert function.stats.cache_path, function


def test_where_no_folder_may_be_written_umap_is_compiled_as_before(monkeypatch):
    from numba.core import caching

    umap_backend.get_umap_class()
    for locator in caching.CacheImpl._locator_classes:
        monkeypatch.setattr(locator, "from_function", lambda *_: None)
    umap_backend.keep_compiled.__wrapped__()
