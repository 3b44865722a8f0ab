"""EDM's other networks, EDM2's and their preconditioners against the authors' own code and against closed forms."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffviews.adapters import GeneratorAdapter, get_adapter, list_adapters, load_adapter
from diffviews.adapters.edm import network_of
from diffviews.adapters.edm_networks import pickled_config
from diffviews.adapters.edm_published import CIFAR10, PUBLISHED
from diffviews.core import GenerationRequest, capture, generate
from diffviews.core.plan import noise_levels
from diffviews.errors import CheckpointError, ConfigError
from diffviews.models.blocks import ADM_STYLE, BlockStyle, ResampledConv
from diffviews.models.edm2_unet import EDM2UNet, MPConv, mp_cat, mp_silu, mp_sum
from diffviews.models.preconditioning import IDDPMPrecond, VEPrecond, VPPrecond
from diffviews.models.song_unet import SongUNet
from diffviews.pipelines.convert_checkpoint import convert_checkpoint
from tests.edm_networks import cases, edm_snapshot, expected, inputs, listing_digest, sampled, tables, tiny_vae

EDM_CASES = {**cases("edm"), **cases("edm2")}
TOLERANCE = 2e-5
Case = tuple[str, dict[str, Any], GeneratorAdapter]


@pytest.fixture(params=EDM_CASES, scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A case: its name, its options, and the adapter that opened its file."""
    said = EDM_CASES[request.param]
    file = edm_snapshot(tmp_path_factory.mktemp("case") / "net.pkl", said["class_name"], said["options"])
    return request.param, said["options"], load_adapter("edm", file, device="cpu")


def snapshot(tmp_path: Path, name: str, **options: Any) -> Path:
    said = EDM_CASES[name]
    return edm_snapshot(tmp_path / "network-snapshot.pkl", said["class_name"], {**said["options"], **options})


def test_pickled_network_denoises_as_its_authors_code_does(case: Case) -> None:
    name, options, adapter = case
    x, sigma, labels = inputs(options["img_channels"], options["label_dim"])
    denoised = torch.stack([adapter.forward(x, sigma, labels), adapter.forward(x, sigma)])
    reference = expected(name)
    assert reference.std() > 0.1
    assert (sampled(denoised) - reference).abs().max() <= TOLERANCE * reference.abs().max()


def test_layers_are_named_like_those_of_the_imagenet_model(case: Case) -> None:
    _, options, adapter = case
    levels, blocks = len(options["channel_mult"]), options["num_blocks"]
    encoder = [f"encoder_block_{i}" for i in range(levels * (blocks + 1) - 1)] + ["encoder_bottleneck"]
    decoder = ["midblock"] + [f"decoder_block_{i}" for i in range(1, levels * (blocks + 2) + 1)]
    assert adapter.hookable_layers == encoder + decoder
    assert adapter.get_layer_shapes()["encoder_bottleneck"][1:] == (8 >> (levels - 1),) * 2


def test_grey_networks_take_and_make_grey_pictures(tmp_path: Path) -> None:
    for name in ("ddpm++ vp grey", "adm edm grey", "edm2 grey"):
        adapter = load_adapter("edm", snapshot(tmp_path, name), device="cpu")
        assert adapter.input_shape == (1, 8, 8)
        grey = np.repeat(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8), 3, axis=3)
        assert np.array_equal(adapter.decode(adapter.encode(grey)), grey)
        red = np.zeros((1, 8, 8, 3), dtype=np.uint8)
        red[..., 0] = 200
        assert adapter.encode(red)[0, 0, 0, 0] == pytest.approx(0.299 * 200 / 127.5 - 1, abs=1e-6)
        result = generate(adapter, GenerationRequest(num_samples=2, num_steps=2, seed=1))
        assert result.images.shape == (2, 8, 8, 3)
        assert np.array_equal(result.images[..., 0], result.images[..., 2])


@pytest.mark.parametrize(("adapter", "name"), [("edm-imagenet-64", "adm edm grey"), ("edm-cifar10", "ddpm++ vp grey")])
def test_networks_with_other_classes_have_no_public_names(tmp_path: Path, adapter: str, name: str) -> None:
    model = load_adapter(adapter, snapshot(tmp_path, name), device="cpu")
    assert model.num_classes in (11, 1100)
    names = model.class_names
    assert names is None or ("tench" not in names and "airplane" not in names and len(names) == model.num_classes)
    images = generate(model, GenerationRequest(num_samples=1, num_steps=1, seed=0, class_labels=model.num_classes - 1))
    assert images.labels.tolist() == [model.num_classes - 1]


def test_ten_classes_are_cifars_only_where_the_model_is_cifars(tmp_path: Path) -> None:
    file = snapshot(tmp_path, "ncsn++ edm")
    assert load_adapter("edm-cifar10", file, device="cpu").class_names == CIFAR10
    for other in ("edm", "edm-imagenet-64", "edm2-imagenet-64"):
        assert not set(CIFAR10) & set(load_adapter(other, file, device="cpu").class_names or ())


def test_table_of_networks_is_the_registrys() -> None:
    assert set(PUBLISHED) < set(list_adapters())
    for name, network in PUBLISHED.items():
        assert get_adapter(name).name == name
        config = get_adapter(name).get_default_config()
        assert (config["img_resolution"], config["label_dim"]) == (network.resolution, network.classes)


@pytest.mark.parametrize("name", tables(None))
def test_full_size_networks_have_the_published_names_and_shapes(name: str) -> None:
    kind, options, parameters, digest = tables(None)[name]
    config = get_adapter(name.split()[0]).get_default_config() if kind is None else pickled_config(kind, (), options)
    network = network_of(config, BlockStyle(narrow_attention=False))
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert listing_digest({key: value.shape for key, value in network.state_dict().items()}) == digest


def test_early_stop_ends_after_the_last_wanted_layer(tmp_path: Path) -> None:
    for name in ("ncsn++ ve", "edm2"):
        adapter = load_adapter("edm", snapshot(tmp_path, name), device="cpu")
        ran: list[str] = []
        for key, block in adapter.model.model.dec.items():
            block.register_forward_hook(lambda *_, key=key, ran=ran: ran.append(key))
        x = torch.zeros(2, *adapter.input_shape)
        captured = capture(adapter, x, ["a", "b"], {}, 1.0, ["encoder_bottleneck"])
        assert captured["encoder_bottleneck"].shape[0] == 2
        assert ran == []


def test_replacing_a_layer_beside_the_residual_image_leaves_nothing_of_the_old_one(tmp_path: Path) -> None:
    """The encoder block of NCSN++ that halves the resolution is the sum with the image that runs beside it."""
    adapter = load_adapter("edm", snapshot(tmp_path, "ncsn++ iddpm grey"), device="cpu")
    layer = next(n for n, path in adapter.model.model.hook_points.items() if path.startswith("enc_sum."))
    layers = [layer, "encoder_block_0", "encoder_block_1"]
    handles = [
        adapter.register_activation_hooks([name], adapter.make_mask_hook(name, torch.zeros(1, *shape)))
        for name, shape in adapter.get_layer_shapes().items()
        if name in layers
    ]
    one, other = (adapter.model.model(torch.full((1, 1, 8, 8), value), torch.zeros(1)) for value in (1.0, 5.0))
    assert len(handles) == 3
    assert torch.equal(one, other)


def test_converted_snapshot_is_the_same_model(tmp_path: Path) -> None:
    for name in ("ncsn++ ve", "adm iddpm", "edm2 unconditional"):
        file = snapshot(tmp_path, name)
        convert_checkpoint(str(file), str(tmp_path / "converted.safetensors"), force=True)
        converted = load_adapter("edm", tmp_path / "converted.safetensors", device="cpu")
        assert converted.digest() == load_adapter("edm", file, device="cpu").digest()
        assert converted.config["precond"] == EDM_CASES[name]["class_name"]


def test_defaults_are_the_authors_classes_and_not_the_adapters(tmp_path: Path) -> None:
    """A pickle tells only what it was told: a VEPrecond's sigma_min is 0.02, whichever adapter opens it."""
    file = snapshot(tmp_path, "ncsn++ ve")
    for name in ("edm", "edm-cifar10", "edm2-imagenet-64"):
        assert load_adapter(name, file, device="cpu").sigma_range == (0.02, 80.0)


def test_arguments_without_names_are_followed() -> None:
    named = pickled_config("VPPrecond", (), {"img_resolution": 8, "img_channels": 1, "label_dim": 4, "beta_d": 3.0})
    assert pickled_config("VPPrecond", (8, 1, 4), {"beta_d": 3.0}) == named
    assert (named["model_type"], named["beta_d"], named["num_blocks"]) == ("SongUNet", 3.0, 4)
    with pytest.raises(ConfigError, match="4 arguments without names"):
        pickled_config("VPPrecond", (8, 1, 4, True), {})


@pytest.mark.parametrize(
    ("made", "options", "said"),
    [
        ("EDMPrecond", {"model_type": "StyleGAN"}, "EDMPrecond around a StyleGAN is none of EDM's networks"),
        ("UViT", {}, "a UViT around a DhariwalUNet is none"),
        ("EDMPrecond", {"model_type": "UNet"}, "EDMPrecond around a UNet is none"),
    ],
)
def test_unknown_classes_are_refused_with_those_known(made: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        pickled_config(made, (), {"img_resolution": 8, **options})


def test_unknown_argument_of_a_pickle_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        pickled_config("EDMPrecond", (), {"img_resolution": 8, "use_fp16": True, "augment_dim": 9})
        assert not caplog.records
        pickled_config("EDMPrecond", (), {"img_resolution": 8, "img_channels": 3, "learn_warp": 2})
    assert [record.getMessage() for record in caplog.records] == [
        "the pickled EDMPrecond was also made with learn_warp, which is not followed"
    ]


def test_latent_network_is_refused_with_the_way_named(tmp_path: Path) -> None:
    file = snapshot(tmp_path, "edm2", img_channels=4)
    with pytest.raises(CheckpointError, match=r"takes 4 channels.*VAE's latents.*edm2-imagenet-512"):
        load_adapter("edm2-imagenet-64", file, device="cpu")


def test_latent_network_makes_images_as_its_authors_encoder_does(tmp_path: Path) -> None:
    """Pixels in [0, 1] to the VAE; its mode, less 5.81 and times 0.5 / 4.17 in the first channel, and so on."""
    file, vae = snapshot(tmp_path, "edm2", img_channels=4), tiny_vae(tmp_path / "pipeline" / "vae")
    with pytest.raises(ConfigError, match=r"give the diffusers folder of its VAE, a copy of hf:stabilityai/sd-vae-ft"):
        load_adapter("edm2-imagenet-512", file, device="cpu")
    adapter = load_adapter("edm2-imagenet-512", file, device="cpu", base=vae.parent)
    assert (adapter.resolution, adapter.input_shape) == (32, (4, 8, 8))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    mode = adapter.vae.encode(pixels).latent_dist.mode()
    latents = adapter.encode(images)
    for channel, (mean, deviation) in enumerate([(5.81, 4.17), (3.25, 4.62), (0.12, 3.71), (-2.15, 3.28)]):
        torch.testing.assert_close(latents[:, channel], (mode[:, channel] - mean) * 0.5 / deviation)
    own = adapter.vae.decode(mode, return_dict=False)[0].clamp(0, 1) * 255
    decoded = torch.from_numpy(adapter.decode(latents)).permute(0, 3, 1, 2)
    assert (decoded - own).abs().max() <= 1
    with pytest.raises(CheckpointError, match="takes 3 channels instead of a VAE's 4"):
        load_adapter("edm2-imagenet-512", snapshot(tmp_path, "edm2"), device="cpu", base=vae)


def test_wrong_size_is_refused_by_name(tmp_path: Path) -> None:
    file = snapshot(tmp_path, "ddpm++ edm")
    with pytest.raises(CheckpointError, match=r"does not fit the network: .* of another shape|missing"):
        load_adapter("edm", file, device="cpu", model_channels=32)
    with pytest.raises(ConfigError, match="did you mean 'encoder_type'"):
        load_adapter("edm", file, device="cpu", encoder_typ="residual")
    with pytest.raises(CheckpointError, match="encoder_type 'residal' is not one of"):
        load_adapter("edm", file, device="cpu", encoder_type="residal")


def test_foreign_levels_are_refused(tmp_path: Path) -> None:
    file = snapshot(tmp_path, "adm iddpm")
    with pytest.raises(CheckpointError, match="noise levels other than those"):
        load_adapter("edm", file, device="cpu", C_2=0.5)


def test_half_precision_keeps_frequencies_exact(tmp_path: Path) -> None:
    for name in ("ncsn++ ve", "edm2"):
        file = snapshot(tmp_path, name)
        exact, half = (load_adapter("edm", file, device="cpu", precision=p) for p in ("float32", "bfloat16"))
        buffers = {k: v for k, v in half.model.model.named_buffers() if k.endswith(("freqs", "phases"))}
        assert buffers
        assert all(torch.equal(v, exact.model.model.get_buffer(k)) for k, v in buffers.items())
        x, sigma, _ = inputs(3, 0)
        assert (half.forward(x, sigma) - exact.forward(x, sigma)).abs().mean() < 0.05 * exact.forward(x, sigma).std()


def test_vp_levels_are_those_of_its_schedule() -> None:
    """c_noise of sigma(t) is 999 t (Karras et al. 2022, table 1)."""
    denoiser = VPPrecond(torch.nn.Identity())
    t = torch.tensor([0.01, 0.3, 1.0], dtype=torch.float64)
    sigma = torch.expm1(19.9 * t**2 / 2 + 0.1 * t).sqrt()
    torch.testing.assert_close(denoiser.coefficients(sigma).c_noise, 999 * t)
    assert denoiser.sigma_max == pytest.approx(float(sigma[-1]))
    c = denoiser.coefficients(sigma)
    torch.testing.assert_close(c.c_in.square() * (1 + sigma.square()), torch.ones_like(t))
    torch.testing.assert_close(c.c_out, -sigma)


def test_ve_network_sees_the_noised_image_itself() -> None:
    c = VEPrecond(torch.nn.Identity()).coefficients(torch.tensor([2.0, 20.0]))
    assert torch.equal(c.c_in, torch.ones(2))
    torch.testing.assert_close(c.c_noise, torch.tensor([0.0, math.log(10)]))
    assert torch.equal(c.c_out, torch.tensor([2.0, 20.0]))


def test_iddpm_levels_are_the_cosine_schedules() -> None:
    """sigma_j² = 1 / abar_j - 1 wherever no ratio is bounded; the network is told M - 1 - j of the nearest."""
    denoiser = IDDPMPrecond(torch.nn.Identity(), C_1=1e-9, M=50)
    j = torch.arange(1, 51, dtype=torch.float64)
    abar = (math.pi / 2 * j / 50 / 1.008).sin().square()
    # The recursion starts from u_M = 0, so it knows abar up to the factor abar_M.
    torch.testing.assert_close(denoiser.u[1:].double(), (abar[-1] / abar - 1).sqrt(), atol=2e-3, rtol=2e-4)
    assert denoiser.u[-1] == 0
    sigma = denoiser.u[[7, 30]] * 1.0001
    assert denoiser.coefficients(sigma).c_noise.tolist() == [42.0, 19.0]
    assert torch.equal(denoiser.round_sigma(sigma), denoiser.u[[7, 30]])


def test_sampling_a_network_of_discrete_levels_takes_those_levels(tmp_path: Path) -> None:
    adapter = load_adapter("edm", snapshot(tmp_path, "adm iddpm"), device="cpu")
    levels = noise_levels(adapter, GenerationRequest(num_samples=1, num_steps=9))
    known = adapter.model.u.double()
    assert levels.dtype == torch.float64
    assert all((known - level).abs().min() == 0 for level in levels)
    free = load_adapter("edm", snapshot(tmp_path, "ddpm++ edm"), device="cpu")
    assert free.model_sigmas(9) is None


def test_filter_of_four_taps_keeps_constants_and_its_mean() -> None:
    taps = (1.0, 3.0, 3.0, 1.0)
    ones = torch.ones(1, 2, 8, 8)
    for resample, inner in (("down", slice(1, -1)), ("up", slice(2, -2))):
        made = ResampledConv(2, resample, kernel=0, taps=taps)(ones)
        torch.testing.assert_close(made[..., inner, inner], torch.ones_like(made[..., inner, inner]))
    line = torch.zeros(1, 1, 8, 8)
    line[..., 4, 4] = 64.0
    spread = ResampledConv(1, "up", kernel=0, taps=taps)(line)[0, 0]
    expected_line = torch.tensor([1.0, 3.0, 3.0, 1.0])
    torch.testing.assert_close(spread[7:11, 7:11], torch.outer(expected_line, expected_line) * 4 * 64 / 64)
    with pytest.raises(ConfigError, match="even number of taps"):
        ResampledConv(1, "up", kernel=0, taps=(1.0, 2.0, 1.0))


def test_augmentation_of_training_plays_no_part(tmp_path: Path) -> None:
    options = EDM_CASES["ddpm++ edm"]["options"]
    assert options["augment_dim"] == 9
    plain = {name: value for name, value in options.items() if name != "augment_dim"}
    x, sigma, labels = inputs(3, options["label_dim"])
    files = (edm_snapshot(tmp_path / f"{i}.pkl", "EDMPrecond", said) for i, said in enumerate((options, plain)))
    first, second = (load_adapter("edm-cifar10", file, device="cpu").forward(x, sigma, labels) for file in files)
    assert torch.equal(first, second)


def test_zero_labels_are_unconditional_in_every_network(case: Case) -> None:
    _, options, adapter = case
    x, sigma, labels = inputs(options["img_channels"], options["label_dim"])
    if labels is None:
        assert adapter.num_classes == 0
        return
    assert torch.equal(adapter.forward(x, sigma, torch.zeros_like(labels)), adapter.forward(x, sigma))
    assert not torch.allclose(adapter.forward(x, sigma, labels), adapter.forward(x, sigma), atol=1e-3)


def magnitude(x: Tensor) -> float:
    return float(x.detach().square().mean().sqrt())


def test_magnitudes_are_preserved() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, channels, 32, 32, generator=generator) for channels in (32, 96))
    assert magnitude(mp_silu(b)) == pytest.approx(1, abs=0.02)
    assert magnitude(mp_sum(a, torch.randn(a.shape, generator=generator), 0.3)) == pytest.approx(1, abs=0.02)
    joined = mp_cat(a, b, 0.3)
    assert magnitude(joined) == pytest.approx(1, abs=0.02)
    shares = [float(part.square().sum()) for part in joined.split([32, 96], dim=1)]
    assert shares[1] / shares[0] == pytest.approx((0.3 / 0.7) ** 2, rel=0.02)
    torch.manual_seed(0)
    layer = MPConv(96, 64, (3, 3))
    assert magnitude(layer(b)[..., 1:-1, 1:-1]) == pytest.approx(1, abs=0.02)
    scaled = MPConv(96, 64, (3, 3))
    scaled.weight.data = 7 * layer.weight.data
    torch.testing.assert_close(scaled(b), layer(b), atol=2e-3, rtol=2e-3)


def test_activations_are_clipped_where_the_network_says_so() -> None:
    torch.manual_seed(0)
    network = EDM2UNet(8, 3, 0, 16, (1, 2), num_blocks=1, attn_resolutions=(), clip_act=0.5)
    seen: list[float] = []
    for block in [*list(network.enc.values())[1:], *network.dec.values()]:
        block.register_forward_hook(lambda _m, _i, output: seen.append(float(output.detach().abs().max())))
    network(torch.randn(2, 3, 8, 8), torch.zeros(2))
    assert max(seen) == 0.5


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"embedding_type": "sine"}, "embedding_type 'sine'"),
        ({"decoder_type": "residual"}, "decoder_type 'residual'"),
        ({"resample_filter": (1, 2, 1)}, "even number of taps"),
        ({"img_resolution": 12, "channel_mult": (1, 1, 1, 1)}, "img_resolution 12"),
    ],
)
def test_impossible_networks_are_refused_by_name(options: dict[str, Any], named: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=named):
        SongUNet(**({"img_resolution": 8, "model_channels": 16, "channel_mult": (1, 2), "num_blocks": 1} | options))


def test_narrow_layers_without_attention_are_those_of_edm() -> None:
    """EDM gives a layer of fewer than 64 channels no head at all; networks trained here have one there."""
    config = {"img_resolution": 8, "label_dim": 0, "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1}
    assert not any("qkv" in name for name in network_of(config, BlockStyle(narrow_attention=False)).state_dict())
    assert any("qkv" in name for name in network_of(config, ADM_STYLE).state_dict())
