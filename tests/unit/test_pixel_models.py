"""`UNet2DModel` of other kinds than RGB without classes: classes, a null class, grey, a learned variance."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel
from PIL import Image
from torch import Tensor

from diffviews.adapters import Condition
from diffviews.adapters.diffusers_ddpm import DDPMAdapter
from diffviews.core import GenerationRequest, generate
from diffviews.errors import CheckpointError, ConfigError
from diffviews.noise import keyed_generator
from tests.diffusion_folders import draw_ddpm_pipeline, saved

SCHEDULER: dict[str, Any] = {"clip_sample": True, "beta_start": 0.0001, "beta_end": 0.02}


def loaded(folder: Path, scheduler: Any = None, *, seed: int = 3, **unet: Any) -> tuple[Any, Any]:
    """Return a pipeline and its folder."""
    pipeline = draw_ddpm_pipeline(seed, scheduler or DDIMScheduler(**SCHEDULER), **unet)
    return pipeline, saved(pipeline, folder / "model")


def sampled(unet: Any, classes: list[int] | None, null: int | None = None, guidance: float = 1.0) -> np.ndarray:
    """Sample by diffusers' scheduler from the noise that a generation starts from."""
    count, channels = 2 if classes is None else len(classes), unet.config.in_channels
    scheduler = DDIMScheduler(**SCHEDULER)
    scheduler.set_timesteps(8)
    shape = (channels, unet.config.sample_size, unet.config.sample_size)
    x = torch.stack([torch.randn(*shape, generator=keyed_generator("generation", 5, i)) for i in range(count)])
    labels = {} if classes is None else {"class_labels": torch.tensor(classes)}
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            output = unet(x, timestep, **labels).sample[:, :channels]
            if null is not None and guidance != 1:
                other = unet(x, timestep, class_labels=torch.full((count,), null)).sample[:, :channels]
                output = other + guidance * (output - other)
            x = scheduler.step(output, timestep, x).prev_sample
    return ((x / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert theirs.std() > 10


@pytest.mark.parametrize("embeddings", [2, 7])
def test_classes_are_the_network_s_embeddings(embeddings: int, tmp_path: Path) -> None:
    pipeline, folder = loaded(tmp_path, num_class_embeds=embeddings)
    adapter = DDPMAdapter.from_checkpoint(folder, device="cpu")
    assert (adapter.num_classes, adapter.label_dropout) == (embeddings, False)
    classes = [embeddings - 1, 0]
    request = GenerationRequest(class_labels=tuple(classes), num_samples=2, seed=5, num_steps=8)
    assert_same(generate(adapter, request).images, sampled(pipeline.unet, classes))
    # Without a null class the unconditional pass is the mean embedding, as the uniform label is.
    x = torch.randn(2, *adapter.input_shape)
    uniform = adapter.forward(x, 1.0, adapter.make_labels([-1, -1]))
    torch.testing.assert_close(adapter.forward(x, 1.0), uniform)
    assert set(adapter.get_layer_shapes()) == set(adapter.hookable_layers)


@pytest.mark.parametrize("null", [0, 2, 5])
@pytest.mark.parametrize("guidance", [1.0, 3.0, 0.0])
def test_null_class_is_the_unconditional_pass_and_no_class(null: int, guidance: float, tmp_path: Path) -> None:
    pipeline, folder = loaded(tmp_path, num_class_embeds=6)
    adapter = DDPMAdapter.from_checkpoint(folder, device="cpu", null_class=null)
    assert adapter.num_classes == 5
    assert adapter.label_dropout
    rows = [row for row in range(6) if row != null]
    request = GenerationRequest(class_labels=(0, 4), num_samples=2, seed=5, num_steps=8, guidance_scale=guidance)
    theirs = sampled(pipeline.unet, [rows[0], rows[4]], null, guidance)
    assert_same(generate(adapter, request).images, theirs)
    with pytest.raises(ConfigError, match="class 5"):
        adapter.make_labels([5])
    assert adapter.digest() != DDPMAdapter.from_checkpoint(folder, device="cpu").digest()


def test_null_class_that_is_none_of_the_embeddings_is_refused(tmp_path: Path) -> None:
    _, folder = loaded(tmp_path, num_class_embeds=6)
    with pytest.raises(ConfigError, match="null_class 6 is not one of the U-Net's 6"):
        DDPMAdapter.from_checkpoint(folder, device="cpu", null_class=6)
    with pytest.raises(ConfigError, match=r"'null_klass'.*'null_class'"):
        DDPMAdapter.from_checkpoint(folder, device="cpu", null_klass=6)
    _, plain = loaded(tmp_path / "plain")
    with pytest.raises(ConfigError, match="null_class 0 is not one of the U-Net's 0"):
        DDPMAdapter.from_checkpoint(plain, device="cpu", null_class=0)


@pytest.mark.parametrize("seed", [3, 4])
def test_grey_model_equals_the_pipeline_and_is_shown_in_three_channels(seed: int, tmp_path: Path) -> None:
    pipeline, folder = loaded(tmp_path, seed=seed, in_channels=1, out_channels=1)
    adapter = DDPMAdapter.from_checkpoint(folder, device="cpu")
    assert adapter.input_shape[0] == 1
    images = generate(adapter, GenerationRequest(num_samples=2, seed=5, num_steps=8)).images
    assert images.shape[3] == 3
    ddim = DDIMPipeline(pipeline.unet, pipeline.scheduler)
    ddim.set_progress_bar_config(disable=True)
    generators = [keyed_generator("generation", 5, index) for index in range(2)]
    theirs = ddim(batch_size=2, generator=generators, num_inference_steps=8, output_type="np").images
    assert_same(images, np.repeat((theirs.reshape(*images.shape[:3], 1) * 255).round().astype(np.uint8), 3, axis=3))


def test_grey_model_is_given_the_luma_of_colours_and_grey_as_it_is(tmp_path: Path) -> None:
    _, folder = loaded(tmp_path, in_channels=1, out_channels=1)
    adapter = DDPMAdapter.from_checkpoint(folder, device="cpu")
    side = adapter.resolution
    colours = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    grey = np.repeat(colours[..., :1], 3, axis=3)
    assert np.array_equal(adapter.decode(adapter.encode(grey)), grey)
    pillow = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in colours])
    assert np.abs(adapter.decode(adapter.encode(colours))[..., 0].astype(int) - pillow).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_learned_variance_is_left_out_of_the_prediction(variance: str, channels: int, tmp_path: Path) -> None:
    scheduler = DDPMScheduler(**SCHEDULER, variance_type=variance)
    pipeline, folder = loaded(tmp_path, scheduler, in_channels=channels, out_channels=2 * channels)
    adapter = DDPMAdapter.from_checkpoint(folder, device="cpu")
    scheduler.set_timesteps(1000)
    for timestep in (900, 300):
        sample: Tensor = torch.randn(2, *adapter.input_shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            output = pipeline.unet(sample, timestep).sample
        expected = scheduler.step(output, timestep, sample).pred_original_sample
        sigma = float(adapter.schedule.sigmas[timestep])
        found = adapter.forward(sample * (1 + sigma**2) ** 0.5, sigma)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    images = generate(adapter, GenerationRequest(num_samples=2, seed=5, num_steps=8)).images
    assert_same(images, np.repeat(sampled(pipeline.unet, None), 3 // channels, axis=3))


def test_class_conditional_learned_variance_and_grey_together(tmp_path: Path) -> None:
    scheduler = DDPMScheduler(**SCHEDULER, variance_type="learned_range")
    options = {"num_class_embeds": 4, "in_channels": 1, "out_channels": 2}
    pipeline, folder = loaded(tmp_path, scheduler, **options)
    adapter = DDPMAdapter.from_checkpoint(folder, device="cpu", null_class=3, label_dropout=0.2)
    assert adapter.label_dropout == 0.2
    assert adapter.condition([Condition(class_id=1)])["class_labels"].tolist() == [[0.0, 1.0, 0.0]]
    request = GenerationRequest(class_labels=(1, 2), num_samples=2, seed=5, num_steps=8, guidance_scale=2.0)
    assert_same(generate(adapter, request).images, np.repeat(sampled(pipeline.unet, [1, 2], 3, 2.0), 3, axis=3))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"class_embed_type": "timestep"}, "class_embed_type 'timestep'"),
        ({"class_embed_type": "identity"}, "class_embed_type 'identity'"),
        ({"time_embedding_type": "fourier"}, "fourier"),
        ({"in_channels": 4, "out_channels": 4}, "4 channels"),
        ({"in_channels": 6, "out_channels": 3}, "6 channels"),
        ({"out_channels": 5}, "maps 3 channels to 5"),
        ({"sample_size": None}, "sample_size"),
        ({"sample_size": (8, 16)}, "square"),
    ],
)
def test_pixel_models_of_other_kinds_are_refused(options: dict[str, Any], named: str, tmp_path: Path) -> None:
    pipeline = draw_ddpm_pipeline(1)
    pipeline.unet = UNet2DModel(**{**pipeline.unet.config, **options})
    with pytest.raises(CheckpointError, match=named):
        DDPMAdapter.from_checkpoint(saved(pipeline, tmp_path / "model"), device="cpu")
