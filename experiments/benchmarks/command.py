"""The `benchmark` job: measures, prints and logs, and writes the page from what is logged."""

import contextlib
import logging
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd

from diffviews.errors import ConfigError, DiffViewsError, unknown_name
from diffviews.pipelines.workspace import Workspace, open_workspace
from diffviews.tracking.schema import RunTags
from experiments.benchmarks.benchmark import Benchmark, Result, Setting
from experiments.benchmarks.commands import demo, help_text, imports
from experiments.benchmarks.downloads import downloads
from experiments.benchmarks.extraction import ON_GPU, all_layers, early_stop, growing, layer_by_layer, masked
from experiments.benchmarks.judging import judges
from experiments.benchmarks.maps import map_workers, maps, neighbours, path, projection, wide_map
from experiments.benchmarks.opening import opening
from experiments.benchmarks.raster import DRAWING, lookup
from experiments.benchmarks.report import ARTIFACT, newest_results, page, text_table
from experiments.benchmarks.sketching import sketch

logger = logging.getLogger(__name__)

_PAGE = (
    all_layers, *ON_GPU, layer_by_layer, early_stop, wide_map, map_workers, path, opening, *DRAWING, lookup, masked,
    downloads, help_text, demo, judges, sketch, growing, projection, neighbours, maps, imports,
)  # fmt: skip
SUITE: Mapping[str, Benchmark] = {found.name: found for found in _PAGE}


def choose(names: Sequence[str], *, large: bool = False) -> list[Benchmark]:
    """Return the benchmarks with these names, in the order of the page; without names all but the large ones.

    Raises:
        ConfigError: if there is no such benchmark; the nearest names are offered.
    """
    for name in names:
        if name not in SUITE:
            raise ConfigError(unknown_name("benchmark", name, SUITE))
    return [found for found in SUITE.values() if (found.name in names if names else large or not found.large)]


def run(benchmarks: Sequence[Benchmark], setting: Setting) -> Iterator[Result]:
    """Measure one benchmark after another, each in a scratch folder of its own."""
    for entry in benchmarks:
        logger.info("measuring %s: %s", entry.name, entry.title)
        with tempfile.TemporaryDirectory(dir=setting.folder, prefix=f"{entry.name}-") as folder:
            try:
                result = Result.of(entry, entry.measure(replace(setting, folder=Path(folder))))
            except DiffViewsError as reason:  # the others are measured all the same
                logger.warning("%s: %s", entry.name, reason)
                result = Result.of(entry, str(reason))
        yield result


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
        Path(report).write_text(page(newest_results(workspace, experiment, SUITE), SUITE), encoding="utf-8")
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
                logger.info("%s", text_table([result]).splitlines()[1])
        active.log_json({"environment": environment, "results": [asdict(result) for result in results]}, ARTIFACT)
        active.log_text(csv_of(results), "benchmarks.csv")
    return tuple(results), active.run_id


def metrics_of(result: Result) -> dict[str, float]:
    """Return what a measured row is logged as: `<name>_seconds`, `_ratio` and `_met`, as far as there is such."""
    name, spreads = result.name.replace("-", "_"), {"seconds": result.seconds, "ratio": result.ratio}
    found = {f"{name}_{key}": spread.median for key, spread in spreads.items() if spread}
    return found if result.met is None else {**found, f"{name}_met": float(result.met)}


def csv_of(results: Sequence[Result]) -> str:
    """Return one line a row, spreads as three columns."""
    spreads = {
        f"{key}_{part}": key if part == "median" else f"{key}_{part}"
        for key in ("seconds", "alternative_seconds", "ratio")
        for part in ("median", "low", "high")
    }
    columns = ["name", "target", "met", *spreads, "note"]
    table = pd.json_normalize([asdict(result) for result in results], sep="_").reindex(columns=columns)
    return table.rename(columns=spreads).to_csv(index=False)


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


PACKAGES = (
    "torch", "numpy", "scipy", "scikit-learn", "umap-learn", "numba", "zarr", "lightning", "mlflow", "datashader",
    "panel", "boto3",
)  # fmt: skip


def describe_environment() -> dict[str, str]:
    """Return machine, software and commit, by name."""
    import psutil
    import torch

    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU only, no CUDA device",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def _processor() -> str:
    """Return the processor's name as the system gives it."""
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        for line in listed.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Return the commit of the source tree, with '+' where it has changes; '' outside a repository."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(words, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git here
        return ""
