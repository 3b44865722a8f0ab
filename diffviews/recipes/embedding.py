"""The recipe of a further map of a layer."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from diffviews.errors import ConfigError
from diffviews.processing.map_parameters import MapParameters
from diffviews.recipes.base import Recipe

MapName = Literal["single", "joint", "aligned"]


@dataclass(frozen=True, slots=True)
class EmbeddingRecipe(Recipe):
    """A map of a logged layer: with other parameters, joint over noise levels, or aligned along them.

    Raises:
        ConfigError: if sigmas are named for a single map.
    """

    NOT_DETERMINING: ClassVar[frozenset[str]] = frozenset({"layer_run", "map", "sigmas", "maps"})

    layer_run: str
    """Run id of the layer."""
    map: MapName = "single"
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
