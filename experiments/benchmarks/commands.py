"""Whole processes: how long a command takes to say anything, and the demo's pipeline from nothing."""

from collections.abc import Callable

import numpy as np

from experiments.benchmarks.benchmark import Comparison, Measurement, Row, Setting, Target, benchmark, interleave
from experiments.benchmarks.fresh import own_store, run_fresh

CORES = 2

IMPORTS = {
    "python alone": "",
    "diffviews": "diffviews",
    "the command line": "diffviews.cli",
    "a job (extract)": "diffviews.pipelines.extract",
    "the dashboard": "panel_app.dashboard",
}
"""What is imported, in words, and the module."""


@benchmark(
    "help",
    "`diffviews --help`",
    "the whole process",
    "a process that imports one job's code first",
    Target("seconds", 0.5),
)
def help_text(setting: Setting) -> Measurement:
    """Run `diffviews --help`, against a command line that imports the code of its commands."""
    ours, theirs = _run("-m", "diffviews", "--help"), _run("-c", "import diffviews.cli, diffviews.pipelines.extract")
    ours(), theirs()
    return Measurement(
        interleave(ours, theirs, repeats=2 * setting.repeats, alternative_repeats=min(setting.repeats, 2))
    )


@benchmark(
    "demo",
    f"demo pipeline on {CORES} cores, after install",
    "`diffviews demo --serve false` in an empty folder, the process whole",
    target=Target("seconds", 180),
)
def demo(setting: Setting) -> Measurement:
    """Run `diffviews demo --serve false` once in an empty folder."""
    words = ["-m", "diffviews", "demo", "--serve", "false"]
    words += ["--max_samples", "24", "--control_seeds", "0"] if setting.quick else []
    seconds, _ = run_fresh(words, own_store(setting.folder), cores=CORES, folder=setting.folder)
    return Measurement(Comparison((seconds,)), {"cores": CORES})


@benchmark("import", "import times, whole process", "`import diffviews`", "starting Python")
def imports(setting: Setting) -> Measurement:
    """Import each part in fresh processes."""
    rows, seconds = list[Row](), dict[str, list[float]]()
    for words, module in list(IMPORTS.items())[: setting.size(len(IMPORTS), 2)]:
        run = _run("-c", f"import {module}" if module else "pass")
        run()
        seconds[words] = [run() for _ in range(min(setting.repeats, 3))]
        rows.append({"import": words, "seconds": round(float(np.median(seconds[words])), 3)})
    return Measurement(Comparison(tuple(seconds["diffviews"]), tuple(seconds["python alone"])), table=rows)


def _run(*words: str) -> Callable[[], float]:
    return lambda: run_fresh(words)[0]
