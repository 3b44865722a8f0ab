"""The plan of an extraction: its resolved options, checked, with the fingerprint of what they determine."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Literal

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.condition import Condition
from diffviews.adapters.hooks import known_layers
from diffviews.data.samples import SampleSet
from diffviews.errors import ConfigError, LayerNotFoundError, unknown_name
from diffviews.noise import format_sigma
from diffviews.pipelines.control import ControlSettings
from diffviews.pipelines.workspace import conditions_of
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.umap_backend import get_backend_name
from diffviews.tracking.schema import fingerprint

Conditioning = Literal["auto", "none", "label", "uniform", "prompt"]
Storage = Literal["full", "sketch"]
"""What is kept of the activations: everything, or each layer's projection on its principal axes."""

ResolvedConditioning = Literal["none", "label", "uniform", "prompt"]


def check_sigmas(sigmas: Sequence[float]) -> tuple[float, ...]:
    """Return noise levels in ascending order.

    Raises:
        ConfigError: if there is none, one is not a positive number, or one is named twice.
    """
    levels = sorted(map(float, sigmas))
    if not levels or not all(0 < level < math.inf for level in levels) or len(set(levels)) < len(levels):
        raise ConfigError(f"sigmas {list(sigmas)} must be one or more different noise levels above 0")
    return tuple(levels)


def choose_layers(adapter: GeneratorAdapter, layers: Sequence[str]) -> tuple[str, ...]:
    """Return the wanted hook points in network order; 'all' takes every one.

    Raises:
        LayerNotFoundError: if the model has no such layer; the nearest names are offered.
    """
    available = list(adapter.hookable_layers)
    wanted = [adapter.layer_aliases.get(name, name) for name in layers]
    if wanted == ["all"]:
        return tuple(available)
    for name in wanted:
        if name not in available:
            raise LayerNotFoundError(unknown_name("layer", name, known_layers(adapter)))
    if not wanted:
        raise LayerNotFoundError("no layer is named; give layer names or all")
    return tuple(name for name in available if name in wanted)


def check_sample_count(count: int, maps: MapParameters) -> None:
    """Refuse fewer samples than a map's neighbours.

    Raises:
        ConfigError: with both numbers.
    """
    if count <= maps.n_neighbors:
        raise ConfigError(
            f"n_neighbors {maps.n_neighbors} needs more than {maps.n_neighbors} samples, but there are {count}; take "
            "more samples or fewer neighbours"
        )


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
    conditioning: ResolvedConditioning
    maps: MapParameters
    control: ControlSettings | None
    checkpoint: str | None = None
    """Where the weights came from, for generations that follow; the digest says which they are."""
    storage: Storage = "full"
    sketch_samples: int = 4096
    """Samples that a sketch is fitted on."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}; take 1 or more")
        check_sample_count(len(self.samples), self.maps)
        if self.conditioning in ("label", "uniform") and not self.adapter.num_classes:
            raise ConfigError(
                f"conditioning {self.conditioning!r} needs a model with classes, and {self.adapter.model_type!r} has "
                "none; take none, prompt or auto"
            )
        if self.conditioning == "prompt":
            _check_prompts(self.adapter, self.samples)
        if self.storage == "sketch" and not (self.maps.pca_components and self.sketch_samples > self.maps.n_neighbors):
            raise ConfigError(
                f"storage 'sketch' keeps pca_components numbers a sample and fits them on sketch_samples samples; "
                f"{self.maps.pca_components} and {self.sketch_samples} are too few"
            )
        unlabelled = int((self.samples.class_labels < 0).sum())
        if unlabelled and (self.control is not None or self.conditioning == "label"):
            wanting = "control_seeds" if self.control is not None else "conditioning 'label'"
            raise ConfigError(f"{wanting} needs a class for each sample, but {unlabelled} have none; leave it out")

    @property
    def keys(self) -> list[tuple[str, float]]:
        """The (layer, sigma) pairs of the layer runs, in network order within each sigma."""
        return [(layer, sigma) for sigma in self.sigmas for layer in self.layers]

    @property
    def conditions(self) -> list[Condition] | None:
        """What conditions the forward passes, None for the unconditional pass."""
        return conditions_of(self.samples, self.conditioning)

    def stored_shape(self, layer: str) -> tuple[int, ...]:
        """Return the shape of what is kept of one sample's activation; a sketch may have fewer numbers."""
        shape = tuple(self.adapter.get_layer_shapes()[layer])
        if self.storage == "full":
            return shape
        return (min(self.maps.pca_components or 0, prod(shape), len(self.samples) - 1),)

    def fingerprint(self) -> str:
        """Digest of everything that determines the whole extraction."""
        return fingerprint(
            kind="extract",
            layers=[[layer, format_sigma(sigma)] for layer, sigma in self.keys],
            **self._common(),
        )

    def layer_fingerprint(self, layer: str, sigma: float) -> str:
        """Digest of everything that determines one layer run, equal in every extraction that holds it."""
        return fingerprint(kind="layer", layer=layer, sigma=format_sigma(sigma), **self._common())

    def params(self) -> dict[str, object]:
        """Few and comparable parameters for the run."""
        return {
            "model": self.adapter.model_type,
            "checkpoint": self.checkpoint or "",
            "precision": self.adapter.precision,
            "dataset": self.dataset,
            "num_samples": len(self.samples),
            "layers": len(self.layers),
            "sigmas": ",".join(map(format_sigma, self.sigmas)),
            "conditioning": self.conditioning,
            "dtype": self.dtype,
            "storage": self.storage,
            "batch_size": self.batch_size,
            "device": self.adapter.device.type,
            **asdict(self.maps),
        }

    def _common(self) -> dict[str, object]:
        return {
            "model": self.adapter.digest(),
            "dataset": self.samples.digest,
            "dtype": self.dtype,
            "batch_size": self.batch_size,
            "conditioning": self.conditioning,
            "device": self.adapter.device.type,
            "precision": self.adapter.precision,
            "maps": asdict(self.maps),
            "backend": get_backend_name(),
            "control": asdict(self.control) if self.control else None,
            **({"sketch_samples": self.sketch_samples} if self.storage == "sketch" else {}),
        }


def _check_prompts(adapter: GeneratorAdapter, samples: SampleSet) -> None:
    if not adapter.takes_prompts:
        raise ConfigError(f"conditioning 'prompt' needs a model that takes prompts; {adapter.model_type!r} does not")
    lacking = sum(prompt is None for prompt in samples.prompts)
    if lacking:
        raise ConfigError(f"conditioning 'prompt' needs a prompt for each sample, but {lacking} have none")


def resolve_conditioning(
    adapter: GeneratorAdapter, samples: SampleSet, conditioning: Conditioning
) -> ResolvedConditioning:
    """Return what the forward passes are conditioned on; see docs/adr/0001 and 0005."""
    if conditioning != "auto":
        return conditioning
    if adapter.takes_prompts:
        return "none" if None in samples.prompts else "prompt"
    return "none" if adapter.label_dropout or not adapter.num_classes else "label"
