"""Extraction and masked sampling against the bare forward passes, extraction also against one pass a layer."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.edm_imagenet import EDMImageNetAdapter
from diffviews.adapters.registry import load_adapter
from diffviews.core.generator import generate
from diffviews.core.interventions import FixedTarget, Intervention
from diffviews.core.request import GenerationRequest
from diffviews.data.samples import SampleSet
from diffviews.data.sources import open_source
from diffviews.models.adm_unet import ADMUNet
from diffviews.models.preconditioning import EDMPrecond
from diffviews.noise import sample_noise
from diffviews.pipelines.capture.arrays import capture_activations
from diffviews.pipelines.plan import ExtractionPlan
from diffviews.recipes.extraction import ExtractionRecipe
from experiments.benchmarks.benchmark import (
    DOUBLING,
    Benchmark,
    Measure,
    Measurement,
    NotMeasuredError,
    Setting,
    Target,
    benchmark,
    measure_doubling,
    seconds_of,
)

SIGMA, BATCH = 2.0, 128
EARLY, MASKED = "encoder_block_3", "decoder_block_4"
FITTED = 512
"""Samples that sketches are fitted on; with few the share of the time that fitting takes shows."""


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


def digits_plan(samples: int, layers: tuple[str, ...] = ()) -> ExtractionPlan:
    """Return an extraction with the shipped model on the CPU."""
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
    return _against_bare_passes(setting, digits_plan(setting.size(1797, 24)))


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
    plan = digits_plan(setting.size(512, 24))
    ours, layers = extraction(plan, setting.folder), plan.recipe.layers
    alone = [replace(plan, recipe=replace(plan.recipe, layers=(layer,))) for layer in layers]
    each = [extraction(one, setting.folder) for one in alone]
    ours(), each[0]()
    compared = setting.compare(ours, lambda: sum(measure() for measure in each), most=2)
    return Measurement(compared, {"samples": len(plan.samples), "layers": len(layers)})


@benchmark(
    "early-stop",
    f"extraction of `{EARLY}` alone with storing, edm-digits, 1,797 samples, one sigma, CPU",
    "passes that end after that layer, stored as Zarr chunks with digests",
    "the bare forward passes of the whole network over the same batches",
    Target("ratio", 0.6),
)
def early_stop(setting: Setting) -> Measurement:
    """Extract one early layer and store it, against the forward passes of the whole network alone."""
    return _against_bare_passes(setting, digits_plan(setting.size(1797, 24), (EARLY,)))


def _against_bare_passes(setting: Setting, plan: ExtractionPlan, *, most: int | None = None) -> Measurement:
    compared = setting.compare(extraction(plan, setting.folder), bare_passes(plan), most=most, warm=True)
    named, layers = ("layer", EARLY) if plan.recipe.layers == (EARLY,) else ("layers", len(plan.recipe.layers))
    return Measurement(compared, {"samples": len(plan.samples), named: layers, "batch": plan.recipe.batch_size})


@benchmark("extraction-scaling", "extraction of two layers of growing sets, edm-digits, CPU", *DOUBLING)
def growing(setting: Setting) -> Measurement:
    """Extract two layers of growing sets; doubling the set may double the time."""
    return measure_doubling(
        lambda count: extraction(digits_plan(count, ("encoder_bottleneck", MASKED)), setting.folder),
        setting.sizes([3125, 6250, 12_500], [25_000, 50_000, 100_000], [20, 40]),
        repeats=min(setting.repeats, 2),
    )


def measure_on_gpu(setting: Setting, precision: str) -> Measurement:
    """Extract all layers of the full-size network as sketches.

    Raises:
        NotMeasuredError: if there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise NotMeasuredError("no CUDA device")
    adapter = full_size(precision)
    return compare_sketching(adapter, setting, samples=setting.size(8192, 64), batch=setting.size(256, 16))


def compare_sketching(adapter: GeneratorAdapter, setting: Setting, *, samples: int, batch: int) -> Measurement:
    """Extract all layers of a model as sketches, against its bare passes."""
    fitted = min(FITTED, samples // 2)
    plan = plan_of(adapter, samples, storage="sketch", sketch_samples=fitted, batch_size=batch)
    found = _against_bare_passes(setting, plan, most=3)
    return replace(found, facts={**found.facts, "fitted on": fitted, "precision": adapter.precision})


def full_size(precision: str) -> GeneratorAdapter:
    """Return the published network with random weights, on the GPU; what it takes does not depend on the weights."""
    config = EDMImageNetAdapter.get_default_config()
    scaling = {key: float(config[key]) for key in ("sigma_min", "sigma_max", "sigma_data")}
    with torch.device("cuda"):
        network = ADMUNet(**{key: value for key, value in config.items() if key not in scaling})
    for values in network.parameters():
        if not values.any():  # layers that begin at zero, whose activations would all be the same
            torch.nn.init.normal_(values, std=0.01)
    model = EDMPrecond(network.to(getattr(torch, precision)), **scaling)
    return EDMImageNetAdapter(model.requires_grad_(False), config).to("cuda").eval()


ON_GPU = tuple(
    Benchmark(
        f"extraction-gpu-{precision}",
        f"all-layer extraction as sketches, edm-imagenet-64 (random weights), {precision}, GPU",
        "all layers projected on the device and stored",
        "the bare forward passes of the same batches",
        Target("ratio", 1.10),
        partial(measure_on_gpu, precision=precision),
    )
    for precision in ("float32", "float16", "bfloat16")
)


@benchmark(
    "masked",
    "sampling with a `fixed` mask, baseline not counted; edm-digits, 64 samples, 18 steps of Heun, CPU",
    "one layer replaced at every step",
    "the same sampling without a mask",
    Target("ratio", 1.05),
)
def masked(setting: Setting) -> Measurement:
    """Sample with one layer replaced by a fixed value, and without."""
    adapter = load_adapter("edm-digits", device="cpu")
    samples, steps = setting.size(64, 2), setting.size(18, 2)

    def sampling(*interventions: Intervention) -> Measure:
        request = GenerationRequest(
            class_labels=-1, num_samples=samples, num_steps=steps, seed=0, interventions=interventions, baseline=False
        )
        return seconds_of(lambda: generate(adapter, request))

    mask = Intervention(MASKED, FixedTarget(torch.zeros(1, *adapter.get_layer_shapes()[MASKED])))
    compared = setting.compare(sampling(mask), sampling(), warm=True)
    return Measurement(compared, {"samples": samples, "steps": steps, "layer": MASKED})


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
