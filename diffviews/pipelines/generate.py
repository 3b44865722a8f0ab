"""The `generate` job: one recipe becomes images, their paired baseline, a path on the map, and an MLflow run."""

import io
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from diffviews.adapters.base import GeneratorAdapter
from diffviews.core.generator import GenerationRequest, GenerationResult, Progress
from diffviews.core.generator import generate as sample
from diffviews.core.samplers import Churn
from diffviews.errors import ConfigError
from diffviews.pipelines.masks import check_weights, interventions_of
from diffviews.pipelines.models import load_model
from diffviews.pipelines.paths import place_path
from diffviews.pipelines.recipe import GenerationRecipe
from diffviews.pipelines.workspace import Workspace, open_workspace
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.schema import RunTags


@dataclass(frozen=True, slots=True)
class GenerationOutcome:
    """A generation and where it was logged."""

    run_id: str
    recipe: GenerationRecipe
    """As run: the seed is filled in."""
    result: GenerationResult
    path: pd.DataFrame | None
    """See `place_path`; None without a layer run."""

    def __str__(self) -> str:
        return f"generation {self.run_id}: {len(self.result.images)} images, seed {self.result.seed}"


def generate(
    recipe: GenerationRecipe,
    workspace: Workspace,
    *,
    adapter: GeneratorAdapter | None = None,
    device: str = "auto",
    callback: Callable[[Progress], None] | None = None,
) -> GenerationOutcome:
    """Generate what a recipe says and log it as a run.

    Args:
        recipe: what to generate.
        workspace: where the layer run is found and the generation logged.
        adapter: a loaded model to use; None loads the recipe's.
        device: for a model loaded here.
        callback: told of every sampler step; it may raise CancelledError, which leaves no finished run.

    Raises:
        DiffViewsError: with the reason, for any recipe that cannot be followed.
    """
    adapter = adapter or load_model(recipe.model, recipe.checkpoint, device=device, precision=recipe.precision)
    tags = _tags(recipe, workspace)
    with workspace.tracker.start("generation", _name(recipe, workspace), tags, params=_params(recipe)) as run:
        _check_map(recipe, workspace)
        result = run_recipe(recipe, workspace, adapter, callback)
        recipe = replace(recipe, seed=result.seed)
        path = _path(recipe, workspace, result)
        _log(run, recipe, result, path)
    return GenerationOutcome(run.run_id, recipe, result, path)


def run_recipe(
    recipe: GenerationRecipe,
    workspace: Workspace,
    adapter: GeneratorAdapter,
    callback: Callable[[Progress], None] | None = None,
) -> GenerationResult:
    """Sample a recipe, with its baseline when it masks, and log nothing."""
    mapped = workspace.catalog.layer(recipe.layer_run) if recipe.layer_run else None
    if mapped is not None:
        check_weights(mapped, adapter, workspace)
    request = GenerationRequest(
        class_labels=recipe.class_label,
        prompts=recipe.prompt,
        negative_prompt=recipe.negative_prompt,
        num_samples=recipe.num_samples,
        seed=recipe.seed,
        sampler=recipe.sampler,
        schedule=recipe.schedule,
        num_steps=recipe.num_steps,
        sigma_max=recipe.sigma_max,
        sigma_min=recipe.sigma_min,
        rho=recipe.rho,
        guidance_scale=recipe.guidance_scale,
        noise_mode=recipe.noise_mode,
        churn=Churn.of(recipe.s_churn, recipe.s_min, recipe.s_max, recipe.s_noise),
        interventions=interventions_of(recipe, adapter, workspace),
        record_layers=(mapped.layer,) if mapped else (),
        record_steps=True,
    )
    return sample(adapter, request, callback=callback)


def _check_map(recipe: GenerationRecipe, workspace: Workspace) -> None:
    """Refuse to draw the path on a map of something else."""
    if recipe.map_run is None:
        return
    if recipe.layer_run is None:
        raise ConfigError(f"map_run {recipe.map_run} needs layer_run, the run whose layer the path shows")
    drawn, layer = workspace.catalog.map(recipe.map_run), workspace.catalog.layer(recipe.layer_run)
    if (drawn.model, drawn.layer) != (layer.model, layer.layer):
        raise ConfigError(
            f"map {recipe.map_run} is of layer {drawn.layer!r}, not of {layer.layer!r} as layer run {layer.run_id}"
        )


def _tags(recipe: GenerationRecipe, workspace: Workspace) -> RunTags:
    if recipe.layer_run is None:
        return RunTags(model=recipe.model)
    record = workspace.catalog.layer(recipe.layer_run)
    return RunTags(
        model=recipe.model,
        dataset=record.dataset,
        layer=record.layer,
        layer_index=record.layer_index,
        sigma=record.sigma,
        source_run=record.run_id,
    )


def _name(recipe: GenerationRecipe, workspace: Workspace) -> str:
    wanted = {-1: "uniform label", None: "random classes"}.get(recipe.class_label, f"class {recipe.class_label}")
    if recipe.prompt is not None:
        wanted = f"“{textwrap.shorten(recipe.prompt, 60, placeholder=' …')}”"
    if not recipe.sample_ids or recipe.layer_run is None:
        return f"generate {wanted}"
    layer = workspace.catalog.layer(recipe.layer_run).layer
    return f"generate {wanted}, {layer} {recipe.mode} by {len(recipe.sample_ids)} samples"


def _params(recipe: GenerationRecipe) -> dict[str, object]:
    values = asdict(recipe)
    values["num_selected"] = len(values.pop("sample_ids"))
    values["layers"] = ",".join(values["layers"])
    for name in ("prompt", "negative_prompt"):  # whole in recipe.json; a parameter is for comparing
        values[name] = textwrap.shorten(values[name] or "", 500, placeholder=" …")
    return values


def _path(recipe: GenerationRecipe, workspace: Workspace, result: GenerationResult) -> pd.DataFrame | None:
    if recipe.layer_run is None:
        return None
    layer = workspace.catalog.layer(recipe.layer_run).layer
    projectors = workspace.projectors(recipe.map_run or recipe.layer_run)
    tables = [place_path(projectors, result.trajectory[layer], result.sigmas)]
    if layer in result.baseline_trajectory:
        tables.append(place_path(projectors, result.baseline_trajectory[layer], result.sigmas, variant="baseline"))
    return pd.concat(tables, ignore_index=True)


def _log(run: ActiveRun, recipe: GenerationRecipe, result: GenerationResult, path: pd.DataFrame | None) -> None:
    run.set_tag("diffviews.seed", str(result.seed))
    if result.difference_images is not None:
        run.log_metrics({"mean_difference": float(result.difference_images.mean())})
    run.log_image("images", _png(_strip(result)))
    run.log_text(recipe.to_json(), "recipe.json")
    for kind, images in _pictures(result):
        for index, image in enumerate(images):
            run.log_artifact_bytes(_png(image), f"{kind}/{index:03d}.png")
    _write_steps(result, run.stage("steps.npz"))
    if path is not None:
        run.log_table(path, "path.parquet")


def _pictures(result: GenerationResult) -> Iterator[tuple[str, np.ndarray]]:
    yield "images", result.images
    if result.baseline_images is not None and result.difference_images is not None:
        yield "baseline", result.baseline_images
        yield "difference", result.difference_images


def _strip(result: GenerationResult) -> np.ndarray:
    """Return all images in rows: masked, baseline, difference."""
    return np.concatenate([np.concatenate(list(images[:16]), axis=1) for _, images in _pictures(result)], axis=0)


def _write_steps(result: GenerationResult, path: Path) -> None:
    arrays: dict[str, Any] = {"sigmas": result.sigmas, "labels": result.labels}
    for name in ("intermediates", "noised_inputs"):
        values = getattr(result, name)
        if values is not None:
            arrays[name] = values
    np.savez_compressed(path, **arrays)


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def generate_command(
    recipe: GenerationRecipe = GenerationRecipe(),
    device: str = "auto",
    profile: str | None = None,
    experiment: str | None = None,
) -> GenerationOutcome:
    """Generate images, with a layer masked by the average of samples if any are named, as an MLflow run.

    Args:
        recipe: what to generate.
        device: auto, cpu, cuda, cuda:N or mps.
        profile: tracking profile of mlruns_config.
        experiment: MLflow experiment name.
    """
    return generate(recipe, open_workspace(profile, experiment), device=device)
