import numpy as np
import pytest
from sklearn.datasets import load_digits

from diffviews.errors import ConfigError, CorruptDataError, SampleSetError, ShapeError
from diffviews.processing import fitting
from diffviews.processing.fitting import fit_aligned_map, fit_joint_map, fit_map
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.quality import map_quality

DIGITS = load_digits()
COUNT = 300
PIXELS = DIGITS.images[:COUNT].astype(np.float16)
IDS = [f"digits-{row:04}" for row in range(COUNT)]


@pytest.fixture
def no_descent(monkeypatch):
    """Leave out UMAP: the map is where its descent would start."""
    monkeypatch.setattr(fitting, "embed_neighbors", lambda points, *_, initial, **options: initial)


@pytest.fixture(scope="module")
def fitted():
    return fit_map(PIXELS, IDS)


def test_map_of_digits_keeps_neighbours_and_classes(fitted):
    summary = map_quality(fitted, DIGITS.target[:COUNT]).summary
    assert summary["trustworthiness"] > 0.93
    assert summary["continuity"] > 0.93
    assert summary["knn_accuracy_activation"] > 0.9
    assert summary["knn_accuracy_map"] > 0.9


def test_map_is_the_same_when_fitted_again(fitted):
    again = fit_map(np.array(PIXELS), IDS)
    np.testing.assert_array_equal(again.projector.embedding, fitted.projector.embedding)
    np.testing.assert_array_equal(again.projector.pca_points, fitted.projector.pca_points)


def test_map_knows_its_neighbours_and_spectrum(fitted):
    projector = fitted.projector
    assert projector.pca_points.shape == (COUNT, 50)
    assert fitted.neighbor_indices.shape == (COUNT, 15)
    rows = projector.pca_points[fitted.neighbor_indices[4]]
    gaps = np.linalg.norm(rows - projector.pca_points[4], axis=1)
    np.testing.assert_allclose(gaps, fitted.neighbor_distances[4], rtol=1e-5)
    assert len(fitted.eigenvalues) == 64
    assert fitted.explained_variance_ratio.sum() == pytest.approx(
        fitted.eigenvalues[:50].sum() / fitted.eigenvalues.sum(), rel=1e-4
    )


def test_umap_is_given_each_point_as_its_own_nearest(monkeypatch):
    seen = {}

    def embed(points, indices, distances, *, initial, **options):
        seen.update(options, indices=indices, distances=distances)
        return initial

    monkeypatch.setattr(fitting, "embed_neighbors", embed)
    fit_map(PIXELS, IDS, MapParameters(n_neighbors=7, min_dist=0.3, random_state=5))
    assert seen["indices"].shape == (COUNT, 7)
    np.testing.assert_array_equal(seen["indices"][:, 0], np.arange(COUNT))
    assert (seen["distances"][:, 0] == 0).all()
    assert (seen["min_dist"], seen["random_state"]) == (0.3, 5)


@pytest.mark.parametrize("components", [2, 3])
def test_map_has_the_dimensions_asked_for(no_descent, components):
    parameters = MapParameters(n_components=components, n_neighbors=5, pca_components=1)
    embedding = fit_map(PIXELS[:20], IDS[:20], parameters).projector.embedding
    assert embedding.shape == (20, components)
    assert np.unique(embedding, axis=0).shape == embedding.shape


def test_map_of_data_with_one_direction_still_has_two_dimensions(no_descent):
    line = np.outer(np.arange(20.0), np.ones(5)).astype(np.float32)
    embedding = fit_map(line, IDS[:20], MapParameters(n_neighbors=5)).projector.embedding
    assert embedding.shape == (20, 2)
    assert (embedding.std(axis=0) > 0).all()


def test_map_without_pca_compares_standardised_activations(no_descent):
    projector = fit_map(PIXELS[:30], IDS[:30], MapParameters(pca_components=None)).projector
    assert projector.pca_components is None
    assert projector.pca_points.shape == (30, 64)
    assert np.abs(projector.pca_points.std(axis=0)).max() == pytest.approx(1, rel=1e-4)


def test_map_takes_no_more_components_than_there_are(no_descent):
    assert fit_map(PIXELS[:20], IDS[:20]).projector.pca_points.shape == (20, 19)


@pytest.mark.parametrize("pca", [50, None])
def test_nan_and_infinity_are_counted_and_named(pca):
    values = PIXELS[:40].astype(np.float32)
    values[3, 0, 0] = np.nan
    values[3, 1, 1] = np.nan
    values[17, 2, 2] = np.inf
    found = "2 NaN and 1 infinite values, in 2 of 40 samples: 'digits-0003', 'digits-0017'"
    with pytest.raises(CorruptDataError, match=found):
        fit_map(values, IDS[:40], MapParameters(pca_components=pca))


def test_values_beyond_float32_arithmetic_are_refused():
    values = PIXELS[:40].astype(np.float32) * np.float32(1e37)
    with pytest.raises(ShapeError, match="too large"):
        fit_map(values, IDS[:40])


@pytest.mark.parametrize("count", [15, 10, 2, 1])
def test_too_few_samples_are_refused_with_a_remedy(count):
    with pytest.raises(ConfigError, match=f"there are {count}; (use n_neighbors {count - 1}|take more)"):
        fit_map(PIXELS[:count], IDS[:count])


def test_one_sample_more_than_neighbours_is_enough(no_descent):
    fit_map(PIXELS[:16], IDS[:16])


def test_repeated_sample_ids_are_refused():
    with pytest.raises(SampleSetError, match="'digits-0001' occurs more than once"):
        fit_map(PIXELS[:20], [*IDS[:19], IDS[1]])


def test_ids_must_match_the_rows():
    with pytest.raises(ShapeError, match="19 sample ids were given for 20 rows"):
        fit_map(PIXELS[:20], IDS[:19])
    with pytest.raises(ShapeError, match="not empty"):
        fit_map(np.zeros((20,)), IDS[:20])


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_neighbors": 1}, {"n_neighbors": 5.0}, {"min_dist": 1.5}, {"min_dist": "0.1"}, {"n_components": 0},
        {"metric": "edit"}, {"pca_components": -1}, {"random_state": -1}, {"random_state": None}, {"normalize": 1},
    ],
    ids=str,
)
def test_impossible_parameters_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        MapParameters(**wrong)


def test_joint_map_holds_each_sample_once_a_sigma(no_descent):
    levels = {2.0: PIXELS[:30], 0.5: PIXELS[30:60]}
    projector = fit_joint_map(levels, IDS[:30]).projector
    assert projector.sample_ids == (*IDS[:30], *IDS[:30])
    np.testing.assert_array_equal(projector.row_sigmas, [0.5] * 30 + [2.0] * 30)
    np.testing.assert_array_equal(projector.transform(PIXELS[:2]).match, [30, 31])


@pytest.mark.parametrize("fit", [fit_joint_map, fit_aligned_map])
def test_levels_of_different_samples_are_refused(fit):
    with pytest.raises(ShapeError, match="at sigma 2"):
        fit({0.5: PIXELS[:30], 2: PIXELS[:29]}, IDS[:30])
    with pytest.raises(ConfigError, match="no noise level"):
        fit({}, IDS[:30])


def test_aligned_map_needs_two_levels():
    with pytest.raises(ConfigError, match="two noise levels"):
        fit_aligned_map({0.5: PIXELS[:30]}, IDS[:30])


def test_aligned_map_relates_each_sample_to_itself(monkeypatch):
    import umap

    asked = {}

    class Recorder:
        def __init__(self, **options):
            asked.update(options)

        def fit(self, slices, relations):
            asked.update(slices=slices, relations=relations)
            self.embeddings_ = [part[:, :2] + level for level, part in enumerate(slices)]

    monkeypatch.setattr(umap, "AlignedUMAP", Recorder)
    levels = {5.0: PIXELS[:40] * 2, 0.1: PIXELS[:40], 1.0: PIXELS[40:80]}
    maps = fit_aligned_map(levels, IDS[:40], MapParameters(random_state=5))
    assert list(maps) == [0.1, 1.0, 5.0]
    assert asked["relations"] == [{row: row for row in range(40)}] * 2
    assert (asked["n_neighbors"], asked["random_state"]) == (15, 5)
    placed = maps[1.0].projector.transform(PIXELS[40:80])
    np.testing.assert_array_equal(placed.coordinates, maps[1.0].projector.embedding)
    np.testing.assert_array_equal(placed.coordinates, asked["slices"][1][:, :2] + 1)


@pytest.mark.slow
def test_aligned_map_keeps_samples_near_themselves():
    rng = np.random.default_rng(0)
    levels = {s: PIXELS + s * rng.standard_normal(PIXELS.shape).astype(np.float16) for s in (0.1, 1.0, 3.0)}
    maps = fit_aligned_map(levels, IDS)
    first, second = (maps[s].projector.embedding for s in (0.1, 1.0))
    moved = np.linalg.norm(first - second, axis=1)
    apart = np.linalg.norm(first - rng.permutation(second), axis=1)
    assert np.median(moved) < 0.3 * np.median(apart)
    np.testing.assert_array_equal(fit_aligned_map(levels, IDS)[3.0].projector.embedding, maps[3.0].projector.embedding)
    other = fit_aligned_map(levels, IDS, MapParameters(random_state=7))
    assert not np.allclose(other[3.0].projector.embedding, maps[3.0].projector.embedding)
