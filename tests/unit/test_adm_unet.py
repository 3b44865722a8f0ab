"""The ADM U-Net against the published implementation's outputs and parameter names."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from diffviews.errors import ConfigError, ShapeError
from diffviews.models.adm_unet import ADMUNet
from diffviews.models.blocks import PositionalEmbedding, ResampledConv, UNetBlock
from diffviews.models.preconditioning import EDMPrecond

DATA = Path(__file__).parents[1] / "data"
TOLERANCE = 1e-5  # the specification allows 2e-4; float32 rounding stays below this


class Reference:
    """The small reference network, and what the original implementation made of it."""

    def __init__(self) -> None:
        with safe_open(DATA / "edm_small_reference.safetensors", "pt") as file:
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        self.config = json.loads(metadata["config"])
        self.config.pop("model_type")
        self.layers: list[tuple[str, str]] = [tuple(pair) for pair in json.loads(metadata["layers"])]
        self.denoiser = EDMPrecond(ADMUNet(**self.config)).eval()
        self.denoiser.load_state_dict(
            {key.removeprefix("weights."): value for key, value in self.tensors.items() if key.startswith("weights.")}
        )

    @property
    def network(self) -> ADMUNet:
        return self.denoiser.model

    @torch.no_grad()
    def denoise(self, labels: Tensor | None) -> Tensor:
        return self.denoiser(self.tensors["io.x"], self.tensors["io.sigma"], labels)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


def small_network(**options: object) -> ADMUNet:
    return ADMUNet(16, 3, 10, 8, (1, 2), num_blocks=1, attn_resolutions=(8,), **options)


def test_denoised_is_that_of_the_original_implementation(reference: Reference) -> None:
    denoised = reference.denoise(reference.tensors["io.labels"])
    assert denoised.dtype == torch.float32
    torch.testing.assert_close(denoised, reference.tensors["io.denoised"], atol=TOLERANCE, rtol=0)


def test_unconditional_denoised_is_that_of_the_original_implementation(reference: Reference) -> None:
    expected = reference.tensors["io.denoised_unconditional"]
    torch.testing.assert_close(reference.denoise(None), expected, atol=TOLERANCE, rtol=0)
    assert not torch.allclose(expected, reference.tensors["io.denoised"], atol=1e-3)


def test_zero_labels_are_unconditional(reference: Reference) -> None:
    zeros = torch.zeros_like(reference.tensors["io.labels"])
    torch.testing.assert_close(reference.denoise(zeros), reference.denoise(None))


def test_every_layer_activation_is_that_of_the_original_implementation(reference: Reference) -> None:
    seen: dict[str, Tensor] = {}
    handles = [
        reference.network.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.__setitem__(name, output)
        )
        for name, path in reference.network.hook_points.items()
    ]
    reference.denoise(reference.tensors["io.labels"])
    for handle in handles:
        handle.remove()
    expected = {key.removeprefix("activation."): v for key, v in reference.tensors.items() if "activation." in key}
    assert seen.keys() == expected.keys()
    for name, activation in expected.items():
        torch.testing.assert_close(seen[name], activation, atol=TOLERANCE, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_hook_points_have_the_published_names_and_order(reference: Reference) -> None:
    points = [(name, path.split(".")[1]) for name, path in reference.network.hook_points.items()]
    assert points == reference.layers


def test_layer_shapes_are_those_of_the_activations(reference: Reference) -> None:
    shapes = reference.network.layer_shapes()
    assert shapes == {name: tuple(reference.tensors[f"activation.{name}"].shape[1:]) for name in shapes}


def test_layer_shapes_are_right_with_more_levels_and_blocks() -> None:
    network = ADMUNet(16, 3, 0, 8, (1, 2, 3), num_blocks=2, attn_resolutions=(4,))
    shapes = network.layer_shapes()
    seen: dict[str, tuple[int, ...]] = {}
    for name, path in network.hook_points.items():
        network.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.__setitem__(name, tuple(output.shape[1:]))
        )
    network(torch.zeros(1, 3, 16, 16), torch.zeros(1))
    assert shapes == seen
    assert list(shapes) == list(seen), "layers must be listed in the order of the forward pass"


def test_full_size_model_matches_the_published_checkpoint_key_by_key() -> None:
    expected = json.loads((DATA / "edm_imagenet64_state_dict.json").read_text())
    with torch.device("meta"):
        network = ADMUNet(64, 3, 1000, 192, (1, 2, 3, 4), num_blocks=3, attn_resolutions=(32, 16, 8), dropout=0.1)
        denoiser = EDMPrecond(network)
    state = {key: [list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in denoiser.state_dict().items()}
    assert state == expected
    assert list(state) == list(expected)
    assert sum(p.numel() for p in denoiser.parameters()) == 295_899_267


@pytest.mark.parametrize("layer", ["encoder_block_0", "encoder_block_1", "encoder_bottleneck"])
def test_replacing_an_encoder_block_reaches_the_skip_connection(reference: Reference, layer: str) -> None:
    network = reference.network
    replacement = torch.zeros(1, *network.layer_shapes()[layer])
    seen: list[Tensor] = []

    def keep_input(_module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    handles = [network.get_submodule(network.hook_points[layer]).register_forward_hook(
        lambda _module, _inputs, output: replacement.expand_as(output)
    )]  # fmt: skip
    handles += [block.register_forward_pre_hook(keep_input) for name, block in network.dec.items() if "_block" in name]
    reference.denoise(None)
    for handle in handles:
        handle.remove()
    position = list(reversed([name for name, _ in reference.layers if name.startswith("encoder")])).index(layer)
    channels = replacement.shape[1]
    assert seen[position][:, -channels:].abs().max() == 0


def test_untrained_network_predicts_zero_and_draws_no_gradient_dead_ends() -> None:
    torch.manual_seed(0)
    network = small_network()
    x, labels = torch.randn(2, 3, 16, 16), torch.eye(10)[:2]
    assert network(x, torch.zeros(2), labels).abs().max() == 0
    network(x, torch.zeros(2), labels).sub(1).square().mean().backward()
    assert network.out_conv.weight.grad is not None
    assert network.out_conv.weight.grad.abs().max() > 0


def test_fresh_block_without_resampling_is_the_identity() -> None:
    block = UNetBlock(8, 8, 16, attention=True)
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(block(x, torch.randn(2, 16)), x)


def test_attention_moves_information_between_pixels() -> None:
    torch.manual_seed(0)
    block = UNetBlock(128, 128, 16, attention=True).eval()
    torch.nn.init.normal_(block.proj.weight, std=0.1)
    x = torch.randn(1, 128, 8, 8, requires_grad=True)
    block(x, torch.zeros(1, 16))[0, :, 0, 0].sum().backward()
    assert block.num_heads == 2
    assert x.grad is not None
    assert x.grad[0, :, 7, 7].abs().max() > 0


def test_positional_embedding_has_the_paper_frequencies() -> None:
    embedding = PositionalEmbedding(4)(torch.tensor([0.0, 1.0]))
    angles = torch.tensor([1.0, 0.01])
    torch.testing.assert_close(embedding[0], torch.tensor([1.0, 1.0, 0.0, 0.0]))
    torch.testing.assert_close(embedding[1], torch.cat([angles.cos(), angles.sin()]))


def test_resampling_averages_downwards_and_repeats_upwards() -> None:
    x = torch.arange(4.0).reshape(1, 1, 2, 2)
    assert ResampledConv(1, "down", kernel=0)(x).flatten().tolist() == [1.5]
    assert ResampledConv(1, "up", kernel=0)(x)[0, 0, 0].tolist() == [0.0, 0.0, 1.0, 1.0]


def test_dropout_acts_in_training_mode_only() -> None:
    torch.manual_seed(0)
    network = small_network(dropout=0.5)
    for block in network.modules():
        if isinstance(block, UNetBlock):
            torch.nn.init.normal_(block.conv1.weight)
    torch.nn.init.normal_(network.out_conv.weight)
    x, level = torch.randn(1, 3, 16, 16), torch.zeros(1)
    assert not torch.equal(network.train()(x, level), network(x, level))
    assert torch.equal(network.eval()(x, level), network(x, level))


def test_half_precision_network_stays_close_to_float32(reference: Reference) -> None:
    exact = reference.denoise(None)
    half = EDMPrecond(ADMUNet(**reference.config)).eval()
    half.load_state_dict(reference.denoiser.state_dict())
    half.to(torch.bfloat16)
    with torch.no_grad():
        denoised = half(reference.tensors["io.x"], reference.tensors["io.sigma"])
    assert denoised.dtype == torch.float32
    assert (denoised - exact).abs().max() < 0.1


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 16, 16), (3, 16, 16)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"\(B, 3, 16, 16\)"):
        small_network()(torch.zeros(shape), torch.zeros(2))


def test_labels_of_another_width_or_count_are_refused() -> None:
    network = small_network()
    for labels in (torch.zeros(2, 9), torch.zeros(1, 10), torch.zeros(2, dtype=torch.int64)):
        with pytest.raises(ShapeError, match="class labels have shape"):
            network(torch.zeros(2, 3, 16, 16), torch.zeros(2), labels)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"img_resolution": 18, "channel_mult": (1, 2, 2)}, "img_resolution 18"),
        ({"channel_mult": ()}, "channel_mult"),
        ({"num_blocks": 0}, "num_blocks 0"),
        ({"model_channels": 6}, "model_channels 6"),
        ({"model_channels": 36, "channel_mult": (1, 4)}, "144 channels"),
        ({"dropout": 1.5}, "dropout 1.5"),
        ({"label_dropout": float("nan")}, "label_dropout nan"),
    ],
)
def test_impossible_sizes_are_refused_by_name(options: dict[str, object], named: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=named):
        ADMUNet(**({"img_resolution": 16, "model_channels": 8, "channel_mult": (1, 2)} | options))
