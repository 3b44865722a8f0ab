"""How control rates are measured: `ControlSettings`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """How many generations, of what length, with which masks."""

    seeds_per_class: int = 10
    """Generations for each averaged class."""
    null_seeds: int = 3
    """Of these, generations for each of the controls."""
    draws: int = 3
    """Random draws of the averaged samples; generation s of a class has draw s mod `draws`."""
    samples_per_class: int = 10
    """Samples averaged in a draw, or all of a smaller class."""
    num_steps: int = 18
    seed: int = 0
    """Of the noise and of the draws."""
    windows: bool = True
    """Measure masks on the first and on the second half of the steps as well."""
    matched: bool = True
    """Measure the mask whose averages are captured anew at each step's noise level as well."""
    judge: str = "svc"
    """What says where an image landed, in the notation of `make_judge`."""
    second_judge: str | None = None
    """What the judge is compared with on the unmasked generations."""

    def masks(self, *, other_layer: bool = True) -> "tuple[Mask, ...]":
        """Return the masks of a layer, the one of `control_rate` first.

        Args:
            other_layer: whether there is a layer of the same shape.
        """
        half, some = self.num_steps // 2, min(self.null_seeds, self.seeds_per_class)
        every, control = partial(Mask, seeds=self.seeds_per_class), partial(Mask, seeds=some)
        masks = [every("own")]
        if self.windows:
            masks += [every("early", steps=(0, half)), every("late", steps=(half, self.num_steps))]
        if self.matched:
            masks.append(every("matched"))
        if some:
            masks += [control("global_mean"), control("mixed_means"), control("random_direction")]
            masks += [control("other_layer")] if other_layer else []
        return tuple(masks)

    def cost(self, layer_runs: int, classes: int) -> str:
        """Say what so many layer runs cost: generations, steps, and samples captured anew."""
        seeds = sum(mask.seeds for mask in self.masks())
        made = classes * (self.seeds_per_class + layer_runs * seeds)
        captured = classes * min(self.draws, self.seeds_per_class) * self.samples_per_class * self.num_steps
        told = f"control rates of {layer_runs} layer runs: up to {made:,} generations of {self.num_steps} steps each"
        return told + (f", and {layer_runs * captured:,} samples captured anew" if self.matched else "")


@dataclass(frozen=True, slots=True)
class Mask:
    """One way to replace a layer's output by an average."""

    name: str
    """own: the class's mean; early, late: the same on half of the steps; matched: captured at each step's noise level;
    global_mean, mixed_means, random_direction, other_layer: the controls."""
    seeds: int
    """Generations for each class."""
    steps: tuple[int, int] | None = None
    """Sampler steps [first, stop) it acts on; None: all."""

    @property
    def metric(self) -> str:
        """Key of its rate."""
        if self.name == "own":
            return "control_rate"
        return f"control_rate_{self.name}" if self.steps else f"control_{self.name}"


def other_layer(layer: str, shapes: "dict[str, tuple[int, ...]]", order: Sequence[str]) -> str | None:
    """Return the layer of the same shape that is farthest in the network, None where there is none.

    The farthest, for the nearest are often of the same cut, whose means mean the same.
    """
    at = {name: place for place, name in enumerate(order)}
    alike = [name for name in order if name != layer and tuple(shapes[name]) == tuple(shapes[layer])]
    return max(alike, key=lambda name: (abs(at[name] - at[layer]), -at[name])) if alike else None
