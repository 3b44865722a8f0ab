"""A benchmark, what it needs to know, and what it found."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import numpy as np

from diffviews.errors import ConfigError, DiffViewsError

Measure = Callable[[], float]
"""Does the work once and returns how long it took, in seconds."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of repeated measurements, and between what they lay."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self | None:
        """Return the spread of some values; None: there are none."""
        return cls(statistics.median(values), min(values), max(values)) if values else None


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

    def is_met(self, comparison: Comparison) -> bool:
        """Say whether the median reaches it."""
        values = {"ratio": comparison.ratios, "speedup": comparison.speedups, "seconds": comparison.ours}
        median = statistics.median(values[self.kind])
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


Row = Mapping[str, str | float]
"""A line of a benchmark's own table, by column."""


class NotMeasuredError(DiffViewsError, RuntimeError):
    """A benchmark cannot be measured here; the message says what is missing, or quotes a process that failed."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How a suite is run."""

    folder: Path
    """Scratch folder of one benchmark, gone afterwards."""
    repeats: int = 5
    quick: bool = False
    """Tiny sizes, to see that everything works; the numbers mean nothing."""
    large: bool = False
    """Sizes that take many minutes as well."""

    def size(self, full: int, tiny: int) -> int:
        """Return the size for this run."""
        return tiny if self.quick else full

    def sizes(self, full: Sequence[int], large: Sequence[int], tiny: Sequence[int]) -> Sequence[int]:
        """Return the sizes for this run, one after the other."""
        return tiny if self.quick else [*full, *(large if self.large else ())]

    def compare(
        self, ours: Measure, alternative: Measure, *, most: int | None = None, warm: bool = False
    ) -> Comparison:
        """Measure both in turn, slow ones at most so often; `warm` does both once before, not counted."""
        if warm:
            ours(), alternative()
        return interleave(ours, alternative, repeats=min(self.repeats, most or self.repeats))


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a benchmark's function returns."""

    comparison: Comparison
    facts: Row = field(default_factory=dict)
    """What else was found, by a name in plain words."""
    table: Sequence[Row] = ()
    """Rows of a table of its own, such as one a size."""
    failure: str = ""
    """Why the target counts as not met though the numbers reach it, such as a worse result; '' if it does not."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One row of the page: what is measured, against what, and the function that does it."""

    name: str
    title: str
    ours: str
    """Our way, in words."""
    alternative: str
    """The other way, in words; '' where there is none."""
    target: Target | None
    """None: only recorded."""
    measure: Callable[[Setting], Measurement]
    unmet: str = ""
    """For a target that is not met: what a profile shows, and the next idea."""
    large: bool = False
    """Measured only when it is named or large sizes are asked for."""


def benchmark(
    name: str, title: str, ours: str, alternative: str = "", target: Target | None = None,
    *, unmet: str = "", large: bool = False,
) -> Callable[[Callable[[Setting], Measurement]], Benchmark]:  # fmt: skip
    """Make a benchmark of the function that measures it; the arguments are the fields of `Benchmark`."""
    return lambda measure: Benchmark(name, title, ours, alternative, target, measure, unmet, large)


DOUBLING = (
    "the doubling that costs most, its larger set", "twice the time of its smaller set", Target("ratio", 1.1)
)  # fmt: skip
"""What `measure_doubling` compares, in words, and its target, a tenth of which is left to the noise of the machine."""


def measure_doubling(prepare: Callable[[int], Measure], sizes: Sequence[int], *, repeats: int) -> Measurement:
    """Measure work on two or more sets, each twice the one before, one after the other, again and again."""
    works = [prepare(size) for size in sizes]
    works[0]()
    seconds = np.array([[work() for work in works] for _ in range(repeats)])
    medians = np.median(seconds, axis=0)
    growth = medians[1:] / medians[:-1]
    rows = [
        {
            "samples": size,
            "seconds": round(float(median), 3),
            "samples a second": round(size / float(median)),
            "times the half": times,
        }
        for size, median, times in zip(sizes, medians, ["", *growth.round(2).tolist()], strict=True)
    ]
    worst = int(np.argmax(growth)) + 1
    larger, smaller = seconds[:, worst].tolist(), (2 * seconds[:, worst - 1]).tolist()
    return Measurement(Comparison(tuple(larger), tuple(smaller)), table=rows)


@dataclass(frozen=True, slots=True)
class Result:
    """One measured row, as it is logged and read back."""

    name: str
    title: str
    ours: str
    alternative: str
    target: str = ""
    seconds: Spread | None = None
    """Of our way; None: not measured."""
    alternative_seconds: Spread | None = None
    ratio: Spread | None = None
    """Of what the target is about: ours over the alternative, or how many times faster."""
    faster: bool = False
    """Whether `ratio` says how many times faster."""
    met: bool | None = None
    """None: there is no target, or it was not measured."""
    note: str = ""
    """Why it was not measured or not met."""
    facts: Row = field(default_factory=dict)
    table: Sequence[Row] = ()
    repeats: int = 0

    @classmethod
    def of(cls, row: Benchmark, measured: Measurement | str) -> Self:
        """Return the row that a measurement makes, or the reason why there is none."""
        target = row.target
        words = (row.name, row.title, row.ours, row.alternative, str(target or ""))
        if isinstance(measured, str):
            return cls(*words, note=f"not measured: {measured}")
        comparison = measured.comparison
        faster = target is not None and target.kind == "speedup"
        met = None if target is None else target.is_met(comparison) and not measured.failure
        return cls(
            *words,
            seconds=Spread.of(comparison.ours),
            alternative_seconds=Spread.of(comparison.alternative),
            ratio=Spread.of(comparison.speedups if faster else comparison.ratios),
            faster=faster,
            met=met,
            note=" ".join(filter(None, (measured.failure, row.unmet))) if met is False else "",
            facts=measured.facts,
            table=measured.table,
            repeats=len(comparison.ours),
        )
