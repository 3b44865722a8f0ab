"""What a generation is made from, by names and ids only, so that it travels as JSON and can be repeated."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from diffviews.errors import ConfigError, SchemaVersionError, SelectionError, unknown_name

RECIPE_VERSION = 1

Target = Literal["fixed", "matched"]
Mode = Literal["replace", "add", "interpolate"]
Passes = Literal["both", "conditional", "unconditional"]
Sampler = Literal["heun", "euler", "renoise"]
Schedule = Literal["auto", "karras", "model"]
Precision = Literal["auto", "float32", "float16", "bfloat16"]
NoiseMode = Literal["stochastic", "fixed", "zero"]


@dataclass(frozen=True, slots=True)
class GenerationRecipe:
    """One generation: a model, what masks it, and how it is sampled.

    Raises:
        ConfigError: for contradictory fields. SelectionError: for duplicate sample ids.
    """

    model: str = "edm-digits"
    """Adapter name."""
    checkpoint: str | None = None
    """Weights: a file, a folder or an address; None takes the adapter's own."""
    precision: Precision = "auto"
    """Floating-point format of the forward pass; auto is the adapter's choice for the device."""
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
    sampler: Sampler | None = None
    """None takes the adapter's default; so do the steps, noise levels and guidance below."""
    schedule: Schedule = "auto"
    """`karras`: eq. 5 of Karras et al. 2022; `model`: the model's own discrete levels; auto: its own if it has any."""
    num_steps: int | None = None
    """Sampler steps."""
    sigma_max: float | None = None
    """First noise level."""
    sigma_min: float | None = None
    """Last noise level above 0."""
    rho: float = 7.0
    """Curvature of the schedule, Karras et al. 2022 eq. 5."""
    guidance_scale: float | None = None
    """Classifier-free guidance: 0 unconditional, 1 conditional, above 1 amplified."""
    s_churn: float = 0.0
    """Noise added over all steps of heun and euler, Karras et al. 2022 Alg. 2; 0 adds none."""
    s_min: float = 0.0
    """Least noise level at which churn adds noise."""
    s_max: float | None = None
    """Greatest noise level at which churn adds noise; None: no limit."""
    s_noise: float = 1.0
    """Factor on the noise that churn adds."""
    noise_mode: NoiseMode = "stochastic"
    """`stochastic`: noise by seed; `fixed`: the same, with seed 42 if none is given; `zero`: no noise at all."""

    def __post_init__(self) -> None:
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

    def to_json(self) -> str:
        """Return the recipe as a JSON document."""
        return json.dumps({"schema": RECIPE_VERSION, **asdict(self)}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a recipe; unknown fields and newer schemas are refused.

        Raises:
            SchemaVersionError: if another version wrote it. ConfigError: if a field is unknown.
        """
        values: dict[str, Any] = json.loads(text)
        version = values.pop("schema", None)
        if version != RECIPE_VERSION:
            raise SchemaVersionError(
                f"the recipe has schema {version!r}, this version reads {RECIPE_VERSION}; upgrade diffviews"
            )
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(unknown_name("recipe field", name, known))
        for name in ("sample_ids", "layers", "window", "channels", "region"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        return cls(**values)
