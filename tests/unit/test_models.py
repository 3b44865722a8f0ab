"""Models by name and checkpoint: folders that say what they are, defaults they change, weights that are missing."""

import json

import pytest
from safetensors.torch import load_file, save_file
from torch import ones

from diffviews.adapters import load_adapter
from diffviews.adapters.registry import _REGISTRY
from diffviews.errors import CheckpointError, ConfigError
from diffviews.pipelines.models import describe, left_out, resolve_checkpoint
from diffviews.pipelines.models import load_model as load
from diffviews.recipes import ModelRecipe
from tests import loras
from tests.checkpoints import small_edm_checkpoint
from tests.diffusion_folders import draw_sd_pipeline, draw_sdxl_pipeline, saved
from tests.fakes import GaussianAdapter
from tests.jobs import load_model


@pytest.fixture
def folder(tmp_path):
    small_edm_checkpoint(tmp_path / "weights.safetensors")
    return tmp_path


def say(folder, **values):
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def test_folder_says_adapter_checkpoint_and_defaults(folder):
    say(folder, adapter="edm-digits", checkpoint="weights.safetensors", sigma_max=40, default_steps=7, comment="mine")
    adapter = load_model("edm-digits", folder, device="cpu")
    assert adapter.digest() == load_model("edm-digits", folder / "weights.safetensors", device="cpu").digest()
    assert (adapter.defaults.sigma_max, adapter.defaults.default_steps) == (40.0, 7)
    assert describe(adapter)["default_steps"] == 7
    assert describe(adapter)["layers"]["midblock"] == list(adapter.get_layer_shapes()["midblock"])


def test_folder_of_another_adapter_is_refused(folder):
    say(folder, adapter="edm-imagenet-64", checkpoint="weights.safetensors")
    with pytest.raises(ConfigError, match="is for adapter 'edm-imagenet-64', not 'edm-digits'"):
        load_model("edm-digits", folder, device="cpu")


@pytest.mark.parametrize("place", ["../weights.safetensors", "/etc/passwd", "a/../../weights.safetensors"])
def test_weights_outside_the_folder_are_refused(folder, place):
    inner = folder / "model"
    inner.mkdir()
    say(inner, adapter="edm-digits", checkpoint=place)
    with pytest.raises(CheckpointError, match="outside its folder"):
        load_model("edm-digits", inner, device="cpu")


def test_damaged_or_impossible_configuration_is_named(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is not JSON"):
        load_model("edm-digits", folder, device="cpu")
    say(folder, adapter="edm-digits", checkpoint="weights.safetensors", default_steps=0)
    with pytest.raises(ConfigError, match="default_steps 0"):
        load_model("edm-digits", folder, device="cpu")


def test_model_without_weights_offers_the_catalogue():
    with pytest.raises(CheckpointError, match=r"'edm-imagenet-64' brings no weights.*catalogue: edm-imagenet-64"):
        load_model("edm-imagenet-64", device="cpu")
    with pytest.raises(CheckpointError, match="did you mean 'dmd2-sdxl-4step'"):
        resolve_checkpoint("dmd2-sdxl-4stepp")


def test_folder_of_one_model_file_is_its_checkpoint(folder):
    (folder / "weights.safetensors").rename(folder / "model.safetensors")
    assert load_model("edm-digits", folder, device="cpu").num_classes == 10


def test_precision_is_asked_only_of_adapters_that_have_a_choice(monkeypatch):
    assert load_model("edm-digits", device="cpu", precision="bfloat16").precision == "bfloat16"
    for name, value in vars(type(_REGISTRY)()).items():
        monkeypatch.setattr(_REGISTRY, name, value)
    _REGISTRY.register("gauss", GaussianAdapter)
    assert load_model("gauss", device="cpu", precision="float32").precision == "float32"
    with pytest.raises(ConfigError, match="runs in float32 alone"):
        load_model("gauss", device="cpu", precision="float16")


@pytest.fixture(scope="module", params=["sd-v1.5", "dmd2-sdxl-4step"])
def with_lora(request, tmp_path_factory):
    """A model's name, and a folder with a tiny base and two LoRA for it."""
    folder = tmp_path_factory.mktemp("lora")
    pipeline = {"sd-v1.5": draw_sd_pipeline, "dmd2-sdxl-4step": draw_sdxl_pipeline}[request.param](3)
    saved(pipeline, folder / "base")
    for seed, name in enumerate(("one.safetensors", "two.safetensors")):
        save_file(loras.kohya(loras.draw_factors(pipeline, seed), 3.0), folder / name)
    return request.param, folder


def test_folder_of_a_base_and_lora_is_a_model(with_lora):
    name, folder = with_lora
    one, two = folder / "one.safetensors", folder / "two.safetensors"
    for said, options in (
        ({"lora": "one.safetensors", "lora_scale": 0.8}, {"lora": one, "lora_scale": 0.8}),
        ({"lora": ["one.safetensors", "two.safetensors"]}, {"lora": [one, two]}),
        ({"lora": {"one.safetensors": 0.8, "two.safetensors": -1}}, {"lora": {one: 0.8, two: -1.0}}),
    ):
        say(folder, adapter=name, base="base", **said)
        expected = load_adapter(name, folder / "base", device="cpu", **options)
        assert load_model(name, folder, device="cpu").digest() == expected.digest()
    say(folder, adapter=name, base="base", checkpoint="two.safetensors", lora="one.safetensors")
    expected = load_adapter(name, folder / "base", device="cpu", lora=[two, one])
    assert load_model(name, folder, device="cpu").digest() == expected.digest()


def test_folder_of_a_lora_without_its_base_says_what_to_add(with_lora):
    name, folder = with_lora
    say(folder, adapter=name, lora="one.safetensors")
    with pytest.raises(CheckpointError, match=r'names a lora but no weights.*add "base"'):
        load_model(name, folder, device="cpu")
    say(folder, adapter=name, base="base", lora="../one.safetensors")
    with pytest.raises(CheckpointError, match="outside its folder"):
        load_model(name, folder, device="cpu")


def test_partial_lora_is_an_option_of_the_recipe_and_of_the_folder(with_lora):
    name, folder = with_lora
    save_file({**load_file(folder / "one.safetensors"), "lora_unet_nowhere.diff": ones(3)}, folder / "odd.safetensors")
    say(folder, adapter=name, base="base", lora="odd.safetensors")
    with pytest.raises(CheckpointError, match="adapter_partial"):
        load_model(name, folder, device="cpu")
    by_recipe = load(ModelRecipe(name, str(folder), adapter_partial=True), device="cpu")
    say(folder, adapter=name, base="base", lora="odd.safetensors", adapter_partial=True)
    assert load_model(name, folder, device="cpu").digest() == by_recipe.digest()
    assert left_out(by_recipe).startswith("1 of the ")
    with pytest.raises(ConfigError, match="'edm-digits' takes no LoRA"):
        load(ModelRecipe(adapter_partial=True), device="cpu")
