"""Masks: a recipe's samples become the interventions that their averaged activations make."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from diffviews.adapters.base import GeneratorAdapter
from diffviews.core.interventions import DirectionTarget, FixedTarget, Intervention, MatchedTarget, Target
from diffviews.data.activations import ActivationReader
from diffviews.data.legacy import UNKNOWN_MODEL_DIGEST
from diffviews.errors import RunNotFoundError, SelectionError, ShapeError
from diffviews.noise import format_sigma
from diffviews.pipelines.recipe import GenerationRecipe
from diffviews.pipelines.workspace import Workspace
from diffviews.tracking.catalog import LayerRecord

logger = logging.getLogger(__name__)


def interventions_of(
    recipe: GenerationRecipe, adapter: GeneratorAdapter, workspace: Workspace
) -> tuple[Intervention, ...]:
    """Return the interventions a recipe asks for, none when it selects no samples.

    Raises:
        RunNotFoundError: if a layer has no run at the layer run's sigma.
        ShapeError: if the activations were captured from other weights than the adapter's.
    """
    if not recipe.sample_ids or recipe.layer_run is None:
        return ()
    chosen = workspace.catalog.layer(recipe.layer_run)
    layers = [adapter.layer_aliases.get(layer, layer) for layer in recipe.layers]
    records = _records(chosen, layers, workspace)
    for record in records:
        check_weights(record, adapter, workspace)
    if recipe.target == "matched":
        targets = _matched(recipe, records, adapter, workspace)
    else:
        targets = {record.layer: _fixed(recipe, workspace.activations(record)) for record in records}
    return tuple(
        Intervention(
            layer=layer,
            target=target,
            mode=recipe.mode,
            strength=recipe.strength,
            steps=recipe.steps,
            passes=recipe.passes,
            channels=recipe.channels,
            region=recipe.region,
        )
        for layer, target in targets.items()
    )


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
    digest = workspace.activations(record).attrs["model_digest"]
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


def _matched(
    recipe: GenerationRecipe, records: Sequence[LayerRecord], adapter: GeneratorAdapter, workspace: Workspace
) -> Mapping[str, Target]:
    """Return targets that capture the samples anew at each step, in one pass for all layers."""
    samples = workspace.samples_of(records[0]).select(recipe.sample_ids)
    conditions = workspace.conditions_of(records[0], samples)
    conditioning = {} if conditions is None else adapter.condition(conditions)
    layers = [record.layer for record in records]
    x0 = adapter.encode(samples.images)
    return MatchedTarget.for_layers(adapter, layers, x0, samples.sample_ids, conditioning)


def _fixed(recipe: GenerationRecipe, reader: ActivationReader) -> Target:
    """Return the samples' stored average, or what they have over the average of all."""
    mean = FixedTarget(_tensor(reader.rows(recipe.sample_ids).mean(axis=0, keepdims=True, dtype=np.float32)))
    return DirectionTarget(mean, FixedTarget(_tensor(mean_of_all(reader)))) if recipe.mode == "add" else mean


def _tensor(values: np.ndarray) -> torch.Tensor:
    if not np.isfinite(values).all():
        raise SelectionError("the average of the selected samples is not finite; leave out the broken ones")
    return torch.from_numpy(values)


def mean_of_all(reader: ActivationReader) -> np.ndarray:
    """Return the mean activation over all samples, (1, *layer_shape) float32, chunk by chunk."""
    total, count = None, 0
    for _, chunk in reader.chunks():
        part = chunk.astype(np.float64).sum(axis=0, keepdims=True)
        total, count = (part if total is None else total + part), count + len(chunk)
    if total is None:
        raise SelectionError("the layer run holds no samples")
    return (total / count).astype(np.float32)
