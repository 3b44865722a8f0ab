"""The plan of an extraction: its resolved options, checked, with the fingerprint of what they determine."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from math import prod
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.condition import Condition, Conditioning
from diffviews.adapters.hooks import known_layers
from diffviews.core.cuts import find_cuts
from diffviews.core.extractor import FEWEST, capture
from diffviews.core.session import Keep, copy_of
from diffviews.data.layout import LayerKey
from diffviews.data.samples import SampleSet
from diffviews.errors import ConfigError, LayerNotFoundError, unknown_name
from diffviews.noise import format_sigma
from diffviews.pipelines.conditioning import mapped, resolve_conditioning
from diffviews.pipelines.control.settings import ControlSettings
from diffviews.pipelines.models import absolute
from diffviews.pipelines.workspace import conditions_of
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.probes import FOLDS
from diffviews.processing.umap_backend import get_backend_name
from diffviews.recipes.extraction import ExtractionRecipe
from diffviews.recipes.options import flatten
from diffviews.tracking.schema import fingerprint

CUTS = ("cuts",)
"""As `control_layers`: one layer of each cut."""


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


def _control_layers(adapter: GeneratorAdapter, recipe: ExtractionRecipe) -> tuple[str, ...]:
    """Return the layers whose control rate is measured: of 'cuts', the first that is captured of each."""
    if recipe.control_layers != CUTS:
        return recipe.control_layers
    captured = choose_layers(adapter, recipe.layers)
    if not recipe.control_seeds:
        return ("all",)
    of_cuts = ([layer for layer in cut.layers if layer in captured] for cut in find_cuts(adapter).cuts)
    return tuple(layers[0] for layers in of_cuts if layers)


@dataclass(frozen=True, slots=True)
class ExtractionPlan:
    """A recipe brought together with its model and its samples; everything that determines the result.

    Raises:
        ConfigError: if they do not fit each other.
    """

    adapter: GeneratorAdapter
    samples: SampleSet
    recipe: ExtractionRecipe
    """Resolved: layers in network order, sigmas ascending, conditioning and precision as used."""
    _conditions: Sequence[Condition] | None = field(init=False, repr=False)
    """What conditions the forward pass of each sample, None for the unconditional pass."""

    @classmethod
    def of(cls, recipe: ExtractionRecipe, adapter: GeneratorAdapter, samples: SampleSet) -> Self:
        """Resolve what a recipe leaves to the model and the samples, whose classes become the model's by its class_map.

        Raises:
            ConfigError, LayerNotFoundError: if they do not fit each other.
        """
        samples = mapped(samples, recipe.class_map, adapter)
        resolved = replace(
            recipe,
            layers=choose_layers(adapter, recipe.layers),
            control_layers=_control_layers(adapter, recipe),
            sigmas=check_sigmas(recipe.sigmas),
            checkpoint=absolute(recipe.checkpoint),
            conditioning=resolve_conditioning(adapter, samples, recipe.conditioning),
            precision=adapter.precision,
        )
        return cls(adapter, samples, resolved)

    def __post_init__(self) -> None:
        recipe, maps = self.recipe, self.recipe.maps
        check_sample_count(len(self.samples), maps)
        if recipe.storage == "sketch" and not (maps.pca_components and recipe.sketch_samples > maps.n_neighbors):
            raise ConfigError(
                f"storage 'sketch' keeps pca_components numbers a sample and fits them on sketch_samples samples; "
                f"{maps.pca_components} and {recipe.sketch_samples} are too few"
            )
        unlabelled = int((self.samples.class_labels < 0).sum())
        if unlabelled and recipe.control_seeds:
            raise ConfigError(f"control_seeds needs a class for each sample, but {unlabelled} have none; leave it out")
        choose_layers(self.adapter, recipe.control_layers)
        if recipe.knows:
            labels = self.samples.class_labels
            labelled, classes = int((labels >= 0).sum()), len(np.unique(labels[labels >= 0]))
            if classes < 2 or labelled < 2 * FOLDS:
                raise ConfigError(
                    f"knows needs two classes and {2 * FOLDS} samples that have one, but there are {classes} and "
                    f"{labelled}; leave it out"
                )
        object.__setattr__(self, "_conditions", conditions_of(self.samples, recipe.conditioning))

    @property
    def keys(self) -> list[LayerKey]:
        """The (layer, sigma) pairs of the layer runs, in network order within each sigma."""
        return [(layer, sigma) for sigma in self.recipe.sigmas for layer in self.recipe.layers]

    @property
    def control(self) -> ControlSettings | None:
        """How control rates are measured, None where they are not."""
        recipe = self.recipe
        if not recipe.control_seeds:
            return None
        return ControlSettings(
            recipe.control_seeds,
            recipe.control_null_seeds,
            windows=recipe.control_windows,
            matched=recipe.control_matched,
            judge=recipe.judge,
            second_judge=recipe.second_judge,
        )

    def control_of(self, layer: str) -> ControlSettings | None:
        """How the control rate of one layer is measured, None where it is not."""
        return self.control if layer in choose_layers(self.adapter, self.recipe.control_layers) else None

    @torch.inference_mode()
    def capture_rows(
        self, sigma: float, layers: Sequence[str], rows: np.ndarray, keep: Keep = copy_of
    ) -> dict[str, Any]:
        """Return what `keep` makes of each layer's outputs, (n, *layer_shape), for n rows, from one forward pass.

        Few rows are filled up to `FEWEST` by repeating them: kernels for tiny batches round otherwise, and a sample's
        activations must not depend on how many others are captured with it.
        """
        count, least = len(rows), min(FEWEST, self.recipe.batch_size)
        if count < least:
            rows, whole = np.resize(rows, least), keep
            keep = lambda layer, own: whole(layer, own[:count])  # noqa: E731
        x0, ids, given = self.inputs(rows)
        return capture(self.adapter, x0, ids, given, sigma, layers, keep)

    def inputs(self, rows: np.ndarray) -> tuple[Tensor, list[str], Conditioning]:
        """Return n rows as the model takes them, (n, C, H, W) before noise, their ids, and what conditions them."""
        adapter, ids, conditions = self.adapter, self.samples.sample_ids, self._conditions
        given = {} if conditions is None else adapter.condition([conditions[row] for row in rows])
        return adapter.encode(self.samples.pictures.pixels(rows)), [ids[row] for row in rows], given

    def stored_shape(self, layer: str) -> tuple[int, ...]:
        """Return the shape of what is kept of one sample's activation; a sketch may have fewer numbers."""
        shape = tuple(self.adapter.get_layer_shapes()[layer])
        if self.recipe.storage == "full":
            return shape
        return (min(self.recipe.maps.pca_components or 0, prod(shape), len(self.samples) - 1),)

    def fingerprint(self) -> str:
        """Digest of everything that determines the whole extraction."""
        keys = [[layer, format_sigma(sigma)] for layer, sigma in self.keys]
        controls = {} if self.recipe.control_layers == ("all",) else {"control_layers": self.recipe.control_layers}
        return fingerprint(kind="extract", layers=keys, **controls, **self._determining(self.control))

    def layer_fingerprint(self, layer: str, sigma: float) -> str:
        """Digest of everything that determines one layer run, equal in every extraction that holds it."""
        determining = self._determining(self.control_of(layer))
        return fingerprint(kind="layer", layer=layer, sigma=format_sigma(sigma), **determining)

    def rows_fingerprint(self) -> str:
        """Digest of all that determines a sample's activations but its image, the layer and the noise level."""
        return fingerprint(
            kind="rows",
            model=self.adapter.digest(),
            conditioning=self.recipe.conditioning,
            precision=self.recipe.precision,
            batch_size=self.recipe.batch_size,
            device=self.adapter.device.type,
        )

    def ordered(self) -> ExtractionRecipe:
        """Return the recipe as one would write it: `all` for every layer of the model."""
        everything = self.recipe.layers == tuple(self.adapter.hookable_layers)
        return replace(self.recipe, layers=("all",)) if everything else self.recipe

    def layer_command(self, layer: str, sigma: float) -> str:
        """Return the command that makes one layer run alone."""
        return replace(self.recipe, layers=(layer,), sigmas=(sigma,)).command()

    def params(self) -> dict[str, object]:
        """Few and comparable parameters for the run."""
        told = {
            "checkpoint": self.recipe.checkpoint or "",
            "class_map": json.dumps(self.recipe.class_map, ensure_ascii=False) if self.recipe.class_map else "",
            "layers": len(self.recipe.layers),
            "sigmas": ",".join(map(format_sigma, self.recipe.sigmas)),
        }
        found = {"num_samples": len(self.samples), "device": self.adapter.device.type}
        return {**flatten(self.recipe), **told, **found}

    def _determining(self, control: ControlSettings | None) -> dict[str, object]:
        sketch_samples = {"sketch_samples": self.recipe.sketch_samples} if self.recipe.storage == "sketch" else {}
        own = self.recipe
        asked = [own.knows_draws, own.knows_samples, own.knows_permuted, own.layers]  # of which the best is marked
        knows = {"knows": asked} if own.knows else {}
        return {
            **self.recipe.determining(),
            **sketch_samples,
            "model": self.adapter.digest(),
            "dataset": self.samples.digest,
            "device": self.adapter.device.type,
            "backend": get_backend_name(),
            "control": asdict(control) if control else None,
            **knows,
        }
