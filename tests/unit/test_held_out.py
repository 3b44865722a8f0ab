"""What axes are worth on samples they were not fitted to, against fitting them anew without those samples."""

import numpy as np
import pytest

from diffviews.processing import held_out
from diffviews.processing.fitting import fit_joint_map, fit_map
from diffviews.processing.held_out import with_held_out
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.neighbors import exact_neighbors
from diffviews.processing.reduction import reduce_activations

RNG = np.random.default_rng(7)


def layer(count, width, rank=6, noise=1.0, seed=0):
    random = np.random.default_rng(seed)
    axes = random.standard_normal((rank, width))
    return (random.standard_normal((count, rank)) * 3 @ axes + noise * random.standard_normal((count, width))).astype(
        np.float32
    )


def measured(rows, components=10, metric="euclidean", **options):
    reduction = reduce_activations(rows, components, normalize=False)
    return with_held_out(reduction, rows, k=5, metric=metric, **options)


@pytest.mark.parametrize(("count", "width"), [(60, 400), (300, 40)])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_held_out_fold_is_a_fit_without_it(count, width, metric):
    rows = layer(count, width, noise=3)
    found = measured(rows, metric=metric)
    assert found.gram is None
    deal = np.random.default_rng(0).permutation(count) % held_out.FOLDS
    distances, residuals, kept, total = [], [], 0.0, 0.0
    for fold in range(held_out.FOLDS):
        part, others = rows[deal == fold].astype(np.float64), rows[deal != fold].astype(np.float64)
        axes = np.linalg.svd(others - others.mean(axis=0), full_matrices=False)[2][:10]
        points, placed = ((each - others.mean(axis=0)) @ axes.T for each in (others, part))
        near = exact_neighbors(points.astype(np.float32), 5, placed.astype(np.float32), metric=metric)
        distances.extend(near[1].mean(axis=1))
        residuals.extend(np.linalg.norm(part - others.mean(axis=0) - placed @ axes, axis=1))
        kept, total = kept + np.square(placed).sum(), total + np.square(part - others.mean(axis=0)).sum()
    # The last axes are of noise, where the randomised solver is not exact.
    np.testing.assert_allclose(found.held_out_residuals, np.sort(residuals), rtol=0.02)
    np.testing.assert_allclose(found.held_out_distances, np.sort(distances), rtol=0.1)
    assert found.held_out_variance[-1] == pytest.approx(kept / total, rel=0.01)


def test_variance_of_held_out_samples_shows_what_fitted_ones_hide():
    rows = np.random.default_rng(0).standard_normal((80, 2000)).astype(np.float32)
    found = measured(rows, components=50)
    assert found.explained_variance_ratio.sum() > 0.6
    assert found.held_out_variance[-1] < 0.05


def test_few_are_held_out_of_many_and_the_rest_is_left_to_leaving_one_out(monkeypatch):
    monkeypatch.setattr(held_out, "HELD_OUT_ROWS", 200)
    found = measured(layer(300, 50))
    assert found.held_out_distances is None
    assert len(found.held_out_residuals) == 200
    monkeypatch.setattr(held_out, "ENOUGH", 30)
    assert len(measured(layer(300, 50)).held_out_residuals) == 40
    projector = fit_map(layer(300, 50), [str(row) for row in range(300)], MapParameters(pca_components=10)).projector
    own = exact_neighbors(projector.pca_points, 15)[1].mean(axis=1)
    np.testing.assert_allclose(projector.held_out_distances, np.sort(own), rtol=1e-5)


def test_all_levels_of_a_sample_are_held_out_together():
    rows = layer(100, 60, noise=3)
    levels = {sigma: rows + 0.01 * RNG.standard_normal(rows.shape).astype(np.float32) for sigma in (0.5, 1.0, 2.0)}
    ids = [f"s{row}" for row in range(100)]
    joint = fit_joint_map(levels, ids, MapParameters(n_neighbors=3, pca_components=20)).projector
    single = fit_map(rows, ids, MapParameters(n_neighbors=3, pca_components=20)).projector
    assert np.median(joint.held_out_distances) > 0.5 * np.median(single.held_out_distances)


@pytest.mark.parametrize("seed", range(3))
def test_white_noise_of_the_features_mean_and_deviation_is_unusual(seed):
    rows = layer(300, 400, rank=10, noise=3, seed=seed)
    projector = fit_map(rows, [str(row) for row in range(300)], MapParameters(pca_components=20)).projector
    noise = np.random.default_rng(seed + 100).standard_normal((400, 400)) * rows.std(axis=0) + rows.mean(axis=0)
    assert projector.transform(noise.astype(np.float32)).is_unusual.mean() >= 0.99


@pytest.mark.parametrize("seed", range(3))
def test_new_samples_lie_beyond_95_percent_as_often_as_said(seed):
    rows = layer(900, 500, rank=20, noise=2, seed=seed)
    projector = fit_map(rows[:400], [str(row) for row in range(400)], MapParameters(pca_components=30)).projector
    placed = projector.transform(rows[400:])
    for share in (placed.distance_percentile, placed.residual_percentile):
        assert 0.005 < (share > 95).mean() < 0.12
        assert np.median(share) == pytest.approx(50, abs=15)
