"""EDM2's networks of ImageNet at 512 pixels, which work on the latents of Stability AI's VAE."""

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from diffviews.adapters.diffusion_folder import load_component
from diffviews.adapters.edm import LATENT_CHANNELS
from diffviews.adapters.edm_published import PublishedAdapter
from diffviews.device import device_or_best
from diffviews.errors import CheckpointError, ConfigError, ShapeError

VAE = "hf:stabilityai/sd-vae-ft-mse"
"""Address of the VAE that the networks were trained on."""
LATENT_MEAN = (5.81, 3.25, 0.12, -2.15)
"""Mean of ImageNet's latents, which is moved to 0 (EDM2's StabilityVAEEncoder)."""
LATENT_STD = (4.17, 4.62, 3.71, 3.28)
"""Their deviation, which is scaled to 0.5."""


class LatentEDM2Adapter(PublishedAdapter):
    """EDM2 for ImageNet at 512 pixels: x and x0 are latents of deviation 0.5, images go through the VAE.

    The VAE is given pixels in [0, 1], as in its authors' encoder; latents are the mode of its posterior.
    """

    name = "edm2-imagenet-512"
    reads_trained = False
    vae: Any = None

    @property
    def resolution(self) -> int:
        return int(self._network.img_resolution * 2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (LATENT_CHANNELS, self._network.img_resolution, self._network.img_resolution)

    def _networks(self) -> list[nn.Module]:
        return [self.model] if self.vae is None else [self.model, self.vae]

    @torch.no_grad()
    def encode(self, images: np.ndarray) -> Tensor:
        """Return the latents of images: uint8 (N, H, W, 3) → (N, 4, h, w) float32, on the CPU.

        Raises:
            ShapeError: if the images are not uint8 or not of the model's resolution.
        """
        expected = (self.resolution, self.resolution, 3)
        if images.dtype != np.uint8 or images.shape[1:] != expected:
            raise ShapeError(
                f"images are {images.dtype} of shape {images.shape}; model {self.model_type!r} takes uint8 "
                f"of shape (N, {', '.join(map(str, expected))}), so resize them first"
            )
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(self.device, torch.float32)
        latents = self.vae.encode(pixels / 255).latent_dist.mode()
        mean, scale = _standard(latents)
        return ((latents - mean) * scale).cpu()

    @torch.no_grad()
    def decode(self, x0: Tensor) -> np.ndarray:
        """Return the images of latents: (N, 4, h, w) → uint8 (N, H, W, 3)."""
        latents = x0.detach().to(self.device, torch.float32)
        mean, scale = _standard(latents)
        pixels = self.vae.decode(latents / scale + mean, return_dict=False)[0]
        return (pixels.clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    @classmethod
    def _check_channels(cls, path: Path, channels: Any) -> None:
        if channels != LATENT_CHANNELS:
            raise CheckpointError(
                f"checkpoint {path} takes {channels} channels instead of a VAE's {LATENT_CHANNELS}; EDM2's networks "
                "of pixels open as adapter 'edm2-imagenet-64'"
            )

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint_path: str | Path | None,
        device: Any = "cuda",
        *,
        base: str | Path | None = None,
        label_dropout: float = 0.0,
        precision: str = "auto",
        **kwargs: Any,
    ) -> Self:
        """Load a network, and the VAE that makes images of its latents.

        Args:
            checkpoint_path: a snapshot of EDM2, or its tensors as safetensors.
            device: where to put it; 'cuda' on a machine without CUDA falls back with a warning.
            base: diffusers folder of the VAE, or of a pipeline with one.
            label_dropout: share of labels withheld in its training.
            precision: of the network; the VAE runs in float32.
            kwargs: network options that override the checkpoint's configuration.

        Raises:
            CheckpointError: if a file is missing, damaged or of another network.
            ConfigError: if the VAE is not given, or an option is unknown.
        """
        if base is None:
            raise ConfigError(
                f"model {cls.name!r} works on latents; give the diffusers folder of its VAE, a copy of {VAE}, by base= "
                "or in a model folder (docs/checkpoints.md)"
            )
        adapter = super().from_checkpoint(
            checkpoint_path, "cpu", label_dropout=label_dropout, precision=precision, **kwargs
        )
        folder = Path(base) / "vae" if (Path(base) / "vae").is_dir() else Path(base)
        adapter.vae = load_component(folder, "AutoencoderKL", torch.float32)
        if adapter.vae.config.latent_channels != LATENT_CHANNELS:
            raise CheckpointError(f"the VAE in {folder} has {adapter.vae.config.latent_channels} channels instead of 4")
        adapter.vae.enable_slicing()
        return adapter.to(device_or_best(device)).eval()


def _standard(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of the VAE's latents and the scale that makes their deviation 0.5, each (4, 1, 1)."""
    mean, deviation = (latents.new_tensor(values)[:, None, None] for values in (LATENT_MEAN, LATENT_STD))
    return mean, 0.5 / deviation
