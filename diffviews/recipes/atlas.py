"""The recipe of a decision atlas."""

from dataclasses import dataclass, field
from typing import ClassVar

from diffviews.errors import ConfigError
from diffviews.recipes.base import ModelRecipe
from diffviews.recipes.extraction import Conditioning
from diffviews.recipes.generation import Sampling

SMALLEST_HALF_WIDTH = 0.005


@dataclass(frozen=True, slots=True)
class AtlasRecipe(ModelRecipe):
    """Which cut of a network decides, and when: pairs of runs that exchange a layer's output, cut by step window.

    Raises:
        ConfigError: for impossible values.
    """

    COMMAND: ClassVar[str] = "atlas"
    ALWAYS_DETERMINING: ClassVar[tuple[str, ...]] = (
        "precision", "windows", "conditioning", "half_width", "max_pairs", "judge", "factors", "seed", "batch_size"
    )  # fmt: skip
    NOT_DETERMINING: ClassVar[frozenset[str]] = frozenset(
        {"model", "checkpoint", "run", "dataset", "class_map", "max_samples", "layers", "prompts", "sampling"}
    )

    run: str | None = None
    """Run id of an extraction, whose model and sample set are taken in place of those named here."""
    dataset: str = "digits"
    """Real images with their classes, which the judge learns and the manifold is measured by, as `extract` takes them;
    their prompts are those of a model that takes prompts."""
    class_map: dict[str, int | str] | None = None
    """What the classes of the samples are in the model; see `extract`."""
    max_samples: int | None = None
    """Use at most so many samples, stratified by class."""
    layers: tuple[str, ...] = ("all",)
    """Layers whose cuts are measured, or all."""
    windows: int = 6
    """Parts of about equal length that the steps are divided into, beside all steps together."""
    conditioning: Conditioning = "auto"
    """What donor and recipient are told: label, each a class of its own; prompt, each its own; uniform or none, where
    their classes are what the judge says of the finished images. auto takes prompts where the model takes them and the
    samples have some, labels where it has classes, else none."""
    prompts: str | None = None
    """File of prompts to draw from in place of the samples' own."""
    half_width: float = 0.05
    """A cell is drawn until the 95 % interval of its rate is at most twice as wide."""
    max_pairs: int = 400
    """At most so many pairs of donor and recipient are drawn."""
    judge: str = "svc"
    """Who says which class an image is: svc, knn:<layer>@<sigma>, diffusion, clip:<folder>, factors, or the name of an
    installed judge."""
    factors: tuple[str, ...] = ()
    """Factors whose values are measured in place of the class, such as shape,colour, for a judge that knows some."""
    seed: int = 0
    """Seed of all randomness."""
    batch_size: int = 128
    """Samples in one forward pass."""
    sampling: Sampling = field(default_factory=Sampling)
    """How donor and recipient are sampled."""

    def __post_init__(self) -> None:
        ModelRecipe.__post_init__(self)
        if self.class_map is not None:
            object.__setattr__(self, "class_map", {str(name): value for name, value in self.class_map.items()})
        for name in ("windows", "max_pairs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; take 1 or more")
        if not SMALLEST_HALF_WIDTH <= self.half_width < 0.5:
            raise ConfigError(f"half_width is {self.half_width}; take {SMALLEST_HALF_WIDTH} or more, below 0.5")
        if self.sampling.noise_mode == "zero":
            raise ConfigError("noise_mode zero gives donor and recipient the same start; take stochastic or fixed")

    def determining(self) -> dict[str, object]:
        """Return the fields that decide what comes out, for a fingerprint."""
        return {**ModelRecipe.determining(self), **self.sampling.determining()}
