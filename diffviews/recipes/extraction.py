"""The recipes of an extraction, and of a further map of a layer."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from diffviews.errors import ConfigError
from diffviews.processing.map_parameters import MapParameters
from diffviews.recipes.base import ModelRecipe, Recipe

Conditioning = Literal["auto", "none", "label", "uniform", "prompt"]
Dtype = Literal["float16", "float32"]
Storage = Literal["full", "sketch"]
"""What is kept of the activations: everything, or each layer's projection on its principal axes."""

_TOLD = {"label": "class", "prompt": "prompt"}
"""What a model is told of a sample, by the conditioning."""


def without_class_measures(conditioning: str) -> str:
    """Return why class measures say nothing of a layer, a sentence; '' where they do.

    A layer of a network that is told the class has it at any noise level, whatever it sees.
    """
    told = _TOLD.get(conditioning)
    return f"Class measures are left out: the model was told each sample's {told}." if told else ""


@dataclass(frozen=True, slots=True)
class ExtractionRecipe(ModelRecipe):
    """One pass of one model over one sample set: which layers, at which noise levels, kept and mapped how.

    Raises:
        ConfigError: for impossible values.
    """

    COMMAND: ClassVar[str] = "extract"
    ALWAYS_DETERMINING: ClassVar[tuple[str, ...]] = ("dtype", "batch_size", "conditioning", "precision", "maps")
    NOT_DETERMINING: ClassVar[frozenset[str]] = frozenset(
        {"model", "checkpoint", "dataset", "max_samples", "class_map", "layers", "sigmas"}
        | {"storage", "sketch_samples"}
        | {"control_seeds", "control_null_seeds", "control_windows", "control_matched", "control_layers"}
        | {"judge", "second_judge"}
        | {"knows", "knows_draws", "knows_samples", "knows_permuted"}
    )

    dataset: str = "digits"
    """Sample source: digits, folder:<path>, hf:<id or folder>, parquet:<path>, tar:<path>, lmdb:<path>, run:<id>, or
    prompts:<path>, of which the model makes an image each first."""
    class_map: dict[str, int | str] | None = None
    """What the classes of the samples are in the model, {name of the set: name or number of the model}, as YAML or a
    YAML file; null takes them for the model's only where their names are."""
    layers: tuple[str, ...] = ("all",)
    """Hook points, or all."""
    sigmas: tuple[float, ...] = (0.5, 2.0)
    """Noise levels, EDM units."""
    max_samples: int | None = None
    """Use at most so many samples, stratified by class."""
    conditioning: Conditioning = "auto"
    """none, label, uniform or prompt; auto takes the prompts where there are any, else none where the model has an
    unconditional pass, else the labels where they are the model's classes, else uniform."""
    batch_size: int = 128
    """Samples in one forward pass."""
    dtype: Dtype = "float16"
    """Of the stored activations; a layer that exceeds float16 is stored in float32."""
    storage: Storage = "full"
    """full keeps all activations; sketch keeps pca_components numbers a sample and layer, and captures anew the
    samples that a mask needs."""
    sketch_samples: int = 4096
    """Samples, drawn at random, that a sketch's scaler and PCA are fitted on."""
    maps: MapParameters = field(default_factory=MapParameters)
    """Parameters of each layer's map."""
    control_seeds: int = 0
    """Generations per class for the control rate; 0 does not measure it."""
    control_null_seeds: int = 3
    """Of these, generations per class for each of its controls: global mean, means of mixed classes, a random direction
    as far away, another layer's means."""
    control_windows: bool = True
    """Measure masks on the early and on the late half of the steps as well."""
    control_matched: bool = True
    """Measure masks whose averages are captured anew at each step's noise level as well."""
    control_layers: tuple[str, ...] = ("all",)
    """Layers whose control rate is measured, of those that are captured; all, or cuts: one of each cut, which are found
    by trying which layers have the same effect."""
    judge: str = "svc"
    """What tells the class of generations: svc, knn:<layer>@<sigma>, diffusion, clip:<folder>, factors, or a plug-in's;
    one that is not right often enough on held-out samples is refused."""
    second_judge: str | None = None
    """Another judge: how it agrees with the first on unmasked generations says how often that is right on them."""
    knows: bool = False
    """Measure what each layer knows of the classes beyond the noised input: k-NN and a linear probe over several noise
    draws, beside a network of random weights; costs knows_draws + 1 further passes over the samples at each level."""
    knows_draws: int = 3
    """Noise draws behind it, 3 or more."""
    knows_samples: int = 2000
    """Samples behind it at most, stratified by class."""
    knows_permuted: bool = False
    """Give the model another sample's label or prompt in these passes, so that what it was told gives no class away."""

    def __post_init__(self) -> None:
        ModelRecipe.__post_init__(self)
        if self.class_map is not None:
            object.__setattr__(self, "class_map", {str(name): value for name, value in self.class_map.items()})
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}; take 1 or more")
        if self.knows_draws < 3:
            raise ConfigError(f"knows_draws is {self.knows_draws}; take 3 or more, fewer tell nothing of the spread")
        if self.knows_samples < 50:
            raise ConfigError(f"knows_samples is {self.knows_samples}; take 50 or more")


@dataclass(frozen=True, slots=True)
class EmbeddingRecipe(Recipe):
    """A map of a logged layer: with other parameters, joint over noise levels, or aligned along them.

    Raises:
        ConfigError: if sigmas are named for a single map.
    """

    COMMAND: ClassVar[str] = "embed"
    NOT_DETERMINING: ClassVar[frozenset[str]] = frozenset({"layer_run", "map", "sigmas", "maps"})

    layer_run: str
    """Run id of the layer."""
    map: Literal["single", "joint", "aligned"] = "single"
    """single, of the layer run's own noise level; joint, several levels in one space; aligned, a slice a level with
    the same sample near itself."""
    sigmas: tuple[float, ...] = ()
    """Noise levels of a joint or aligned map, of the same extraction; empty takes all."""
    maps: MapParameters = field(default_factory=MapParameters)
    """Parameters of the map."""

    def __post_init__(self) -> None:
        Recipe.__post_init__(self)
        if self.map == "single" and self.sigmas:
            raise ConfigError("sigmas are for joint and aligned maps; a single map has that of its layer run")
