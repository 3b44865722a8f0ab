"""Our sampler over our adapters gives the images of diffusers' own pipelines, for models drawn at random by seed."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, EulerDiscreteScheduler, LCMScheduler

from diffviews.adapters.diffusers_ddpm import DDPMAdapter
from diffviews.adapters.dmd2 import DMD2FourStepAdapter, DMD2OneStepAdapter, DMD2StableDiffusionAdapter
from diffviews.adapters.stable_diffusion import StableDiffusionAdapter, StableDiffusionXLAdapter
from diffviews.core import GenerationRequest, generate
from diffviews.noise import keyed_generator
from tests.diffusion_folders import draw_ddpm_pipeline, draw_scheduler, draw_sd_pipeline, draw_sdxl_pipeline, saved

SEED = 11
PROMPTS = ("a photo of a cat", "two red dogs, blurry")
SD, SDXL = (draw_sd_pipeline, StableDiffusionAdapter), (draw_sdxl_pipeline, StableDiffusionXLAdapter)
KINDS = pytest.mark.parametrize("kind", [SD, SDXL], ids=["sd", "sdxl"])
GUIDANCE = (1.0, 5.0)


@dataclass
class Run:
    """What a sampling gave."""

    images: np.ndarray
    """(2, H, W, 3) uint8."""
    latents: torch.Tensor
    """(2, C, h, w) from which the images were decoded."""


def ours(adapter: Any, **ask: Any) -> Run:
    steps: list[Any] = []
    request = GenerationRequest(num_samples=2, seed=SEED, **ask)
    images = generate(adapter, request, callback=steps.append).images
    return Run(images, steps[-1].image)


def theirs(pipeline: Any, **ask: Any) -> Run:
    """Run the pipeline on the same draws: it asks each sample's generator for the start, then for each re-noising."""
    pipeline.set_progress_bar_config(disable=True)
    steps: list[torch.Tensor] = []

    def note(pipeline: Any, step: int, timestep: Any, state: dict[str, Any]) -> dict[str, Any]:
        steps.append(state["latents"])
        return {}

    generators = [keyed_generator("generation", SEED, index) for index in range(2)]
    given = {"output_type": "np", "callback_on_step_end": note, "generator": generators, **ask}
    images = pipeline(list(PROMPTS), **given).images
    return Run((images * 255).round().astype(np.uint8), steps[-1])


def assert_same_run(ours: Run, theirs: Run) -> None:
    assert ours.images.shape == theirs.images.shape
    assert np.abs(ours.images.astype(int) - theirs.images).max() <= 1
    assert (ours.images == theirs.images).mean() > 0.98, "rounding differs"
    # Random decoders are forgiving, so the latents are compared as well. Theirs are rounded to float32 in every
    # step, which at the 20,000 where a cosine schedule starts is by 1e-3.
    assert float((ours.latents - theirs.latents).norm() / theirs.latents.norm()) < 1e-3
    between = (theirs.images > 0) & (theirs.images < 255)
    assert between.mean() > 0.3, "images of black and white would hide differences"
    assert theirs.images.std() > 10, "flat images would hide differences"


@KINDS
@pytest.mark.parametrize("seed", range(5))
def test_euler_run_equals_the_pipeline(kind: Any, seed: int, tmp_path: Path) -> None:
    draw_pipeline, adapter_class = kind
    pipeline = draw_pipeline(seed)
    adapter = adapter_class.from_checkpoint(saved(pipeline, tmp_path / "model"), device="cpu")
    pipeline.scheduler.set_timesteps(5)
    for guidance in GUIDANCE:
        expected = theirs(pipeline, num_inference_steps=5, guidance_scale=guidance)
        assert_same_run(ours(adapter, prompts=PROMPTS, num_steps=5, guidance_scale=guidance), expected)


@KINDS
@pytest.mark.parametrize("seed", range(10, 13))
def test_ddim_run_equals_the_pipeline(kind: Any, seed: int, tmp_path: Path) -> None:
    draw_pipeline, adapter_class = kind
    # DDIM's steps meet its timesteps only where the steps divide 1000 and are not spaced linearly.
    spacing = ("leading", "trailing")[seed % 2]
    scheduler = draw_scheduler(random.Random(seed), DDIMScheduler, timestep_spacing=spacing)
    pipeline = draw_pipeline(seed, scheduler)
    adapter = adapter_class.from_checkpoint(saved(pipeline, tmp_path / "model"), device="cpu")
    for guidance in GUIDANCE:
        expected = theirs(pipeline, num_inference_steps=8, guidance_scale=guidance)
        assert_same_run(ours(adapter, prompts=PROMPTS, num_steps=8, guidance_scale=guidance, sampler="euler"), expected)


@KINDS
@pytest.mark.parametrize("seed", [20, 21])
def test_negative_prompt_equals_the_pipeline_s(kind: Any, seed: int, tmp_path: Path) -> None:
    draw_pipeline, adapter_class = kind
    scheduler = draw_scheduler(random.Random(seed), EulerDiscreteScheduler, timestep_spacing="leading")
    pipeline = draw_pipeline(seed, scheduler)
    adapter = adapter_class.from_checkpoint(saved(pipeline, tmp_path / "model"), device="cpu")
    ask = {"num_inference_steps": 4, "guidance_scale": 6.0}
    expected = theirs(pipeline, negative_prompt=["green, blurry"] * 2, **ask)
    found = ours(adapter, prompts=PROMPTS, num_steps=4, guidance_scale=6.0, negative_prompt="green, blurry")
    assert_same_run(found, expected)
    without = theirs(pipeline, **ask).images
    assert np.abs(found.images.astype(int) - without).max() > 1, "the negative prompt had no effect"


def lcm(pipeline: Any, **fixed: Any) -> None:
    """Give a pipeline LCM's scheduler, as DMD2's authors run their students."""
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config, **fixed)


@pytest.mark.parametrize("seed", range(30, 33))
def test_dmd2_four_step_schedule_equals_lcm(seed: int, tmp_path: Path) -> None:
    pipeline = draw_sdxl_pipeline(seed, draw_scheduler(random.Random(seed), prediction_type="epsilon"))
    adapter = DMD2FourStepAdapter.from_checkpoint(saved(pipeline, tmp_path / "model"), device="cpu")
    lcm(pipeline)
    timesteps = [999, 749, 499, 249]
    levels = adapter.model_sigmas(4)
    assert adapter.schedule.timestep_of(levels).tolist() == timesteps
    expected = theirs(pipeline, num_inference_steps=4, timesteps=timesteps, guidance_scale=0.0)
    assert_same_run(ours(adapter, prompts=PROMPTS), expected)


@pytest.mark.parametrize("seed", range(40, 42))
@pytest.mark.parametrize(
    ("draw_pipeline", "adapter_class", "timestep"),
    [(draw_sd_pipeline, DMD2StableDiffusionAdapter, 999), (draw_sdxl_pipeline, DMD2OneStepAdapter, 399)],
    ids=["sd", "sdxl"],
)
def test_dmd2_single_step_equals_lcm(
    draw_pipeline: Any, adapter_class: Any, timestep: int, seed: int, tmp_path: Path
) -> None:
    scheduler = draw_scheduler(
        random.Random(seed), prediction_type="epsilon",
        trained_betas=None, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
    )  # fmt: skip
    pipeline = draw_pipeline(seed, scheduler)
    adapter = adapter_class.from_checkpoint(saved(pipeline, tmp_path / "model"), device="cpu")
    lcm(pipeline)
    expected = theirs(pipeline, num_inference_steps=1, timesteps=[timestep], guidance_scale=0.0)
    assert_same_run(ours(adapter, prompts=PROMPTS), expected)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("seed", [50, 51])
def test_unconditional_ddim_run_equals_the_pipeline(prediction: str, seed: int, tmp_path: Path) -> None:
    fixed: dict[str, Any] = {"timestep_spacing": ("leading", "trailing")[seed % 2], "prediction_type": prediction}
    if prediction == "epsilon":
        # Little noise at the most: a random network's x0 = x - sigma · output is else far outside of [-1, 1].
        fixed |= {"trained_betas": None, "beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.002}
    scheduler = draw_scheduler(random.Random(seed), DDIMScheduler, **fixed)
    saved_pipeline = draw_ddpm_pipeline(seed, scheduler)
    adapter = DDPMAdapter.from_checkpoint(saved(saved_pipeline, tmp_path / "model"), device="cpu")
    pipeline = DDIMPipeline(saved_pipeline.unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    generators = [keyed_generator("generation", SEED, index) for index in range(2)]
    images = pipeline(batch_size=2, generator=generators, num_inference_steps=8, output_type="np").images
    found = ours(adapter, num_steps=8)
    # It tells no more than its images, which here are the latents.
    assert_same_run(found, Run((images * 255).round().astype(np.uint8), found.latents))
