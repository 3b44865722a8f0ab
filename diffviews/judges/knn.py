"""The judge `knn:<layer>@<sigma>`: the model looks at its own generations, and the sample set's neighbours vote.

An image is noised and encoded by the model, without a class or prompt; the layer's output is compared with those of the
samples. What is farther from all of them than 99 % of held-out samples are is rejected.
"""

import math
from collections.abc import Callable
from functools import partial
from hashlib import blake2b

import numpy as np
from sklearn.random_projection import SparseRandomProjection
from torch import Tensor

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.condition import Condition
from diffviews.adapters.hooks import known_layers
from diffviews.core.extractor import CAPTURE_BATCH, capture
from diffviews.errors import ConfigError, LayerNotFoundError, unknown_name
from diffviews.judges.base import JudgeRequest
from diffviews.judges.calibrated import CalibratedJudge, Decide, Opinion, calibrate
from diffviews.processing.neighbors import exact_neighbors

NEIGHBORS = 10
"""Samples that vote, or fewer where a class has fewer."""
MOST_IMAGES = 10_000
"""Samples that are compared with, stratified by class, or two a class."""
DIMENSIONS = 1024
"""Wider layers are projected at random on so many, which keeps distances within a few per cent (Achlioptas 2003)."""


def knn_judge(request: JudgeRequest) -> CalibratedJudge:
    """Return a judge by the neighbours among the samples' activations at a layer and noise level.

    Raises:
        ConfigError: if the argument is no layer and noise level, or there is no model.
        LayerNotFoundError: if the model has no such layer.
        SampleSetError: if there are fewer than two classes or a class has a single image.
    """
    layer, sigma = _parse(request.argument)
    if request.adapter is None:
        raise ConfigError(f"judge {request.notation!r} looks through a model, and none is given")
    if layer not in known_layers(request.adapter):
        raise LayerNotFoundError(unknown_name("layer", layer, known_layers(request.adapter)))
    rows = request.rows_to_fit(MOST_IMAGES)
    images, labels = request.samples.pictures.pixels(rows), request.labels[rows]
    return calibrate(request.notation, activations_of(request.adapter, layer, sigma), _fit, images, labels)


def activations_of(adapter: GeneratorAdapter, layer: str, sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return what gives the layer's activations of images, (N, D) float32.

    The noise is that of an extraction, fixed by what is in the image in place of an id.
    """
    layer = adapter.layer_aliases.get(layer, layer)
    width = math.prod(adapter.get_layer_shapes()[layer])
    narrow: Callable[[np.ndarray], np.ndarray] = np.asarray
    if width > DIMENSIONS:
        projection = SparseRandomProjection(DIMENSIONS, random_state=0, dense_output=True)
        narrow = projection.fit(np.zeros((1, width), np.float32)).transform

    def look(images: np.ndarray) -> np.ndarray:
        found = np.empty((len(images), min(width, DIMENSIONS)), np.float32)
        for start in range(0, len(images), CAPTURE_BATCH):
            part = images[start : start + CAPTURE_BATCH]
            ids = [f"judged {blake2b(image.tobytes(), digest_size=16).hexdigest()}" for image in part]
            told = _unconditioned(adapter, len(part))
            own = capture(adapter, adapter.encode(part), ids, told, sigma, [layer])[layer]
            found[start : start + len(part)] = narrow(own.float().cpu().numpy().reshape(len(part), -1))
        return found

    return look


def _unconditioned(adapter: GeneratorAdapter, count: int) -> dict[str, Tensor]:
    """Return what tells a model nothing of images: no condition, or the uniform label where it needs one."""
    if adapter.takes_prompts or adapter.label_dropout or not adapter.num_classes:
        return {}
    return adapter.condition([Condition(class_id=-1)] * count)


def _parse(argument: str) -> tuple[str, float]:
    layer, _, level = argument.rpartition("@")
    try:
        sigma = float(level)
    except ValueError:
        sigma = math.nan
    if not layer or not 0 < sigma < math.inf:
        raise ConfigError(f"judge 'knn:{argument}' names no layer and noise level; write knn:<layer>@<sigma>")
    return layer, sigma


def _fit(points: np.ndarray, labels: np.ndarray) -> Decide:
    fewest = int(np.unique(labels, return_counts=True)[1].min())
    return partial(_decide, points, labels, min(NEIGHBORS, fewest))


def _decide(points: np.ndarray, labels: np.ndarray, k: int, queries: np.ndarray) -> Opinion:
    neighbors, distances = exact_neighbors(points, k, queries)
    classes, numbers = np.unique(labels, return_inverse=True)
    votes = np.zeros((len(queries), len(classes)))
    rows = np.arange(len(queries))
    for place in range(k):
        votes[rows, numbers[neighbors[:, place]]] += 1 - place / (2 * k * k)  # of equal votes the nearer win
    best = votes.argmax(axis=1)
    return Opinion(classes[best], votes[rows, best].round() / k, distances[:, 0])
