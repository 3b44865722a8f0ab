"""Extraction with the full-size ImageNet-64 network on a GPU, by sketches, against the bare forward passes."""

from functools import partial

import torch

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.edm_imagenet import EDMImageNetAdapter
from diffviews.models.adm_unet import ADMUNet
from diffviews.models.preconditioning import EDMPrecond
from experiments.benchmarks.benchmark import Benchmark, Measurement, NotMeasuredError, Setting
from experiments.benchmarks.extraction import bare_passes, extraction, plan_of
from experiments.benchmarks.measurement import Target, interleave

SCALING = ("sigma_min", "sigma_max", "sigma_data")
FITTED = 512
"""Samples that the sketches are fitted on; with few the share of the time that fitting takes shows."""


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
    ours, theirs = extraction(plan, setting.folder), bare_passes(plan)
    ours(), theirs()
    compared = interleave(ours, theirs, repeats=min(setting.repeats, 3))
    facts = {"samples": samples, "fitted on": fitted, "layers": len(plan.recipe.layers), "batch": batch}
    return Measurement(compared, facts | {"precision": adapter.precision})


def full_size(precision: str) -> GeneratorAdapter:
    """Return the published network with random weights, on the GPU; what it takes does not depend on the weights."""
    config = EDMImageNetAdapter.get_default_config()
    with torch.device("cuda"):
        network = ADMUNet(**{key: value for key, value in config.items() if key not in SCALING})
    for values in network.parameters():
        if not values.any():  # layers that begin at zero, whose activations would all be the same
            torch.nn.init.normal_(values, std=0.01)
    model = EDMPrecond(network.to(getattr(torch, precision)), **{key: float(config[key]) for key in SCALING})
    return EDMImageNetAdapter(model.requires_grad_(False), config).to("cuda").eval()


def _benchmark(precision: str) -> Benchmark:
    return Benchmark(
        f"extraction-gpu-{precision}",
        f"all-layer extraction as sketches, edm-imagenet-64 (random weights), {precision}, GPU",
        "all layers projected on the device and stored",
        "the bare forward passes of the same batches",
        Target("ratio", 1.10),
        partial(measure_on_gpu, precision=precision),
    )


ON_GPU = tuple(map(_benchmark, ("float32", "float16", "bfloat16")))
