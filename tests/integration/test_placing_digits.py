"""Held-out digits on maps of four layers: placed as well as umap-learn's own transform, and noise told from digits."""

import numpy as np
import pytest
import torch

from diffviews.adapters import get_adapter
from diffviews.core.extractor import capture
from diffviews.data.sources import open_source
from diffviews.processing.fitting import fit_given_map
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.neighbors import exact_neighbors
from diffviews.processing.reduction import reduce_activations

LAYERS = {0.5: ("encoder_block_0", "midblock"), 2.0: ("decoder_block_4", "encoder_bottleneck")}
HELD_OUT, K = 600, 10


@pytest.fixture(scope="module")
def digits():
    """Activations of four layers by name, (N, D) float16, and the classes."""
    samples = open_source("digits")
    adapter = get_adapter("edm-digits").from_checkpoint(None, device="cpu")
    x0 = torch.from_numpy(samples.images).permute(0, 3, 1, 2).float() / 127.5 - 1
    layers = {}
    for sigma, names in LAYERS.items():
        parts = []
        for start in range(0, len(samples), 128):
            part = slice(start, start + 128)
            parts.append(capture(adapter, x0[part], samples.sample_ids[part], {}, sigma, names))
        layers |= {f"{name}@{sigma}": torch.cat([p[name] for p in parts]).half().flatten(1).numpy() for name in names}
    return layers, samples.class_labels.astype(np.int64)


def class_accuracy(embedding, classes, places, own):
    votes = classes[exact_neighbors(embedding, K, places)[0]]
    return np.mean(np.array([np.bincount(row).argmax() for row in votes]) == own)


def trustworthiness(points, embedding, new_points, places):
    """Venna & Kaski 2001, of new points among the map's: how far their neighbours on the map are in PCA space."""
    order, _ = exact_neighbors(points, len(points), new_points)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, len(points) + 1)[None].repeat(len(order), axis=0), axis=1)
    excess = np.take_along_axis(ranks, exact_neighbors(embedding, K, places)[0], axis=1) - K
    return 1 - 2 * np.maximum(excess, 0).sum() / (len(places) * K * (2 * len(points) + 1 - 3 * K))


@pytest.mark.slow
def test_held_out_digits_are_placed_as_well_as_by_umap_learn_and_noise_is_unusual(digits):
    from umap import UMAP

    layers, classes = digits
    gaps, noise_found, usual = [], [], []
    for rows in layers.values():
        random = np.random.default_rng(0)
        order = random.permutation(len(rows))
        new, known = order[:HELD_OUT], order[HELD_OUT:]
        points = reduce_activations(rows[known], 50).points
        reducer = UMAP(n_neighbors=15, min_dist=0.1, random_state=42).fit(points)
        embedding = reducer.embedding_.astype(np.float32)
        projector = fit_given_map(rows[known], [str(row) for row in known], embedding, MapParameters()).projector
        projected, placed = projector.project(rows[new]), projector.transform(rows[new])
        both = (placed.coordinates, reducer.transform(projected).astype(np.float32))
        ours, theirs = (
            np.array([
                class_accuracy(embedding, classes[known], places, classes[new]),
                trustworthiness(projector.pca_points, embedding, projected, places),
            ])
            for places in both
        )  # fmt: skip
        gaps.append(ours - theirs)
        spread = rows[known].astype(np.float32).std(axis=0)
        noise = rows[known].mean(axis=0, dtype=np.float32) + spread * random.standard_normal((300, rows.shape[1]))
        noise_found.append(projector.transform(noise.astype(np.float32)).is_unusual.mean())
        usual.append([(share > 95).mean() for share in (placed.distance_percentile, placed.residual_percentile)])
    print("ours - umap-learn (class, trustworthiness):", np.round(gaps, 4).tolist(), np.mean(gaps, axis=0).round(4))
    print("white noise beyond 95 %:", noise_found, "held-out digits (distance, residual):", np.round(usual, 3).tolist())
    assert (np.mean(gaps, axis=0) > -0.005).all()
    assert np.min(gaps) > -0.02
    assert min(noise_found) >= 0.99
    assert np.max(usual) < 0.12
