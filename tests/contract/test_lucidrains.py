"""The walk of docs/adapters.md: a class-conditional U-Net of denoising-diffusion-pytorch keeps the contract."""

import json

import pytest
import torch

from diffviews.adapters import Condition, load_adapter, register_adapter_class, unregister_adapter
from diffviews.errors import CheckpointError
from diffviews.pipelines.models import load_model
from diffviews.recipes.base import ModelRecipe
from diffviews.testing import AdapterContract

pytest.importorskip("denoising_diffusion_pytorch", reason="pip install denoising-diffusion-pytorch brings it")

from denoising_diffusion_pytorch.classifier_free_guidance import GaussianDiffusion
from ema_pytorch import EMA

from tests.contract.lucidrains_adapter import LucidrainsAdapter

SMALL = {"image_size": 16, "num_classes": 10, "dim": 16, "dim_mults": (1, 2), "attn_heads": 2, "attn_dim_head": 8}


def made(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LucidrainsAdapter(**{**SMALL, **options})


class TestLucidrains(AdapterContract):
    def make(self):
        return made()


@pytest.mark.parametrize("objective", ["pred_noise", "pred_v", "pred_x0"])
@pytest.mark.parametrize("timestep", [0, 17, 500, 990])
def test_denoised_is_that_of_the_package_itself(objective, timestep):
    adapter = made(objective=objective)
    package = GaussianDiffusion(adapter.net, image_size=16, objective=objective)
    x0, noise = torch.rand(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    times, classes = torch.full((2,), timestep), torch.tensor([3, 7])
    noised = package.q_sample(x0, times, noise)
    returned = adapter.net(noised, times, classes, cond_drop_prob=0.0)
    wanted = {
        "pred_noise": package.predict_start_from_noise, "pred_v": package.predict_start_from_v,
        "pred_x0": lambda noised, times, x0: x0,
    }[objective](noised, times, returned).clamp(-1, 1)  # fmt: skip
    sigma = float(adapter.schedule.sigmas[timestep])
    given = adapter.condition([Condition(3), Condition(7)])
    ours = adapter.forward(noised * (1 + sigma**2) ** 0.5, sigma, **given)
    torch.testing.assert_close(ours, wanted, atol=3e-4 * max(1, sigma), rtol=1e-4)


def test_checkpoint_of_its_trainer_and_options_in_config_json_open_it(tmp_path):
    adapter = made()
    diffusion = GaussianDiffusion(adapter.net, image_size=16)
    averaged = EMA(diffusion)
    averaged.ema_model.load_state_dict({name: value * 0.5 for name, value in diffusion.state_dict().items()})
    opt = torch.optim.Adam(diffusion.parameters()).state_dict()
    saved = {"step": 1, "model": diffusion.state_dict(), "opt": opt, "ema": averaged.state_dict(), "scaler": None}
    torch.save({**saved, "version": "2.3.4"}, tmp_path / "model-1.pt")
    torch.save({**saved, "ema": None}, tmp_path / "model-2.pt")
    said = {"adapter": "lucidrains", "checkpoint": "model-1.pt", "options": SMALL, "default_steps": 7}
    (tmp_path / "config.json").write_text(json.dumps(said))
    register_adapter_class("lucidrains", LucidrainsAdapter)
    try:
        opened = load_model(ModelRecipe("lucidrains", str(tmp_path)), device="cpu")
        assert opened.digest() == load_adapter("lucidrains", tmp_path / "model-1.pt", "cpu", **SMALL).digest()
        assert opened.defaults.default_steps == 7
        weights = averaged.ema_model.model.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in opened.net.state_dict().items())
        assert load_adapter("lucidrains", tmp_path / "model-2.pt", "cpu", **SMALL).digest() == adapter.digest()
        assert made(beta_schedule="linear").digest() != adapter.digest()
        (tmp_path / "config.json").write_text(json.dumps({**said, "options": {"base": "/etc"}}))
        with pytest.raises(CheckpointError, match="base"):
            load_model(ModelRecipe("lucidrains", str(tmp_path)), device="cpu")
    finally:
        unregister_adapter("lucidrains")
