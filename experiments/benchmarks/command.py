"""The `benchmark` job: measures, prints and logs, and writes the page from what is logged."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from diffviews.errors import ConfigError
from diffviews.pipelines.workspace import Workspace, open_workspace
from diffviews.tracking.schema import RunTags
from experiments.benchmarks.benchmark import Result, Setting
from experiments.benchmarks.environment import describe_environment
from experiments.benchmarks.report import ARTIFACT, newest_results, page, text_table
from experiments.benchmarks.suite import SUITE, choose, run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BenchmarkOutcome:
    """What was measured, and the run that holds it."""

    results: tuple[Result, ...]
    run_id: str | None
    """None: nothing was measured."""

    def __str__(self) -> str:
        return f"{text_table(self.results)}\n\nrun {self.run_id}" if self.run_id else ""


def benchmark(
    names: tuple[str, ...] = (),
    repeats: int = 5,
    *,
    quick: bool = False,
    large: bool = False,
    report: str | None = None,
    measure: bool = True,
    profile: str | None = None,
    experiment: str | None = None,
) -> BenchmarkOutcome:
    """Measure how fast DiffViews is against the alternatives, each in turn with ours.

    Args:
        names: which benchmarks; none for all but the large ones.
        repeats: how often each is measured; slow ones are less often.
        quick: tiny sizes, to see that everything works; the numbers mean nothing.
        large: up to sizes that take many minutes.
        report: write this page (Markdown) of the newest logged measurement of each benchmark.
        measure: false measures nothing and only writes the page.
        profile: tracking profile of mlruns_config.
        experiment: MLflow experiment name.

    Raises:
        DiffViewsError: with the reason, for any input it refuses.
    """
    chosen = choose(names, large=large)
    if repeats < 1:
        raise ConfigError(f"repeats is {repeats}; take 1 or more")
    if report is None and not measure:
        raise ConfigError("measure is false and no report is wanted, so there is nothing to do; name a page by report")
    workspace = open_workspace(profile, experiment)
    results, run_id = tuple[Result, ...](), None
    if measure:
        with tempfile.TemporaryDirectory(prefix="diffviews-benchmark-") as folder:
            setting = Setting(Path(folder), repeats=repeats, quick=quick, large=large)
            results, run_id = _measure_and_log(workspace, [entry.name for entry in chosen], setting)
    if report is not None:
        Path(report).write_text(page(newest_results(workspace, experiment)), encoding="utf-8")
        logger.info("the page is %s", report)
    return BenchmarkOutcome(results, run_id)


def _measure_and_log(workspace: Workspace, names: Sequence[str], setting: Setting) -> tuple[tuple[Result, ...], str]:
    environment = describe_environment()
    params = {"repeats": setting.repeats, "quick": setting.quick, "large": setting.large, **environment}
    results = list[Result]()
    title = f"benchmark {', '.join(names)}"[:200]
    with workspace.tracker.start("benchmark", title, RunTags(), params=params) as active:
        with _only_warnings():
            for result in run([SUITE[name] for name in names], setting):
                results.append(result)
                active.log_metrics(metrics_of(result))
                logger.info("%s", text_table([result]).splitlines()[-1])
        active.log_json({"environment": environment, "results": [result.to_json() for result in results]}, ARTIFACT)
        active.log_text(csv_of(results), "benchmarks.csv")
    return tuple(results), active.run_id


def metrics_of(result: Result) -> dict[str, float]:
    """Return what a measured row is logged as: `<name>_seconds`, `_ratio` and `_met`, as far as there is such."""
    name, found = result.name.replace("-", "_"), dict[str, float]()
    if result.seconds is not None:
        found[f"{name}_seconds"] = result.seconds.median
    if result.ratio is not None:
        found[f"{name}_ratio"] = result.ratio.median
    if result.met is not None:
        found[f"{name}_met"] = float(result.met)
    return found


def csv_of(results: Sequence[Result]) -> str:
    """Return one line a row, spreads as three columns."""
    lines = [
        {
            "name": result.name, "target": result.target, "met": result.met,
            **{
                f"{key}{end}": spread and getattr(spread, name)
                for key in ("seconds", "alternative_seconds", "ratio")
                for spread in (getattr(result, key),)
                for end, name in _ENDS.items()
            },
            "note": result.note,
        }
        for result in results
    ]  # fmt: skip
    return pd.DataFrame(lines).to_csv(index=False)


_ENDS = {"": "median", "_low": "low", "_high": "high"}


@contextlib.contextmanager
def _only_warnings() -> Iterator[None]:
    """Keep the jobs that are measured from telling of each of their runs, inside the block."""
    talkative = logging.getLogger("diffviews")
    before = talkative.level
    talkative.setLevel(logging.WARNING)
    try:
        yield
    finally:
        talkative.setLevel(before)
