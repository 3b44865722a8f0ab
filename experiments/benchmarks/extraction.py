"""Extraction of all layers against the bare forward passes, and against one pass a layer."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.registry import load_adapter
from diffviews.data.samples import SampleSet
from diffviews.data.sources import open_source
from diffviews.noise import sample_noise
from diffviews.pipelines.capture.arrays import capture_activations
from diffviews.pipelines.plan import ExtractionPlan
from diffviews.recipes.extraction import ExtractionRecipe
from experiments.benchmarks.benchmark import Measurement, Setting, benchmark
from experiments.benchmarks.doubling import LINEAR, TWICE, TWICE_THE_HALF, measure_doubling
from experiments.benchmarks.measurement import Measure, Target, interleave, seconds_of

SIGMA, BATCH = 2.0, 128


def plan_of(adapter: GeneratorAdapter, samples: int, layers: tuple[str, ...] = (), **options: Any) -> ExtractionPlan:
    """Return an extraction of so many samples, the digits over and over; without names of all layers.

    Args:
        adapter: the model.
        samples: how many.
        layers: hook points; none: all.
        options: fields of the recipe in place of the usual ones.
    """
    usual: dict[str, Any] = {"sigmas": (SIGMA,), "batch_size": BATCH, "conditioning": "none"}
    recipe = ExtractionRecipe(adapter.model_type, layers=layers or ("all",), **(usual | options))
    return ExtractionPlan.of(recipe, adapter, digits(samples, adapter.resolution))


def _plan(samples: int, layers: tuple[str, ...] = ()) -> ExtractionPlan:
    return plan_of(load_adapter("edm-digits", device="cpu"), samples, layers)


def digits(count: int, resolution: int) -> SampleSet:
    """Return so many samples: the 1,797 digits, and from the first again under other ids."""
    known = open_source("digits", resolution=resolution)
    if count <= len(known):
        return known.take(np.arange(count))
    rows = np.arange(count) % len(known)
    return SampleSet.from_images(
        known.images[rows], [f"again-{number}" for number in range(count)], class_labels=known.class_labels[rows]
    )


@benchmark(
    "extraction",
    "all-layer extraction with storing, edm-digits, 1,797 samples, one sigma, CPU",
    "all 16 layers captured in one pass a batch, stored as Zarr chunks with digests",
    "the bare forward passes of the same batches",
    Target("ratio", 1.15),
    unmet=(
        "A profile shows nine tenths of the time in the same passes, and what is left mostly in waiting for the thread "
        "that writes: casting, digests and Zarr chunks of 166 kB a sample share two cores with the convolutions. Next: "
        "sketches (`storage sketch`), which write a hundredth of it."
    ),
)
def all_layers(setting: Setting) -> Measurement:
    """Extract every layer and store it, against the forward passes alone."""
    plan = _plan(setting.size(1797, 24))
    ours, theirs = extraction(plan, setting.folder), bare_passes(plan)
    ours(), theirs()
    compared = interleave(ours, theirs, repeats=setting.repeats)
    return Measurement(compared, {"samples": len(plan.samples), "layers": len(plan.recipe.layers), "batch": BATCH})


@benchmark(
    "layer-by-layer",
    "the same against one pass per layer, 512 samples",
    "all 16 layers in one extraction",
    "16 extractions of a layer each",
    Target("speedup", 12.8),
    unmet=(
        "Both ways write the same bytes, so only passes are saved: with F for a pass and W for what writing adds, "
        "the factor is (16 F + W) / (F + W), and it rises as the row above falls. Opening 16 arrays at once costs more "
        "where samples are few."
    ),
)
def layer_by_layer(setting: Setting) -> Measurement:
    """Extract every layer at once, against one extraction a layer."""
    plan = _plan(setting.size(512, 24))
    ours = extraction(plan, setting.folder)
    alone = [replace(plan, recipe=replace(plan.recipe, layers=(layer,))) for layer in plan.recipe.layers]
    each = [extraction(one, setting.folder) for one in alone]
    ours(), each[0]()
    compared = interleave(ours, lambda: sum(measure() for measure in each), repeats=min(setting.repeats, 2))
    target = Target("speedup", round(0.8 * len(plan.recipe.layers), 2))
    return Measurement(compared, {"samples": len(plan.samples), "layers": len(plan.recipe.layers)}, target=target)


@benchmark(
    "early-stop",
    "extraction of `encoder_block_3` alone with storing, edm-digits, 1,797 samples, one sigma, CPU",
    "passes that end after that layer, stored as Zarr chunks with digests",
    "the bare forward passes of the whole network over the same batches",
    Target("ratio", 0.6),
)
def early_stop(setting: Setting) -> Measurement:
    """Extract one early layer and store it, against the forward passes of the whole network alone."""
    plan = _plan(setting.size(1797, 24), ("encoder_block_3",))
    ours, theirs = extraction(plan, setting.folder), bare_passes(plan)
    ours(), theirs()
    compared = interleave(ours, theirs, repeats=setting.repeats)
    return Measurement(compared, {"samples": len(plan.samples), "layer": "encoder_block_3", "batch": BATCH})


@benchmark(
    "extraction-scaling",
    "extraction of two layers of growing sets, edm-digits, CPU",
    TWICE,
    TWICE_THE_HALF,
    LINEAR,
)
def growing(setting: Setting) -> Measurement:
    """Extract two layers of growing sets; doubling the set may double the time."""
    sizes = [3125, 6250, 12_500, *([25_000, 50_000, 100_000] if setting.large else [])]
    layers = ("encoder_bottleneck", "decoder_block_4")
    return measure_doubling(
        lambda count: extraction(_plan(count, layers), setting.folder),
        [20, 40] if setting.quick else sizes,
        repeats=min(setting.repeats, 2),
    )


def extraction(plan: ExtractionPlan, folder: Path) -> Measure:
    """Return a measure of an extraction into a fresh folder; removing the one before is not counted."""
    target = folder / "arrays"

    def measure() -> float:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        return seconds_of(lambda: capture_activations(plan, plan.keys, target, progress=False))()

    return measure


def bare_passes(plan: ExtractionPlan) -> Measure:
    """Return a measure of the same passes without anything around them; their inputs are made and moved beforehand."""
    adapter, inputs = plan.adapter, _noised(plan)

    def pass_through() -> None:
        with torch.inference_mode():
            for x in inputs:
                denoised = adapter.forward(x, SIGMA)
            denoised.sum().item()  # a GPU is done when its last result is there

    return seconds_of(pass_through)


def _noised(plan: ExtractionPlan) -> list[Tensor]:
    """Return x0 + sigma · noise(sample_id) of each batch, on the model's device."""
    made = []
    for start in range(0, len(plan.samples), plan.recipe.batch_size):
        ids = plan.samples.sample_ids[start : start + plan.recipe.batch_size]
        x0 = plan.adapter.encode(plan.samples.images_of(ids)).cpu()
        made.append((x0 + SIGMA * sample_noise(ids, tuple(x0.shape[1:]))).to(plan.adapter.device))
    return made
