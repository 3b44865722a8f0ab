"""guided-diffusion's ADM networks as adapters, against the authors' own code and its schedules' closed forms."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from diffviews.adapters import get_adapter, list_adapters, load_adapter
from diffviews.adapters.guided_diffusion import PUBLISHED, adm_network, noise_schedule, spread_timesteps
from diffviews.adapters.guided_diffusion_weights import read_architecture
from diffviews.core import GenerationRequest, capture, generate
from diffviews.errors import CheckpointError, ConfigError
from diffviews.pipelines.convert_checkpoint import convert_checkpoint
from tests.edm_networks import (
    cases,
    edm_snapshot,
    expected,
    guided_file,
    guided_shapes,
    inputs,
    listing_digest,
    sampled,
    tables,
)

CASES = cases("guided")
NEW_ORDER = "guided new order"


def written(tmp_path: Path, name: str = NEW_ORDER, **flags: Any) -> Path:
    """Write a case's file; flags that are None are left out of what lies beside it."""
    path = guided_file(tmp_path / "model000100.pt", CASES[name])
    beside = path.with_suffix(".json")
    said = {**json.loads(beside.read_text())["network"], **flags}
    beside.write_text(json.dumps({"network": {key: value for key, value in said.items() if value is not None}}))
    return path


@pytest.mark.parametrize("name", CASES)
def test_state_dict_denoises_as_its_authors_code_does(tmp_path: Path, name: str) -> None:
    case, file = CASES[name], written(tmp_path, name)
    sigma = torch.tensor(case["sigmas"], dtype=torch.float64)
    adapter = load_adapter("adm-imagenet-64", file, device="cpu")
    assert adapter.model.schedule.timestep_of(sigma).tolist() == case["timesteps"]
    x, _, _ = inputs(3, 0)
    labels = None if case["labels"] is None else torch.eye(adapter.num_classes)[case["labels"]]
    free = load_adapter("adm-imagenet-64", file, device="cpu", clip_denoised=False)
    denoised = torch.stack([model.forward(x, sigma, labels) for model in (adapter, free)])
    reference = expected(name)
    assert reference.abs().max() > 1
    assert (sampled(denoised) - reference).abs().max() <= 2e-5 * reference.abs().max()


@pytest.mark.parametrize("name", PUBLISHED)
def test_full_size_networks_have_the_published_names_and_shapes(name: str) -> None:
    _, _, parameters, digest = tables("guided")[name]
    published = PUBLISHED[name]
    config = {
        **get_adapter(name).get_default_config(), "out_channels": 6, "label_dropout": 0.0, "use_scale_shift_norm": True,
        "attn_levels": [int(math.log2(published.image_size // size)) for size in (32, 16, 8)],
    }  # fmt: skip
    network = adm_network(config)
    shapes = guided_shapes(config, network)
    assert listing_digest(shapes) == digest
    assert sum(p.numel() for p in network.parameters()) == parameters
    found = read_architecture({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    for key in ("model_channels", "channel_mult", "num_blocks", "attn_levels", "label_dim", "out_channels"):
        assert found[key] == config[key], key


def test_table_of_networks_is_the_registrys() -> None:
    assert set(PUBLISHED) < set(list_adapters())
    assert [get_adapter(name).name for name in PUBLISHED] == list(PUBLISHED)


def test_what_a_state_dict_does_not_tell_must_be_said(tmp_path: Path) -> None:
    """A wrong number of heads or another schedule would change every number without a word."""
    file = written(tmp_path, noise_schedule=None, num_head_channels=None)
    said = r"does not tell noise_schedule, num_heads or num_head_channels; say so in a JSON file"
    with pytest.raises(CheckpointError, match=said):
        load_adapter("adm-imagenet-64", file, device="cpu")
    file.with_suffix(".json").unlink()
    with pytest.raises(CheckpointError, match=r"does not tell image_size, noise_schedule, num_heads or"):
        load_adapter("adm-imagenet-64", file, device="cpu")
    given = {"image_size": 8, "noise_schedule": "cosine", "num_head_channels": 16, "use_new_attention_order": True}
    opened = load_adapter("adm-imagenet-64", file, device="cpu", **given)
    assert opened.digest() == load_adapter("adm-imagenet-64", written(tmp_path), device="cpu").digest()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"predict_xstart": True}, "predict_xstart is not supported"),
        ({"rescale_timesteps": True}, "rescale_timesteps is not supported"),
        ({"noise_schedule": "sqrt"}, "noise_schedule 'sqrt' is not one of: linear, cosine"),
        ({"image_size": 7}, "img_resolution 7 cannot be halved"),
    ],
)
def test_flags_that_cannot_be_followed_are_refused(tmp_path: Path, flags: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        load_adapter("adm-imagenet-64", written(tmp_path, **flags), device="cpu")


def test_networks_of_other_kinds_are_refused_with_what_they_are(tmp_path: Path) -> None:
    file = written(tmp_path)
    tensors = torch.load(file, weights_only=True)

    def refused(changed: dict[str, torch.Tensor], said: str) -> None:
        torch.save(changed, file)
        with pytest.raises(CheckpointError, match=said):
            load_adapter("adm-imagenet-64", file, device="cpu")

    stem = tensors["input_blocks.0.0.weight"]
    refused({**tensors, "input_blocks.0.0.weight": torch.zeros(len(stem), 6, 3, 3)}, "maps 6 channels.*upsamplers")
    classifier = {name: value for name, value in tensors.items() if not name.startswith("output_blocks")}
    refused(classifier, "classifiers are not supported")
    refused({**tensors, "input_blocks.2.0.op.weight": torch.zeros(32, 32, 3, 3)}, "resblock_updown")
    refused({name: value for name, value in tensors.items() if "time_embed" not in name}, "no network of guided-diff")
    refused({**tensors, "extra.weight": torch.zeros(2)}, "1 unknown")


def test_each_kind_names_the_others_adapter(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="of guided-diffusion, not a network of EDM; load it as model adm-"):
        load_adapter("edm-imagenet-64", written(tmp_path), device="cpu")
    options = {"img_resolution": 8, "img_channels": 3, "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1}
    with pytest.raises(CheckpointError, match=r"weights of EDM, not .* of guided-diffusion; load it as model edm,"):
        load_adapter("adm-imagenet-64", edm_snapshot(tmp_path / "edm.pkl", "EDMPrecond", options), device="cpu")


def test_converted_state_dict_is_the_same_model(tmp_path: Path) -> None:
    file = written(tmp_path)
    convert_checkpoint(str(file), str(tmp_path / "model.safetensors"))
    file.with_suffix(".json").rename(tmp_path / "model.json")
    opened = load_adapter("adm-imagenet-64", tmp_path / "model.safetensors", device="cpu")
    assert opened.digest() == load_adapter("adm-imagenet-64", written(tmp_path), device="cpu").digest()


@pytest.mark.parametrize("steps", [25, 250, 1000])
def test_levels_are_those_of_evenly_spread_timesteps(tmp_path: Path, steps: int) -> None:
    """`timestep_respacing` counts from the first timestep to the last by a stride that need not be whole."""
    adapter = load_adapter("adm-imagenet-64", written(tmp_path), device="cpu")
    own = [round(i * 999 / (steps - 1)) for i in reversed(range(steps))]
    levels = noise_schedule("cosine", 1000).sigmas
    torch.testing.assert_close(adapter.model_sigmas(steps), levels[own], rtol=1e-12, atol=0)
    with pytest.raises(ConfigError, match=r"num_steps 1001 must be 1 … 1000"):
        adapter.model_sigmas(1001)


def test_strides_that_fall_between_timesteps_are_rounded_as_by_its_respacing() -> None:
    # What its space_timesteps gives: sums of float strides stay below 249.5 and 1999.5, and 124.75 needs no care.
    assert spread_timesteps(500, 25)[[12, 18]].tolist() == [249, 125]
    assert spread_timesteps(4000, 3).tolist() == [3999, 2000, 0]
    assert spread_timesteps(500, 1).tolist() == [499]


def test_x0_is_clipped_after_guidance(tmp_path: Path) -> None:
    """In one step the result without clipping, of which images show what is within [-1, 1], is that with it."""
    file = written(tmp_path, "guided four heads")
    request = GenerationRequest(num_samples=2, num_steps=1, seed=3, class_labels=2, guidance_scale=4.0)
    clipped, free = (
        generate(load_adapter("adm-imagenet-64", file, device="cpu", clip_denoised=clip), request).images
        for clip in (True, False)
    )
    assert (clipped == free).all()
    assert clipped.std() > 10


def test_schedules_are_the_papers() -> None:
    linear, cosine = (noise_schedule(kind, 1000).sigmas for kind in ("linear", "cosine"))
    # Ho et al. 2020: beta_1 = 1e-4, beta_T = 0.02.
    assert linear[0] == pytest.approx((1e-4 / (1 - 1e-4)) ** 0.5)
    assert 1 - (1 + linear[-2] ** 2) / (1 + linear[-1] ** 2) == pytest.approx(0.02)
    # Nichol and Dhariwal 2021, eq. 17: abar = f(t) / f(0).
    t = torch.tensor([101.0, 500.0, 900.0], dtype=torch.float64)
    abar = (((t / 1000 + 0.008) / 1.008 * math.pi / 2).cos() / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
    torch.testing.assert_close(cosine[t.long() - 1], (1 / abar - 1).sqrt(), rtol=1e-9, atol=0)


def test_generation_starts_as_pure_noise_and_stays_within_the_images_range(tmp_path: Path) -> None:
    adapter = load_adapter("adm-imagenet-64", written(tmp_path, "guided four heads"), device="cpu")
    assert adapter.start_scale(3.0) == pytest.approx(10**0.5)
    result = generate(adapter, GenerationRequest(num_samples=2, num_steps=4, seed=3, class_labels=2))
    assert result.images.shape == (2, 8, 8, 3)
    assert adapter.class_names is None or "tench" not in adapter.class_names


def test_early_stop_ends_after_the_last_wanted_layer(tmp_path: Path) -> None:
    adapter = load_adapter("adm-imagenet-64", written(tmp_path), device="cpu")
    ran: list[str] = []
    for key, block in adapter.model.model.dec.items():
        block.register_forward_hook(lambda *_, key=key: ran.append(key))
    capture(adapter, torch.zeros(1, 3, 8, 8), ["a"], {}, 1.0, ["encoder_block_1"])
    assert ran == []
