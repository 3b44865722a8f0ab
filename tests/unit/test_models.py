"""Models by name and checkpoint: folders that say what they are, defaults they change, weights that are missing."""

import json

import pytest

from diffviews.adapters.registry import _REGISTRY
from diffviews.errors import CheckpointError, ConfigError
from diffviews.pipelines.models import describe, resolve_checkpoint
from tests.checkpoints import small_edm_checkpoint
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
