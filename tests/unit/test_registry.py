"""Names of adapters, and loading them."""

from pathlib import Path

import pytest
import torch

import diffviews
from diffviews.adapters import (
    GeneratorAdapter,
    get_adapter,
    list_adapters,
    load_adapter,
    register_adapter,
    register_adapter_class,
    registry,
    unregister_adapter,
)
from diffviews.errors import AdapterNotFoundError, CheckpointError, ConfigError
from tests.checkpoints import small_edm_checkpoint
from tests.fakes import GaussianAdapter, SkipAdapter


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in vars(registry._Registry()).items():
        monkeypatch.setattr(registry._REGISTRY, name, value)


def test_package_offers_the_interface_lazily() -> None:
    assert diffviews.GeneratorAdapter is GeneratorAdapter
    assert diffviews.get_adapter is get_adapter
    assert {"GeneratorAdapter", "get_adapter", "list_adapters", "register_adapter"} <= set(dir(diffviews))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = diffviews.no_such_name


def test_decorated_class_is_found_and_withdrawn() -> None:
    assert register_adapter("gauss")(GaussianAdapter) is GaussianAdapter
    assert get_adapter("gauss") is GaussianAdapter
    assert "gauss" in list_adapters()
    assert unregister_adapter("gauss") is GaussianAdapter
    assert unregister_adapter("gauss") is None
    with pytest.raises(AdapterNotFoundError):
        get_adapter("gauss")


def test_unknown_adapter_offers_the_nearest_name() -> None:
    with pytest.raises(AdapterNotFoundError, match="did you mean 'edm-digits'"):
        get_adapter("edm-digit")


def test_taken_name_is_refused_unless_it_is_the_same_class() -> None:
    register_adapter_class("gauss", GaussianAdapter)
    register_adapter_class("gauss", GaussianAdapter)
    again = type("GaussianAdapter", (GaussianAdapter,), {"__module__": GaussianAdapter.__module__})
    register_adapter_class("gauss", again)
    assert get_adapter("gauss") is again
    with pytest.raises(ConfigError, match=r"'gauss' is taken by tests\.fakes\.GaussianAdapter"):
        register_adapter_class("gauss", SkipAdapter)
    with pytest.raises(ConfigError, match="'edm-digits' is taken"):
        register_adapter_class("edm-digits", SkipAdapter)


def test_built_in_name_can_be_withdrawn_and_given_anew() -> None:
    built_in = unregister_adapter("edm-digits")
    assert built_in is not None
    assert "edm-digits" not in list_adapters()
    register_adapter_class("edm-digits", SkipAdapter)
    assert get_adapter("edm-digits") is SkipAdapter


def test_only_adapters_are_registered() -> None:
    with pytest.raises(TypeError, match="not a subclass of GeneratorAdapter"):
        register_adapter("dict")(dict)  # type: ignore[type-var]


def test_loading_gives_a_model_in_inference_mode_and_leaves_random_state_alone(tmp_path: Path) -> None:
    path = small_edm_checkpoint(tmp_path / "small.safetensors")
    before = torch.get_rng_state()
    adapter = load_adapter("edm-digits", path, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert adapter.num_classes == 10
    assert adapter.label_dropout == 0.1
    assert not any(module.training for network in adapter._networks() for module in network.modules())


def test_loading_refuses_a_missing_device_and_missing_weights(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="cuda"):
            load_adapter("edm-digits", device="cuda")
    with pytest.raises(CheckpointError, match="ships no weights"):
        load_adapter("edm-imagenet-64", device="cpu")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_adapter("edm-imagenet-64", tmp_path / "gone.safetensors", device="cpu")
