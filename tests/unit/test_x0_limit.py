"""Clipping and thresholding of x0, and schedules that end with noise, against diffusers' steps and pipelines."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler
from torch import Tensor

from diffviews.adapters.diffusers_ddpm import DDPMAdapter
from diffviews.adapters.diffusion_schedule import DiffusionSchedule
from diffviews.adapters.diffusion_scheduler import FolderScheduler
from diffviews.adapters.stable_diffusion import StableDiffusionAdapter, StableDiffusionXLAdapter
from diffviews.core import GenerationRequest, generate
from diffviews.core.plan import GenerationPlan
from diffviews.errors import CheckpointError, ConfigError
from diffviews.noise import keyed_generator
from diffviews.sampling.samplers import euler, heun, renoise, samples
from diffviews.sampling.x0_limit import X0Limit
from tests.diffusion_folders import draw_ddpm_pipeline, draw_sd_pipeline, draw_sdxl_pipeline, saved

CLIP, NARROW = {"clip_sample": True}, {"clip_sample": True, "clip_sample_range": 0.43}
THRESHOLD = {"thresholding": True, "sample_max_value": 3.0, "dynamic_thresholding_ratio": 0.9}
DEFAULT_THRESHOLD = {"thresholding": True, "clip_sample": False}
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def start(adapter: Any, count: int, seed: int = 5) -> Tensor:
    """The unit noise of a generation's samples."""
    generators = [keyed_generator("generation", seed, index) for index in range(count)]
    return torch.stack([torch.randn(*adapter.input_shape, generator=generator) for generator in generators])


def shown(pixels: Tensor) -> np.ndarray:
    """Images of pixel models, as diffusers' pipelines make them."""
    return ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)


def assert_same_images(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert (ours == theirs).mean() > 0.97
    assert theirs.std() > 10, "flat images would hide differences"


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return draw_ddpm_pipeline(7, DDIMScheduler())


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("limit", [CLIP, NARROW, THRESHOLD, DEFAULT_THRESHOLD, {"clip_sample": False}])
@pytest.mark.parametrize("kind", ["DDIMScheduler", "DDPMScheduler", "LCMScheduler"])
def test_x0_is_that_of_the_scheduler_s_step(kind: str, limit: dict, prediction: str, pipeline: Any) -> None:
    scheduler = getattr(diffusers, kind)(prediction_type=prediction, **limit)
    adapter = DDPMAdapter(pipeline.unet, DiffusionSchedule.from_config({**scheduler.config, "_class_name": kind}), {})
    scheduler.set_timesteps(10)
    for timestep in scheduler.timesteps[[0, 4, 9]].tolist():
        sample = torch.randn(2, 3, adapter.resolution, adapter.resolution, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            output = pipeline.unet(sample, timestep).sample
        scheduler._step_index = None  # LCM counts
        step = scheduler.step(output, timestep, sample)
        expected = step.denoised if kind == "LCMScheduler" else step.pred_original_sample
        sigma = float(adapter.schedule.sigmas[timestep])
        found = adapter.forward(sample * (1 + sigma**2) ** 0.5, sigma)
        torch.testing.assert_close(found, expected, atol=2e-3 * float(expected.abs().max()), rtol=2e-3)


@pytest.mark.parametrize("limit", [CLIP, NARROW, THRESHOLD, {"clip_sample": False, "thresholding": True}])
@pytest.mark.parametrize("kind", ["DDIMScheduler", "DDPMScheduler"])
def test_limited_run_equals_the_ddim_pipeline(kind: str, limit: dict, tmp_path: Path) -> None:
    scheduler = getattr(diffusers, kind)(timestep_spacing="leading", **limit)
    pipeline = draw_ddpm_pipeline(8, scheduler)
    adapter = DDPMAdapter.from_checkpoint(saved(pipeline, tmp_path / "model"), device="cpu")
    ddim = DDIMPipeline(pipeline.unet, DDIMScheduler.from_config(scheduler.config))
    ddim.set_progress_bar_config(disable=True)
    generators = [keyed_generator("generation", 5, index) for index in range(2)]
    theirs = ddim(batch_size=2, generator=generators, num_inference_steps=8, output_type="np").images
    ours = generate(adapter, GenerationRequest(num_samples=2, seed=5, num_steps=8)).images
    assert_same_images(ours, (theirs * 255).round().astype(np.uint8))
    adapter.x0_limit = None
    without = generate(adapter, GenerationRequest(num_samples=2, seed=5, num_steps=8)).images
    assert np.abs(without.astype(int) - ours).max() > 5, "the limit made no difference"


def test_heun_s_clipping_equals_diffusers(tmp_path: Path) -> None:
    scheduler = HeunDiscreteScheduler(clip_sample=True, clip_sample_range=0.6, timestep_spacing="leading")
    pipeline = draw_ddpm_pipeline(9, scheduler)
    adapter = DDPMAdapter.from_checkpoint(saved(pipeline, tmp_path / "model"), device="cpu")
    scheduler.set_timesteps(6)
    x = start(adapter, 2) * scheduler.init_noise_sigma
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            output = pipeline.unet(scheduler.scale_model_input(x, timestep), timestep).sample
            x = scheduler.step(output, timestep, x).prev_sample
    ours = generate(adapter, GenerationRequest(num_samples=2, seed=5, num_steps=6, sampler="heun")).images
    assert_same_images(ours, shown(x))


def test_sdxl_s_latents_are_clipped_and_stable_diffusion_s_never_as_in_their_pipelines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clipping = DDIMScheduler(clip_sample=True, clip_sample_range=0.8)
    xl = saved(draw_sdxl_pipeline(4, clipping), tmp_path / "xl")
    assert StableDiffusionXLAdapter.from_checkpoint(xl, device="cpu").x0_limit == X0Limit(0.8, keeps_noise=True)
    folder = saved(draw_sd_pipeline(0, DDIMScheduler()), tmp_path / "sd")
    clipping.save_pretrained(folder / "scheduler")
    caplog.clear()
    adapter = StableDiffusionAdapter.from_checkpoint(folder, device="cpu")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.scheduler.set_timesteps(7)
    assert adapter.x0_limit is None
    assert not pipeline.scheduler.config.clip_sample
    assert adapter.schedule.timesteps(7).tolist() == pipeline.scheduler.timesteps.tolist()
    assert "steps_offset 1, clip_sample False is taken" in caplog.text


# How a schedule ends


@pytest.mark.parametrize(
    ("betas", "spacing", "offset"),
    [
        ({"beta_schedule": "linear", "beta_start": 0.02, "beta_end": 0.03}, "leading", 0),
        ({"beta_schedule": "linear", "beta_start": 0.02, "beta_end": 0.03}, "leading", 1),
        ({"beta_schedule": "scaled_linear", "beta_start": 0.004, "beta_end": 0.02}, "trailing", 0),
    ],
)
def test_ddim_that_ends_at_its_first_level_equals_the_pipeline(
    betas: dict, spacing: str, offset: int, tmp_path: Path
) -> None:
    scheduler = DDIMScheduler(
        **betas, set_alpha_to_one=False, timestep_spacing=spacing, steps_offset=offset, prediction_type="v_prediction",
        clip_sample=False,
    )  # fmt: skip
    pipeline = draw_ddpm_pipeline(11, scheduler)
    adapter = DDPMAdapter.from_checkpoint(saved(pipeline, tmp_path / "model"), device="cpu")
    ddim = DDIMPipeline(pipeline.unet, scheduler)
    ddim.set_progress_bar_config(disable=True)
    generators = [keyed_generator("generation", 5, index) for index in range(2)]
    theirs = ddim(batch_size=2, generator=generators, num_inference_steps=8, output_type="np").images
    request = GenerationRequest(num_samples=2, seed=5, num_steps=8)
    assert_same_images(generate(adapter, request).images, (theirs * 255).round().astype(np.uint8))
    assert adapter.model_ending(8).sigma == pytest.approx(adapter.sigma_range[0], rel=1e-5)


def test_euler_that_ends_at_sigma_min_equals_diffusers(tmp_path: Path) -> None:
    scheduler = EulerDiscreteScheduler(
        final_sigmas_type="sigma_min", timestep_spacing="leading", beta_start=0.03, beta_end=0.05,
        prediction_type="v_prediction", num_train_timesteps=100,
    )  # fmt: skip
    pipeline = draw_ddpm_pipeline(12, scheduler)
    adapter = DDPMAdapter.from_checkpoint(saved(pipeline, tmp_path / "model"), device="cpu")
    scheduler.set_timesteps(5)
    x = start(adapter, 2) * scheduler.init_noise_sigma
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            output = pipeline.unet(scheduler.scale_model_input(x, timestep), timestep).sample
            x = scheduler.step(output, timestep, x).prev_sample
    request = GenerationRequest(num_samples=2, seed=5, num_steps=5)
    assert_same_images(generate(adapter, request).images, shown(x))
    # A range of the user's own is taken down to 0, and so is eq. 5 of Karras et al.
    for other in (GenerationRequest(num_steps=5, sigma_min=0.2), GenerationRequest(num_steps=5, schedule="karras")):
        assert GenerationPlan.of(adapter, other).ending.sigma == 0


# The limit by itself


def test_thresholding_is_the_scheduler_s_for_each_sample() -> None:
    scales = torch.tensor([0.3, 2.0, 9.0]).reshape(3, 1, 1, 1)
    x0 = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * scales
    for ratio, largest in ((0.995, 1.0), (0.9, 3.0), (0.5, 100.0)):
        theirs = DDIMScheduler(thresholding=True, dynamic_thresholding_ratio=ratio, sample_max_value=largest)
        torch.testing.assert_close(X0Limit(None, ratio, largest)(x0), theirs._threshold_sample(x0))
        torch.testing.assert_close(X0Limit(None, ratio, largest)(x0.double()).float(), theirs._threshold_sample(x0))


def test_samplers_apply_the_limit_to_what_they_show_and_return() -> None:
    x, levels = torch.full((1, 1, 2, 2), 8.0), torch.tensor([8.0, 2.0])

    def steps(sampler: Any, limit: X0Limit) -> list[Any]:
        return list(sampler(lambda x, sigma: x * 0 + 5, x, levels, lambda shape: x * 0, limit=limit))

    for sampler in (euler, heun, renoise):
        taken = steps(sampler, X0Limit(2.0))
        assert all(bool((step.denoised == 2).all()) for step in taken)
        assert bool((taken[-1].x_next == 2).all())
    # DDIM steps along the noise of the estimate as it was, 2 + 2/8 · (8 - 5); others along that of what is kept.
    assert float(steps(euler, X0Limit(2.0, keeps_noise=True))[0].x_next.mean()) == 2.75
    assert float(steps(euler, X0Limit(2.0))[0].x_next.mean()) == 3.5


def test_samplers_end_where_they_are_told() -> None:
    x = torch.full((1, 1, 1, 1), 8.0)
    levels = torch.tensor([8.0, 4.0])
    assert float(samples(euler(lambda x, sigma: x * 0, x, levels, None, end=1.0))) == 1.0
    assert float(samples(heun(lambda x, sigma: x * 0, x, levels, None, end=1.0))) == 1.0
    assert float(samples(euler(lambda x, sigma: x * 0, x, levels, None, end=9.0))) == 4.0
    assert float(samples(euler(lambda x, sigma: x * 0, x, levels, None))) == 0.0


@pytest.mark.parametrize("faulty", [{"clip_sample_range": 0.0}, {"clip_sample_range": -1}])
def test_impossible_limits_are_refused(faulty: dict) -> None:
    scheduler = {"_class_name": "DDIMScheduler", **faulty}
    with pytest.raises(CheckpointError, match="clipped to"):
        FolderScheduler.from_config(scheduler).limit  # noqa: B018 - it is computed when asked for
    with pytest.raises(ConfigError, match="ratio"):
        X0Limit(None, ratio=1.5)
    with pytest.raises(ConfigError, match="largest"):
        X0Limit(None, largest=0.5)
