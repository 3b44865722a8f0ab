"""Unconditional pixel-space models of diffusers: DDPM (Ho et al. 2020) and its kin."""

from pathlib import Path
from typing import Any, Self

from torch import Tensor

from diffviews.adapters.base import Precision, single_pass
from diffviews.adapters.diffusers_unet import DiffusersUNetAdapter, network_dtype
from diffviews.adapters.diffusion_folder import DiffusionFolder, model_config
from diffviews.adapters.diffusion_schedule import DiffusionSchedule
from diffviews.device import device_or_best
from diffviews.errors import CheckpointError, ConfigError


class DDPMAdapter(DiffusersUNetAdapter):
    """Any folder of a DDPM or DDIM pipeline with an RGB `UNet2DModel`."""

    name = "ddpm"

    @property
    def resolution(self) -> int:
        return self._size

    @single_pass
    def forward(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return the denoised images, (B, 3, H, W) float32; labels and other options are not used."""
        return self._denoised(x, sigma)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint_path: str | Path | None,
        device: Any = "cuda",
        *,
        precision: Precision | str = "auto",
        **kwargs: Any,
    ) -> Self:
        """Load a diffusers folder.

        Args:
            checkpoint_path: folder with model_index.json.
            device: where to put it; 'cuda' on a machine without CUDA falls back with a warning.
            precision: float32, float16, bfloat16; auto is float16 on CUDA and float32 elsewhere.
            kwargs: none is known.

        Raises:
            CheckpointError: if a file is missing, damaged, hostile or of another model.
            ConfigError: if an option is unknown or a package is missing.
        """
        if kwargs:
            raise ConfigError(f"option {next(iter(kwargs))!r} is not one of precision")
        target = device_or_best(device)
        folder = DiffusionFolder.open(checkpoint_path, {"unet": "UNet2DModel"})
        unet: Any = folder.load("unet", network_dtype(precision, target))
        if unet.config.in_channels != 3:
            raise CheckpointError(f"checkpoint {folder.path} has {unet.config.in_channels} channels instead of RGB")
        schedule = DiffusionSchedule.from_config(folder.config("scheduler"))
        config = {"unet": model_config(folder.config("unet")), "scheduler": model_config(folder.config("scheduler"))}
        return cls(unet, schedule, config).to(target).eval()

    @classmethod
    def get_default_config(cls) -> dict[str, Any]:
        """Return the schedule of Ho et al. 2020; the network is whatever the folder holds."""
        return {
            "unet": {"in_channels": 3},
            "scheduler": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        }
