"""Masks: a recipe's samples become the interventions that their averaged activations make."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.condition import Conditioning
from diffviews.core.extractor import mean_activations
from diffviews.core.interventions import DirectionTarget, FixedTarget, Intervention, MatchedTarget, Target
from diffviews.data.activations import ActivationReader
from diffviews.data.legacy.datasets import UNKNOWN_MODEL_DIGEST
from diffviews.errors import RunNotFoundError, SelectionError, ShapeError
from diffviews.noise import format_sigma
from diffviews.pipelines.workspace import Workspace, conditions_of, is_sketch
from diffviews.recipes.generation import GenerationRecipe
from diffviews.tracking.catalog import LayerRecord

logger = logging.getLogger(__name__)

_CHUNKS_AT_ONCE = 16
"""Fetched side by side; each holds up to 8 MB, however many samples are averaged."""


def interventions_of(
    recipe: GenerationRecipe, chosen: LayerRecord, adapter: GeneratorAdapter, workspace: Workspace
) -> tuple[Intervention, ...]:
    """Return the interventions a recipe asks for, none when it selects no samples.

    Args:
        recipe: names the samples, and how their average acts.
        chosen: its layer run.
        adapter: model that is masked.
        workspace: where the activations lie.

    Raises:
        RunNotFoundError: if a layer has no run at the layer run's sigma.
        ShapeError: if the activations were captured from other weights than the adapter's.
    """
    if not recipe.sample_ids:
        return ()
    layers = [adapter.layer_aliases.get(layer, layer) for layer in recipe.layers]
    records = _records(chosen, layers, workspace)
    for record in records:
        check_weights(record, adapter, workspace)
    if recipe.target == "matched":
        captured = [record.layer for record in records]  # anew at each step, in one pass for all layers
        inputs = _inputs(recipe, records[0], adapter, workspace)
        targets: Mapping[str, Target] = MatchedTarget.for_layers(adapter, captured, *inputs)
    else:
        means = _means(recipe, records, adapter, workspace)
        targets = {record.layer: _fixed(recipe, means[record.layer], record, workspace) for record in records}
    shared = ("mode", "strength", "steps", "passes", "channels", "region")
    how = {name: getattr(recipe, name) for name in shared}
    return tuple(Intervention(layer, target, **how) for layer, target in targets.items())


def _records(chosen: LayerRecord, layers: Sequence[str], workspace: Workspace) -> list[LayerRecord]:
    """Return the layer runs to mask with: same extraction, same sigma."""
    if not layers:
        return [chosen]
    siblings = {
        record.layer: record for record in workspace.catalog.layers(chosen.parent_id) if record.sigma == chosen.sigma
    }
    missing = [layer for layer in layers if layer not in siblings]
    if missing:
        raise RunNotFoundError(
            f"extraction {chosen.parent_id} holds no layer {missing[0]!r} at sigma {format_sigma(chosen.sigma)}; "
            f"it has {', '.join(siblings)}"
        )
    return [siblings[layer] for layer in layers]


def check_weights(record: LayerRecord, adapter: GeneratorAdapter, workspace: Workspace) -> None:
    """Refuse a model that is not the one whose activations a layer run holds; warn where that is not known.

    Raises:
        ShapeError: if its weights or configuration differ.
    """
    digest = workspace.model_digest(record)
    if digest == UNKNOWN_MODEL_DIGEST:
        logger.warning(
            "layer run %s was imported without its weights: whether %r has the same is not known",
            record.run_id,
            adapter.model_type,
        )
    elif digest != adapter.digest():
        raise ShapeError(
            f"layer run {record.run_id} was captured from other weights than {adapter.model_type!r} has now; "
            "extract the layer again, or name the checkpoint it was captured from"
        )


def _inputs(
    recipe: GenerationRecipe, record: LayerRecord, adapter: GeneratorAdapter, workspace: Workspace
) -> tuple[torch.Tensor, tuple[str, ...], Conditioning]:
    """Return what the samples are captured from: x0, ids and conditioning."""
    samples = workspace.samples_of(record).select(recipe.sample_ids)
    conditions = conditions_of(samples, record.params["conditioning"])
    conditioning = {} if conditions is None else adapter.condition(conditions)
    return adapter.encode(samples.images), samples.sample_ids, conditioning


def _means(
    recipe: GenerationRecipe, records: Sequence[LayerRecord], adapter: GeneratorAdapter, workspace: Workspace
) -> Mapping[str, np.ndarray]:
    """Return the samples' mean activation by layer; of layers that keep a sketch it is captured anew, in one pass."""
    whole, sketched = ([r for r in records if is_sketch(r) is kind] for kind in (False, True))
    means = {record.layer: mean_of(workspace.activations(record), recipe.sample_ids) for record in whole}
    if sketched:
        inputs = _inputs(recipe, sketched[0], adapter, workspace)
        layers = [record.layer for record in sketched]
        captured = mean_activations(adapter, *inputs, sketched[0].sigma, layers)
        means |= {layer: value.cpu().numpy() for layer, value in captured.items()}
    return means


def _fixed(recipe: GenerationRecipe, mean: np.ndarray, record: LayerRecord, workspace: Workspace) -> Target:
    """Return the samples' average at the layer run's sigma, or what they have over the average of all."""
    own = FixedTarget(_tensor(mean))
    if recipe.mode != "add":
        return own
    of_all = workspace.sketch(record).mean if is_sketch(record) else mean_of_all(workspace.activations(record))
    return DirectionTarget(own, FixedTarget(_tensor(of_all.reshape(mean.shape))))


def _tensor(values: np.ndarray) -> torch.Tensor:
    if not np.isfinite(values).all():
        raise SelectionError("the average of the selected samples is not finite; leave out the broken ones")
    return torch.from_numpy(values)


def mean_of(reader: ActivationReader, sample_ids: Sequence[str]) -> np.ndarray:
    """Return the mean activation of some samples, (1, *layer_shape) float32; each chunk that holds any is read once."""
    row_of = {sample_id: row for row, sample_id in enumerate(reader.sample_ids)}
    if not all(sample_id in row_of for sample_id in sample_ids):
        reader.rows(sample_ids)  # names those that are not there
    rows = np.sort([row_of[sample_id] for sample_id in sample_ids])
    span = rows // reader.chunk_rows // _CHUNKS_AT_ONCE
    total = np.zeros((1, *reader.shape[1:]))
    for number in np.unique(span):
        total += reader.rows(rows[span == number]).astype(np.float64).sum(axis=0, keepdims=True)
    return (total / len(rows)).astype(np.float32)


def mean_of_all(reader: ActivationReader) -> np.ndarray:
    """Return the mean activation over all samples, (1, *layer_shape) float32, chunk by chunk."""
    total, count = None, 0
    for _, chunk in reader.chunks():
        part = chunk.astype(np.float64).sum(axis=0, keepdims=True)
        total, count = (part if total is None else total + part), count + len(chunk)
    if total is None:
        raise SelectionError("the layer run holds no samples")
    return (total / count).astype(np.float32)
