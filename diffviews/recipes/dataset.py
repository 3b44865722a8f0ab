"""The recipe of a generated sample set."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from diffviews.errors import ConfigError
from diffviews.recipes.base import ModelRecipe
from diffviews.recipes.sampling import Sampling


@dataclass(frozen=True, slots=True)
class DatasetRecipe(ModelRecipe):
    """A sample set made by a model: of random classes, so many of each class, or so many of each prompt.

    Raises:
        ConfigError: for contradictory fields.
    """

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
