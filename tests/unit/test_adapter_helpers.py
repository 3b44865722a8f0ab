"""What the page on adapters offers to authors of adapters: times of noise levels, weights, named layers."""

import json
import math

import pytest
import torch
from torch import nn

from diffviews.adapters import register_adapter_class, unregister_adapter
from diffviews.adapters.checkpoint import load_weights
from diffviews.adapters.named_layers import NamedLayers
from diffviews.adapters.timesteps import denoised_by_timesteps, schedule_of_betas, time_of_sigma
from diffviews.errors import CheckpointError, ConfigError, LayerNotFoundError
from diffviews.pipelines.models import load_model
from diffviews.recipes.base import ModelRecipe
from diffviews.testing import AdapterContract

LEVELS = torch.tensor([0.002, 0.5, 1.0, 7.0, 80.0])
X = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_time_of_a_flow_is_that_of_its_closed_form():
    t, alpha = time_of_sigma(LEVELS, lambda t: (1 - t, t), like=X)
    torch.testing.assert_close(t, LEVELS.double() / (1 + LEVELS.double()), rtol=1e-12, atol=0)
    torch.testing.assert_close(alpha.flatten(), 1 / (1 + LEVELS))
    assert (alpha.shape, alpha.dtype) == ((5, 1, 1, 1), X.dtype)


def test_time_may_fall_with_the_noise_and_have_any_ends():
    t, _ = time_of_sigma(2.0, lambda t: (t, 1 - t), like=X, clean=1.0, noisy=0.0)
    torch.testing.assert_close(t, torch.full((5,), 1 / 3, dtype=torch.float64))
    t, alpha = time_of_sigma(LEVELS, lambda t: (torch.ones_like(t), t.exp()), like=X, clean=-10.0, noisy=10.0)
    torch.testing.assert_close(t, LEVELS.double().log())
    assert (alpha == 1).all()


def test_time_of_a_level_outside_of_the_schedule_is_its_end():
    def scales(t):
        return torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2) + 1e-3

    t, _ = time_of_sigma(torch.tensor([1e-6, 1e30]), scales, like=X[:2])
    torch.testing.assert_close(t, torch.tensor([0.0, 1.0], dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_denoised_by_timesteps_gives_back_x0_where_the_network_knows_it(prediction):
    betas = torch.linspace(1e-4, 0.02, 1000)
    schedule, abar = schedule_of_betas(betas, prediction), (1 - betas.double()).cumprod(0).float()
    x0, noise = torch.rand(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(2)) * 1.8 - 0.9
    times = torch.tensor([0, 10, 400, 990])
    alpha, sigma = (value[times].reshape(-1, 1, 1, 1) for value in (abar.sqrt(), (1 - abar).sqrt()))
    returned = {"epsilon": noise, "v_prediction": alpha * noise - sigma * x0, "sample": x0}[prediction]

    def network(x_t, t):
        assert t.tolist() == times.tolist()
        torch.testing.assert_close(x_t, alpha * x0 + sigma * noise, atol=1e-5, rtol=1e-5)
        return returned

    levels = (sigma / alpha).flatten()
    denoised = denoised_by_timesteps(network, x0 + (sigma / alpha) * noise, levels, schedule)
    torch.testing.assert_close(denoised, x0, atol=1e-4, rtol=1e-4)
    clipped = denoised_by_timesteps(network, x0 + (sigma / alpha) * noise, levels, schedule, clip=0.5)
    torch.testing.assert_close(clipped, x0.clamp(-0.5, 0.5), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("betas", [[0.1], [0.1, 1.0], [0.0, 0.1], [[0.1, 0.2]]])
def test_impossible_betas_are_refused(betas):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        schedule_of_betas(betas)


class Doubled(NamedLayers):
    """Two linear layers over the columns of an image; an unused one beside them."""

    model_type, resolution, num_classes = "doubled", 4, 0
    names = ("first", "second")

    def __init__(self):
        self.passes = 0
        with torch.random.fork_rng():
            torch.manual_seed(0)
            parts = {name: nn.Linear(4, 4) for name in ("first", "second", "unused")}
        self.net = nn.ModuleDict(parts).requires_grad_(False)

    @property
    def layer_modules(self):
        return {name: self.net[name] for name in self.names}

    def forward(self, x, sigma, class_labels=None, **kwargs):
        self.passes += 1
        return self.net["second"](self.net["first"](x).relu())

    @classmethod
    def from_checkpoint(cls, checkpoint_path, device="cuda", **options):
        adapter = cls()
        if checkpoint_path is not None:
            load_weights(adapter.net, checkpoint_path, options.get("prefixes", ("",)))
        return adapter.to(device)

    @classmethod
    def get_default_config(cls):
        return {}


class TestNamedLayers(AdapterContract):
    def make(self):
        return Doubled()


def test_shapes_of_named_layers_are_measured_once():
    adapter = Doubled()
    assert adapter.get_layer_shapes() == adapter.get_layer_shapes() == {"first": (3, 4, 4), "second": (3, 4, 4)}
    assert adapter.passes == 1


def test_named_layer_that_no_pass_reaches_is_refused():
    adapter = Doubled()
    adapter.names = ("first", "unused")
    with pytest.raises(LayerNotFoundError, match="unused"):
        adapter.get_layer_shapes()


def test_weights_are_those_of_the_first_prefix_that_is_found(tmp_path):
    weights = Doubled().net.state_dict()
    average = {f"ema_model.{name}": value / 2 for name, value in weights.items()}
    torch.save({**{f"model.{n}": v for n, v in weights.items()}, **average, "step": torch.tensor(3)}, tmp_path / "a.pt")
    for prefixes, part in ((["ema_model.", "model."], 0.5), (["model."], 1.0), (["none.", "model."], 1.0)):
        opened = Doubled.from_checkpoint(tmp_path / "a.pt", "cpu", prefixes=prefixes).net.state_dict()
        assert all(torch.equal(opened[name], value * part) for name, value in weights.items())


def test_weights_that_do_not_fit_are_refused(tmp_path):
    weights = Doubled().net.state_dict()
    torch.save({f"model.{name}": value for name, value in weights.items()}, tmp_path / "model.pt")
    torch.save({**weights, "first.bias": torch.tensor([0, 1, math.nan, 0])}, tmp_path / "nan.pt")
    torch.save({**weights, "first.bias": torch.zeros(5)}, tmp_path / "shape.pt")
    faults = {"model.pt": "6 missing.*unknown", "nan.pt": "NaN", "shape.pt": r"\(5,\) instead of \(4,\)"}
    for file, said in faults.items():
        with pytest.raises(CheckpointError, match=said):
            Doubled.from_checkpoint(tmp_path / file, "cpu")
    with pytest.raises(CheckpointError, match="missing"):
        Doubled.from_checkpoint(tmp_path / "model.pt", "cpu", prefixes=["other."])


class Sized(Doubled):
    """Hands any option on, as many adapters do."""

    def __init__(self, width=4, **further):
        super().__init__()
        nn.Linear(width, width, **further)
        self.config = {"width": width}

    config: dict = {}  # noqa: RUF012  # set above

    @classmethod
    def from_checkpoint(cls, checkpoint_path, device="cuda", **options):
        return cls(**options).to(device)


class Strict(Sized):
    @classmethod
    def from_checkpoint(cls, checkpoint_path, device="cuda", width=4):
        return cls(width)


def opened(folder, options, adapter=Sized):
    (folder / "config.json").write_text(json.dumps({"adapter": "sized", "options": options}))
    register_adapter_class("sized", adapter)
    try:
        return load_model(ModelRecipe("sized", str(folder)), device="cpu")
    finally:
        unregister_adapter("sized")


def test_options_of_a_model_folder_build_its_network(tmp_path):
    assert opened(tmp_path, {"width": 8}).config == {"width": 8}
    assert opened(tmp_path, {"width": 6}, Strict).config == {"width": 6}
    assert opened(tmp_path, None).config == {"width": 4}


@pytest.mark.parametrize(
    ("options", "adapter", "said"),
    [
        ({"widht": 8}, Strict, "'widht'.*did you mean 'width'"),
        ({"widht": 8}, Sized, "config.json.*'sized' cannot take its options.*widht"),
        ({"base": "/etc"}, Sized, "base"),
        ({"checkpoint_path": "/etc/passwd"}, Sized, "checkpoint_path"),
        ([1], Sized, "mapping"),
    ],
)
def test_options_that_the_adapter_does_not_take_are_refused(tmp_path, options, adapter, said):
    with pytest.raises(CheckpointError, match=said):
        opened(tmp_path, options, adapter)
