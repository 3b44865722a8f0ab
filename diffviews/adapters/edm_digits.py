"""The small digits model that ships with the package, trained on scikit-learn's handwritten digits."""

from pathlib import Path
from typing import Any

from diffviews.adapters.edm import EDMAdapter
from diffviews.adapters.edm_networks import EDM_DEFAULTS
from diffviews.models.shipped import shipped_weights


class EDMDigitsAdapter(EDMAdapter):
    """ADM U-Net with EDM preconditioning for 16×16 RGB digits, 10 classes."""

    name = "edm-digits"

    @property
    def class_names(self) -> tuple[str, ...] | None:
        if self.num_classes != 10 or "_class_names" in self.__dict__:
            return super().class_names
        return tuple(map(str, range(10)))

    @classmethod
    def get_default_config(cls) -> dict[str, Any]:
        """Return the configuration of a small network at the digits' resolution."""
        return {
            **EDM_DEFAULTS,
            "img_resolution": 16,
            "img_channels": 3,
            "label_dim": 10,
            "model_channels": 32,
            "channel_mult": [1, 2, 2],
            "num_blocks": 1,
            "attn_resolutions": [8],
            "dropout": 0.0,
        }

    @classmethod
    def shipped_weights(cls) -> Path:
        """Return the shipped checkpoint's path.

        Raises:
            CheckpointError: if the installation lacks it.
        """
        return shipped_weights("edm-digits.safetensors")
