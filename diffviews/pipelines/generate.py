"""The `generate` job: one recipe becomes images, their paired baseline, a path on the map, and an MLflow run."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffviews.adapters.base import GeneratorAdapter
from diffviews.core.generator import GenerationRequest, GenerationResult, Progress
from diffviews.core.generator import generate as sample
from diffviews.core.plan import draw_seed
from diffviews.data.pictures import encode_png
from diffviews.errors import ConfigError
from diffviews.noise import format_sigma
from diffviews.pipelines.judged import JudgedGeneration, judge_of, judged
from diffviews.pipelines.masks import check_weights, interventions_of
from diffviews.pipelines.models import left_out, load_model
from diffviews.pipelines.paths import place_path
from diffviews.pipelines.workspace import Workspace
from diffviews.recipes.generation import GenerationRecipe
from diffviews.recipes.naming import (
    Subject,
    asked_for,
    asks_of,
    generation_name,
    mask_in_words,
    masked_layers,
    noise_in_words,
)
from diffviews.recipes.options import flatten
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.catalog import LayerRecord
from diffviews.tracking.notes import Note, code
from diffviews.tracking.schema import RunTags


@dataclass(frozen=True, slots=True)
class LoggedGeneration:
    """A generation and where it was logged."""

    run_id: str
    recipe: GenerationRecipe
    """As run: the seed is filled in."""
    result: GenerationResult
    path: pd.DataFrame | None
    """See `place_path`; None without a layer run."""
    judged: JudgedGeneration | None = None
    """What the judge says, where one was asked for."""

    def __str__(self) -> str:
        told = f"generation {self.run_id}: {len(self.result.images)} images, seed {self.result.seed}"
        return told if self.judged is None else f"{told}\n{self.judged.in_words()}"


def generate(
    recipe: GenerationRecipe,
    workspace: Workspace,
    *,
    adapter: GeneratorAdapter | None = None,
    device: str = "auto",
    callback: Callable[[Progress], None] | None = None,
) -> LoggedGeneration:
    """Generate images, with a layer masked by the average of samples if any are named, and log them as a run.

    Args:
        recipe: what to generate.
        workspace: where the layer run is found and the generation logged.
        adapter: a loaded model to use; None loads the recipe's.
        device: for a model loaded here: auto, cpu, cuda, cuda:N or mps.
        callback: told of every sampler step; it may raise CancelledError, which leaves no finished run.

    Raises:
        DiffViewsError: with the reason, for any recipe that cannot be followed.
    """
    adapter = adapter or load_model(recipe, workspace, device=device)
    layer = find_layer(recipe, workspace)
    recipe = resolved(recipe, adapter)
    told = described(recipe, layer, subject_of(recipe, layer, workspace, adapter))
    tags = replace(told.tags, adapter_partial=left_out(adapter))
    with workspace.tracker.start("generation", told.name, tags, params=told.params, note=told.note) as run:
        _check_map(recipe, layer, workspace)
        judge = judge_of(recipe, layer, workspace, adapter)
        result = run_recipe(recipe, layer, workspace, adapter, callback)
        path = None if layer is None else _path(recipe.map_run or layer.run_id, layer.layer, workspace, result)
        verdicts = None if judge is None else judged(judge, recipe, result)
        _log(run, recipe, result, path)
        if verdicts is not None:
            run.log_metrics(verdicts.measures)
            run.log_text(verdicts.table.to_csv(index=False), "verdicts.csv")
    return LoggedGeneration(run.run_id, recipe, result, path, verdicts)


def find_layer(recipe: GenerationRecipe, workspace: Workspace) -> LayerRecord | None:
    """Return the layer run that a recipe names, None where it names none.

    Raises:
        RunNotFoundError: if there is no such layer run.
    """
    return None if recipe.layer_run is None else workspace.catalog.layer(recipe.layer_run)


def run_recipe(
    recipe: GenerationRecipe,
    layer: LayerRecord | None,
    workspace: Workspace,
    adapter: GeneratorAdapter,
    callback: Callable[[Progress], None] | None = None,
) -> GenerationResult:
    """Sample a recipe, with its baseline when it masks, and log nothing; `layer` is that of `find_layer`."""
    if layer is not None:
        check_weights(layer, adapter, workspace)
    request = GenerationRequest(
        class_labels=recipe.class_label,
        prompts=recipe.prompt,
        negative_prompt=recipe.negative_prompt,
        num_samples=recipe.num_samples,
        seed=recipe.seed,
        **recipe.sampling.request_fields(),
        interventions=() if layer is None else interventions_of(recipe, layer, adapter, workspace),
        record_layers=() if layer is None else (layer.layer,),
        record_steps=True,
    )
    return sample(adapter, request, callback=callback)


def _check_map(recipe: GenerationRecipe, layer: LayerRecord | None, workspace: Workspace) -> None:
    """Refuse to draw the path on a map of something else."""
    if recipe.map_run is None:
        return
    if layer is None:
        raise ConfigError(f"map_run {recipe.map_run} needs layer_run, the run whose layer the path shows")
    drawn = workspace.catalog.map(recipe.map_run)
    if (drawn.model, drawn.layer) != (layer.model, layer.layer):
        raise ConfigError(
            f"map {recipe.map_run} is of layer {drawn.layer!r}, not of {layer.layer!r} as layer run {layer.run_id}"
        )


def resolved(recipe: GenerationRecipe, adapter: GeneratorAdapter) -> GenerationRecipe:
    """Return a recipe with its seed drawn, and with its layers by their own names, so that every record says the same.

    Args:
        recipe: as it was ordered.
        adapter: whose layers may have aliases.
    """
    seed = draw_seed(recipe.sampling.noise_mode) if recipe.seed is None else recipe.seed
    layers = tuple(dict.fromkeys(adapter.layer_aliases.get(layer, layer) for layer in recipe.layers))
    return replace(recipe, seed=seed, layers=layers)


def subject_of(
    recipe: GenerationRecipe, layer: LayerRecord | None, workspace: Workspace, adapter: GeneratorAdapter
) -> Subject:
    """Return what a recipe's ids and numbers stand for; its samples are looked up where it averages some."""
    names = adapter.class_names
    return Subject.of(
        recipe,
        layer=None if layer is None else layer.layer,
        sigma=None if layer is None else layer.sigma,
        samples=workspace.samples_of(layer) if layer is not None and recipe.sample_ids else None,
        asks=asks_of(adapter.takes_prompts, adapter.num_classes),
        class_names=dict(enumerate(names)) if names is not None else None,
    )


@dataclass(frozen=True, slots=True)
class Described:
    """What the run of a generation is called and says of itself."""

    name: str
    tags: RunTags
    params: dict[str, object]
    note: Note


def described(recipe: GenerationRecipe, layer: LayerRecord | None, subject: Subject) -> Described:
    """Return name, tags, parameters and description of a generation's run, which all say the same."""
    masked = masked_layers(recipe, subject.layer)
    joined = ",".join(masked)
    tags = RunTags(model=recipe.model)
    if layer is not None:
        own = masked == (layer.layer,)
        tags = layer.derived_tags(
            model=recipe.model,
            layer=joined or None,
            layer_index=layer.layer_index if own else None,
            map_layer=layer.layer,
        )
    params: dict[str, object] = {name: value for name, value in flatten(recipe).items() if name != "sample_ids"}
    params |= {"num_selected": len(recipe.sample_ids), "layers": joined, "averaged": subject.averaged}
    params |= {"map_layer": subject.layer or "", "asked_for": asked_for(recipe, subject)}
    for name in ("prompt", "negative_prompt", "averaged", "asked_for"):  # a parameter is for comparing
        params[name] = textwrap.shorten(str(params[name] or ""), 500, placeholder=" …")
    note = Note(_sentence(recipe, subject, masked), recipe.command(), shown=layer is not None)
    return Described(generation_name(recipe, subject), tags, params, note)


def _sentence(recipe: GenerationRecipe, subject: Subject, masked: Sequence[str]) -> str:
    images = "1 image" if recipe.num_samples == 1 else f"{recipe.num_samples} images"
    told = f"{images} of {code(recipe.model)}, {code(asked_for(recipe, subject))}, {noise_in_words(recipe)}"
    at = "" if subject.sigma is None else f" at σ {format_sigma(subject.sigma)}"
    if masked:
        count = "1 sample" if len(recipe.sample_ids) == 1 else f"the average of {len(recipe.sample_ids):,} samples"
        how = ", ".join(mask_in_words(recipe))
        told += f", with {' and '.join(map(code, masked))} masked by {count}, {code(subject.averaged)}{at} ({how})"
    if subject.layer is not None:
        told += f"; the path is on the map of {code(subject.layer)}{at}"
    return f"{told}."


def _path(map_run: str, layer: str, workspace: Workspace, result: GenerationResult) -> pd.DataFrame:
    projectors = workspace.projectors(map_run)
    tables = [place_path(projectors, result.trajectory[layer], result.sigmas)]
    if layer in result.baseline_trajectory:
        tables.append(place_path(projectors, result.baseline_trajectory[layer], result.sigmas, variant="baseline"))
    return pd.concat(tables, ignore_index=True)


def _log(run: ActiveRun, recipe: GenerationRecipe, result: GenerationResult, path: pd.DataFrame | None) -> None:
    run.set_tag("diffviews.seed", str(result.seed))
    if result.difference_images is not None:
        run.log_metrics({"mean_difference": float(result.difference_images.mean())})
    rows = [np.concatenate(list(images[:16]), axis=1) for _, images in _pictures(result)]
    run.log_image("images", encode_png(np.concatenate(rows)))  # masked, baseline, difference
    run.log_text(recipe.to_json(), "recipe.json")
    for kind, images in _pictures(result):
        for index, image in enumerate(images):
            run.log_artifact_bytes(encode_png(image), f"{kind}/{index:03d}.png")
    _write_steps(result, run.stage("steps.npz"))
    if path is not None:
        run.log_table(path, "path.parquet")


def _pictures(result: GenerationResult) -> Iterator[tuple[str, np.ndarray]]:
    yield "images", result.images
    if result.baseline_images is not None and result.difference_images is not None:
        yield "baseline", result.baseline_images
        yield "difference", result.difference_images


def _write_steps(result: GenerationResult, path: Path) -> None:
    arrays: dict[str, Any] = {"sigmas": result.sigmas, "labels": result.labels}
    for name in ("intermediates", "noised_inputs"):
        values = getattr(result, name)
        if values is not None:
            arrays[name] = values
    np.savez_compressed(path, **arrays)
