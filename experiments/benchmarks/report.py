"""The page `docs/benchmarks.md`, made of what was logged, and the table that the command prints."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from diffviews.errors import CorruptDataError
from diffviews.pipelines.workspace import Workspace
from diffviews.tracking.schema import Kind
from experiments.benchmarks.benchmark import Benchmark, Result, Spread, duration

ARTIFACT = "benchmarks.json"

_HEAD = """# What was measured

This page is made by `diffviews benchmark --report docs/benchmarks.md` from the logged runs; do not edit it.
Each row compares our way with an alternative in the same run, in turn (A B A B …) after a warm-up. Times and
ratios are medians, with the least and the greatest in brackets; a ratio is that of neighbouring measurements.
"""


@dataclass(frozen=True, slots=True)
class LoggedResult:
    """One measured row, and where and when it was measured."""

    result: Result
    environment: Mapping[str, str]
    day: str


def newest_results(workspace: Workspace, experiment: str | None, suite: Collection[str]) -> list[LoggedResult]:
    """Return each benchmark's newest measurement of full size, in one experiment or all, in the page's order.

    Raises:
        CorruptDataError: if the table of a run cannot be read.
    """
    found = dict[str, LoggedResult]()
    for record in workspace.catalog.runs(Kind.BENCHMARK, experiment=experiment):
        if record.params.get("quick") == "True":
            continue
        day, path = record.start_time.date().isoformat(), workspace.folder(record.run_id).path(ARTIFACT)
        try:
            logged = json.loads(path.read_text(encoding="utf-8"))
            for result in TypeAdapter(list[Result]).validate_python(logged["results"]):
                found.setdefault(result.name, LoggedResult(result, logged["environment"], day))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptDataError(f"the results of benchmark run {record.run_id} cannot be read: {error}") from error
    return [found[name] for name in suite if name in found]


def page(logged: Sequence[LoggedResult], suite: Mapping[str, Benchmark]) -> str:
    """Return the page of these measurements; benchmarks of the suite that lack one are named."""
    measured = [entry for entry in logged if entry.result.seconds is not None]
    parts = [_HEAD, _environments(measured), _summary(entry.result for entry in measured)]
    parts += filter(None, (_section(entry.result) for entry in measured))
    reasons = {entry.result.name: entry.result.note for entry in logged}
    seen = {entry.result.name for entry in measured}
    absent = [
        f"- {_escaped(found.title)}: {reasons.get(name, f'not measured yet; `diffviews benchmark {name}` does so')}."
        for name, found in suite.items()
        if name not in seen
    ]
    if absent:
        parts.append("## Not measured\n\n" + "\n".join(absent) + "\n")
    return "\n".join(parts)


def text_table(results: Iterable[Result]) -> str:
    """Return the rows for a terminal, below them each one's own table."""
    results = list(results)
    rows: list[Sequence[str]] = [("benchmark", "ours", "alternative", "ratio", "target", "")]
    rows += [(r.name, *_cells(r), r.target, _verdict(r)) for r in results]
    tables = [
        f"\n\n{r.name}\n{_aligned([list(r.table[0]), *(list(map(_value, row.values())) for row in r.table)])}"
        for r in results
        if r.table
    ]
    return _aligned(rows) + "".join(tables)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _environments(logged: Sequence[LoggedResult]) -> str:
    """Return the machine and software of the measurements, those that differ one after the other."""
    seen = dict[str, list[str]]()
    for entry in logged:
        text = "; ".join(f"{key} {value}" for key, value in entry.environment.items() if value)
        seen.setdefault(f"{entry.day}: {text}", []).append(entry.result.name)
    if len(seen) == 1:
        return f"Measured {next(iter(seen))}.\n"
    return "\n".join(f"Measured {text}. Rows: {', '.join(names)}.\n" for text, names in seen.items())


def _summary(results: Iterable[Result]) -> str:
    rows = [(result.title, *_cells(result), result.target, _verdict(result)) for result in results]
    return _markdown([("what", "ours", "alternative", "ratio", "target", ""), *rows])


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first row is its head."""
    head, *rest = ["| " + " | ".join(map(_escaped, row)) + " |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *rest]) + "\n"


def _cells(result: Result) -> tuple[str, ...]:
    times = [_spread(found, duration) if found else "" for found in (result.seconds, result.alternative_seconds)]
    ratio = f"{_spread(result.ratio, '{:.3g}'.format)} ×" + " faster" * result.faster if result.ratio else ""
    return *times, ratio


def _verdict(result: Result) -> str:
    if result.seconds is None:
        return "not measured"
    return {True: "met", False: "not met", None: ""}[result.met]


def _section(result: Result) -> str:
    """Return what a row's line has no room for; '' where there is nothing."""
    if not (result.note or result.table or result.facts or result.alternative):
        return ""
    lines = [f"## {result.title}", "", f"Ours: {result.ours}."]
    lines += [f"Alternative: {result.alternative}."] if result.alternative else []
    lines += [f"{result.repeats} measurements."]
    if result.facts:
        lines += ["; ".join(f"{key}: {_value(value)}" for key, value in result.facts.items()) + "."]
    if result.note:
        lines += ["", f"**Not met**: {result.note}"]
    if result.table:
        rows = [list(map(_value, row.values())) for row in result.table]
        lines += ["", _markdown([list(result.table[0]), *rows])]
    return "\n".join(lines).rstrip() + "\n"


def _value(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:,.10g}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _spread(spread: Spread, write: Callable[[float], str]) -> str:
    if spread.low == spread.high:
        return write(spread.median)
    return f"{write(spread.median)} ({write(spread.low)} – {write(spread.high)})"
