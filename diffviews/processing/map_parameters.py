"""What determines a map, besides the data."""

from dataclasses import dataclass
from typing import Any

from diffviews.errors import ConfigError
from diffviews.processing.neighbors import METRICS


@dataclass(frozen=True, slots=True)
class MapParameters:
    """Parameters of StandardScaler → PCA → UMAP.

    Raises:
        ConfigError: if a value is impossible.
    """

    n_neighbors: int = 15
    """Size of UMAP's neighbourhoods, the point itself included; also how many neighbours place a new point."""
    min_dist: float = 0.1
    """How close UMAP may put two points, 0 to 1."""
    n_components: int = 2
    """Dimensions of the map; 2 or 3 can be shown."""
    metric: str = "euclidean"
    """Distance between activations in PCA space: euclidean, cosine, correlation, manhattan or chebyshev."""
    pca_components: int | None = 50
    """Dimensions of the PCA space, at most N − 1 and the number of features; None or 0: no PCA."""
    normalize: bool = True
    """Whether each feature is divided by its standard deviation first."""
    random_state: int = 42
    """Seed of UMAP's descent."""

    def __post_init__(self) -> None:
        _require_integer("n_neighbors", self.n_neighbors, 2, 1000)
        _require_integer("n_components", self.n_components, 1, 100)
        _require_integer("random_state", self.random_state, 0, 2**32 - 1)
        if self.pca_components == 0:
            object.__setattr__(self, "pca_components", None)
        if self.pca_components is not None:
            _require_integer("pca_components", self.pca_components, 1, 100_000)
        if isinstance(self.min_dist, bool) or not isinstance(self.min_dist, int | float):
            raise ConfigError(f"min_dist is {self.min_dist!r}; use a number from 0 to 1")
        if not 0 <= self.min_dist <= 1:
            raise ConfigError(f"min_dist is {self.min_dist}; use a number from 0 to 1")
        if self.metric not in METRICS:
            raise ConfigError(f"metric {self.metric!r} is not one of: {', '.join(METRICS)}")
        if not isinstance(self.normalize, bool):
            raise ConfigError(f"normalize is {self.normalize!r}; use true or false")


def _require_integer(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} is {value!r}; use a whole number from {low} to {high}")
