"""The recipe of a generation: by names and ids only, so that it travels as JSON and can be repeated."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from diffviews.core.interventions import Mode, Passes
from diffviews.errors import ConfigError, SelectionError
from diffviews.recipes.base import ModelRecipe
from diffviews.recipes.sampling import Sampling

Target = Literal["fixed", "matched"]


@dataclass(frozen=True, slots=True)
class GenerationRecipe(ModelRecipe):
    """One generation: a model, what masks it, and how it is sampled.

    Raises:
        ConfigError: for contradictory fields. SelectionError: for duplicate sample ids.
    """

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
