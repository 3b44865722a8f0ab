"""The plan of an extraction: its resolved options, checked, with the fingerprint of what they determine."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from diffviews.adapters.base import GeneratorAdapter
from diffviews.data.samples import SampleSet
from diffviews.errors import ConfigError, LayerNotFoundError, unknown_name
from diffviews.noise import format_sigma
from diffviews.pipelines.control import ControlSettings
from diffviews.processing.projector import MapParameters
from diffviews.processing.umap_backend import get_backend_name
from diffviews.tracking.schema import fingerprint

Conditioning = Literal["auto", "none", "label", "uniform"]


def parse_names(names: str | Sequence[str]) -> list[str]:
    """Split 'a,b' or pass a list on; blanks are dropped."""
    parts = names.split(",") if isinstance(names, str) else names
    return [part.strip() for part in parts if part.strip()]


def parse_sigmas(sigmas: str | Sequence[float]) -> tuple[float, ...]:
    """Return the noise levels of '0.5,2' or of a list, ascending.

    Raises:
        ConfigError: if one is not a positive number, or one is named twice.
    """
    try:
        levels = sorted(float(s) for s in (sigmas.split(",") if isinstance(sigmas, str) else sigmas))
    except ValueError as error:
        raise ConfigError(f"sigmas {sigmas!r} must be numbers separated by commas, such as 0.5,2") from error
    if not levels or levels[0] <= 0 or levels[-1] == float("inf") or len(set(levels)) < len(levels):
        raise ConfigError(f"sigmas {sigmas!r} must be one or more different noise levels above 0")
    return tuple(levels)


def choose_layers(adapter: GeneratorAdapter, layers: str | Sequence[str]) -> tuple[str, ...]:
    """Return the wanted hook points in network order; 'all' takes every one.

    Raises:
        LayerNotFoundError: if the model has no such layer; the nearest names are offered.
    """
    available = list(adapter.hookable_layers)
    wanted = parse_names(layers)
    if wanted == ["all"]:
        return tuple(available)
    for name in wanted:
        if name not in available:
            raise LayerNotFoundError(unknown_name("layer", name, available))
    if not wanted:
        raise LayerNotFoundError("no layer is named; give layer names or all")
    return tuple(name for name in available if name in wanted)


def pca_components_or_default(pca_components: int | None) -> int | None:
    """Return the number of principal components: the argument, else DIFFVIEWS_PCA_COMPONENTS, else 50; 0 is off.

    Raises:
        ConfigError: if the environment variable is neither a number nor 'none'.
    """
    if pca_components is None:
        text = os.environ.get("DIFFVIEWS_PCA_COMPONENTS", "50").strip().lower()
        try:
            pca_components = 0 if text == "none" else int(text)
        except ValueError as error:
            raise ConfigError(f"DIFFVIEWS_PCA_COMPONENTS is {text!r}; set a number, or none for no PCA") from error
    return pca_components or None


@dataclass(frozen=True, slots=True)
class ExtractionPlan:
    """What an extraction captures and measures; everything that determines its result."""

    adapter: GeneratorAdapter
    samples: SampleSet
    dataset: str
    layers: tuple[str, ...]
    sigmas: tuple[float, ...]
    dtype: Literal["float16", "float32"]
    batch_size: int
    conditioning: Literal["none", "label", "uniform"]
    maps: MapParameters
    control: ControlSettings | None

    @property
    def class_ids(self) -> list[int] | None:
        """Classes that condition the forward passes, None for the unconditional pass."""
        if self.conditioning == "none":
            return None
        labels = self.samples.table["class_label"]
        if self.conditioning == "uniform":
            return [-1] * len(labels)
        return [-1 if missing else int(label) for label, missing in zip(labels, labels.isna(), strict=True)]

    def fingerprint(self) -> str:
        """Digest of everything that determines the whole extraction."""
        return fingerprint(
            kind="extract",
            layers=[[layer, format_sigma(sigma)] for layer in self.layers for sigma in self.sigmas],
            **self._common(),
        )

    def layer_fingerprint(self, layer: str, sigma: float) -> str:
        """Digest of everything that determines one layer run, equal in every extraction that holds it."""
        return fingerprint(kind="layer", layer=layer, sigma=format_sigma(sigma), **self._common())

    def _common(self) -> dict[str, object]:
        return {
            "model": self.adapter.digest(),
            "dataset": self.samples.digest,
            "dtype": self.dtype,
            "batch_size": self.batch_size,
            "conditioning": self.conditioning,
            "device": self.adapter.device.type,
            "precision": "float32",
            "maps": asdict(self.maps),
            "backend": get_backend_name(),
            "control": asdict(self.control) if self.control else None,
        }


def resolve_conditioning(adapter: GeneratorAdapter, conditioning: Conditioning) -> Literal["none", "label", "uniform"]:
    """Return what the forward passes are conditioned on; see docs/adr/0001."""
    if conditioning != "auto":
        return conditioning
    return "none" if adapter.label_dropout else "label"
