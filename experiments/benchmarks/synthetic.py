"""Data for benchmarks: made with a structure that real layers have, and sizes that one can choose."""

import numpy as np

RANK, CLUSTERS = 40, 10


def layer_like(rows: int, columns: int, *, seed: int = 0) -> np.ndarray:
    """Return activations (rows, columns) float32 of low rank, in clusters, with noise.

    Ten clusters in a space of 40 dimensions, whose strengths fall like those of a layer's principal
    components, are turned into `columns` features; each feature gets noise of a tenth of its spread.
    """
    random = np.random.default_rng(seed)
    strengths = 1.0 / np.sqrt(1.0 + np.arange(RANK))
    centres = random.standard_normal((CLUSTERS, RANK)) * 2
    inner = (centres[cluster_of(rows)] + random.standard_normal((rows, RANK))) * strengths
    axes = random.standard_normal((RANK, columns), dtype=np.float32) / np.float32(np.sqrt(RANK))
    values = inner.astype(np.float32) @ axes
    step = max(1, 2**22 // columns)
    for start in range(0, rows, step):
        block = values[start : start + step]
        block += random.standard_normal(block.shape, dtype=np.float32) * np.float32(0.1)
    return values


def cluster_of(rows: int) -> np.ndarray:
    """Return the cluster of each row, (rows,) int."""
    return np.arange(rows) % CLUSTERS


def sample_ids(rows: int) -> list[str]:
    """Return an id a row."""
    return [f"synthetic-{row}" for row in range(rows)]
