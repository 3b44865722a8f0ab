"""EDM ImageNet-64: the 295.9 M parameter ADM U-Net of Karras et al. 2022."""

from typing import Any

from diffviews.adapters.edm import EDMAdapter
from diffviews.adapters.edm_networks import EDM_DEFAULTS
from diffviews.data.class_labels import load_class_labels


class EDMImageNetAdapter(EDMAdapter):
    """The class-conditional ImageNet model at 64×64, 1,000 classes in the standard ImageNet order.

    A network of the same kind with other classes loads too; its classes are not ImageNet's.
    """

    name = "edm-imagenet-64"
    sample_steps = 256
    default_steps = 50

    @property
    def class_names(self) -> tuple[str, ...] | None:
        names = load_class_labels()
        if self.num_classes != len(names) or "_class_names" in self.__dict__:
            return super().class_names
        return tuple(names[index] for index in range(len(names)))

    @classmethod
    def get_default_config(cls) -> dict[str, Any]:
        """Return the configuration of the published model."""
        return {**EDM_DEFAULTS, "img_resolution": 64, "img_channels": 3, "label_dim": 1000, "dropout": 0.0}
