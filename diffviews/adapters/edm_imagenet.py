"""EDM ImageNet-64: the 295.9 M parameter ADM U-Net of Karras et al. 2022."""

from typing import Any

from diffviews.adapters.edm import EDMAdapter
from diffviews.data.class_labels import load_class_labels


class EDMImageNetAdapter(EDMAdapter):
    """The class-conditional ImageNet model at 64×64, 1,000 classes in the standard ImageNet order."""

    name = "edm-imagenet-64"
    sample_steps = 256

    @property
    def default_steps(self) -> int:
        return 50

    @property
    def class_names(self) -> tuple[str, ...]:
        names = load_class_labels()
        return tuple(names[index] for index in range(self.num_classes))

    @classmethod
    def get_default_config(cls) -> dict[str, Any]:
        """Return the configuration of the published model."""
        return {
            "img_resolution": 64,
            "img_channels": 3,
            "label_dim": 1000,
            "model_channels": 192,
            "channel_mult": [1, 2, 3, 4],
            "channel_mult_emb": 4,
            "num_blocks": 3,
            "attn_resolutions": [32, 16, 8],
            "dropout": 0.0,
            "label_dropout": 0.0,
            "sigma_min": 0.0,
            "sigma_max": float("inf"),
            "sigma_data": 0.5,
        }
