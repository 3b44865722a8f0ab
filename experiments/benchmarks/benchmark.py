"""A benchmark, what it needs to know, and what it found."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from diffviews.errors import DiffViewsError
from experiments.benchmarks.measurement import Comparison, Spread, Target

Row = Mapping[str, str | float]
"""A line of a benchmark's own table, by column."""


class NotMeasuredError(DiffViewsError, RuntimeError):
    """A benchmark cannot be measured here; the message says what is missing."""


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


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a benchmark's function returns."""

    comparison: Comparison
    facts: Mapping[str, str | float] = field(default_factory=dict)
    """What else was found, by a name in plain words."""
    table: Sequence[Mapping[str, str | float]] = ()
    """Rows of a table of its own, such as one a size."""
    target: Target | None = None
    """In place of the benchmark's own, where it depends on what was measured."""
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
    facts: Mapping[str, str | float] = field(default_factory=dict)
    table: Sequence[Mapping[str, str | float]] = ()
    repeats: int = 0

    @classmethod
    def of(cls, benchmark: Benchmark, measured: Measurement) -> Self:
        """Return the row that a measurement makes."""
        comparison, target = measured.comparison, measured.target or benchmark.target
        faster = target is not None and target.kind == "speedup"
        ratios = comparison.speedups if faster else comparison.ratios
        met = None if target is None else target.is_met(comparison) and not measured.failure
        return cls(
            benchmark.name,
            benchmark.title,
            benchmark.ours,
            benchmark.alternative,
            target="" if target is None else str(target),
            seconds=Spread.of(comparison.ours),
            alternative_seconds=Spread.of(comparison.alternative) if comparison.alternative else None,
            ratio=Spread.of(ratios) if ratios else None,
            faster=faster,
            met=met,
            note=" ".join(filter(None, (measured.failure, benchmark.unmet))) if met is False else "",
            facts=dict(measured.facts),
            table=tuple(measured.table),
            repeats=len(comparison.ours),
        )

    @classmethod
    def missing(cls, benchmark: Benchmark, reason: str) -> Self:
        """Return the row of a benchmark that could not be measured."""
        target = "" if benchmark.target is None else str(benchmark.target)
        words = (benchmark.name, benchmark.title, benchmark.ours, benchmark.alternative)
        return cls(*words, target, note=f"not measured: {reason}")

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave."""
        spreads = {key: values[key] for key in ("seconds", "alternative_seconds", "ratio")}
        read = {key: None if value is None else Spread(**value) for key, value in spreads.items()}
        return cls(**{**values, **read})
