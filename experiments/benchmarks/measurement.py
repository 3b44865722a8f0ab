"""Measuring two ways of doing the same thing in turn, and what the numbers say.

    comparison = interleave(seconds_of(ours), seconds_of(theirs), repeats=5)
    Target("ratio", 1.15).is_met(comparison)
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from diffviews.errors import ConfigError

Measure = Callable[[], float]
"""Does the work once and returns how long it took, in seconds."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of repeated measurements, and between what they lay."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Return the spread of one value or more."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Seconds of our way and of the alternative, in the order they were measured."""

    ours: tuple[float, ...]
    alternative: tuple[float, ...] = ()
    """Empty where there is no alternative; fewer than `ours` where it is slow."""

    def __post_init__(self) -> None:
        if not self.ours:
            raise ConfigError("nothing was measured; repeats must be at least 1")

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours over the alternative measured next to it, or the last one where it was measured less often."""
        last = len(self.alternative) - 1
        return tuple(own / self.alternative[min(turn, last)] for turn, own in enumerate(self.ours)) if last >= 0 else ()

    @property
    def speedups(self) -> tuple[float, ...]:
        """How many times faster ours is than the alternative measured next to it."""
        return tuple(1 / ratio for ratio in self.ratios)


@dataclass(frozen=True, slots=True)
class Target:
    """What a benchmark is to reach: at most so many times the alternative, so many times faster, or so many seconds."""

    kind: Literal["ratio", "speedup", "seconds"]
    limit: float

    def value(self, comparison: Comparison) -> Spread:
        """Return the quantity that the target is about."""
        values = {"ratio": comparison.ratios, "speedup": comparison.speedups, "seconds": comparison.ours}
        return Spread.of(values[self.kind])

    def is_met(self, comparison: Comparison) -> bool:
        """Say whether the median reaches it."""
        median = self.value(comparison).median
        return median >= self.limit if self.kind == "speedup" else median <= self.limit

    def __str__(self) -> str:
        if self.kind == "seconds":
            return f"≤ {duration(self.limit)}"
        return f"≤ {self.limit:g} ×" if self.kind == "ratio" else f"≥ {self.limit:g} × faster"


def interleave(
    ours: Measure, alternative: Measure | None = None, *, repeats: int, alternative_repeats: int | None = None
) -> Comparison:
    """Measure both in turn, ours first: A B A B …, so that whatever slows the machine meets both.

    Args:
        ours: our way; what has to be done once, such as compiling, was done before.
        alternative: the other way; None: there is none.
        repeats: how often.
        alternative_repeats: how often a slow alternative; None: as often.
    """
    own, others = list[float](), list[float]()
    for turn in range(repeats):
        own.append(ours())
        if alternative is not None and (alternative_repeats is None or turn < alternative_repeats):
            others.append(alternative())
    return Comparison(tuple(own), tuple(others))


def seconds_of(work: Callable[[], object]) -> Measure:
    """Return a measure of a function; what it returns is let go outside the measured time."""

    def measure() -> float:
        began = time.perf_counter()
        kept = work()
        seconds = time.perf_counter() - began
        del kept
        return seconds

    return measure


def duration(seconds: float) -> str:
    """Return a time as people write it: 250 µs, 41 ms, 1.24 s, 3 min 05 s."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.3g} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
