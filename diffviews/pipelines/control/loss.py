"""What a mask costs the model: its denoising loss on real images, with the mask of their own class over without."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diffviews.adapters.condition import Condition
from diffviews.core.interventions import FixedTarget, Intervention
from diffviews.core.session import GuidancePass, InterventionSession
from diffviews.noise import sample_noise
from diffviews.pipelines.control.averages import Averages, Group
from diffviews.pipelines.plan import ExtractionPlan

IMAGES = 100
"""Real images behind the ratio, as many of each class, at least one."""

BATCH = 50


@torch.no_grad()
def loss_ratio(
    plan: ExtractionPlan, averages: Averages, layer: str, sigma: float, classes: Sequence[int] | np.ndarray
) -> float:
    """Return Σ‖D_mask(x0 + σn; σ) − x0‖² / Σ‖D(x0 + σn; σ) − x0‖² over real images.

    They are of no average, as far as their class has others; label left uniform, as in the generations.

    Args:
        plan: the extraction.
        averages: of the layer.
        layer: that is masked.
        sigma: noise level.
        classes: whose images are taken.
    """
    each = max(1, IMAGES // len(classes))
    first: list[Group] = [(int(label), 0) for label in classes]
    pairs = [(group, row) for group in first for row in averages.draws.held_out(group, each)]
    sums = torch.zeros(2, dtype=torch.float64)
    for start in range(0, len(pairs), BATCH):
        groups, rows = zip(*pairs[start : start + BATCH], strict=True)
        sums += _losses(plan, layer, sigma, np.asarray(rows), torch.from_numpy(np.array(averages.own(groups))))
    masked, unmasked = sums.tolist()
    return masked / unmasked if unmasked else float("nan")


def _losses(plan: ExtractionPlan, layer: str, sigma: float, rows: np.ndarray, values: Tensor) -> Tensor:
    """Return the summed squared errors with the mask and without, (2,) float64."""
    adapter = plan.adapter
    x0, ids, _ = plan.inputs(rows)
    noised = (x0.to("cpu", torch.float32) + sigma * sample_noise(ids, x0.shape[1:])).to(adapter.device)
    levels = torch.full((len(rows),), sigma, dtype=torch.float32, device=adapter.device)
    uniform = [Condition(class_id=-1)] * len(rows)
    conditioning = adapter.condition(uniform)
    passing: GuidancePass = "conditional" if conditioning else "unconditional"
    conditioning = conditioning or adapter.uncondition(uniform)
    adapter.tell_level(sigma)
    plain = adapter.forward(noised, levels, **conditioning)
    change = Intervention(layer, FixedTarget(values))
    with InterventionSession(adapter, (change,)) as session, session.evaluation(0, sigma, passing):
        masked = adapter.forward(noised, levels, **conditioning)
    errors = [(found.cpu().to(torch.float64) - x0.cpu()).square().sum() for found in (masked, plain)]
    return torch.stack(errors)
