"""The discrete schedule of diffusers' models: levels, timesteps and predictions, against closed forms and diffusers."""

import math
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from diffviews.adapters.diffusion_schedule import DiffusionSchedule
from diffviews.errors import CheckpointError, ConfigError

SD = {"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
BETAS = (
    {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": [0.001 + 0.00002 * i for i in range(500)], "num_train_timesteps": 500},
)
def told(scheduler: Any) -> dict[str, Any]:
    """Return what a scheduler writes into its file."""
    return {**scheduler.config, "_class_name": type(scheduler).__name__}


SD_SCHEDULE = DiffusionSchedule.from_config(SD)


def test_sigma_range_of_stable_diffusion_is_the_known_one() -> None:
    low, high = SD_SCHEDULE.sigma_range
    assert low == pytest.approx(0.0292, abs=1e-4)
    assert high == pytest.approx(14.6146, abs=1e-3)


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("zero_snr", [False, True])
def test_levels_are_those_of_diffusers(betas: dict, zero_snr: bool) -> None:
    scheduler = EulerDiscreteScheduler(**betas, rescale_betas_zero_snr=zero_snr)
    ours = DiffusionSchedule.from_config(told(scheduler)).sigmas
    theirs = scheduler.sigmas[:-1].flip(0)
    rising = theirs < theirs[-1]  # where the last is lower than some before it, those are lowered here
    rising[-1] = True
    assert int((~rising).sum()) <= 3
    torch.testing.assert_close(ours.float()[rising], theirs[rising], rtol=1e-6, atol=0)
    assert bool((ours.diff() > 0).all())


def test_zero_terminal_snr_keeps_every_level_finite() -> None:
    euler = {**SD, "_class_name": "EulerDiscreteScheduler", "rescale_betas_zero_snr": True}
    assert DiffusionSchedule.from_config(euler).sigma_range[1] == pytest.approx(4096, rel=1e-6)
    for betas in BETAS:
        rescaled = DiffusionSchedule.from_config({**betas, "rescale_betas_zero_snr": True}).sigmas
        assert torch.isfinite(rescaled).all()
        assert bool((rescaled.diff() > 0).all())


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, DDIMScheduler])
@pytest.mark.parametrize("num_steps", [1, 4, 7, 50])
def test_timesteps_are_those_of_diffusers(spacing: str, offset: int, kind: type, num_steps: int) -> None:
    scheduler = kind(timestep_spacing=spacing, steps_offset=offset)
    scheduler.set_timesteps(num_steps)
    ours = DiffusionSchedule.from_config(told(scheduler)).timesteps(num_steps)
    torch.testing.assert_close(ours, scheduler.timesteps.double(), atol=0, rtol=0)


def test_karras_spacing_of_the_configuration_is_followed() -> None:
    scheduler = EulerDiscreteScheduler(**BETAS[1], timestep_spacing="linspace", use_karras_sigmas=True)
    scheduler.set_timesteps(10)
    ours = DiffusionSchedule.from_config(told(scheduler)).levels(10)
    torch.testing.assert_close(ours.float(), scheduler.sigmas[:-1], rtol=1e-5, atol=0)


def test_spacing_not_said_is_the_default_of_the_scheduler_named() -> None:
    assert SD_SCHEDULE.timesteps(4).tolist() == [750, 500, 250, 0]
    euler = DiffusionSchedule.from_config({**SD, "_class_name": "EulerDiscreteScheduler"})
    assert euler.timesteps(4).tolist() == [999, 666, 333, 0]


def test_every_level_is_its_own_whole_timestep_even_in_float32() -> None:
    for betas in BETAS:
        schedule = DiffusionSchedule.from_config(betas)
        expected = torch.arange(schedule.num_timesteps).float()
        assert torch.equal(schedule.timestep_of(schedule.sigmas), expected)
        assert torch.equal(schedule.timestep_of(schedule.sigmas.float()), expected)
        assert torch.equal(schedule.sigma_at(expected), schedule.sigmas)


@given(st.floats(min_value=0, max_value=999))
def test_fractional_timesteps_return(timestep: float) -> None:
    sigma = SD_SCHEDULE.sigma_at(timestep)
    assert float(SD_SCHEDULE.timestep_of(sigma)) == pytest.approx(timestep, abs=2e-3)
    below, above = math.floor(timestep), min(math.floor(timestep) + 1, 999)
    share = timestep - below
    logs = SD_SCHEDULE.sigmas.log()
    assert float(sigma.log()) == pytest.approx(float(logs[below] * (1 - share) + logs[above] * share), abs=1e-9)


def test_levels_outside_take_the_nearest_end() -> None:
    assert SD_SCHEDULE.timestep_of(torch.tensor([1e-6, 1e6])).tolist() == [0.0, 999.0]


def test_given_ends_are_kept_and_joined_evenly_in_timestep() -> None:
    levels = SD_SCHEDULE.levels(5, sigma_max=10.0, sigma_min=0.5)
    assert (levels[0].item(), levels[-1].item()) == (10.0, 0.5)
    timesteps = SD_SCHEDULE.timestep_of(levels).double()
    torch.testing.assert_close(timesteps.diff(), timesteps.diff()[:1].expand(4), atol=2e-3, rtol=0)
    assert SD_SCHEDULE.levels(1, sigma_max=3.0).tolist() == [3.0]
    assert SD_SCHEDULE.levels(3, sigma_max=80.0, sigma_min=0.002).tolist()[0::2] == pytest.approx(
        SD_SCHEDULE.sigma_range[::-1]
    )
    assert bool((SD_SCHEDULE.levels(4, sigma_max=0.03).diff() <= 0).all())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_denoised_undoes_each_prediction(prediction: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 4, 4, generator=generator).double()
    sigma = torch.tensor([0.3, 1.0, 9.0]).double().reshape(-1, 1, 1, 1)
    alpha, sigma_vp = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
    output = {"epsilon": noise, "sample": x0, "v_prediction": alpha * noise - sigma_vp * x0}[prediction]
    schedule = DiffusionSchedule.from_config({**SD, "prediction_type": prediction})
    torch.testing.assert_close(schedule.denoised(output, x0 + sigma * noise, sigma), x0)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEuler"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "whole timesteps"),
        ({"prediction_type": "flow"}, "'flow'"),
        ({"timestep_spacing": "even"}, "'even'"),
        ({"beta_schedule": "sigmoid"}, "'sigmoid'"),
        ({"trained_betas": [0.1, 1.5]}, "between 0 and 1"),
    ],
)
def test_other_kinds_of_schedule_are_refused(config: dict, named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        DiffusionSchedule.from_config({**SD, **config})


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ConfigError, match="1001"):
        SD_SCHEDULE.levels(1001)
    with pytest.raises(ConfigError, match="num_steps 0"):
        SD_SCHEDULE.levels(0)
    with pytest.raises(ConfigError, match="sigma_min"):
        SD_SCHEDULE.levels(3, sigma_max=1.0, sigma_min=2.0)
