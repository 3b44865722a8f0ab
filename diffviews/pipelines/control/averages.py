"""Which samples are averaged, and the averages of one layer that take its output's place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from diffviews.core.interventions import Target
from diffviews.data.samples import stratified_rows

GLOBAL_ROWS = 1000
"""Samples behind the global mean of a layer, as many of each class as possible."""

READ_BYTES = 1 << 28
"""Activations read at a time."""

ReadRows = Callable[[np.ndarray], np.ndarray]
"""Takes row numbers of the sample set, returns those activations (n, *layer_shape)."""

Group = tuple[int, int]
"""A class and the number of a draw."""


@dataclass(frozen=True)
class Draws:
    """Random samples of classes, fixed by a seed: the same whatever else is drawn."""

    labels: np.ndarray
    """(N,) int64 class of each sample."""
    count: int
    """Samples of one draw."""
    seed: int

    def of_class(self, group: Group) -> np.ndarray:
        """Return the rows of one draw of a class, without repetition, at most `count`."""
        return self._shuffled(group)[: self.count]

    def held_out(self, group: Group, count: int) -> np.ndarray:
        """Return up to `count` rows of the class outside that draw, or inside where the class has no others."""
        shuffled = self._shuffled(group)
        outside = shuffled[self.count :]
        return (outside if len(outside) else shuffled)[:count]

    def mixed(self, group: Group) -> np.ndarray:
        """Return as many rows of any class, without repetition."""
        count = len(self.of_class(group))
        return np.sort(self._random("mixed", group).choice(len(self.labels), count, replace=False))

    def everywhere(self, count: int) -> np.ndarray:
        """Return up to `count` rows, as many of each class as it has."""
        return np.asarray(stratified_rows(self.labels.tolist(), count))

    def direction(self, group: Group, shape: Sequence[int]) -> np.ndarray:
        """Return a random direction of length 1, float32."""
        values = self._random("direction", group).standard_normal(shape, dtype=np.float32)
        return values / np.linalg.norm(values)

    def _shuffled(self, group: Group) -> np.ndarray:
        return self._random("class", group).permutation(np.flatnonzero(self.labels == group[0]))

    def _random(self, what: str, group: Group) -> np.random.Generator:
        return np.random.default_rng([self.seed, *what.encode(), *group])


@dataclass(frozen=True)
class Averages:
    """What masks of one layer put in the place of its output, (n, *layer_shape) float32, one for each group."""

    draws: Draws
    read: ReadRows
    """Of the layer that is masked."""
    shape: tuple[int, ...]
    read_other: ReadRows | None = None
    """Of another layer of the same shape."""
    _recent: dict[tuple[Group, ...], np.ndarray] = field(default_factory=dict)

    def own(self, groups: Sequence[Group]) -> np.ndarray:
        """Return the mean of each group's samples."""
        wanted = tuple(groups)
        if wanted not in self._recent:
            self._recent.clear()  # masks of one batch follow each other
            self._recent[wanted] = self._means(self.read, wanted, self.draws.of_class)
        return self._recent[wanted]

    def mixed_means(self, groups: Sequence[Group]) -> np.ndarray:
        """Return the mean of as many samples, drawn from all classes."""
        return self._means(self.read, groups, self.draws.mixed)

    def other_layer(self, groups: Sequence[Group]) -> np.ndarray:
        """Return the mean of each group's samples at the other layer."""
        assert self.read_other is not None
        return self._means(self.read_other, groups, self.draws.of_class)

    def global_mean(self, groups: Sequence[Group]) -> np.ndarray:
        """Return the mean of all classes, the same for each group."""
        return np.broadcast_to(self._global, (len(groups), *self.shape))

    def random_direction(self, groups: Sequence[Group]) -> np.ndarray:
        """Return the mean of all classes, moved as far as the group's own mean is from it, in a random direction."""
        axes = tuple(range(1, 1 + len(self.shape)))
        away = np.sqrt(((self.own(groups) - self._global) ** 2).sum(axis=axes, keepdims=True, dtype=np.float64))
        directions = {group: self.draws.direction(group, self.shape) for group in set(groups)}
        return self._global + away.astype(np.float32) * np.stack([directions[group] for group in groups])

    @cached_property
    def _global(self) -> np.ndarray:
        rows = np.sort(self.draws.everywhere(GLOBAL_ROWS))
        total = np.zeros(self.shape, dtype=np.float64)
        for part in self._parts(rows):
            total += self.read(part).astype(np.float32).sum(axis=0, dtype=np.float64)
        return (total / len(rows)).astype(np.float32)

    def _means(
        self, read: ReadRows, groups: Sequence[Group], rows_of: Callable[[Group], np.ndarray]
    ) -> np.ndarray:
        means = {group: read(rows_of(group)).astype(np.float32).mean(axis=0) for group in dict.fromkeys(groups)}
        return np.stack([means[group] for group in groups])

    def _parts(self, rows: np.ndarray) -> list[np.ndarray]:
        step = max(1, READ_BYTES // (4 * int(np.prod(self.shape))))
        return [rows[start : start + step] for start in range(0, len(rows), step)]


@dataclass(frozen=True, slots=True)
class EachOwn:
    """A target with a row for each sample of a batch, of which several may share one."""

    targets: Sequence[Target]
    rows: Tensor
    """(B,) int64, which of the targets each sample has."""

    def at(self, sigma: float) -> Tensor:
        """Return the values at a noise level, (B, *layer_shape)."""
        return torch.cat([target.at(sigma) for target in self.targets])[self.rows]
