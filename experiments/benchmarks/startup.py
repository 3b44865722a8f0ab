"""How long a command takes to say anything."""

from collections.abc import Callable

from experiments.benchmarks.benchmark import Measurement, Row, Setting, benchmark
from experiments.benchmarks.fresh import run_fresh
from experiments.benchmarks.measurement import Comparison, Target, interleave

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
    "import",
    "import times, whole process",
    "`import diffviews`",
    "starting Python",
)
def imports(setting: Setting) -> Measurement:
    """Import each part in fresh processes."""
    chosen = dict(list(IMPORTS.items())[: setting.size(len(IMPORTS), 2)])
    runs = {words: _run("-c", f"import {module}" if module else "pass") for words, module in chosen.items()}
    rows, seconds = list[Row](), dict[str, list[float]]()
    for words, run in runs.items():
        run()
        seconds[words] = [run() for _ in range(min(setting.repeats, 3))]
        rows.append({"import": words, "seconds": round(sorted(seconds[words])[len(seconds[words]) // 2], 3)})
    return Measurement(Comparison(tuple(seconds["diffviews"]), tuple(seconds["python alone"])), table=rows)


def _run(*words: str) -> Callable[[], float]:
    return lambda: run_fresh(words)[0]
