"""Diffusers folders, U-Net weights and LoRA: read whole or refused by name, and never run."""

import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffviews.adapters import Condition, load_adapter
from diffviews.adapters.diffusers_ddpm import DDPMAdapter
from diffviews.errors import CheckpointError, ConfigError
from tests.diffusion_folders import draw_ddpm_pipeline, draw_sd_pipeline, draw_sdxl_pipeline, saved


@pytest.fixture(scope="module")
def sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(draw_sd_pipeline(0), tmp_path_factory.mktemp("sd") / "model")


@pytest.fixture(scope="module")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(draw_sdxl_pipeline(4), tmp_path_factory.mktemp("sdxl") / "model")


# Weights of the U-Net, LoRA


def test_student_weights_replace_the_u_net_s(sd_folder: Path, tmp_path: Path) -> None:
    weights = load_file(sd_folder / "unet" / "diffusion_pytorch_model.safetensors")
    doubled = {name: 2 * tensor for name, tensor in weights.items()}
    file = tmp_path / "pytorch_model.bin"
    torch.save(doubled, file)
    by_option = load_adapter("dmd2-sd-v1.5", sd_folder, device="cpu", unet=file)
    by_base = load_adapter("dmd2-sd-v1.5", file, device="cpu", base=sd_folder)
    folder = shutil.copytree(sd_folder / "unet", tmp_path / "student")
    save_file(doubled, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    by_folder = load_adapter("dmd2-sd-v1.5", sd_folder, device="cpu", unet=folder)
    assert by_option.digest() == by_base.digest() == by_folder.digest()
    for adapter in (by_option, by_base, by_folder):
        assert all(torch.equal(tensor, doubled[name]) for name, tensor in adapter.unet.state_dict().items())
    with pytest.raises(ConfigError, match="base="):
        load_adapter("dmd2-sd-v1.5", file, device="cpu")


def test_weights_that_do_not_fit_are_named(sd_folder: Path, tmp_path: Path) -> None:
    weights = load_file(sd_folder / "unet" / "diffusion_pytorch_model.safetensors")
    del weights["conv_in.bias"]
    weights["conv_out.bias"] = torch.zeros(5)
    weights["stranger"] = torch.zeros(1)
    save_file(weights, tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError, match=r"missing \(conv_in.bias\).*unknown \(stranger\).*conv_out.bias"):
        load_adapter("sd-v1.5", sd_folder, device="cpu", unet=tmp_path / "odd.safetensors")


def lora_by_kohya(unet: Any, rank: int, alpha: float) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
    """Return a LoRA named as DMD2's, for some linear and convolutional layers, and its factors by layer."""
    generator = torch.Generator().manual_seed(5)
    tensors, factors = {}, {}
    for path, module in unet.named_modules():
        linear = isinstance(module, nn.Linear) and path.endswith(("to_q", "to_out.0", "ff.net.2"))
        if not linear and not (isinstance(module, nn.Conv2d) and path.endswith(("conv1", "conv_shortcut"))):
            continue
        kernel = module.weight.shape[2:]
        down = torch.randn(rank, module.weight.shape[1], *kernel, generator=generator) * 0.1
        up = torch.randn(module.weight.shape[0], rank, *[1] * len(kernel), generator=generator) * 0.1
        name = "lora_unet_" + path.replace(".", "_")
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
        factors[path] = (up, down)
    return tensors, factors


@pytest.mark.parametrize(("suffix", "scale"), [(".safetensors", 1.0), (".bin", 0.7)])
def test_fused_lora_is_the_weight_plus_the_product_of_its_factors(
    sdxl_folder: Path, suffix: str, scale: float, tmp_path: Path
) -> None:
    plain = load_adapter("dmd2-sdxl-4step", sdxl_folder, device="cpu")
    tensors, factors = lora_by_kohya(plain.unet, rank=4, alpha=8.0)
    file = tmp_path / f"lora{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(tensors, file)
    fused = load_adapter("dmd2-sdxl-4step", sdxl_folder, device="cpu", lora=file, lora_scale=scale)
    before, after = plain.unet.state_dict(), fused.unet.state_dict()
    assert set(before) == set(after)
    changed = {f"{path}.weight" for path in factors}
    assert len(changed) > 8
    for name, weight in before.items():
        if name in changed:
            up, down = factors[name.removesuffix(".weight")]
            product = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
            torch.testing.assert_close(after[name], weight + scale * 8.0 / 4 * product, atol=1e-5, rtol=1e-5)
        else:
            assert torch.equal(after[name], weight), name
    assert fused.digest() != plain.digest()
    by_base = load_adapter("dmd2-sdxl-4step", file, device="cpu", base=sdxl_folder, lora_scale=scale)
    assert by_base.digest() == fused.digest()


def test_lora_of_another_network_is_refused(sdxl_folder: Path, tmp_path: Path) -> None:
    save_file({"lora_unet_nowhere.lora_down.weight": torch.zeros(4, 8)}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=r"lora\.safetensors"):
        load_adapter("sdxl", sdxl_folder, device="cpu", lora=tmp_path / "lora.safetensors")
    save_file({"conv.weight": torch.zeros(4, 8)}, tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        load_adapter("sdxl", sdxl_folder, device="cpu", lora=tmp_path / "none.safetensors")


# Folders


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_pickled_folder_gives_the_same_model(tmp_path: Path) -> None:
    pipeline = draw_sd_pipeline(0)
    safe = load_adapter("sd-v1.5", saved(pipeline, tmp_path / "safe"), device="cpu")
    folder = saved(pipeline, tmp_path / "pickled")
    for component, stem in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model")):
        to_pickle(folder / component / f"{stem}.safetensors", f"{stem}.bin")
    to_pickle(folder / "text_encoder" / "model.safetensors", "pytorch_model.bin")
    assert not list(folder.rglob("*.safetensors"))
    pickled = load_adapter("sd-v1.5", folder, device="cpu")
    assert pickled.digest() == safe.digest()


def to_pickle(file: Path, name: str) -> None:
    torch.save(load_file(file), file.with_name(name))
    file.unlink()


def test_half_precision_variant_of_a_folder_is_found(sd_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sd_folder, tmp_path / "model")
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_name(file.stem + ".fp16.safetensors"))
    # Who wrote the files, where from and in which precision is no part of what the model is.
    edit_json(folder / "unet" / "config.json", _diffusers_version="0.1.0", _name_or_path="/elsewhere")
    edit_json(folder / "text_encoder" / "config.json", transformers_version="4.0.0", dtype="float16")
    variant = load_adapter("sd-v1.5", folder, device="cpu")
    assert variant.digest() == load_adapter("sd-v1.5", sd_folder, device="cpu").digest()


def test_names_of_older_checkpoints_are_understood(sd_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sd_folder, tmp_path / "model")

    def renamed(file: Path, *changes: tuple[str, str], before: str = "") -> None:
        weights = load_file(file)
        for old, new in changes:
            weights = {name.replace(old, new): tensor for name, tensor in weights.items()}
        save_file({before + name: tensor for name, tensor in weights.items()}, file, metadata={"format": "pt"})

    attention = ((".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn."))
    renamed(folder / "vae" / "diffusion_pytorch_model.safetensors", *attention)
    text = folder / "text_encoder" / "model.safetensors"
    if not any(name.startswith("text_model.") for name in load_file(text)):
        renamed(text, before="text_model.")
    older = load_adapter("sd-v1.5", folder, device="cpu")
    assert older.digest() == load_adapter("sd-v1.5", sd_folder, device="cpu").digest()


class _Hostile:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"import pathlib; pathlib.Path({str(self.trace)!r}).touch()",))


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_hostile_pickle_in_a_folder_is_named_and_not_run(sd_folder: Path, component: str, tmp_path: Path) -> None:
    trace = tmp_path / "was-run"
    folder = shutil.copytree(sd_folder, tmp_path / "model")
    (file,) = (folder / component).glob("*.safetensors")
    name = "pytorch_model.bin" if component == "text_encoder" else "diffusion_pytorch_model.bin"
    file.with_name(name).write_bytes(pickle.dumps({"conv_in.weight": _Hostile(trace)}))
    file.unlink()
    with pytest.raises(CheckpointError, match=r"exec"):
        load_adapter("sd-v1.5", folder, device="cpu")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"unet": ["diffusers", "UNet2DModel"]}, r"'unet' is a UNet2DModel.*UNet2DConditionModel"),
        ({"text_encoder": ["evil_package", "Backdoor"]}, r"'text_encoder' is a Backdoor"),
        ({"vae": [None, None]}, r"'vae' is a missing part"),
    ],
)
def test_folder_that_names_other_classes_is_refused(
    sd_folder: Path, changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(sd_folder, tmp_path / "model")
    edit_json(folder / "model_index.json", **changes)
    with pytest.raises(CheckpointError, match=named):
        load_adapter("sd-v1.5", folder, device="cpu")


def test_code_that_a_folder_brings_is_never_imported(sd_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sd_folder, tmp_path / "model")
    for place in (folder, folder / "unet", folder / "text_encoder", folder / "tokenizer"):
        for name in ("evil.py", "modeling_evil.py", "tokenization_evil.py"):
            (place / name).write_text("raise SystemExit('imported')")
    auto = {"AutoModel": "modeling_evil.Evil", "AutoTokenizer": ["tokenization_evil.Evil", None]}
    edit_json(folder / "text_encoder" / "config.json", auto_map=auto)
    edit_json(folder / "tokenizer" / "tokenizer_config.json", auto_map=auto)
    edit_json(folder / "unet" / "config.json", auto_map=auto)
    load_adapter("sd-v1.5", folder, device="cpu")
    # A pipeline class and parts beyond those that are known are data too, and refused.
    for changes in ({"extra": ["evil", "Extra"]}, {"_class_name": ["evil", "Pipeline"]}):
        edit_json(folder / "model_index.json", **changes)
        with pytest.raises(CheckpointError, match=r"'extra' .Extra|custom pipeline"):
            load_adapter("sd-v1.5", folder, device="cpu")
    assert not {"evil", "modeling_evil", "tokenization_evil"} & {name.rpartition(".")[2] for name in sys.modules}


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_folder_with_a_tensor_missing_or_not_finite_is_refused(
    sd_folder: Path, component: str, tmp_path: Path
) -> None:
    for fault in ("missing", "nan"):
        folder = shutil.copytree(sd_folder, tmp_path / fault)
        (file,) = (folder / component).glob("*.safetensors")
        weights = load_file(file)
        first = sorted(weights)[0]
        if fault == "missing":
            del weights[first]
        else:
            weights[first] = torch.full_like(weights[first], torch.nan)
        save_file(weights, file, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=first.rpartition(".")[2]):
            load_adapter("sd-v1.5", folder, device="cpu")


def test_damaged_folders_are_told_by_the_file_at_fault(sd_folder: Path, tmp_path: Path) -> None:
    def broken(name: str, content: bytes | None) -> Path:
        folder = shutil.copytree(sd_folder, tmp_path / name.replace("/", "-"))
        file = folder / name
        file.unlink() if content is None else file.write_bytes(content)
        return folder

    weights = (sd_folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    for name, content, named in (
        ("model_index.json", None, "model_index.json is missing"),
        ("model_index.json", b"[]", "instead of an object"),
        ("scheduler/scheduler_config.json", b"{", "scheduler_config.json cannot be read"),
        ("unet/diffusion_pytorch_model.safetensors", weights[:-100], "unet"),
        ("unet/diffusion_pytorch_model.safetensors", None, "unet holds no weights"),
        ("vae/config.json", None, "vae/config.json is missing"),
        ("tokenizer/tokenizer.json", b"{", "tokenizer"),
        ("tokenizer/tokenizer.json", None, "tokenizer lacks vocab.json and merges.txt"),
    ):
        folder = broken(name, content)
        with pytest.raises(CheckpointError, match=named):
            load_adapter("sd-v1.5", folder, device="cpu")
        shutil.rmtree(folder)
    for part in ("vae", "tokenizer", "scheduler", "unet"):
        folder = shutil.copytree(sd_folder, tmp_path / "part")
        shutil.rmtree(folder / part)
        with pytest.raises(CheckpointError, match=f"part/{part}"):
            load_adapter("sd-v1.5", folder, device="cpu")
        shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match="nothing does not exist"):
        load_adapter("sd-v1.5", tmp_path / "nothing", device="cpu")
    for place in ("inner", "snapshots/0a1b"):
        shutil.copytree(sd_folder, tmp_path / "outer" / place)
        with pytest.raises(CheckpointError, match=f"give a whole diffusers folder, such as .*outer/{place}"):
            load_adapter("sd-v1.5", tmp_path / "outer", device="cpu")
        shutil.rmtree(tmp_path / "outer")
    with pytest.raises(CheckpointError, match="ships no weights"):
        load_adapter("sd-v1.5", device="cpu")


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "20KB"}, {"safe_serialization": False}])
@pytest.mark.parametrize("variant", ["bf16", "non_ema"])
def test_the_only_variant_of_a_folder_is_read_and_told(
    variant: str, options: dict[str, Any], sd_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw_sd_pipeline(0).save_pretrained(tmp_path / "model", variant=variant, **options)
    found = load_adapter("sd-v1.5", tmp_path / "model", device="cpu")
    assert found.digest() == load_adapter("sd-v1.5", sd_folder, device="cpu").digest()
    assert f"the variant '{variant}' of its weights alone" in caplog.text


def test_several_variants_alone_are_named(tmp_path: Path) -> None:
    pipeline = draw_sd_pipeline(0)
    for variant in ("ema", "non_ema"):
        pipeline.save_pretrained(tmp_path, variant=variant)
    with pytest.raises(CheckpointError, match=r"holds no weights.*the variants ema, non_ema: copy one"):
        load_adapter("sd-v1.5", tmp_path, device="cpu")


def test_tokenizer_without_its_configuration_is_cut_where_the_encoder_ends(sd_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sd_folder, tmp_path / "model")
    edit_json(folder / "tokenizer" / "tokenizer_config.json", model_max_length=10**30)
    usual, found = (load_adapter("sd-v1.5", path, device="cpu") for path in (sd_folder, folder))
    for prompt in ("a cat", "a cat " * 30):
        texts = [model.condition([Condition(prompt=prompt)])["prompt_embeds"] for model in (usual, found)]
        assert torch.equal(*texts)


def test_network_of_another_class_or_of_whole_numbers_is_refused(sd_folder: Path, tmp_path: Path) -> None:
    ControlNetModel.from_unet(draw_sd_pipeline(0).unet).save_pretrained(tmp_path / "control")
    with pytest.raises(CheckpointError, match="holds a ControlNetModel, but this model takes a UNet2DConditionModel"):
        load_adapter("sd-v1.5", sd_folder, device="cpu", unet=tmp_path / "control")
    for safe in (True, False):
        folder = saved(draw_sd_pipeline(0), tmp_path / f"model-{safe}", safe=safe)
        file = next((folder / "unet").glob("*.safetensors" if safe else "*.bin"))
        weights = load_file(file) if safe else torch.load(file, weights_only=True)
        weights["conv_in.weight"] = (weights["conv_in.weight"] * 100).to(torch.int8)
        save_file(weights, file, metadata={"format": "pt"}) if safe else torch.save(weights, file)
        with pytest.raises(CheckpointError, match=r"whole numbers \(conv_in\.weight\), as if it were quantised"):
            load_adapter("sd-v1.5", folder, device="cpu")
        with pytest.raises(CheckpointError, match=r"whole numbers, as if it were quantised \(conv_in\.weight is int8"):
            load_adapter("sd-v1.5", sd_folder, device="cpu", unet=file)


def test_index_of_shards_may_not_lead_out_of_the_folder(sd_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sd_folder, tmp_path / "model")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(tmp_path / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"conv_in.weight": "../../outside.safetensors"}}
    file.with_suffix(".safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="not in the same folder"):
        load_adapter("sd-v1.5", folder, device="cpu")


def test_quantised_and_adapter_folders_are_refused(sd_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sd_folder, tmp_path / "model")
    edit_json(folder / "unet" / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(CheckpointError, match="holds quantised weights"):
        load_adapter("sd-v1.5", folder, device="cpu")
    folder = shutil.copytree(sd_folder, tmp_path / "other")
    (folder / "text_encoder" / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/model"}')
    with pytest.raises(CheckpointError, match="adapter over another model"):
        load_adapter("sd-v1.5", folder, device="cpu")


def test_missing_package_is_named_with_the_command_that_installs_it(
    sd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ConfigError, match=r"diffusers.*pip install 'diffviews\[diffusion\]'"):
        load_adapter("sd-v1.5", sd_folder, device="cpu")


# Pixel models


def test_pixel_folder_with_its_files_beside_the_index_is_read(tmp_path: Path) -> None:
    folder = saved(draw_ddpm_pipeline(1), tmp_path / "model")
    usual = DDPMAdapter.from_checkpoint(folder, device="cpu")
    for component in ("unet", "scheduler"):
        for file in (folder / component).iterdir():
            file.rename(folder / file.name)
        (folder / component).rmdir()
    assert DDPMAdapter.from_checkpoint(folder, device="cpu").digest() == usual.digest()
