"""Sampling with a layer masked, against sampling without."""

from collections.abc import Callable

import torch

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.registry import load_adapter
from diffviews.core.generator import generate
from diffviews.core.interventions import FixedTarget, Intervention
from diffviews.core.request import GenerationRequest
from experiments.benchmarks.benchmark import Measurement, Setting, benchmark
from experiments.benchmarks.measurement import Target, interleave, seconds_of

LAYER = "decoder_block_4"


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
    target = FixedTarget(torch.zeros(1, *adapter.get_layer_shapes()[LAYER]))
    masked = _sampling(adapter, samples, steps, (Intervention(LAYER, target),))
    unmasked = _sampling(adapter, samples, steps, ())
    masked(), unmasked()
    compared = interleave(seconds_of(masked), seconds_of(unmasked), repeats=setting.repeats)
    return Measurement(compared, {"samples": samples, "steps": steps, "layer": LAYER})


def _sampling(
    adapter: GeneratorAdapter, samples: int, steps: int, interventions: tuple[Intervention, ...]
) -> Callable[[], object]:
    request = GenerationRequest(
        class_labels=-1, num_samples=samples, num_steps=steps, seed=0, interventions=interventions, baseline=False
    )
    return lambda: generate(adapter, request)
