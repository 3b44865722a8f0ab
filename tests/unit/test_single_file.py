"""Stable Diffusion and SDXL as one file: the same model as the folder it was made from, or a sentence that helps."""

import json
import logging
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffviews.adapters import load_adapter
from diffviews.adapters import published as table
from diffviews.adapters.clip_tokenizer import clip_tokenizer
from diffviews.adapters.layouts import layout_of, other_layout
from diffviews.adapters.published import SD1, SD2, SDXL, Published
from diffviews.errors import CheckpointError, ConfigError
from tests import loras
from tests.diffusion_folders import draw_sd_pipeline, draw_sdxl_pipeline, saved
from tests.original_layout import openclip_tensors, original, unet_tensors

MODELS = pytest.mark.parametrize("model", ["sd-v1.5", "sdxl"])


@cache
def drawn(model: str, seed: int = 2) -> Any:
    return (draw_sd_pipeline if model == "sd-v1.5" else draw_sdxl_pipeline)(seed)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return what gives the folder of a drawn pipeline."""
    place = tmp_path_factory.mktemp("folders")

    def give(model: str, seed: int = 2) -> Path:
        folder = place / f"{model}-{seed}"
        return folder if folder.exists() else saved(drawn(model, seed), folder)

    return give


def written(tensors: dict[str, Tensor], file: Path, **more: Any) -> Path:
    if file.suffix == ".safetensors":
        save_file(tensors, file)
    else:
        torch.save({"state_dict": tensors, **more} if file.suffix == ".ckpt" else tensors, file)
    return file


def weights(adapter: Any) -> dict[str, Tensor]:
    return {f"{n}.{name}": t for n, net in enumerate(adapter._networks()) for name, t in net.state_dict().items()}


# The same model


@MODELS
@pytest.mark.parametrize(("seed", "suffix"), [(2, ".safetensors"), (5, ".ckpt"), (8, ".pt")])
def test_file_with_its_folder_s_configuration_is_the_folder_s_model(
    model: str, seed: int, suffix: str, folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    file = written(original(drawn(model, seed)), tmp_path / f"model{suffix}", global_step=875000, epoch=3)
    folder = folder_of(model, seed)
    ours = load_adapter(model, file, device="cpu", base=folder)
    assert ours.digest() == load_adapter(model, folder, device="cpu").digest()
    if suffix == ".safetensors":
        for part, kind in (("unet", diffusers.UNet2DConditionModel), ("vae", diffusers.AutoencoderKL)):
            theirs = kind.from_single_file(str(file), config=str(folder), subfolder=part, local_files_only=True)
            own = getattr(ours, part).state_dict()
            assert theirs.state_dict().keys() == own.keys()
            assert all(torch.equal(own[name], tensor) for name, tensor in theirs.state_dict().items())


@pytest.mark.parametrize("seed", [2, 3])
def test_text_encoder_of_stable_diffusion_2_is_read_without_its_last_layer(
    seed: int, folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    file = written(original(drawn("sd-v1.5", seed), openclip=True), tmp_path / "v2.safetensors")
    ours = load_adapter("sd-v1.5", file, device="cpu", base=folder_of("sd-v1.5", seed))
    assert ours.digest() == load_adapter("sd-v1.5", folder_of("sd-v1.5", seed), device="cpu").digest()


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_that_torch_has_wrapped_are_found(wrapper: str, folder_of: Callable[..., Path], tmp_path: Path) -> None:
    folder, tensors = folder_of("sd-v1.5"), original(drawn("sd-v1.5"))
    file = written({wrapper + name: tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    ours = load_adapter("sd-v1.5", file, device="cpu", base=folder)
    assert ours.digest() == load_adapter("sd-v1.5", folder, device="cpu").digest()


@MODELS
def test_shards_are_put_together(model: str, folder_of: Callable[..., Path], tmp_path: Path) -> None:
    tensors = original(drawn(model))
    names = sorted(tensors)
    shards = {f"model-0000{n + 1}-of-00003.safetensors": names[n::3] for n in range(3)}
    for shard, own in shards.items():
        save_file({name: tensors[name] for name in own}, tmp_path / shard)
    places = {name: shard for shard, own in shards.items() for name in own}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    expected = load_adapter(model, folder_of(model), device="cpu").digest()
    for path in (tmp_path, index):
        assert load_adapter(model, path, device="cpu", base=folder_of(model)).digest() == expected


@pytest.mark.parametrize(("model", "dtype", "suffix"), [
    ("sd-v1.5", torch.float16, ".safetensors"), ("sdxl", torch.bfloat16, ".ckpt"),
    ("sdxl", torch.float8_e4m3fn, ".safetensors"), ("sd-v1.5", torch.float8_e5m2, ".ckpt"),
])  # fmt: skip
def test_narrow_numbers_are_cast_on_loading(
    model: str, dtype: torch.dtype, suffix: str, folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    tensors = original(drawn(model))
    narrow = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    wide = {name: t.to(tensors[name].dtype) for name, t in narrow.items()}
    ours = load_adapter(model, written(narrow, tmp_path / f"narrow{suffix}"), device="cpu", base=folder_of(model))
    same = load_adapter(model, written(wide, tmp_path / "wide.safetensors"), device="cpu", base=folder_of(model))
    assert ours.precision == "float32"
    assert ours.digest() == same.digest() != load_adapter(model, folder_of(model), device="cpu").digest()


@MODELS
def test_scales_beside_float8_weights_are_applied(model: str, folder_of: Callable[..., Path], tmp_path: Path) -> None:
    tensors, scaled = original(drawn(model)), {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, tensor in tensors.items():
        if name.startswith("model.diffusion_model.") and name.endswith(".weight") and tensor.ndim > 1:
            scale = tensor.abs().max() / 448
            scaled[name] = (tensor / scale).to(torch.float8_e4m3fn)
            scaled[f"{name.removesuffix('weight')}scale_weight"] = scale.reshape(1)
        else:
            scaled[name] = tensor
    ours = weights(
        load_adapter(model, written(scaled, tmp_path / "fp8.safetensors"), device="cpu", base=folder_of(model))
    )
    for name, tensor in weights(load_adapter(model, folder_of(model), device="cpu")).items():
        torch.testing.assert_close(ours[name], tensor, atol=float(tensor.abs().max()) / 16, rtol=0)


@pytest.mark.parametrize(("model", "dtype", "pickled"), [
    ("sd-v1.5", torch.float8_e4m3fn, False), ("sd-v1.5", torch.float8_e5m2, True), ("sdxl", torch.float8_e4m3fn, True),
])  # fmt: skip
def test_folders_of_float8_are_cast_on_loading(model: str, dtype: torch.dtype, pickled: bool, tmp_path: Path) -> None:
    folder = saved(drawn(model), tmp_path / "model")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    narrow = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
    file.unlink()
    if pickled:
        torch.save(narrow, file.with_suffix(".bin"))
    else:
        save_file(narrow, file, metadata={"format": "pt"})
    adapter: Any = load_adapter(model, folder, device="cpu")
    assert adapter.precision == "float32"
    assert all(torch.equal(t, narrow[name].float()) for name, t in adapter.unet.state_dict().items())
    given: Any = load_adapter(model, saved(drawn(model), tmp_path / "other"), device="cpu", unet=written(
        narrow, tmp_path / ("unet.bin" if pickled else "unet.safetensors")))  # fmt: skip
    assert all(torch.equal(t, narrow[name].float()) for name, t in given.unet.state_dict().items())


# Without a folder: the published models


def counts(published: Published) -> dict[str, int]:
    """Return how many parameters the networks of a published model have."""
    import transformers

    kinds = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}
    found = {}
    for part, config in published.configs.items():
        if part == "scheduler":
            continue
        with torch.device("meta"):
            if part in kinds:
                network = kinds[part].from_config(dict(config))
            else:
                kind = "CLIPTextModelWithProjection" if part == "text_encoder_2" else "CLIPTextModel"
                network = getattr(transformers, kind)(transformers.CLIPTextConfig(**config))
        found[part] = sum(parameter.numel() for parameter in network.parameters())
    return found


def test_published_models_have_their_published_numbers_of_parameters() -> None:
    vae = 83_653_863
    assert counts(SD1) == {"unet": 859_520_964, "vae": vae, "text_encoder": 123_060_480}
    assert counts(SD2) == {"unet": 865_910_724, "vae": vae, "text_encoder": 340_387_840}
    assert counts(SDXL) == {
        "unet": 2_567_463_684, "vae": vae, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840
    }  # fmt: skip


def test_shipped_tokenizer_gives_clip_s_own_numbers() -> None:
    tokenizer = clip_tokenizer()
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("A Photo of a CAT").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("hello world!").input_ids == [49406, 3306, 1002, 256, 49407]
    assert (len(tokenizer), tokenizer.model_max_length, tokenizer.pad_token_id) == (49408, 77, 49407)
    assert clip_tokenizer("!").pad_token_id == 0


@MODELS
def test_published_model_needs_nothing_but_its_file(
    model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import transformers

    pipeline = (draw_sd_pipeline if model == "sd-v1.5" else draw_sdxl_pipeline)(6)
    for name in ("text_encoder", "text_encoder_2"):
        old = getattr(pipeline, name, None)
        if old is not None:
            torch.manual_seed(1)
            config = {**old.config.to_dict(), "vocab_size": 49408, "max_position_embeddings": 77}
            setattr(pipeline, name, type(old)(transformers.CLIPTextConfig(**config)).eval())
    pipeline.tokenizer, parts = clip_tokenizer(), ["unet", "vae", "text_encoder", "text_encoder_2"]
    if model == "sdxl":
        pipeline.tokenizer_2 = clip_tokenizer("!")
    configs = {part: getattr(pipeline, part).config for part in parts if hasattr(pipeline, part)}
    plain = {k: c if k in ("unet", "vae") else c.to_dict() for k, c in configs.items()}
    settings = {**plain, "scheduler": {"_class_name": type(pipeline.scheduler).__name__, **pipeline.scheduler.config}}
    width = pipeline.unet.config.cross_attention_dim
    pads = {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"}
    monkeypatch.setitem(table.BY_TEXT_WIDTH, width, Published("a tiny one", settings, pads))
    file = written(original(pipeline), tmp_path / "model.safetensors")
    ours: Any = load_adapter(model, file, device="cpu")
    given = ours.prompts.encode(["a photo of a red cat, naïve"])["prompt_embeds"]
    theirs = pipeline.encode_prompt(
        "a photo of a red cat, naïve", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )[0]
    torch.testing.assert_close(given, theirs, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(t, pipeline.unet.state_dict()[name]) for name, t in ours.unet.state_dict().items())
    assert all(torch.equal(t, pipeline.vae.state_dict()[name]) for name, t in ours.vae.state_dict().items())
    v_pred = written(
        {**original(pipeline), "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, tmp_path / "v.safetensors"
    )
    said = load_adapter(model, v_pred, device="cpu").config["scheduler"]
    assert (said["prediction_type"], said["rescale_betas_zero_snr"]) == ("v_prediction", True)
    monkeypatch.setitem(table.BY_TEXT_WIDTH, width, Published("tiny, of either kind", settings, pads, None))
    with pytest.raises(CheckpointError, match=r"prediction_type\s+v_prediction.*or epsilon"):
        load_adapter(model, file, device="cpu")
    chosen: Any = load_adapter(model, file, device="cpu", prediction_type="v_prediction")
    assert chosen.schedule.prediction == chosen.config["scheduler"]["prediction_type"] == "v_prediction"
    other = "sdxl" if model == "sd-v1.5" else "sd-v1.5"
    with pytest.raises(CheckpointError, match=f"load it as model '{model}'"):
        load_adapter(other, file, device="cpu")


# Parts


@MODELS
def test_unet_alone_takes_the_rest_from_its_base(model: str, folder_of: Callable[..., Path], tmp_path: Path) -> None:
    expected = load_adapter(model, folder_of(model), device="cpu").digest()
    for prefix in ("model.diffusion_model.", "diffusion_model.", ""):
        tensors = {name: tensor.contiguous() for name, tensor in unet_tensors(drawn(model), prefix).items()}
        file = written(tensors, tmp_path / f"{prefix}unet.safetensors")
        assert load_adapter(model, file, device="cpu", base=folder_of(model)).digest() == expected
        assert load_adapter(model, folder_of(model), device="cpu", unet=file).digest() == expected
        with pytest.raises(CheckpointError, match=r"give the\s+diffusers folder.*base="):
            load_adapter(model, file, device="cpu")


def test_student_and_lora_take_a_single_file_as_their_base(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    pipeline = drawn("sd-v1.5")
    file = written(original(pipeline), tmp_path / "model.safetensors")
    lora = tmp_path / "lora.safetensors"
    save_file(loras.kohya(loras.draw_factors(pipeline, 1), 3.0), lora)
    folder = folder_of("sd-v1.5")
    ours = load_adapter("dmd2-sd-v1.5", file, device="cpu", base=folder, lora=lora)
    assert ours.digest() == load_adapter("dmd2-sd-v1.5", folder, device="cpu", lora=lora).digest()


# Refusals


@pytest.mark.parametrize(
    ("channels", "named"), [(9, "inpainting"), (8, "InstructPix2Pix"), (7, "upscaler"), (5, "depth")]
)
def test_models_of_more_than_text_are_named(
    channels: int, named: str, folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    tensors = original(drawn("sd-v1.5"))
    first = tensors["model.diffusion_model.input_blocks.0.0.weight"]
    tensors["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(len(first), channels, 3, 3)
    for options in ({}, {"base": folder_of("sd-v1.5")}):
        with pytest.raises(CheckpointError, match=f"{named}.*{channels} channels"):
            load_adapter("sd-v1.5", written(tensors, tmp_path / "odd.safetensors"), device="cpu", **options)


def test_models_of_other_sizes_or_preconditioning_are_named(tmp_path: Path) -> None:
    tensors = original(drawn("sd-v1.5"))
    with pytest.raises(CheckpointError, match=r"width (8|16) \(Stable Diffusion 1 768.*base="):
        load_adapter("sd-v1.5", written(tensors, tmp_path / "tiny.safetensors"), device="cpu")
    odd = {**tensors, "edm_mean": torch.zeros(4), "edm_std": torch.ones(4)}
    with pytest.raises(CheckpointError, match=r"Playground 2\.5"):
        load_adapter("sd-v1.5", written(odd, tmp_path / "edm.safetensors"), device="cpu")
    refiner = {n: torch.zeros(len(t), 1280) if n.endswith("attn2.to_k.weight") else t for n, t in tensors.items()}
    with pytest.raises(CheckpointError, match="the refiner of SDXL"):
        load_adapter("sdxl", written(refiner, tmp_path / "refiner.safetensors"), device="cpu")


@MODELS
def test_files_that_do_not_fill_the_networks_are_refused(
    model: str, folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    whole = original(drawn(model))
    prefix = "cond_stage_model.transformer." if model == "sd-v1.5" else "conditioner.embedders.0.transformer."
    key = f"{prefix}text_model.final_layer_norm.weight"
    for drop, more, named in (
        ("model.diffusion_model.out.2.bias", {}, "its unet.*missing.*conv_out.bias"),
        ("first_stage_model.decoder.conv_in.bias", {}, "its vae.*missing.*decoder.conv_in.bias"),
        (key, {}, "its text_encoder.*missing.*final_layer_norm.weight"),
        (
            None,
            {"model.diffusion_model.input_blocks.0.9.weight": torch.ones(1)},
            "1 tensors for which there is no place",
        ),
        (None, {key: torch.ones(3)}, "of another shape"),
        (None, {key: torch.full_like(whole[key], float("nan"))}, "NaN or infinite"),
    ):
        tensors = {name: tensor for name, tensor in {**whole, **more}.items() if name != drop}
        with pytest.raises(CheckpointError, match=named):
            load_adapter(model, written(tensors, tmp_path / "odd.safetensors"), device="cpu", base=folder_of(model))
    other = "sdxl" if model == "sd-v1.5" else "sd-v1.5"
    with pytest.raises(CheckpointError):
        load_adapter(
            model, written(original(drawn(other)), tmp_path / "o.safetensors"), device="cpu", base=folder_of(model)
        )


class MakesFolder:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_pickled_file_is_never_run(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    file = written(original(drawn("sd-v1.5")), tmp_path / "model.ckpt", callbacks=MakesFolder(tmp_path / "ran"))
    with pytest.raises(CheckpointError, match="mkdir"):
        load_adapter("sd-v1.5", file, device="cpu", base=folder_of("sd-v1.5"))
    assert not (tmp_path / "ran").exists()


def test_lightning_s_callbacks_in_a_checkpoint_are_passed_over(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    more = {"callbacks": {ModelCheckpoint: {"best_model_score": torch.ones(())}}, "optimizer_states": [], "epoch": 3}
    file = written(original(drawn("sd-v1.5")), tmp_path / "model.ckpt", **more)
    adapter = load_adapter("sd-v1.5", file, device="cpu", base=folder_of("sd-v1.5"))
    assert adapter.digest() == load_adapter("sd-v1.5", folder_of("sd-v1.5"), device="cpu").digest()


def test_averaged_weights_beside_the_plain_ones_are_told(
    folder_of: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = original(drawn("sd-v1.5"))
    averaged = {f"model_ema.{name.replace('.', '')}": tensor + 1 for name, tensor in tensors.items()}
    file = written({**tensors, **averaged}, tmp_path / "full.safetensors")
    with caplog.at_level(logging.INFO):
        ours = load_adapter("sd-v1.5", file, device="cpu", base=folder_of("sd-v1.5"))
    assert ours.digest() == load_adapter("sd-v1.5", folder_of("sd-v1.5"), device="cpu").digest()
    assert "averaged weights too; the plain ones are taken" in caplog.text


# Layouts that are recognised

LAYOUTS = {
    "guided-diffusion": ["time_embed.0.weight", "label_emb.weight", "input_blocks.0.0.weight",
                         "input_blocks.7.1.qkv.weight", "middle_block.1.norm.weight", "out.2.weight"],
    "latent diffusion": ["model.diffusion_model.input_blocks.0.0.weight",
                         "model.diffusion_model.input_blocks.4.1.qkv.weight",
                         "first_stage_model.quantize.embedding.weight"],
    "lucidrains": ["ema_model.model.init_conv.weight", "ema_model.model.downs.0.0.block1.proj.weight",
                   "initted", "step"],
    "k-diffusion": ["inner_model.proj_in.weight", "inner_model.u_net.d_blocks.0.0.main.0.weight",
                    "inner_model.mapping.0.weight"],
    "ControlNet": ["control_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"],
    "transformer": ["model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "img_in.weight"],
    "VAE": ["first_stage_model.encoder.conv_in.weight", "first_stage_model.decoder.mid.attn_1.q.weight"],
    "Stable Diffusion's average alone": ["model_ema.diffusion_modelinput_blocks00weight",
                                         "first_stage_model.encoder.conv_in.weight"],
    "EDM": ["model.map_noise.freqs", "model.enc.64x64_conv.weight"],
    "textual inversion": ["emb_params"],
    "LoRA": ["lora_unet_conv_in.lora_down.weight", "lora_unet_conv_in.alpha"],
    "diffusers U-Net": ["down_blocks.0.resnets.0.conv1.weight",
                        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"],
    "Stable Diffusion": ["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"],
    "unknown": ["a", "b.weight"],
}  # fmt: skip


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("model", ["sd-v1.5", "ddpm", "edm-imagenet-64"])
def test_other_layouts_are_recognised_and_the_way_is_named(layout: Any, model: str, tmp_path: Path) -> None:
    names = LAYOUTS[layout]
    assert layout_of(names) == layout
    told = str(other_layout("x.pt", layout, "that of another model"))
    assert ("not known here" if layout == "unknown" else layout) in told
    own = {"sd-v1.5": ("Stable Diffusion", "LoRA", "diffusers U-Net"), "edm-imagenet-64": ("EDM", "unknown")}
    if layout in own.get(model, ()):
        return
    tensors = {name: torch.zeros(2) for name in names}
    for file in (written(tensors, tmp_path / "x.pt"), written(tensors, tmp_path / "x.safetensors")):
        with pytest.raises((CheckpointError, ConfigError)) as caught:
            load_adapter(model, file, device="cpu")
        assert str(caught.value).endswith(told.rpartition("another model; ")[2]), caught.value


@pytest.mark.parametrize(
    "name",
    ["blocks.0.self_attn.q.weight", "blocks.3.cross_attn.q_linear.weight", "single_transformer_blocks.0.attn.to_q.bias",
     "model.diffusion_model.cap_embedder.0.weight", "layers.0.adaLN_modulation.1.weight", "head.modulation"],
)  # fmt: skip
def test_transformers_of_many_programs_are_recognised(name: str) -> None:
    assert layout_of([name]) == "transformer"


def test_textual_inversion_of_its_authors_is_named(tmp_path: Path) -> None:
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(2, 8)}}, tmp_path / "style.pt")
    with pytest.raises(CheckpointError, match="textual inversion, an embedding of words; give the model"):
        load_adapter("sd-v1.5", tmp_path / "style.pt", device="cpu")


def test_weights_of_another_layout_are_not_those_of_a_unet(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    for layout in ("guided-diffusion", "lucidrains", "k-diffusion"):
        file = written({name: torch.zeros(2) for name in LAYOUTS[layout]}, tmp_path / "x.safetensors")
        with pytest.raises(CheckpointError, match=f"weights of {layout}.*docs/adapters.md"):
            load_adapter("sd-v1.5", folder_of("sd-v1.5"), device="cpu", unet=file)
    file = written(openclip_tensors(drawn("sd-v1.5").text_encoder, "x."), tmp_path / "text.safetensors")
    with pytest.raises(CheckpointError, match="not known here"):
        load_adapter("sd-v1.5", file, device="cpu")


@pytest.mark.parametrize(
    ("layout", "saved_by_a_trainer"),
    [
        ("lucidrains", lambda tensors: {"step": 700, "model": tensors, "ema": tensors, "scaler": None}),
        ("k-diffusion", lambda tensors: {"config": {"model": {"type": "x"}}, "model": tensors, "model_ema": tensors}),
        ("guided-diffusion", lambda tensors: tensors),
    ],
)
def test_checkpoints_of_trainers_are_recognised_through_what_is_around_the_weights(
    layout: Any, saved_by_a_trainer: Callable[[dict[str, Tensor]], Any], tmp_path: Path
) -> None:
    torch.save(saved_by_a_trainer({name: torch.zeros(2) for name in LAYOUTS[layout]}), tmp_path / "model-10.pt")
    for model in ("sdxl", "ddpm", "edm-digits"):
        with pytest.raises(CheckpointError, match=rf"weights of {layout}, not .*; .*docs/adapters\.md"):
            load_adapter(model, tmp_path / "model-10.pt", device="cpu")
