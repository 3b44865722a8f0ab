"""The other published networks of EDM and EDM2, one adapter each; `PUBLISHED` says what they are.

A file that brings its configuration, as their pickles do, is built by that: with classes or without, DDPM++ ("vp") or
NCSN++ ("ve"), of any size. A bare state dict must be of the network in the table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffviews.adapters.edm import EDMAdapter
from diffviews.adapters.edm_networks import EDM_DEFAULTS, network_defaults
from diffviews.data.class_labels import load_class_labels

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Classes of CIFAR-10 in their order (Krizhevsky 2009)."""


@dataclass(frozen=True, slots=True)
class PublishedNetwork:
    """One published network."""

    resolution: int
    """Height and width of its images, pixels, or of their latents."""
    classes: int
    """Number of classes; 0: none."""
    kind: tuple[str, str]
    """Its preconditioner and its network, by their classes."""
    steps: int
    """Steps of Heun's method that its authors take."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What it is told beside that, where a configuration is missing."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of its classes: CIFAR-10's or ImageNet's, or None."""
        return CIFAR10 if self.classes == len(CIFAR10) else imagenet_names(self.classes)


def imagenet_names(num_classes: int) -> tuple[str, ...] | None:
    """Return ImageNet's names in the standard order for a model of as many classes, None for any other."""
    names = load_class_labels()
    return tuple(names[index] for index in range(len(names))) if num_classes == len(names) else None


DDPMPP = ("EDMPrecond", "SongUNet")
EDM2 = ("Precond", "UNet")

PUBLISHED: Mapping[str, PublishedNetwork] = {
    "edm-cifar10": PublishedNetwork(32, 10, DDPMPP, 18, {"channel_mult": [2, 2, 2], "dropout": 0.13}),
    "edm-ffhq-64": PublishedNetwork(64, 0, DDPMPP, 40, {"dropout": 0.05}),
    "edm-afhqv2-64": PublishedNetwork(64, 0, DDPMPP, 40, {"dropout": 0.25}),
    "edm2-imagenet-64": PublishedNetwork(64, 1000, EDM2, 32),
    "edm2-imagenet-512": PublishedNetwork(64, 1000, EDM2, 32, {"img_channels": 4}),
}
"""Networks by the names of their adapters (Karras et al. 2022, tables 2 and 7; 2024, table 2)."""


class PublishedAdapter(EDMAdapter):
    """Base of the adapters in the table."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.default_steps = PUBLISHED[self.name].steps

    @property
    def class_names(self) -> tuple[str, ...] | None:
        network = PUBLISHED[self.name]
        if self.num_classes != network.classes or "_class_names" in self.__dict__:
            return super().class_names
        return network.class_names

    @classmethod
    def get_default_config(cls) -> dict[str, Any]:
        """Return the configuration of the published network."""
        network = PUBLISHED[cls.name]
        precond, model_type = network.kind
        told = {"precond": precond} if model_type == "UNet" else {"model_type": model_type}
        size = {"img_resolution": network.resolution, "img_channels": 3, "label_dim": network.classes}
        return {**network_defaults(*network.kind), **size, **network.options, **told}


class EDMCifar10Adapter(PublishedAdapter):
    """DDPM++ or NCSN++ for CIFAR-10, with its classes or without."""

    name = "edm-cifar10"


class EDMFFHQAdapter(PublishedAdapter):
    """DDPM++ or NCSN++ for faces of FFHQ."""

    name = "edm-ffhq-64"


class EDMAFHQv2Adapter(PublishedAdapter):
    """DDPM++ or NCSN++ for animal faces of AFHQv2."""

    name = "edm-afhqv2-64"


class OwnEDMAdapter(EDMAdapter):
    """Any network of EDM or EDM2 that brings its configuration, such as one trained by their code on one's own data."""

    name = "edm"

    @classmethod
    def get_default_config(cls) -> dict[str, Any]:
        """Return what EDM takes where it is told nothing, at 64 pixels."""
        return {**EDM_DEFAULTS, "img_resolution": 64, "img_channels": 3}


class EDM2ImageNetAdapter(PublishedAdapter):
    """EDM2 for ImageNet in pixels, of any size from XS to XL and with any length of its average."""

    name = "edm2-imagenet-64"
