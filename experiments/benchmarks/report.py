"""The page `docs/benchmarks.md`, made of what was logged, and the table that the command prints."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from diffviews.errors import CorruptDataError
from diffviews.pipelines.workspace import Workspace
from diffviews.tracking.records import RunRecord
from diffviews.tracking.schema import Kind
from experiments.benchmarks.benchmark import Result
from experiments.benchmarks.measurement import Spread, duration
from experiments.benchmarks.suite import SUITE

ARTIFACT = "benchmarks.json"

_HEAD = """# What was measured

This page is made by `diffviews benchmark --report docs/benchmarks.md` from the logged runs; do not edit it.
Each row compares our way with an alternative in the same run, in turn (A B A B …) after a warm-up. Times and
ratios are medians, with the least and the greatest in brackets; a ratio is that of neighbouring measurements.
"""


@dataclass(frozen=True, slots=True)
class LoggedResult:
    """One measured row with the run that holds it."""

    result: Result
    environment: Mapping[str, str]
    run_id: str
    day: str

    @classmethod
    def all_of(cls, workspace: Workspace, record: RunRecord) -> list[Self]:
        """Return the rows that a run holds.

        Raises:
            CorruptDataError: if its table cannot be read.
        """
        path = workspace.folder(record.run_id).path(ARTIFACT)
        try:
            logged = json.loads(path.read_text(encoding="utf-8"))
            results = [Result.from_json(values) for values in logged["results"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptDataError(f"the results of benchmark run {record.run_id} cannot be read: {error}") from error
        day = record.start_time.date().isoformat()
        return [cls(result, logged["environment"], record.run_id, day) for result in results]


def newest_results(workspace: Workspace, experiment: str | None) -> list[LoggedResult]:
    """Return each benchmark's newest measurement of full size, in one experiment or all, in the page's order."""
    found = dict[str, LoggedResult]()
    for record in workspace.catalog.runs(Kind.BENCHMARK, experiment=experiment):
        if record.params.get("quick") == "True":
            continue
        for logged in LoggedResult.all_of(workspace, record):
            found.setdefault(logged.result.name, logged)
    return [found[name] for name in SUITE if name in found]


def page(logged: Sequence[LoggedResult]) -> str:
    """Return the page of these measurements."""
    measured = [entry for entry in logged if entry.result.seconds is not None]
    parts = [_HEAD, _environments(measured), _summary(entry.result for entry in measured)]
    parts += [_section(entry.result) for entry in measured if _has_more(entry.result)]
    reasons = {entry.result.name: entry.result.note for entry in logged}
    seen = {entry.result.name for entry in measured}
    absent = [
        f"- {_escaped(found.title)}: {reasons.get(name, f'not measured yet; `diffviews benchmark {name}` does so')}."
        for name, found in SUITE.items()
        if name not in seen
    ]
    if absent:
        parts.append("## Not measured\n\n" + "\n".join(absent) + "\n")
    return "\n".join(parts)


def text_table(results: Iterable[Result]) -> str:
    """Return the rows for a terminal."""
    rows = [("benchmark", "ours", "alternative", "ratio", "target", "")]
    rows += [(r.name, *_cells(r), r.target, _verdict(r)) for r in results]
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
    lines = ["| what | ours | alternative | ratio | target | |", "|---|---|---|---|---|---|"]
    for result in results:
        cells = (result.title, *_cells(result), result.target, _verdict(result))
        lines.append("| " + " | ".join(_escaped(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _cells(result: Result) -> tuple[str, str, str]:
    ratio = ""
    if result.ratio is not None:
        ratio = f"{_number(result.ratio)} ×" + (" faster" if result.faster else "")
    return _time(result.seconds), _time(result.alternative_seconds), ratio


def _verdict(result: Result) -> str:
    if result.seconds is None:
        return "not measured"
    return {True: "met", False: "not met", None: ""}[result.met]


def _has_more(result: Result) -> bool:
    return bool(result.note or result.table or result.facts or result.alternative)


def _section(result: Result) -> str:
    """Return what a row's line has no room for."""
    lines = [f"## {result.title}", "", f"Ours: {result.ours}."]
    if result.alternative:
        lines.append(f"Alternative: {result.alternative}.")
    lines.append(f"{result.repeats} measurements.")
    if result.facts:
        lines.append("; ".join(f"{key}: {_value(value)}" for key, value in result.facts.items()) + ".")
    if result.note:
        lines += ["", f"**Not met**: {result.note}"]
    if result.table:
        names = list(result.table[0])
        lines += ["", "| " + " | ".join(map(_escaped, names)) + " |", "|---" * len(names) + "|"]
        cells = [[_escaped(_value(row.get(name, ""))) for name in names] for row in result.table]
        lines += ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join(lines) + "\n"


def _value(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:,.10g}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _time(spread: Spread | None) -> str:
    if spread is None:
        return ""
    if spread.low == spread.high:
        return duration(spread.median)
    return f"{duration(spread.median)} ({duration(spread.low)} – {duration(spread.high)})"


def _number(spread: Spread) -> str:
    if spread.low == spread.high:
        return f"{spread.median:.3g}"
    return f"{spread.median:.3g} ({spread.low:.3g} – {spread.high:.3g})"
