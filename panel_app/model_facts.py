"""What a model can do and how it is sampled by default, as its extraction noted; nothing is loaded for it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, get_args

from diffviews.recipes.naming import Asks, asks_of
from diffviews.sampling.samplers import SamplerName


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts of one model; the defaults stand for a model of which nothing was noted."""

    takes_prompts: bool = False
    num_classes: int | None = None
    """None: not known; the classes of the samples are offered."""
    class_names: Mapping[int, str] | None = None
    """The model's own, by class, if it has any; None: not noted."""
    default_steps: int = 18
    default_guidance: float = 1.0
    default_sampler: SamplerName | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None
    layers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """{layer: shape of its output}, (C, H, W) or (T, C)."""

    @property
    def asks(self) -> Asks:
        """What a generation is asked for by."""
        return asks_of(self.takes_prompts, self.num_classes)

    @classmethod
    def read(cls, noted: Any) -> Self:
        """Read an extraction's `model.json`; what is missing or malformed counts as not noted."""
        if not isinstance(noted, Mapping):
            return cls()
        sampler, layers, names = (noted.get(name) for name in ("default_sampler", "layers", "class_names"))
        plain = cls()
        return cls(
            takes_prompts=noted.get("takes_prompts") is True,
            num_classes=_whole(noted.get("num_classes"), least=0),
            class_names=_names(names) if "class_names" in noted else None,
            default_steps=_whole(noted.get("default_steps"), least=1) or plain.default_steps,
            default_guidance=_number(noted.get("default_guidance"), plain.default_guidance),
            default_sampler=sampler if sampler in get_args(SamplerName) else None,
            sigma_min=_number(noted.get("sigma_min"), None),
            sigma_max=_number(noted.get("sigma_max"), None),
            layers={str(name): shape for name, value in _items(layers) if (shape := _shape(value))},
        )


NOTHING_NOTED = ModelFacts()
"""Of a model without a `model.json`."""


def _items(value: Any) -> Any:
    return value.items() if isinstance(value, Mapping) else ()


def _names(value: Any) -> Mapping[int, str]:
    return dict(enumerate(map(str, value))) if isinstance(value, list | tuple) else {}


def _whole(value: Any, least: int) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= least else None


def _number(value: Any, otherwise: Any) -> Any:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return float(value) if fits else otherwise


def _shape(value: Any) -> tuple[int, ...]:
    """Return (C, H, W) or (T, C), or nothing for what is no layer's shape."""
    sizes = tuple(_whole(size, least=1) for size in value) if isinstance(value, list | tuple) else ()
    return tuple(size for size in sizes if size is not None) if len(sizes) in (2, 3) and None not in sizes else ()
