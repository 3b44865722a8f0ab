"""The adapter contract, kept by the adapters over diffusers' models, each with a tiny random model drawn by seed."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffviews.adapters import GeneratorAdapter, load_adapter
from diffviews.errors import ShapeError
from diffviews.testing import AdapterContract
from tests.checkpoints import small_edm_checkpoint
from tests.diffusion_folders import draw_ddpm_pipeline, draw_scheduler, draw_sd_pipeline, draw_sdxl_pipeline, saved


class FolderContract(AdapterContract):
    """The contract for a model in a folder."""

    name: str
    draw: Any
    seed = 0

    @pytest.fixture(autouse=True, scope="class")
    def _folder(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        # A moderate schedule: at the 20,000 of a cosine one, float32 leaves little of what depends on the layers.
        betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "trained_betas": None}
        scheduler = draw_scheduler(random.Random(self.seed), **betas)
        type(self).path = saved(type(self).draw(self.seed, scheduler), tmp_path_factory.mktemp("folder"))

    path: Path

    def make(self) -> GeneratorAdapter:
        return load_adapter(self.name, self.path, device="cpu")


class LatentContract(FolderContract):
    """The contract for a latent model, whose decoder need not undo what its encoder does."""

    def test_images_survive_encoding_and_decoding(self, adapter: GeneratorAdapter) -> None:
        shape = (2, adapter.resolution, adapter.resolution, 3)
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        x0 = adapter.encode(images)
        assert x0.shape == (2, *adapter.input_shape)
        assert (x0.dtype, x0.device) == (torch.float32, torch.device("cpu"))
        torch.testing.assert_close(adapter.encode(images[1:]), x0[1:])
        decoded = adapter.decode(x0)
        assert (decoded.shape, decoded.dtype) == (shape, np.dtype(np.uint8))
        with pytest.raises(ShapeError, match="resize"):
            adapter.encode(images[:, 1:])


class TestStableDiffusion(LatentContract):
    name, draw = "sd-v1.5", staticmethod(draw_sd_pipeline)


class TestDMD2StableDiffusion(LatentContract):
    name, draw, seed = "dmd2-sd-v1.5", staticmethod(draw_sd_pipeline), 5


class TestSDXL(LatentContract):
    name, draw, seed = "sdxl", staticmethod(draw_sdxl_pipeline), 4


class TestDMD2FourStep(LatentContract):
    name, draw, seed = "dmd2-sdxl-4step", staticmethod(draw_sdxl_pipeline), 5


class TestDMD2OneStep(LatentContract):
    name, draw, seed = "dmd2-sdxl-1step", staticmethod(draw_sdxl_pipeline), 6


class TestDDPM(FolderContract):
    name, draw = "ddpm", staticmethod(draw_ddpm_pipeline)


class TestDMD2ImageNet(AdapterContract):
    @pytest.fixture(autouse=True)
    def _checkpoint(self, tmp_path: Path) -> None:
        self.path = small_edm_checkpoint(tmp_path / "small.safetensors")

    def make(self) -> GeneratorAdapter:
        return load_adapter("dmd2-imagenet-64", self.path, device="cpu")
