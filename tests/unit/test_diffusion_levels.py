"""A table: the levels and timesteps of every scheduler that is known × spacing × option, against diffusers' own."""

from inspect import signature
from itertools import product
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from diffviews.adapters.diffusion_schedule import DiffusionSchedule
from diffviews.adapters.diffusion_scheduler import LEVELS_OF, SCHEDULERS

SPACINGS = ("linspace", "leading", "trailing")
CONVERSIONS: tuple[dict[str, Any], ...] = (
    {}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True},
    {"use_lu_lambdas": True},
)  # fmt: skip
FEW = {"num_train_timesteps": 120}
"""Timesteps in training where everything is tried with everything: of 1,000 some schedulers take half a second."""
BETAS: tuple[dict[str, Any], ...] = (
    FEW, {**FEW, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {**FEW, "beta_schedule": "squaredcos_cap_v2"}, {**FEW, "trained_betas": [0.001 + 0.0002 * i for i in range(120)]},
)  # fmt: skip
ENDS: tuple[dict[str, Any], ...] = (
    {}, {"num_train_timesteps": 300},
    *({**FEW, **option} for option in (
        {"final_sigmas_type": "sigma_min"}, {"set_alpha_to_one": False}, {"set_alpha_to_one": True},
        {"steps_offset": 1}, {"steps_offset": 3}, {"rescale_betas_zero_snr": True}, {"lambda_min_clipped": -5.1},
        {"sigma_min": 0.05, "sigma_max": 9.0, "use_karras_sigmas": True}, {"original_inference_steps": 25},
        {"skip_prk_steps": True},
    )),
)  # fmt: skip

# numpy warns of each array that diffusers makes of a tensor, 700,000 times here
pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")


def options(kind: str, *, everything: bool) -> list[dict[str, Any]]:
    """Return what of the table a scheduler takes: every conversion with every schedule, and every other option.

    Args:
        kind: class of the scheduler.
        everything: false where that takes long: each conversion and each schedule by itself.
    """
    pairs = product(CONVERSIONS, BETAS) if everything else [*product(CONVERSIONS, BETAS[:1]), *product([{}], BETAS[1:])]
    combined = [{**conversion, **betas} for conversion, betas in pairs] + list(ENDS)
    return [option for option in combined if option.keys() <= keys_of(kind)]


def keys_of(kind: str) -> set[str]:
    """Return the keys of a scheduler's configuration."""
    return set(signature(getattr(diffusers, LEVELS_OF.get(kind, kind))).parameters)


def own_levels(scheduler: Any) -> Tensor:
    """Return the levels above 0 that a scheduler steps between, as its attributes tell them."""
    if not hasattr(scheduler, "sigmas"):
        abar = scheduler.alphas_cumprod.double()[scheduler.timesteps.unique().flip(0)]
        return ((1 - abar) / abar).sqrt()
    levels = scheduler.sigmas[:-1].unique_consecutive()
    return levels[levels > 0].double()


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_levels_and_timesteps_are_those_of_diffusers(kind: str, spacing: str) -> None:
    if kind in LEVELS_OF:
        pytest.importorskip("torchsde", reason="diffusers' DPMSolverSDEScheduler needs torchsde")
    tried, spaced = 0, {"timestep_spacing": spacing} if "timestep_spacing" in keys_of(kind) else {}
    for option in options(kind, everything=spacing == "leading" or not kind.startswith("KDPM2")):
        made = getattr(diffusers, kind)(**{**option, **spaced, **skipping(kind)})
        schedule = DiffusionSchedule.from_config({**made.config, **option, "_class_name": kind})
        for steps in (1, 6, 10, 25):
            made.set_timesteps(steps)
            ours, theirs = schedule.levels(steps), own_levels(made)
            finite = torch.isfinite(theirs)
            assert ours.shape == theirs.shape, (option, steps)
            torch.testing.assert_close(ours[finite], theirs[finite], rtol=2e-6, atol=0, msg=f"{option}, {steps} steps")
            assert bool(torch.isfinite(ours).all())
            assert bool((ours.diff() < 0).all()), (option, steps)
            assert_told_the_same(schedule, made, ours, (option, steps))
            tried += 1
    assert tried >= 4 * 6


def skipping(kind: str) -> dict[str, Any]:
    # PNDM's Runge-Kutta stages are evaluations between its levels, and none of them.
    return {"skip_prk_steps": True} if kind == "PNDMScheduler" else {}


def assert_told_the_same(schedule: DiffusionSchedule, scheduler: Any, levels: Tensor, where: Any) -> None:
    """Check that the network is told the timesteps that diffusers tells it."""
    if hasattr(scheduler, "sigmas"):
        theirs = torch.as_tensor(scheduler.timesteps).double()[:: scheduler.order][: len(levels)]
    else:
        theirs = scheduler.timesteps.unique().flip(0).double()
    ours = schedule.timestep_of(levels).double()
    # Where diffusers cuts fractions off, rounding of its sigmas can cut one more; a level of 1 in 1000 differs by that.
    most = {"floored": 1.0, "rounded": 1.0}.get(schedule.reading, 0.02)
    off = (ours - theirs).abs()
    assert float(off.max()) <= most, (where, ours.tolist(), theirs.tolist())
    if schedule.reading in ("floored", "rounded"):
        assert int((off > 0).sum()) <= 2, (where, ours.tolist(), theirs.tolist())
