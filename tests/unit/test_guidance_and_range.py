"""Guidance that is told to the network (LCM), guidance without effect, and noise levels outside of a model's range."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, LatentConsistencyModelPipeline, LCMScheduler, StableDiffusionPipeline

from diffviews.adapters import load_adapter
from diffviews.adapters.diffusion_schedule import DiffusionSchedule
from diffviews.adapters.latent_diffusion import guidance_embedding
from diffviews.core import FixedTarget, GenerationRequest, Intervention, generate
from diffviews.core.plan import GenerationPlan
from diffviews.errors import CheckpointError
from diffviews.lightning.runner import GenerationModule, Span
from diffviews.noise import keyed_generator
from tests.diffusion_folders import draw_ddpm_pipeline, draw_sd_pipeline, draw_sdxl_pipeline, saved
from tests.fakes import GaussianAdapter, TextAdapter

PROMPTS = ["a photo of a cat", "two red dogs, blurry"]
SD_BETAS: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


# Guidance as an input


def lcm_pipeline(seed: int, **scheduler: Any) -> LatentConsistencyModelPipeline:
    drawn = draw_sd_pipeline(seed, LCMScheduler(**SD_BETAS, **scheduler), time_cond_proj_dim=16)
    pipeline = LatentConsistencyModelPipeline(
        drawn.vae, drawn.text_encoder, drawn.tokenizer, drawn.unet, drawn.scheduler, None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("width", [16, 17, 256])
def test_guidance_embedding_is_diffusers_own(width: int) -> None:
    scale = torch.tensor([0.0, 1.0, 2.5, 8.5])
    theirs = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, scale - 1, embedding_dim=width)  # type: ignore[arg-type]
    torch.testing.assert_close(guidance_embedding(scale, width), theirs, atol=2e-4, rtol=0)


@pytest.mark.parametrize(("seed", "guidance", "steps"), [(1, 8.5, 4), (2, 1.0, 2), (3, 3.0, 1)])
def test_latent_consistency_model_equals_its_pipeline(seed: int, guidance: float, steps: int, tmp_path: Path) -> None:
    pipeline = lcm_pipeline(seed)
    adapter = load_adapter("sd-v1.5", saved(pipeline, tmp_path / "model"), device="cpu")
    assert (adapter.default_steps, adapter.default_sampler, adapter.embeds_guidance) == (4, "renoise", True)
    generators = [keyed_generator("generation", 5, index) for index in range(2)]
    theirs = pipeline(
        PROMPTS, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="np"
    ).images
    request = GenerationRequest(
        prompts=tuple(PROMPTS), num_samples=2, seed=5, num_steps=steps, guidance_scale=guidance
    )
    ours = generate(adapter, request).images
    assert np.abs(ours.astype(int) - (theirs * 255).round()).max() <= 1
    other = GenerationRequest(prompts=tuple(PROMPTS), num_samples=2, seed=5, num_steps=steps, guidance_scale=12.0)
    assert np.abs(generate(adapter, other).images.astype(int) - ours).max() > 1
    assert set(adapter.get_layer_shapes()) == set(adapter.hookable_layers)


def test_stable_diffusion_pipeline_with_embedded_guidance_makes_one_pass(tmp_path: Path) -> None:
    drawn = draw_sd_pipeline(5, time_cond_proj_dim=8)
    adapter = load_adapter("sd-v1.5", saved(drawn, tmp_path / "model"), device="cpu")
    calls: list[int] = []
    adapter.unet.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    assert isinstance(drawn, StableDiffusionPipeline)
    generate(adapter, GenerationRequest(prompts="a cat", seed=0, num_steps=3, guidance_scale=6.0))
    assert calls == [1, 1, 1]


@pytest.mark.parametrize(
    ("draw", "model", "options", "named"),
    [
        (draw_sd_pipeline, "sd-v1.5", {"num_class_embeds": 4}, "classes"),
        (draw_sd_pipeline, "sd-v1.5", {"encoder_hid_dim_type": "text_proj", "encoder_hid_dim": 8}, "encoder_hid_dim"),
    ],
)
def test_text_models_of_other_kinds_are_refused(
    draw: Any, model: str, options: dict, named: str, tmp_path: Path
) -> None:
    folder = saved(draw(1, **options), tmp_path / "model")
    with pytest.raises(CheckpointError, match=named):
        load_adapter(model, folder, device="cpu")


def test_u_net_of_the_other_family_is_refused(tmp_path: Path) -> None:
    folder = saved(draw_sd_pipeline(1), tmp_path / "model")
    draw_sdxl_pipeline(1).unet.save_pretrained(folder / "unet")
    with pytest.raises(CheckpointError, match=r"addition_embed_type is 'text_time'.*'sd-v1.5' it is None"):
        load_adapter("sd-v1.5", folder, device="cpu")


# Guidance without effect


def notices(adapter: Any, caplog: pytest.LogCaptureFixture, **ask: Any) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        generate(adapter, GenerationRequest(seed=0, num_steps=2, **ask))
    return [record.getMessage() for record in caplog.records if record.name.startswith("diffviews")]


def mask(passes: str) -> Intervention:
    return Intervention("denoised", FixedTarget(torch.zeros(1, 3, 8, 8)), passes=passes)  # type: ignore[arg-type]


PROMPT_LOST = "at guidance 0 the prompt has no effect; take guidance 1 for the prompt alone"
CLASS_LOST = "at guidance 0 the class has no effect; take guidance 1 for the class alone"


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        ({"prompts": "a cat", "guidance_scale": 0.0}, [PROMPT_LOST]),
        ({"prompts": ("a cat", "b"), "num_samples": 2, "guidance_scale": 0.0}, [PROMPT_LOST]),
        ({"prompts": "a cat", "guidance_scale": 1.0}, []),
        ({"prompts": "a cat", "negative_prompt": "b", "guidance_scale": 3.0}, []),
        ({"prompts": "a cat", "negative_prompt": "b", "guidance_scale": 1.0},
         ["the negative prompt has no effect at guidance 1: no unconditional pass is made"]),
        ({"guidance_scale": 4.0}, ["guidance 4 has no effect without a prompt"]),
        ({}, []),
        ({"prompts": "a cat", "guidance_scale": 0.0, "interventions": (mask("conditional"),)},
         [PROMPT_LOST, "interventions on the conditional pass have no effect at guidance 0: none is made"]),
        ({"prompts": "a cat", "guidance_scale": 1.0, "interventions": (mask("unconditional"),)},
         ["interventions on the unconditional pass have no effect at guidance 1: none is made"]),
        ({"prompts": "a cat", "guidance_scale": 2.0, "interventions": (mask("conditional"), mask("both"))}, []),
        ({"interventions": (mask("conditional"),)},
         ["interventions on the conditional pass have no effect without a prompt: none is made"]),
    ],
)  # fmt: skip
def test_what_has_no_effect_at_a_guidance_is_said(ask: dict, told: list[str], caplog: pytest.LogCaptureFixture) -> None:
    class Dropped(TextAdapter):
        label_dropout = 0.1

    assert notices(Dropped(), caplog, **ask) == told


def test_class_without_effect_is_said_and_a_random_one_is_not(caplog: pytest.LogCaptureFixture) -> None:
    class Dropped(GaussianAdapter):
        label_dropout = 0.1

    assert notices(Dropped(), caplog, class_labels=1, guidance_scale=0.0) == [CLASS_LOST]
    assert notices(Dropped(), caplog, class_labels=0, guidance_scale=0.0) == [CLASS_LOST]
    assert notices(Dropped(), caplog, class_labels=None, guidance_scale=0.0) == []
    assert notices(Dropped(), caplog, class_labels=-1, guidance_scale=0.0) == []
    assert notices(Dropped(), caplog, class_labels=1, guidance_scale=1.0) == []


def test_guidance_of_a_model_without_conditions_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapter = load_adapter("ddpm", saved(draw_ddpm_pipeline(1), tmp_path / "model"), device="cpu")
    (told,) = notices(adapter, caplog, guidance_scale=3.0)
    assert told == "guidance 3 has no effect without a model that takes prompts or classes"
    assert notices(adapter, caplog) == []


def test_negative_prompt_of_a_latent_consistency_model_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = load_adapter("sd-v1.5", saved(lcm_pipeline(1), tmp_path / "model"), device="cpu")
    (told,) = notices(adapter, caplog, prompts="a cat", negative_prompt="dog", guidance_scale=7.0)
    assert told == "the negative prompt has no effect for model 'sd-v1.5': no unconditional pass is made"


def test_a_job_of_many_batches_says_it_once(caplog: pytest.LogCaptureFixture) -> None:
    request = GenerationRequest(prompts="a cat", num_samples=6, guidance_scale=0.0, seed=0, num_steps=1)
    module = GenerationModule(TextAdapter(), request, lambda span, result: None)
    caplog.clear()
    for number in range(3):
        module.predict_step(Span(2 * number, 2), number)
    assert caplog.text.count("the prompt has no effect") == 1


# Levels outside


@pytest.fixture
def sd(tmp_path: Path) -> Any:
    pipeline = draw_sd_pipeline(0, EulerDiscreteScheduler(**SD_BETAS))
    return load_adapter("sd-v1.5", saved(pipeline, tmp_path / "model"), device="cpu")


@pytest.mark.parametrize(("sigma", "outside"), [(80.0, True), (1e5, True), (0.002, True), (1.0, False)])
def test_level_outside_of_the_model_s_range_is_said_once(
    sigma: float, outside: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = draw_sd_pipeline(0, EulerDiscreteScheduler(**SD_BETAS))
    adapter = load_adapter("sd-v1.5", saved(pipeline, tmp_path / "model"), device="cpu")
    caplog.clear()
    for _ in range(3):
        adapter.forward(torch.zeros(1, *adapter.input_shape), sigma)
    assert caplog.text.count("outside of the model's noise levels") == int(outside)
    if outside:
        assert f"sigma {sigma:g} is outside" in caplog.text
        low, high = adapter.sigma_range
        assert f"{low:.4g} … {high:.4g}" in caplog.text


def test_sampling_from_sigma_80_says_that_it_starts_lower(caplog: pytest.LogCaptureFixture) -> None:
    schedule = DiffusionSchedule.from_config({"_class_name": "PNDMScheduler", **SD_BETAS})
    caplog.clear()
    assert schedule.levels(5, sigma_max=80.0)[0] == pytest.approx(14.6146, abs=1e-3)
    schedule.levels(5, sigma_max=80.0)
    assert caplog.text.count("sigma 80 is outside of the model's noise levels, 0.02917 … 14.61, so sampling takes") == 1
    caplog.clear()
    schedule.levels(5, sigma_max=14.6, sigma_min=0.03)
    schedule.levels(5)
    assert caplog.text == ""


def test_plan_of_the_edm_range_on_stable_diffusion_is_said(sd: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    plan = GenerationPlan.of(sd, GenerationRequest(sigma_max=1e6, num_steps=3))
    assert float(plan.sigmas[0]) == pytest.approx(sd.sigma_range[1])
    assert "sigma 1e+06 is outside" in caplog.text
