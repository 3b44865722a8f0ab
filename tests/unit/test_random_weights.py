"""Copies of adapters whose weights are drawn at random: what is kept of each tensor, and that the original is left."""

import random

import pytest
import torch

from diffviews.adapters import Condition, load_adapter
from diffviews.core.random_weights import with_random_weights
from diffviews.errors import ConfigError
from diffviews.noise import keyed_generator
from tests.diffusion_folders import draw_ddpm_pipeline, draw_scheduler, draw_sd_pipeline, saved
from tests.fakes import GaussianAdapter

PIPELINES = {"sd-v1.5": draw_sd_pipeline, "ddpm": draw_ddpm_pipeline}


@pytest.fixture(params=["edm-digits", *PIPELINES])
def adapter(request, tmp_path):
    if request.param not in PIPELINES:
        return load_adapter(request.param, device="cpu")
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "trained_betas": None}
    pipeline = PIPELINES[request.param](0, draw_scheduler(random.Random(0), **betas))
    return load_adapter(request.param, saved(pipeline, tmp_path / "folder"), device="cpu")


def tensors(adapter):
    return [(name, own) for network in adapter._networks() for name, own in network.named_parameters()]


def test_weights_are_drawn_anew_by_the_mean_and_spread_of_each_tensor(adapter):
    before = [(name, own.clone()) for name, own in tensors(adapter)]
    one, same, other = with_random_weights(adapter), with_random_weights(adapter), with_random_weights(adapter, seed=1)
    assert all(torch.equal(own, now) for (_, own), (_, now) in zip(before, tensors(adapter), strict=True))
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(tensors(one), tensors(same), strict=True))
    assert one.digest() not in (adapter.digest(), other.digest())
    for (name, own), (_, now) in zip(before, tensors(one), strict=True):
        if own.numel() < 1000 or own.std() == 0:
            continue
        assert float(now.std() / own.std()) == pytest.approx(1, abs=0.2), name
        assert abs(float(now.mean() - own.mean()) / own.std()) < 0.2, name
        assert abs(float(torch.corrcoef(torch.stack([own.flatten(), now.flatten()]))[0, 1])) < 0.2, name


def test_passes_of_the_copy_are_its_own(adapter):
    shape = (2, *adapter.input_shape)
    x = torch.randn(shape, generator=keyed_generator("x"))
    prompts = [Condition(prompt="one"), Condition(prompt="two")]
    given = adapter.condition(prompts) if adapter.takes_prompts else {}
    with torch.no_grad():
        own, drawn = (each.forward(x, 2.0, **given) for each in (adapter, with_random_weights(adapter)))
    assert drawn.isfinite().all()
    assert not torch.allclose(own, drawn)


def test_model_without_parameters_is_refused():
    with pytest.raises(ConfigError, match="where they are not found"):
        with_random_weights(GaussianAdapter())
