"""What a generation is asked for and what it gives: `GenerationRequest` and `GenerationResult`."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from torch import Tensor

from diffviews.core.interventions import Intervention
from diffviews.errors import ConfigError, check_choices
from diffviews.sampling.samplers import Churn, SamplerName

NoiseMode = Literal["stochastic", "fixed", "zero"]
ScheduleName = Literal["auto", "karras", "model"]
ClassLabel = int | None
"""A class; -1: the uniform label; None: a class drawn at random."""

FIXED_SEED = 42
"""Seed of noise mode 'fixed' when the request names none."""


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """Sampler, noise levels, guidance and kind of noise. None stands for the adapter's default."""

    sampler: SamplerName | None = None
    """heun, euler or renoise; null takes the model's default, and so do steps, noise levels and guidance below."""
    schedule: ScheduleName = "auto"
    """karras: eq. 5 of Karras et al. 2022; model: the levels of the model's own discrete schedule, evenly in timestep;
    auto: its own if it has any."""
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
    noise_mode: NoiseMode = "stochastic"
    """stochastic: noise by seed; fixed: the same, with seed 42 if none is given; zero: no noise at all, not even at the
    start."""


@dataclass(frozen=True, slots=True)
class GenerationRequest(SamplingOptions):
    """Everything that determines a generation, but the model."""

    class_labels: ClassLabel | tuple[ClassLabel, ...] = None
    """Class of all samples, or one a sample; -1: uniform label; None: a random class each."""
    prompts: str | tuple[str, ...] | None = None
    """Prompt of all samples, or one a sample; None: without a prompt."""
    negative_prompt: str | tuple[str, ...] = ""
    """Text of the unconditional pass of models that take prompts, for all samples or one a sample."""
    num_samples: int = 1
    """How many images."""
    seed: int | None = None
    """Seed of all randomness; None: drawn afresh and told by the result ('fixed': 42)."""
    first_index: int = 0
    """Number of the first sample in the job: sample i starts from the noise of (seed, first_index + i)."""
    churn: Churn = field(default_factory=Churn)
    """Noise added before each step of heun and euler."""
    interventions: tuple[Intervention, ...] = ()
    """Changes of layers' outputs, applied in this order."""
    baseline: bool = True
    """Whether a generation with interventions is paired with the same one without."""
    record_layers: tuple[str, ...] = ()
    """Layers whose activations at each step are kept."""
    record_steps: bool = False
    """Whether each step's noised input and estimate of x0 are kept as images."""
    batch_size: int = 64
    """Samples in one forward pass; it has no influence on any sample's noise."""

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("num_samples", "batch_size", "num_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} {value} must be at least 1")
        if self.first_index < 0:
            raise ConfigError(f"first_index {self.first_index} must not be negative")
        if self.guidance_scale is not None and not 0 <= self.guidance_scale < math.inf:
            raise ConfigError(f"guidance_scale {self.guidance_scale} must be a finite number of at least 0")
        for what, given in (
            ("class labels", self.class_labels),
            ("prompts", self.prompts),
            ("negative prompts", self.negative_prompt),
        ):
            if isinstance(given, tuple) and len(given) != self.num_samples:
                raise ConfigError(
                    f"{len(given)} {what} for {self.num_samples} samples; give one for each, or one for all"
                )
        if self.negative_prompt and self.prompts is None:
            raise ConfigError("a negative prompt needs a prompt to be set against; give one")
        if self.sampler == "renoise" and self.churn.amount:
            raise ConfigError("the renoise sampler takes no churn; use sampler heun or euler")

    def span(self, first: int, count: int) -> Self:
        """Return the request for samples [first, first + count) of this one's."""

        def cut(values: Any) -> Any:
            return values[first : first + count] if isinstance(values, tuple) else values

        return replace(
            self,
            first_index=self.first_index + first,
            num_samples=count,
            class_labels=cut(self.class_labels),
            prompts=cut(self.prompts),
            negative_prompt=cut(self.negative_prompt),
        )


@dataclass(frozen=True, slots=True, eq=False)
class GenerationResult:
    """What a generation gave. N samples, S steps; activations are float32."""

    images: np.ndarray
    """(N, H, W, 3) uint8."""
    labels: np.ndarray
    """(N,) int64 class of each sample; -1: uniform, or a model without classes."""
    seed: int
    """Seed that repeats it."""
    sigmas: np.ndarray
    """(S,) float64 noise level of each step."""
    baseline_images: np.ndarray | None = None
    """(N, H, W, 3) uint8: same seed, classes and noise, no intervention."""
    difference_images: np.ndarray | None = None
    """(N, H, W, 3) uint8: |image - baseline|."""
    intermediates: np.ndarray | None = None
    """(S, N, H, W, 3) uint8: estimate of x0 at each step."""
    noised_inputs: np.ndarray | None = None
    """(S, N, H, W, 3) uint8: noised input of each step, scaled by 1 / sqrt(1 + sigma²) for display."""
    trajectory: dict[str, np.ndarray] = field(default_factory=dict)
    """{layer: (S, N, *shape)}: what the recorded layers gave by themselves in each step's first
    conditional pass (unconditional at guidance 0)."""
    replaced: dict[str, np.ndarray] = field(default_factory=dict)
    """{layer: (S, N, *shape)}: what later layers read instead, for recorded layers with an
    intervention; equal to `trajectory` at steps where none acted."""
    baseline_trajectory: dict[str, np.ndarray] = field(default_factory=dict)
    """{layer: (S, N, *shape)} of the baseline."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a generation is."""

    step: int
    """Sampler steps done, over all batches and both runs of a pair."""
    total: int
    """Sampler steps there are."""
    image: Tensor | None = None
    """Present estimate of x0 of the batch in work, (B, C, H, W)."""


ProgressCallback = Callable[[Progress], None]
"""Called after each step; it cancels the generation by raising `CancelledError`."""
