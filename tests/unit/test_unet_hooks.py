"""Hook points of diffusers' U-Nets: their order and shapes, and masks that reach all that reads a layer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffviews.adapters import Condition, load_adapter
from diffviews.adapters.diffusers_unet import measured_shapes, unet_hook_points
from diffviews.adapters.hooks import attach_hooks, detach_hooks
from diffviews.adapters.stable_diffusion import StableDiffusionAdapter, StableDiffusionXLAdapter
from diffviews.core import FixedTarget, GenerationRequest, Intervention, generate
from diffviews.errors import LayerNotFoundError
from tests.diffusion_folders import draw_ddpm_pipeline, draw_sd_pipeline, draw_sdxl_pipeline, saved

FULL_SDXL = {
    "sample_size": 128, "block_out_channels": [320, 640, 1280], "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [5, 10, 20], "transformer_layers_per_block": [1, 2, 10], "cross_attention_dim": 2048,
    "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip


@pytest.fixture
def sd(tmp_path: Path) -> StableDiffusionAdapter:
    return StableDiffusionAdapter.from_checkpoint(saved(draw_sd_pipeline(0), tmp_path / "sd"), device="cpu")


@pytest.fixture
def sdxl(tmp_path: Path) -> StableDiffusionXLAdapter:
    return StableDiffusionXLAdapter.from_checkpoint(saved(draw_sdxl_pipeline(4), tmp_path / "sdxl"), device="cpu")


def latents(adapter: Any) -> Tensor:
    return torch.randn(2, *adapter.input_shape, generator=torch.Generator().manual_seed(8))


@pytest.mark.parametrize("draw", [draw_sd_pipeline, draw_sdxl_pipeline, draw_ddpm_pipeline])
@pytest.mark.parametrize("seed", [1, 4])
def test_layers_are_listed_in_the_order_of_their_outputs(draw: Any, seed: int, tmp_path: Path) -> None:
    name = {draw_sd_pipeline: "sd-v1.5", draw_sdxl_pipeline: "sdxl", draw_ddpm_pipeline: "ddpm"}[draw]
    adapter = load_adapter(name, saved(draw(seed), tmp_path / "model"), device="cpu")
    order: list[str] = []

    def note(layer: str) -> Any:
        return lambda module, inputs, output: order.append(layer)

    handles = attach_hooks(adapter, {layer: note(layer) for layer in adapter.hookable_layers})
    adapter.forward(latents(adapter), 1.0)
    detach_hooks(handles)
    assert order == adapter.hookable_layers
    assert {"down_block_0", "down_block_0_resnet_0", "mid_block", "mid_block_resnet_1", "up_block_0"} <= set(order)


def test_h_space_is_the_middle_block(sd: StableDiffusionAdapter) -> None:
    assert "h_space" not in sd.hookable_layers
    sd.register_activation_hooks(["h_space"], sd.make_extraction_hook("alias"))
    sd.register_activation_hooks(["mid_block"], sd.make_extraction_hook("layer"))
    sd.forward(latents(sd), 1.0)
    sd.remove_hooks()
    found = sd.get_activations()
    assert torch.equal(found["alias"], found["layer"])
    with pytest.raises(LayerNotFoundError, match="mid_block"):
        sd.register_activation_hooks(["midblock"], sd.make_extraction_hook("x"))


def forward_by_hand(adapter: Any, x: Tensor, replaced: int, value: Tensor, in_skips: bool) -> Tensor:
    """Run the U-Net's blocks one by one, with the output of one down block replaced, and return x0 at sigma 1."""
    unet, text = adapter.unet, adapter.uncondition([Condition()] * len(x))["prompt_embeds"]
    timestep = adapter.schedule.timestep_of(torch.ones(len(x)))
    embedding = unet.time_embedding(unet.time_proj(timestep))
    hidden = unet.conv_in(x / 2**0.5)
    skips: tuple[Tensor, ...] = (hidden,)

    def given(block: nn.Module) -> dict[str, Tensor]:
        return {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}

    for number, block in enumerate(unet.down_blocks):
        hidden, own = block(hidden_states=hidden, temb=embedding, **given(block))
        if number == replaced:
            hidden = value
            own = (*own[:-1], value) if in_skips else own
        skips += own
    hidden = unet.mid_block(hidden, embedding, **given(unet.mid_block))
    for block in unet.up_blocks:
        count = len(block.resnets)
        mine, skips = skips[-count:], skips[:-count]
        hidden = block(hidden_states=hidden, temb=embedding, res_hidden_states_tuple=mine, **given(block))
    output = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
    return adapter.schedule.denoised(output, x, torch.tensor(1.0))


@torch.no_grad()
def test_mask_of_a_down_block_reaches_the_skip_that_an_up_block_reads(sd: StableDiffusionAdapter) -> None:
    x = latents(sd)
    for number in range(len(sd.unet.down_blocks)):
        layer = f"down_block_{number}"
        value = torch.randn(2, *sd.get_layer_shapes()[layer], generator=torch.Generator().manual_seed(2))
        sd.register_activation_hooks([layer], sd.make_mask_hook(layer, value))
        masked = sd.forward(x, 1.0)
        sd.remove_hooks()
        torch.testing.assert_close(masked, forward_by_hand(sd, x, number, value, in_skips=True), atol=1e-5, rtol=1e-5)
        leaking = forward_by_hand(sd, x, number, value, in_skips=False)
        assert (masked - leaking).abs().max() > 1e-3, "the skip makes no difference, so this test shows nothing"


@pytest.mark.parametrize("part", ["mid_block_attention_0", "up_block_0_resnet_0"])
def test_mask_of_a_part_is_what_its_block_reads(sdxl: StableDiffusionXLAdapter, part: str) -> None:
    value = torch.randn(1, *sdxl.get_layer_shapes()[part], generator=torch.Generator().manual_seed(2))
    reader = {"mid_block_attention_0": "mid_block.resnets.1", "up_block_0_resnet_0": "up_blocks.0.attentions.0"}[part]
    seen: list[Tensor] = []
    sdxl.unet.get_submodule(reader).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    sdxl.register_activation_hooks([part], sdxl.make_mask_hook(part, value))
    sdxl.forward(latents(sdxl), 1.0)
    assert torch.equal(seen[0], value.expand_as(seen[0]))


def test_alias_serves_in_generations(sd: StableDiffusionAdapter) -> None:
    value = torch.zeros(1, *sd.get_layer_shapes()["mid_block"])
    images = {}
    for layer in ("h_space", "mid_block"):
        ask = {"prompts": "a cat", "seed": 1, "num_steps": 2, "record_layers": (layer,)}
        result = generate(sd, GenerationRequest(**ask, interventions=(Intervention(layer, FixedTarget(value)),)))
        images[layer] = result.images
        assert not result.replaced[layer].any()
        assert result.trajectory[layer].any()
    assert np.array_equal(images["h_space"], images["mid_block"])


def test_shapes_of_full_size_sdxl_take_no_memory() -> None:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**FULL_SDXL)
    assert sum(parameter.numel() for parameter in unet.parameters()) == 2_567_463_684

    def run(network: nn.Module) -> None:
        text = {"text_embeds": torch.empty(1, 1280, device="meta"), "time_ids": torch.empty(1, 6, device="meta")}
        states = torch.empty(1, 77, 2048, device="meta")
        x, timestep = torch.empty(1, 4, 128, 128, device="meta"), torch.empty(1, device="meta")
        network(x, timestep, encoder_hidden_states=states, added_cond_kwargs=text)

    shapes = measured_shapes(unet, unet_hook_points(unet), run)
    assert shapes["mid_block"] == (1280, 32, 32)
    assert shapes["up_block_2"] == (320, 128, 128)
    assert len(shapes) == 35
