"""LoRA and its kin in all spellings: merged as diffusers and peft merge them, or refused with what is left over."""

import copy
import json
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from diffviews.adapters import load_adapter
from diffviews.adapters.lora import merge_loras, with_strengths
from diffviews.adapters.module_names import ldm_names
from diffviews.errors import CheckpointError, ConfigError
from tests import loras
from tests.diffusion_folders import draw_sd_pipeline, draw_sdxl_pipeline, saved
from tests.loras import Factors, draw_factors, networks_of, product

BOTH = pytest.mark.parametrize("kind", ["sd", "sdxl"])


@cache
def drawn(kind: str) -> Any:
    """Return a pipeline, which no test changes."""
    return {"sd": draw_sd_pipeline, "sdxl": draw_sdxl_pipeline}[kind.split()[-1]]({"sd": 0, "sdxl": 4}.get(kind, 7))


def merged(pipeline: Any, *files: tuple[Path, float], partial: bool = False) -> dict[str, dict[str, Tensor]]:
    """Return all weights of a pipeline's networks after our merging; the pipeline is left as it was."""
    networks = copy.deepcopy(networks_of(pipeline))
    merge_loras(networks, list(files), partial=partial)
    return {name: network.state_dict() for name, network in networks.items()}


def by_closed_form(pipeline: Any, factors: Factors, scale: float) -> dict[str, dict[str, Tensor]]:
    """Return W + scale up @ down of every layer in `factors`, everything else as it was."""
    weights = {name: copy.deepcopy(network.state_dict()) for name, network in networks_of(pipeline).items()}
    for network, layers in factors.items():
        for path, (up, down) in layers.items():
            weights[network][f"{path}.weight"] += scale * product(up, down)
    return weights


def by_diffusers(pipeline: Any, file: Path, scale: float = 1.0) -> dict[str, dict[str, Tensor]]:
    """Return all weights after diffusers has loaded a LoRA and fused it."""
    networks = networks_of(pipeline)
    fused = type(pipeline)(**{**pipeline.components, **copy.deepcopy(networks)})
    fused.load_lora_weights(str(file.parent), weight_name=file.name, local_files_only=True)
    fused.fuse_lora(components=list(networks), lora_scale=scale)
    fused.unload_lora_weights()
    return {name: network.state_dict() for name, network in networks_of(fused).items()}


def assert_same(ours: dict[str, dict[str, Tensor]], theirs: dict[str, dict[str, Tensor]], tol: float = 1e-5) -> None:
    assert ours.keys() == theirs.keys()
    for network, weights in theirs.items():
        assert ours[network].keys() == weights.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(ours[network][name], weight, atol=tol, rtol=tol, msg=f"{network}.{name}")


def write(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, file, metadata) if file.suffix == ".safetensors" else torch.save(whole, file)
    return file


# Spellings


@BOTH
@pytest.mark.parametrize(
    ("alpha", "strength", "suffix"), [(6.0, 1.0, ".safetensors"), (None, 0.7, ".bin"), (1.0, -0.5, ".pt")]
)
def test_kohya_s_spelling_changes_unet_and_text_encoders(
    kind: str, alpha: float | None, strength: float, suffix: str, tmp_path: Path
) -> None:
    pipeline = drawn(kind)
    factors = draw_factors(pipeline, 1, endings=loras.CHOSEN + loras.CONVOLUTIONS)
    assert factors.keys() == networks_of(pipeline).keys()
    file = write(loras.kohya(factors, alpha), tmp_path / f"lora{suffix}")
    scale = strength * (1 if alpha is None else alpha / 3)
    assert_same(merged(pipeline, (file, strength)), by_closed_form(pipeline, factors, scale))


@BOTH
def test_kohya_s_lora_is_merged_as_by_the_pipeline_itself(kind: str, tmp_path: Path) -> None:
    pipeline = drawn(kind)
    file = write(loras.kohya(draw_factors(pipeline, 2), 6.0), tmp_path / "lora.safetensors")
    assert_same(merged(pipeline, (file, 0.7)), by_diffusers(pipeline, file, 0.7))


@pytest.mark.parametrize("seed", [1, 4])
def test_kohya_s_sdxl_names_by_the_original_blocks_are_found(seed: int, tmp_path: Path) -> None:
    pipeline = draw_sdxl_pipeline(seed)
    names = {path: other for other, path in ldm_names(pipeline.unet).items()}
    factors = draw_factors(pipeline, 3, endings=loras.CHOSEN + loras.CONVOLUTIONS)
    assert any("input_blocks" in names[path] for path in factors["unet"])
    file = write(loras.kohya(factors, 2.0, names), tmp_path / "lora.safetensors")
    assert_same(merged(pipeline, (file, 1.0)), by_closed_form(pipeline, factors, 2 / 3))
    dotted = {f"diffusion_model.{names[path]}": pair for path, pair in factors["unet"].items()}
    file = write(loras.bare(dotted, "lora_down.weight", "lora_up.weight"), tmp_path / "comfy.safetensors")
    assert_same(merged(pipeline, (file, 1.0)), by_closed_form(pipeline, {"unet": factors["unet"]}, 1.0))


@pytest.mark.parametrize("seed", range(3))
def test_original_block_names_are_those_that_diffusers_converter_knows(seed: int) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    unet = draw_sdxl_pipeline(seed).unet if seed % 2 else draw_sd_pipeline(seed).unet
    names = {path: other for other, path in ldm_names(unet).items()}
    weights = unet.state_dict()
    original = {f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value for key, value in weights.items()}
    back = convert_ldm_unet_checkpoint({f"model.diffusion_model.{k}": v for k, v in original.items()}, unet.config)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], value) for name, value in weights.items())


@BOTH
@pytest.mark.parametrize("spell", [loras.diffusers, loras.older_diffusers])
def test_diffusers_spellings_old_and_new_are_merged_as_by_the_pipeline_itself(
    kind: str, spell: Callable[[Factors], dict[str, Tensor]], tmp_path: Path
) -> None:
    pipeline = drawn(kind)
    factors = draw_factors(pipeline, 4, endings=("attn1.to_q", "attn2.to_k", "attn2.to_out.0", "q_proj", "out_proj"))
    file = write(spell(factors), tmp_path / "pytorch_lora_weights.safetensors")
    ours = merged(pipeline, (tmp_path, 0.6))
    assert_same(ours, by_closed_form(pipeline, factors, 0.6))
    assert_same(ours, by_diffusers(pipeline, file, 0.6))


@BOTH
def test_settings_that_diffusers_notes_in_the_file_are_followed(kind: str, tmp_path: Path) -> None:
    pipeline = drawn(kind)
    trained = copy.deepcopy(networks_of(pipeline))
    settings = [
        {"r": 2, "lora_alpha": 5, "target_modules": ["to_q", "conv1"], "rank_pattern": {"attn2.to_q": 3},
         "alpha_pattern": {"attn1.to_q": 7}},
        {"r": 4, "lora_alpha": 6, "use_rslora": True, "target_modules": ["q_proj", "fc1"]},
        {"r": 2, "lora_alpha": 1, "target_modules": ["v_proj"]},
    ]  # fmt: skip
    layers, notes = {}, {}
    for seed, ((name, network), options) in enumerate(zip(trained.items(), settings, strict=False)):
        torch.manual_seed(seed)
        network.add_adapter(peft.LoraConfig(**options, init_lora_weights=False))
        layers[f"{name}_lora_layers"] = peft.get_peft_model_state_dict(network)
        notes[f"{name}_lora_adapter_metadata"] = network.peft_config["default"].to_dict()
    type(pipeline).save_lora_weights(tmp_path, **layers, **notes)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    assert_same(merged(pipeline, (file, 1.0)), by_diffusers(pipeline, file))


@pytest.mark.parametrize(("down", "up"), [
    ("lora_A.weight", "lora_B.weight"), ("lora_down.weight", "lora_up.weight"), ("lora.down.weight", "lora.up.weight"),
])  # fmt: skip
def test_bare_paths_are_those_of_the_unet(down: str, up: str, tmp_path: Path) -> None:
    for kind in ("sd", "sdxl"):
        factors = draw_factors(drawn(kind), 5)["unet"]
        file = write(loras.bare(factors, down, up), tmp_path / f"{kind}.safetensors")
        assert_same(merged(drawn(kind), (file, 1.0)), by_closed_form(drawn(kind), {"unet": factors}, 1.0))


# peft's own folders: LoRA, DoRA, LoHa, LoKr, IA3

PEFT = {
    "lora": peft.LoraConfig(r=2, lora_alpha=5, target_modules=["to_q", "conv1", "ff.net.2"], init_lora_weights=False),
    "lora of biases": peft.LoraConfig(r=2, lora_alpha=3, target_modules=["conv1"], lora_bias=True,
                                   init_lora_weights=False),
    "rslora": peft.LoraConfig(r=4, lora_alpha=3, use_rslora=True, target_modules=["to_v"], init_lora_weights=False),
    "patterns": peft.LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_k"], init_lora_weights=False,
                                alpha_pattern={".*attn2.*to_k": 1, r"^mid_block\..*to_q": 2},
                                rank_pattern={"attn1.*": 2}),
    "loha, patterns": peft.LoHaConfig(r=4, alpha=2, target_modules=["to_q", "to_k"], init_weights=False,
                                      rank_pattern={"attn1.to_q": 2}, alpha_pattern={".*attn2.*": 6}),
    "dora": peft.LoraConfig(r=2, lora_alpha=5, use_dora=True, target_modules=["to_q", "conv1"],
                            init_lora_weights=False),
    "loha": peft.LoHaConfig(r=2, alpha=3, target_modules=["to_q", "conv1"], init_weights=False),
    "loha, effective": peft.LoHaConfig(r=2, alpha=3, target_modules=["to_k", "conv1"], init_weights=False,
                                       use_effective_conv2d=True, alpha_pattern={"attn1.to_k": 5}),
    "lokr": peft.LoKrConfig(r=1, alpha=3, target_modules=["to_q", "conv1"], init_weights=False, decompose_both=True),
    "lokr, effective": peft.LoKrConfig(r=1, alpha=2, target_modules=["to_v", "conv1"], init_weights=False,
                                       use_effective_conv2d=True),
    "lokr, whole": peft.LoKrConfig(r=32, alpha=8, target_modules=["to_q", "ff.net.0.proj"], init_weights=False),
    "ia3": peft.IA3Config(target_modules=["to_q", "conv1"], feedforward_modules=["conv1"]),
    "ia3 of outputs": peft.IA3Config(target_modules=["to_k", "conv2", "ff.net.2"], feedforward_modules=["ff.net.2"]),
}  # fmt: skip


@pytest.mark.parametrize("name", list(PEFT))
@BOTH
def test_peft_s_folders_are_merged_as_by_peft_itself(name: str, kind: str, tmp_path: Path) -> None:
    pipeline = drawn(kind)
    model = peft.get_peft_model(copy.deepcopy(pipeline.unet), copy.deepcopy(PEFT[name]))
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "ia3" in key or "magnitude" in key:
                parameter.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=generator))
    model.save_pretrained(tmp_path)
    theirs = model.merge_and_unload().state_dict()
    assert any(not torch.equal(theirs[key], value) for key, value in pipeline.unet.state_dict().items())
    assert_same({"unet": merged(pipeline, (tmp_path, 1.0))["unet"]}, {"unet": theirs}, 1e-4)


def test_name_that_peft_gives_an_adapter_may_stand_in_its_tensors(tmp_path: Path) -> None:
    pipeline, factors = drawn("sd"), draw_factors(drawn("sd"), 5)["unet"]
    expected = by_closed_form(pipeline, {"unet": factors}, 1.0)
    for name in ("default", "default_0", "my_style"):
        file = write(loras.bare(factors, f"lora_A.{name}.weight", f"lora_B.{name}.weight"), tmp_path / f"{name}.pt")
        assert_same(merged(pipeline, (file, 1.0)), expected)


def test_peft_s_tensors_without_its_settings_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(loras.peft(draw_factors(drawn("sd"), 5)["unet"]), tmp_path / "adapter_model.safetensors")
    merged(drawn("sd"), (file, 1.0))
    assert "no adapter_config.json beside it, so its alpha is taken to be its rank" in caplog.text


def test_settings_of_a_text_encoder_may_name_its_paths_as_older_versions_had_them(tmp_path: Path) -> None:
    pipeline = drawn("sd")
    factors = {"text_encoder": draw_factors(pipeline, 5)["text_encoder"]}
    write(loras.peft(factors["text_encoder"]), tmp_path / "adapter_model.safetensors")
    settings = {"r": 3, "lora_alpha": 3, "alpha_pattern": {r"text_model\.encoder\..*": 6}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    assert_same(merged(pipeline, (tmp_path, 1.0)), by_closed_form(pipeline, factors, 2.0))


def test_peft_s_folder_of_a_text_encoder_is_found_by_its_paths(tmp_path: Path) -> None:
    pipeline = drawn("sd")
    config = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "fc2"], init_lora_weights=False)
    model = peft.get_peft_model(copy.deepcopy(pipeline.text_encoder), config)
    model.save_pretrained(tmp_path)
    ours = merged(pipeline, (tmp_path, 1.0))
    assert_same({"text_encoder": ours["text_encoder"]}, {"text_encoder": model.merge_and_unload().state_dict()})


def test_strength_of_dora_scales_what_is_added_before_the_magnitude(tmp_path: Path) -> None:
    pipeline = drawn("sd")
    trained = copy.deepcopy(pipeline.unet)
    trained.add_adapter(copy.deepcopy(PEFT["dora"]))
    type(pipeline).save_lora_weights(
        tmp_path, unet_lora_layers=peft.get_peft_model_state_dict(trained),
        unet_lora_adapter_metadata=trained.peft_config["default"].to_dict(),
    )  # fmt: skip
    for strength in (1.0, 0.5):
        ours = merged(pipeline, (tmp_path, strength))
        assert_same(ours, by_diffusers(pipeline, tmp_path / "pytorch_lora_weights.safetensors", strength), 1e-4)


@pytest.mark.parametrize("by_input", [False, True])
@BOTH
def test_dora_of_kohya_and_lycoris_has_the_norms_that_it_stores(kind: str, by_input: bool, tmp_path: Path) -> None:
    pipeline = drawn(kind)
    factors = {"unet": draw_factors(pipeline, 7, endings=("to_q", "to_k", "conv1", "conv2"))["unet"]}
    tensors, norms = loras.kohya(factors, 6.0), {}
    for number, (path, (up, down)) in enumerate(factors["unet"].items()):
        axis, width = (1, down.shape[1]) if by_input else (0, len(up))
        norm = torch.rand(width, generator=torch.Generator().manual_seed(number)) + 0.5
        shape = [-1 if axis == place else 1 for place in range(down.ndim)]
        tensors[f"lora_unet_{path.replace('.', '_')}.dora_scale"] = norm.reshape(shape)
        norms[path] = (axis, norm)
    file = write(tensors, tmp_path / "dora.safetensors")
    ours, plain = merged(pipeline, (file, 1.0))["unet"], by_closed_form(pipeline, factors, 2.0)["unet"]
    for path, (axis, norm) in norms.items():
        got, whole = ours[f"{path}.weight"].transpose(0, axis), plain[f"{path}.weight"].transpose(0, axis)
        torch.testing.assert_close(got.flatten(1).norm(dim=1), norm)
        direction = torch.nn.functional.cosine_similarity(got.flatten(1), whole.flatten(1))
        torch.testing.assert_close(direction, torch.ones_like(direction))
        assert (got - whole).norm() > 0.05 * whole.norm()


def test_convolutions_with_a_middle_factor_are_put_together_as_by_lycoris(tmp_path: Path) -> None:
    pipeline = drawn("sdxl")
    paths = [path for path, _ in pipeline.unet.named_modules() if path.endswith("conv1")]
    generator = torch.Generator().manual_seed(8)
    tensors, expected = {}, {}
    for path in paths:
        rows, columns = pipeline.unet.get_submodule(path).weight.shape[:2]
        down, up = torch.randn(3, columns, 1, 1, generator=generator), torch.randn(rows, 3, 1, 1, generator=generator)
        mid = torch.randn(3, 3, 3, 3, generator=generator)
        name = f"lora_unet_{path.replace('.', '_')}"
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.lora_mid.weight": mid}
        x = torch.randn(1, columns, 6, 6, generator=generator)
        inner = torch.nn.functional.conv2d(torch.nn.functional.conv2d(x, down), mid)
        expected[path] = (x, torch.nn.functional.conv2d(inner, up))
    after = merged(pipeline, (write(tensors, tmp_path / "locon.safetensors"), 1.0))["unet"]
    for path, (x, y) in expected.items():
        change = after[f"{path}.weight"] - pipeline.unet.get_submodule(path).weight
        torch.testing.assert_close(torch.nn.functional.conv2d(x, change), y, atol=1e-3, rtol=1e-3)


def test_lycoris_scales_by_alpha_only_where_a_factor_has_a_rank(tmp_path: Path) -> None:
    pipeline = drawn("sd")
    path = next(path for path, _ in pipeline.unet.named_modules() if path.endswith("attn1.to_q"))
    name, width = f"lora_unet_{path.replace('.', '_')}", pipeline.unet.get_submodule(path).in_features
    w1, a, b = torch.randn(2, 2), torch.randn(width // 2, 3), torch.randn(3, width // 2)
    before = pipeline.unet.get_submodule(path).weight
    alpha = {f"{name}.alpha": torch.tensor(6.0), f"{name}.lokr_w1": w1}
    whole = write({**alpha, f"{name}.lokr_w2": a @ b}, tmp_path / "whole.safetensors")
    ranked = write({**alpha, f"{name}.lokr_w2_a": a, f"{name}.lokr_w2_b": b}, tmp_path / "ranked.safetensors")
    for file, scale in ((whole, 1.0), (ranked, 2.0)):
        after = merged(pipeline, (file, 1.0))["unet"][f"{path}.weight"]
        torch.testing.assert_close(after, before + scale * torch.kron(w1, a @ b))
    change = {f"{name}.diff": torch.ones_like(before)}
    after = merged(pipeline, (write(change, tmp_path / "full.safetensors"), 0.5))["unet"][f"{path}.weight"]
    torch.testing.assert_close(after, before + 0.5)


# What does not fit


@pytest.mark.parametrize(("theirs", "ours"), [("sdxl", "sd"), ("sd", "sdxl"), ("other sd", "sd")])
def test_lora_of_another_model_is_refused_with_what_is_left_over(theirs: str, ours: str, tmp_path: Path) -> None:
    factors = draw_factors(drawn(theirs), 9)
    count = sum(map(len, factors.values()))
    file = write(loras.kohya(factors, 2.0), tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=rf"another model: \d+ of its {count} modules.*lora_"):
        merged(drawn(ours), (file, 1.0))


def test_modules_left_over_are_counted_and_may_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = drawn("sd")
    factors = {"unet": draw_factors(pipeline, 10)["unet"]}
    odd = {f"lora_unet_nowhere_{n}.lora_{side}.weight": torch.ones(3, 3) for n in range(4) for side in ("up", "down")}
    file = write({**loras.kohya(factors, 3.0), **odd}, tmp_path / "lora.safetensors")
    count = len(factors["unet"])
    with pytest.raises(CheckpointError, match=rf"4 of its {count + 4} modules.*adapter_partial true.*other {count}$"):
        merged(pipeline, (file, 1.0))
    with caplog.at_level(logging.WARNING):
        after = merged(pipeline, (file, 1.0), partial=True)
    assert_same(after, by_closed_form(pipeline, factors, 1.0))
    assert f"4 of the {count + 4} modules of lora.safetensors" in caplog.text
    only_odd = write(odd, tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError, match="4 of its 4 modules"):
        merged(pipeline, (only_odd, 1.0), partial=True)


@pytest.mark.parametrize(
    ("odd", "named"),
    [
        ({"lora_unet_conv_in.lora_up.weight": torch.ones(2, 2)}, "lacks its factor 'down'"),
        ({"lora_unet_conv_in.alpha": torch.tensor(1.0)}, "an alpha and nothing else"),
        ({"lora_unet_conv_in.oft_blocks": torch.ones(2, 2)}, "oft_blocks"),
        ({"bundle_emb.style.string_to_param.*": torch.ones(2, 8)}, "bundle_emb"),
        ({"lora_unet_conv_in.diff_b": torch.ones(3)}, "a bias that is not there"),
        ({"lora_unet_conv_in.lora_up.weight": torch.ones(8, 0), "lora_unet_conv_in.lora_down.weight": torch.ones(0, 4)},
         "rank 0"),
        ({"lora_unet_conv_in.lora_up.weight": torch.ones(8, 2), "lora_unet_conv_in.lora_down.weight": torch.ones(2, 36),
          "lora_unet_conv_in.alpha": torch.ones(2)}, "an alpha of 2 numbers"),
        ({"lora_unet_conv_in.diff": torch.ones(8, 4, 3, 3, dtype=torch.int8)}, "holds int8 numbers"),
        ({f"unet.conv_in.lora_A.{name}.weight": torch.ones(2, 4, 3, 3) for name in ("one", "two")}, "lora_A.two"),
    ],
)
def test_changes_that_are_incomplete_or_of_an_unknown_kind_are_named(
    odd: dict[str, Tensor], named: str, tmp_path: Path
) -> None:
    pipeline = drawn("sd")
    file = write({**loras.kohya(draw_factors(pipeline, 11), 3.0), **odd}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=named):
        merged(pipeline, (file, 1.0))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_values_that_are_not_finite_are_refused_on_reading(value: float, suffix: str, tmp_path: Path) -> None:
    pipeline = drawn("sd")
    tensors = loras.kohya(draw_factors(pipeline, 12), 3.0)
    name = list(tensors)[7]
    tensors[name] = torch.full_like(tensors[name], value)
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        merged(pipeline, (write(tensors, tmp_path / f"lora{suffix}"), 1.0))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"peft_type": "OFT"}, "peft's OFT.*merge_and_unload"),
        ({"peft_type": "VERA"}, "peft's VERA"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa.*path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"use_dora": True}, "DoRA but has no magnitudes"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"modules_to_save": ["conv_out"]}, "modules_to_save.*merge_and_unload"),
        ({"bias": "lora_only"}, "bias 'lora_only'.*merge_and_unload"),
        ({"lora_alpha": [8]}, r"settings have '\[8\]' where a rank or an alpha"),
        ({"alpha_pattern": ["to_q"]}, "where a rank or an alpha belongs"),
        ({"alpha_pattern": {"(((": 3}}, r"its alpha_pattern has '\(\(\(', which is not read"),
        ({"rank_pattern": {"(([a-z_.0-9])*)*!": 3}}, "its rank_pattern has"),
    ],
)
def test_kinds_of_peft_that_would_give_other_weights_are_refused(
    settings: dict[str, Any], named: str, tmp_path: Path
) -> None:
    pipeline = drawn("sd")
    write(loras.peft(draw_factors(pipeline, 13)["unet"]), tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 3, **settings}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=named):
        merged(pipeline, (tmp_path, 1.0))


# In a model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("folders")
    return {kind: saved(drawn(kind), place / kind) for kind in ("sd", "sdxl")}


@pytest.mark.parametrize(("kind", "name"), [("sd", "sd-v1.5"), ("sdxl", "sdxl")])
def test_several_loras_have_a_strength_each_and_reach_the_text(
    kind: str, name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    pipeline = drawn(kind)
    factors = [draw_factors(pipeline, seed) for seed in (14, 15)]
    files = [write(loras.kohya(each, 3.0), tmp_path / f"{n}.safetensors") for n, each in enumerate(factors)]
    plain = load_adapter(name, folders[kind], device="cpu")
    both: Any = load_adapter(name, folders[kind], device="cpu", lora=dict(zip(files, (0.8, -0.3), strict=True)))
    listed = load_adapter(name, folders[kind], device="cpu", lora=files, lora_scale=[0.8, -0.3])
    expected = by_closed_form(pipeline, factors[0], 0.8)
    for network, layers in factors[1].items():
        for path, (up, down) in layers.items():
            expected[network][f"{path}.weight"] += -0.3 * product(up, down)
    encoders = dict(zip(("text_encoder", "text_encoder_2"), both.prompts.encoders, strict=False))
    ours = {name: network.state_dict() for name, network in {"unet": both.unet, **encoders}.items()}
    assert_same(ours, expected)
    assert both.digest() == listed.digest() != plain.digest()
    text = both.prompts.encode(["a red cat"])["prompt_embeds"]
    before: Any = plain
    assert (text - before.prompts.encode(["a red cat"])["prompt_embeds"]).norm() > 0.05 * text.norm()


def test_text_with_a_lora_is_that_of_the_pipeline(folders: dict[str, Path], tmp_path: Path) -> None:
    for kind, name in (("sd", "sd-v1.5"), ("sdxl", "sdxl")):
        pipeline = drawn(kind)
        file = write(loras.kohya(draw_factors(pipeline, 16), 4.0), tmp_path / f"{kind}.safetensors")
        ours: Any = load_adapter(name, folders[kind], device="cpu", lora=file)
        networks = copy.deepcopy(networks_of(pipeline))
        fused = type(pipeline)(**{**pipeline.components, **networks})
        fused.load_lora_weights(str(tmp_path), weight_name=file.name, local_files_only=True)
        given = ours.prompts.encode(["two dogs, blurry"])
        theirs = fused.encode_prompt(
            "two dogs, blurry", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        torch.testing.assert_close(given["prompt_embeds"], theirs[0], atol=1e-4, rtol=1e-4)
        if kind == "sdxl":
            torch.testing.assert_close(given["pooled_prompt_embeds"], theirs[2], atol=1e-4, rtol=1e-4)


def test_a_partial_lora_is_noted_in_the_model_s_configuration(folders: dict[str, Path], tmp_path: Path) -> None:
    tensors = loras.kohya({"unet": draw_factors(drawn("sd"), 17)["unet"]}, 3.0)
    tensors["lora_unet_nowhere.diff"] = torch.ones(3)
    file = write(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match="another model"):
        load_adapter("sd-v1.5", folders["sd"], device="cpu", lora=file)
    adapter = load_adapter("sd-v1.5", folders["sd"], device="cpu", lora=file, adapter_partial=True)
    assert adapter.config["adapter_partial"] == [f"1 of the {len(tensors) // 3 + 1} modules of lora.safetensors"]


@pytest.mark.parametrize(
    ("scale", "named"), [([1.0], "1 strengths for 2 files"), ("strong", "'strong'"), (float("nan"), "nan")]
)
def test_strengths_must_be_finite_numbers_one_a_file(scale: Any, named: str) -> None:
    for given in (scale,) if isinstance(scale, list) else (scale, [scale, scale]):
        with pytest.raises(ConfigError, match=named):
            with_strengths(["a.safetensors", "b.safetensors"], given)
