"""The adapters over diffusers' models: text, latents, precision, defaults."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffviews.adapters import Condition, load_adapter
from diffviews.adapters.dmd2 import DMD2FourStepAdapter, DMD2ImageNetAdapter, DMD2OneStepAdapter
from diffviews.adapters.stable_diffusion import StableDiffusionAdapter, StableDiffusionXLAdapter
from diffviews.adapters.text_conditioning import PromptEncoder
from diffviews.core import GenerationRequest, generate
from diffviews.errors import ConfigError
from diffviews.noise import keyed_generator
from tests.checkpoints import small_edm_checkpoint
from tests.diffusion_folders import draw_sd_pipeline, draw_sdxl_pipeline, saved

LONG = "a cat of two red dog photo " * 6


@pytest.fixture(scope="module")
def sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(draw_sd_pipeline(0), tmp_path_factory.mktemp("sd") / "model")


@pytest.fixture(scope="module")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(draw_sdxl_pipeline(4), tmp_path_factory.mktemp("sdxl") / "model")


@pytest.fixture
def sd(sd_folder: Path) -> StableDiffusionAdapter:
    return StableDiffusionAdapter.from_checkpoint(sd_folder, device="cpu")


@pytest.fixture
def sdxl(sdxl_folder: Path) -> StableDiffusionXLAdapter:
    return StableDiffusionXLAdapter.from_checkpoint(sdxl_folder, device="cpu")


def latents(adapter: Any, count: int = 2) -> Tensor:
    return torch.randn(count, *adapter.input_shape, generator=torch.Generator().manual_seed(8))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# Text


def test_text_of_a_sample_does_not_depend_on_its_batch(sdxl: StableDiffusionXLAdapter) -> None:
    conditions = [Condition(prompt="a cat"), Condition(prompt="two red dogs, blurry"), Condition(prompt=None)]
    together = sdxl.condition(conditions)
    sdxl.prompts.forget()
    for row, condition in enumerate(conditions[:2]):
        alone = sdxl.condition([condition])
        assert all(torch.equal(together[name][row : row + 1], alone[name]) for name in alone)
    assert set(together) == {"prompt_embeds", "pooled_prompt_embeds", "time_ids"}
    size = sdxl.resolution
    assert together["time_ids"].tolist() == [[size, size, 0, 0, size, size]] * 3
    # A sample without a prompt is given its unconditional text, so that guidance leaves it alone.
    unconditional = sdxl.uncondition(conditions)
    assert all(torch.equal(together[name][2], unconditional[name][2]) for name in together)
    assert sdxl.condition([Condition(), Condition(class_id=3)]) == {}


def test_forward_without_text_is_the_unconditional_pass(sd: StableDiffusionAdapter) -> None:
    x, conditions = latents(sd), [Condition(prompt="a cat")] * 2
    bare = sd.forward(x, 1.0)
    assert torch.equal(bare, sd.forward(x, 1.0, **sd.uncondition(conditions)))
    assert not torch.allclose(bare, sd.forward(x, 1.0, **sd.condition(conditions)), atol=1e-3)


def test_long_prompt_is_cut_with_a_warning_of_what_is_lost(
    sd: StableDiffusionAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = sd.prompts.tokenizers[0]
    tokens = len(tokenizer(LONG).input_ids)
    with caplog.at_level(logging.WARNING):
        given = sd.condition([Condition(prompt=LONG)])
    assert given["prompt_embeds"].shape[1] == tokenizer.model_max_length
    assert f"the last {tokens - tokenizer.model_max_length} are lost" in caplog.text
    assert f"cut at token {tokenizer.model_max_length - 1} for text encoder 1 of 1" in caplog.text
    assert LONG not in caplog.text
    caplog.clear()
    sd.condition([Condition(prompt="a cat")])
    assert "lost" not in caplog.text


def test_recent_prompts_are_kept_and_the_oldest_go(
    sd: StableDiffusionAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffviews.adapters.text_conditioning.KEPT_PROMPTS", 2)
    encoded: list[str] = []

    class Noting(PromptEncoder):
        def _encode(self, prompt: str) -> dict:
            encoded.append(prompt)
            return super()._encode(prompt)

    monkeypatch.setattr(sd, "prompts", Noting(sd.prompts.tokenizers, sd.prompts.encoders))
    for prompt in ("a", "cat", "a", "dog", "a", "cat"):
        sd.condition([Condition(prompt=prompt)])
    assert encoded == ["a", "cat", "dog", "cat"]
    sd.to("cpu")
    sd.condition([Condition(prompt="cat")])
    assert encoded[-1] == "cat"
    assert len(encoded) == 5


@pytest.mark.parametrize("zeros", [True, False])
def test_empty_negative_prompt_of_sdxl_is_zero_where_the_folder_says_so(
    sdxl_folder: Path, zeros: bool, tmp_path: Path
) -> None:
    folder = shutil.copytree(sdxl_folder, tmp_path / "model")
    edit_json(folder / "model_index.json", force_zeros_for_empty_prompt=zeros)
    adapter = StableDiffusionXLAdapter.from_checkpoint(folder, device="cpu")
    given = adapter.uncondition([Condition(negative_prompt=""), Condition(negative_prompt="dog")])
    for name in ("prompt_embeds", "pooled_prompt_embeds"):
        assert bool((given[name][0] == 0).all()) == zeros
        assert bool((given[name][1] != 0).any())
    assert bool((given["time_ids"][0] != 0).any())


# Latents and precision


@torch.no_grad()
def test_latents_are_the_posterior_s_mode_times_the_scaling_factor(sd: StableDiffusionAdapter) -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, sd.resolution, sd.resolution, 3), dtype=np.uint8)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    sd.vae.disable_slicing()
    expected = sd.vae.encode(pixels).latent_dist.mean * sd.vae.config.scaling_factor
    torch.testing.assert_close(sd.encode(images), expected)


def test_latent_moments_of_a_vae_are_applied_both_ways(sdxl_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sdxl_folder, tmp_path / "model")
    edit_json(folder / "vae" / "config.json", latents_mean=[1.0, 2.0, 3.0, 4.0], latents_std=[2.0] * 4)
    adapter = StableDiffusionXLAdapter.from_checkpoint(folder, device="cpu")
    raw = latents(adapter)
    scaled = adapter._scaled(raw)
    torch.testing.assert_close(adapter._unscaled(scaled), raw)
    mean = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1)
    torch.testing.assert_close(scaled, (raw - mean) * adapter.vae.config.scaling_factor / 2)


@pytest.mark.parametrize("slicing", [True, False])
def test_slicing_decodes_one_image_at_a_time(sd_folder: Path, slicing: bool) -> None:
    adapter = StableDiffusionAdapter.from_checkpoint(sd_folder, device="cpu", vae_slicing=slicing)
    sizes: list[int] = []
    adapter.vae.decoder.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    adapter.decode(latents(adapter, 3))
    assert sizes == ([1, 1, 1] if slicing else [3])


@pytest.mark.parametrize(("name", "folder"), [("sd-v1.5", "sd_folder"), ("sdxl", "sdxl_folder")])
def test_half_precision_runs_the_network_in_it_and_answers_in_float32(
    name: str, folder: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(folder)
    half = load_adapter(name, path, device="cpu", precision="bfloat16")
    full = load_adapter(name, path, device="cpu")
    assert (half.precision, full.precision) == ("bfloat16", "float32")
    x, conditions = latents(half), [Condition(prompt="a cat")] * 2
    close, exact = (a.forward(x, 1.0, **a.condition(conditions)) for a in (half, full))
    assert close.dtype == torch.float32
    assert not torch.equal(close, exact)
    assert (close - exact).norm() < 0.1 * exact.norm()
    assert half.vae.dtype == torch.float32
    images = generate(half, GenerationRequest(prompts="a cat", seed=0, num_steps=2)).images
    assert images.std() > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_automatic_precision_on_cuda_is_half_and_near_that_of_the_cpu(sdxl_folder: Path) -> None:
    half = load_adapter("sdxl", sdxl_folder, device="cuda")
    full = load_adapter("sdxl", sdxl_folder, device="cpu")
    assert (half.precision, half.vae.dtype) == ("float16", torch.float32)
    x, conditions = latents(full), [Condition(prompt="a cat"), Condition()]
    close = half.forward(x.cuda(), 1.0, **half.condition(conditions)).cpu()
    exact = full.forward(x, 1.0, **full.condition(conditions))
    assert (close - exact).norm() < 0.02 * exact.norm()
    shown = half.decode(exact.cuda()).astype(int)
    assert np.abs(shown - full.decode(exact)).max() <= 1


def test_unknown_precision_and_options_are_refused(sd_folder: Path) -> None:
    with pytest.raises(ConfigError, match="float8"):
        StableDiffusionAdapter.from_checkpoint(sd_folder, device="cpu", precision="float8")
    with pytest.raises(ConfigError, match=r"'lorra'.*'lora'"):
        StableDiffusionAdapter.from_checkpoint(sd_folder, device="cpu", lorra="x")


# Defaults and the students


def test_defaults_are_those_of_the_published_pipelines(
    sd: StableDiffusionAdapter, sdxl: StableDiffusionXLAdapter
) -> None:
    assert (sd.default_steps, sd.default_guidance, sd.default_sampler) == (50, 7.5, "euler")
    assert (sdxl.default_steps, sdxl.default_guidance, sdxl.default_sampler) == (50, 5.0, "euler")
    assert sd.takes_prompts
    assert sd.label_dropout
    assert sd.start_scale(2.0) == pytest.approx(5**0.5)


def test_students_take_few_steps_without_guidance(sdxl_folder: Path) -> None:
    four = DMD2FourStepAdapter.from_checkpoint(sdxl_folder, device="cpu")
    one = DMD2OneStepAdapter.from_checkpoint(sdxl_folder, device="cpu")
    assert (four.default_steps, four.default_guidance, four.default_sampler) == (4, 1.0, "renoise")
    assert (one.default_steps, one.default_guidance, one.default_sampler) == (1, 1.0, "renoise")
    assert not four.label_dropout
    assert timesteps(four, 2) == [999, 499]
    assert timesteps(one, 1) == [399]
    assert one.sigma_range[1] == one.model_sigmas(1).item()
    assert four.sigma_range == four.schedule.sigma_range
    assert timesteps(one, 4) == [399, 299, 199, 99]
    assert four.model_sigmas(3, sigma_max=2.0, sigma_min=1.0).tolist()[0::2] == [2.0, 1.0]
    with pytest.raises(ConfigError, match=r"num_steps 5 is not 1 … 4.*karras"):
        four.model_sigmas(5)


def timesteps(adapter: Any, num_steps: int) -> list[float]:
    return adapter.schedule.timestep_of(adapter.model_sigmas(num_steps)).tolist()


def test_imagenet_student_takes_one_step_at_sigma_80_and_up_to_ten(tmp_path: Path) -> None:
    path = small_edm_checkpoint(tmp_path / "small.safetensors")
    adapter = DMD2ImageNetAdapter.from_checkpoint(path, device="cpu")
    result = generate(adapter, GenerationRequest(class_labels=3, seed=0))
    assert result.sigmas.tolist() == [80.0]
    noise = torch.randn(3, 16, 16, generator=keyed_generator("generation", 0, 0))[None] * 80.0
    expected = adapter.decode(adapter.forward(noise, 80.0, adapter.make_labels([3])))
    assert np.array_equal(result.images, expected)
    assert len(generate(adapter, GenerationRequest(class_labels=3, seed=0, num_steps=10)).sigmas) == 10
    with pytest.raises(ConfigError, match="11 is more than 10"):
        generate(adapter, GenerationRequest(class_labels=3, num_steps=11))
