"""Pixel-space models of diffusers: DDPM (Ho et al. 2020) and its kin, with classes or without."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from diffviews.adapters.base import Precision
from diffviews.adapters.diffusers_unet import DiffusersUNetAdapter, network_dtype
from diffviews.adapters.diffusion_folder import DiffusionFolder, model_config
from diffviews.adapters.diffusion_schedule import DiffusionSchedule
from diffviews.device import device_or_best
from diffviews.errors import CheckpointError, ConfigError, unknown_name

CHANNELS = (1, 3)
"""Grey, RGB."""

OPTIONS = ("null_class", "label_dropout", "precision")
"""Keyword options of `from_checkpoint`."""


class DDPMAdapter(DiffusersUNetAdapter):
    """Any folder of a DDPM or DDIM pipeline with a grey or RGB `UNet2DModel`, class-conditional or not.

    Args:
        unet: UNet2DModel, in the precision of the forward pass.
        schedule: noise levels of the training timesteps.
        config: configurations of the model's parts, as JSON has them.
        null_class: embedding that stood for "no class" in training, which is then none of the classes; None: none did.
        label_dropout: share of labels for which it stood; 0: unknown.
    """

    name = "ddpm"
    family = "ddpm"

    def __init__(
        self,
        unet: Any,
        schedule: DiffusionSchedule,
        config: Mapping[str, Any],
        *,
        null_class: int | None = None,
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__(unet, schedule, config)
        embeddings = int(unet.config.num_class_embeds or 0)
        if null_class is not None and not 0 <= null_class < embeddings:
            raise ConfigError(f"null_class {null_class} is not one of the U-Net's {embeddings} class embeddings")
        self._classes = [index for index in range(embeddings) if index != null_class]
        self._null_class, self._label_dropout = null_class, label_dropout
        if embeddings:
            unet.class_embedding = MixedEmbedding.of(unet.class_embedding)

    @property
    def resolution(self) -> int:
        return self._size

    @property
    def num_classes(self) -> int:
        return len(self._classes)

    @property
    def label_dropout(self) -> float | bool:
        return self._label_dropout or self._null_class is not None

    def unlimited(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return the denoised images before clipping, (B, C, H, W) float32.

        Args:
            x: noised images x0 + sigma n, (B, C, H, W).
            sigma: noise level > 0 of each, (B,), or of all.
            class_labels: one-hot or mixed classes, (B, K); None: the null class, or without one all classes alike.
            kwargs: not used.
        """
        if not self._classes:
            return self._denoised(x, sigma)
        return self._denoised(x, sigma, class_labels=self._embedding_shares(class_labels, len(x)))

    def _embedding_shares(self, class_labels: Tensor | None, count: int) -> Tensor:
        """Return the share of each embedding in each sample, (B, num_class_embeds)."""
        weight: Tensor = self.unet.class_embedding.weight
        shares = weight.new_zeros(count, len(weight))
        if class_labels is not None:
            shares[:, self._classes] = class_labels.to(weight)
        elif self._null_class is not None:
            shares[:, self._null_class] = 1
        else:
            shares[:] = 1 / len(weight)
        return shares

    def _shadow_arguments(self) -> dict[str, Any]:
        return {"class_labels": torch.zeros(1, dtype=torch.long, device="meta")} if self._classes else {}

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint_path: str | Path | None,
        device: Any = "cuda",
        *,
        null_class: int | None = None,
        label_dropout: float = 0.0,
        precision: Precision | str = "auto",
        **kwargs: Any,
    ) -> Self:
        """Load a diffusers folder.

        Args:
            checkpoint_path: folder with model_index.json.
            device: where to put it; 'cuda' on a machine without CUDA falls back with a warning.
            null_class: number of the class embedding that stood for "no class" in training; the folder does not say.
            label_dropout: share of labels for which it stood.
            precision: float32, float16, bfloat16; auto is float16 on CUDA and float32 elsewhere.
            kwargs: none is known.

        Raises:
            CheckpointError: if a file is missing, damaged, hostile or of another model.
            ConfigError: if an option is unknown or impossible, or a package is missing.
        """
        for option in kwargs:
            raise ConfigError(unknown_name("option", option, OPTIONS))
        target = device_or_best(device)
        folder = DiffusionFolder.open(checkpoint_path, {"unet": "UNet2DModel"}, cls.family)
        unet: Any = folder.load("unet", network_dtype(precision, target))
        if unet.config.in_channels not in CHANNELS:
            raise CheckpointError(
                f"checkpoint {folder.path} has {unet.config.in_channels} channels; only grey and RGB images are known"
            )
        schedule = DiffusionSchedule.from_config(folder.scheduler())
        schedule.tell_not_followed(folder.path)
        parts = {"unet": folder.config("unet"), "scheduler": folder.scheduler()}
        config: dict[str, Any] = {name: model_config(part) for name, part in parts.items()}
        if null_class is not None:
            config["null_class"] = null_class
        made = cls(unet, schedule, config, null_class=null_class, label_dropout=label_dropout)
        return made.to(target).eval()

    @classmethod
    def get_default_config(cls) -> dict[str, Any]:
        """Return the schedule of Ho et al. 2020; the network is whatever the folder holds."""
        return {
            "unet": {"in_channels": 3},
            "scheduler": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        }


class MixedEmbedding(nn.Embedding):
    """An embedding that takes shares of its rows, (B, K), in place of one row's number."""

    @classmethod
    def of(cls, embedding: nn.Embedding) -> Self:
        """Return one over the same weights."""
        return cls(embedding.num_embeddings, embedding.embedding_dim, _weight=embedding.weight, _freeze=True)

    def forward(self, shares: Tensor) -> Tensor:
        """Return the mean of the rows by their shares, (B, D)."""
        return shares @ self.weight
