"""The recipes of images: one generation, and a sample set; by names and ids only, so that they travel as JSON."""

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from diffviews.core.interventions import Mode, Passes
from diffviews.core.request import SamplingOptions
from diffviews.errors import ConfigError, SelectionError, check_choices
from diffviews.recipes.base import ModelRecipe
from diffviews.sampling.samplers import Churn

Target = Literal["fixed", "matched"]


@dataclass(frozen=True, slots=True)
class Sampling(SamplingOptions):
    """The options of a sampler, and its churn, as flags and JSON have them."""

    s_churn: float = 0.0
    """Noise added over all steps of heun and euler, Karras et al. 2022 Alg. 2; 0 adds none."""
    s_min: float = 0.0
    """Least noise level at which churn adds noise."""
    s_max: float | None = None
    """Greatest noise level at which churn adds noise; null: no limit."""
    s_noise: float = 1.0
    """Factor on the noise that churn adds."""

    def __post_init__(self) -> None:
        check_choices(self)

    @property
    def churn(self) -> Churn:
        """Churn as the samplers take it."""
        return Churn.of(self.s_churn, self.s_min, self.s_max, self.s_noise)

    def request_fields(self) -> dict[str, Any]:
        """Return these choices as fields of `GenerationRequest`."""
        shared = {field.name: getattr(self, field.name) for field in fields(SamplingOptions)}
        return {**shared, "churn": self.churn}

    def determining(self) -> dict[str, Any]:
        """Return what decides which images come out, for a fingerprint; see `Recipe.determining`."""
        always = {"sampler", "schedule", "num_steps", "guidance_scale", "churn"}
        default, values = Sampling().request_fields(), self.request_fields()
        told = {name: value for name, value in values.items() if name in always or value != default[name]}
        return {**told, "churn": repr(self.churn)}


@dataclass(frozen=True, slots=True)
class GenerationRecipe(ModelRecipe):
    """One generation: a model, what masks it, and how it is sampled.

    Raises:
        ConfigError: for contradictory fields. SelectionError: for duplicate sample ids.
    """

    COMMAND: ClassVar[str] = "generate"

    layer_run: str | None = None
    """Run id of the layer whose activations are averaged and on whose map the path is drawn."""
    map_run: str | None = None
    """Run id of a re-computed map of that layer to draw the path on; None takes the layer run's own."""
    sample_ids: tuple[str, ...] = ()
    """Samples whose average masks the layer; empty generates without a mask."""
    layers: tuple[str, ...] = ()
    """Layers to mask; empty masks the layer of `layer_run`."""
    target: Target = "fixed"
    """`fixed`: the average as captured at the layer run's sigma; `matched`: captured anew at each step's sigma."""
    mode: Mode = "replace"
    """`replace` the output; `add` strength × (mean of the selected − mean of all); `interpolate` towards it."""
    strength: float = 1.0
    """Factor of `add`; alpha in [0, 1] of `interpolate`; `replace` ignores it."""
    mask_steps: int | None = None
    """Mask the first so many sampler steps; None masks all."""
    window: tuple[int, int] | None = None
    """Mask the sampler steps [first, stop); excludes `mask_steps`."""
    passes: Passes = "both"
    """Which of guidance's two passes the mask acts on."""
    channels: tuple[int, ...] | None = None
    """Channels of the layer the mask acts on; None: all."""
    region: tuple[int, int, int, int] | None = None
    """Part (top, left, height, width) of the layer's own grid the mask acts on; None: all of it."""
    class_label: int | None = -1
    """Class to ask for; -1 the uniform label, None one drawn per sample."""
    prompt: str | None = None
    """Text to ask for, of models that take prompts."""
    negative_prompt: str = ""
    """Text of the unconditional pass, which guidance leads away from."""
    num_samples: int = 1
    """How many images."""
    seed: int | None = 0
    """Sample i starts from the noise of (seed, i); None draws a seed, which the run records."""
    judge: str | None = None
    """What the images are judged by: factors, svc, knn:<layer>@<sigma> or another judge, fitted on the samples of the
    layer run; its verdicts are logged as verdicts.csv."""
    sampling: Sampling = field(default_factory=Sampling)
    """How they are sampled."""

    def __post_init__(self) -> None:
        ModelRecipe.__post_init__(self)
        if len(set(self.sample_ids)) < len(self.sample_ids):
            twice = min(s for s, count in Counter(self.sample_ids).items() if count > 1)
            raise SelectionError(f"sample {twice!r} is selected twice; an average takes each sample once")
        if self.sample_ids and not self.layer_run:
            raise ConfigError("sample_ids need layer_run, the run that holds their activations")
        if self.layers and not self.sample_ids:
            raise ConfigError(f"layers {', '.join(self.layers)} cannot be masked without sample_ids to average")
        if self.window is not None and self.mask_steps is not None:
            raise ConfigError("give either mask_steps or window, not both")
        if self.steps is not None and not 0 <= self.steps[0] < self.steps[1]:
            raise ConfigError(f"steps {self.steps[0]} to {self.steps[1]} hold no step to mask; mask 1 or more, or none")
        if self.mode == "interpolate" and not 0 <= self.strength <= 1:
            raise ConfigError(f"strength {self.strength} of mode 'interpolate' must lie in [0, 1]")
        if self.mode == "add" and self.target == "matched":
            raise ConfigError("mode 'add' steers by stored averages; use target 'fixed'")
        if self.negative_prompt and self.prompt is None:
            raise ConfigError("negative_prompt needs a prompt to be set against; give one")
        if not self.sample_ids and (self.channels is not None or self.region is not None):
            raise ConfigError("channels and region limit a mask, but no sample_ids are given to average")
        if self.num_samples < 1:
            raise ConfigError(f"num_samples is {self.num_samples}; ask for 1 or more")

    @property
    def steps(self) -> tuple[int, int] | None:
        """Masked sampler steps [first, stop), or None for all."""
        return (0, self.mask_steps) if self.mask_steps is not None else self.window


@dataclass(frozen=True, slots=True)
class DatasetRecipe(ModelRecipe):
    """A sample set made by a model: of random classes, so many of each class, or so many of each prompt.

    Raises:
        ConfigError: for contradictory fields.
    """

    COMMAND: ClassVar[str] = "generate-dataset"
    ALWAYS_DETERMINING: ClassVar[tuple[str, ...]] = ("seed", "precision", "layers")
    NOT_DETERMINING: ClassVar[frozenset[str]] = frozenset(
        {"model", "checkpoint", "num_samples", "samples_per_class", "prompts", "samples_per_prompt"}
        | {"batch_size", "sampling"}
    )

    num_samples: int = 100
    """How many samples, with labels drawn at random."""
    samples_per_class: int | None = None
    """So many of each class instead, the classes taking turns."""
    prompts: str | None = None
    """A text file of one prompt a line, or a csv with the columns prompt and, if wanted, negative_prompt and
    category; the prompts take turns."""
    samples_per_prompt: int = 1
    """So many of each prompt, each with noise of its own."""
    layers: tuple[str, ...] = ()
    """Hook points, or all, whose activations along the denoising are kept: a layer run a step."""
    seed: int = 0
    """Sample i starts from the noise of (seed, i)."""
    sampling: Sampling = field(default_factory=Sampling)
    """How they are sampled."""
    batch_size: int = 64
    """Samples in one forward pass."""

    def __post_init__(self) -> None:
        ModelRecipe.__post_init__(self)
        if self.samples_per_class is not None and self.prompts is not None:
            raise ConfigError("give either samples_per_class or prompts, not both")

    def determining(self) -> dict[str, Any]:
        """Return the fields that decide what comes out, those of `sampling` among them."""
        return {**ModelRecipe.determining(self), **self.sampling.determining()}
