"""The second walk of docs/adapters.md: a transformer of azula, whose layers are tokens, keeps the contract."""

import json

import pytest
import torch

from diffviews.adapters import Condition, register_adapter_class, unregister_adapter
from diffviews.errors import CheckpointError
from diffviews.pipelines.models import load_model
from diffviews.recipes.base import ModelRecipe
from diffviews.testing import AdapterContract

pytest.importorskip("azula", reason="pip install --no-deps azula einops brings it")

from tests.contract.azula_adapter import SCHEDULES, AzulaAdapter

SMALL = {"image_size": 8, "num_classes": 5, "features": 16, "hid_channels": 32, "hid_blocks": 2}


def made(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AzulaAdapter(**{**SMALL, **options})


class TestAzula(AdapterContract):
    def make(self):
        return made()


class TestAzulaOfFlows(AdapterContract):
    def make(self):
        return made(schedule="rectified")


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_denoised_is_that_of_azula_itself(schedule):
    adapter = made(schedule=schedule)
    times = torch.tensor([0.01, 0.2, 0.5, 0.8, 0.97], dtype=torch.float64)
    alpha, sigma = (scale.reshape(-1, 1, 1, 1) for scale in SCHEDULES[schedule]()(times))
    x0, noise = torch.rand(2, 5, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    label = torch.tensor([0, 1, 2, 4, 5])
    wanted = adapter.denoiser((alpha * x0 + sigma * noise).float(), times, label=label).mean.float()
    given = adapter.condition([Condition(class_id) for class_id in (0, 1, 2, 4, -1)])
    levels = (sigma / alpha).flatten()
    ours = adapter.forward((x0 + levels.reshape(-1, 1, 1, 1) * noise).float(), levels.float(), **given)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
    one = adapter.forward((x0 + levels[1] * noise).float()[1:2], float(levels[1]), class_labels=label[1:2])
    torch.testing.assert_close(one, wanted[1:2], atol=1e-5, rtol=1e-5)


def test_layers_are_tokens():
    assert made().get_layer_shapes() == {
        "in_proj": (4, 32), "block_0": (4, 32), "block_1": (4, 32), "out_proj": (4, 48)
    }  # fmt: skip


def test_model_folder_opens_with_its_options(tmp_path):
    adapter = made(schedule="cosine")
    torch.save(adapter.denoiser.state_dict(), tmp_path / "denoiser.pt")
    options = {**SMALL, "schedule": "cosine"}
    said = {"adapter": "azula", "checkpoint": "denoiser.pt", "options": options, "class_names": list("abcde")}
    (tmp_path / "config.json").write_text(json.dumps(said))
    register_adapter_class("azula", AzulaAdapter)
    try:
        opened = load_model(ModelRecipe("azula", str(tmp_path)), device="cpu")
        assert opened.digest() == adapter.digest() != made().digest()
        assert opened.class_names == tuple("abcde")
        (tmp_path / "config.json").write_text(json.dumps({**said, "options": {**options, "hid_blocks": 3}}))
        with pytest.raises(CheckpointError, match=r"block.*missing|missing.*blocks\.2"):
            load_model(ModelRecipe("azula", str(tmp_path)), device="cpu")
        (tmp_path / "config.json").write_text(json.dumps({**said, "options": {**options, "hid_block": 3}}))
        with pytest.raises(CheckpointError, match=r"config\.json.*cannot take its options.*hid_block"):
            load_model(ModelRecipe("azula", str(tmp_path)), device="cpu")
    finally:
        unregister_adapter("azula")
