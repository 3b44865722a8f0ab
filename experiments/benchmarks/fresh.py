"""Measuring in a process of its own: start-up, first use, peak memory."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from experiments.benchmarks.benchmark import Comparison, NotMeasuredError, interleave

Answer = Mapping[str, float]
"""What a function that is measured in a process of its own found, by name."""
_ROOT = Path(__file__).parents[2]


def run_fresh(
    command: Sequence[str], environment: Mapping[str, str] | None = None, *,
    cores: int | None = None, folder: Path | None = None,
) -> tuple[float, str]:  # fmt: skip
    """Run Python with these words; return its seconds from start to end and what it wrote to standard output.

    Args:
        command: words after the interpreter's name.
        environment: variables to set beside those of this process.
        cores: how many cores it may use, where the system can hold it to that; None: all.
        folder: where it works; None: here.

    Raises:
        NotMeasuredError: if it fails.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-P", *command], env=fresh_environment() | dict(environment or {}), cwd=folder,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        if cores is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, sorted(os.sched_getaffinity(0))[:cores])
        said, complained = process.communicate()
    seconds = time.perf_counter() - began
    if process.returncode != 0:
        last = "; ".join(complained.strip().splitlines()[-3:])
        raise NotMeasuredError(f"{' '.join(command[:3])} … ended with status {process.returncode}: {last}")
    return seconds, said


def fresh_environment() -> dict[str, str]:
    """Return the variables of a process that, with Python's -P, runs this very code, whatever folder it is in."""
    paths = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": paths}


def own_store(folder: Path) -> dict[str, str]:
    """Return the variables of a process that logs to a new tracking store in a folder and nowhere else."""
    taken = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "DIFFVIEWS_PROFILE")
    return {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}", **dict.fromkeys(taken, "")}


def ask_fresh(function: Callable[..., Answer], *words: str, store: Path | None = None) -> Answer:
    """Return what a module's function finds, called with these words in a process of its own, and its `peak_memory`.

    Args:
        function: what is called.
        words: what it is called with.
        store: folder that it works in and that holds its tracking store; None: here, and this process's.

    Raises:
        NotMeasuredError: if it fails.
    """
    script = f"from {function.__module__} import {function.__name__} as f; from {__name__} import tell; tell(f)"
    _, said = run_fresh(["-c", script, *words], None if store is None else own_store(store), folder=store)
    return dict(json.loads(said.strip().splitlines()[-1]))


def tell(function: Callable[..., Answer]) -> None:
    """Call a function with the words of the command line and tell the process that asked what it returned."""
    found = function(*sys.argv[1:])
    sys.stdout.write(f"\n{json.dumps({**found, 'peak_memory': peak_memory()})}\n")


def compare_fresh(
    ours: Callable[..., Answer], theirs: Callable[..., Answer], *words: str,
    repeats: int, theirs_repeats: int, store: Path | None = None,
) -> tuple[Comparison, Answer]:  # fmt: skip
    """Compare the `seconds` that two functions find in fresh processes; return with it all that ours found first."""
    answers = list[Answer]()

    def ask(function: Callable[..., Answer]) -> float:
        answers.append(ask_fresh(function, *words, store=store))
        return answers[-1]["seconds"]

    compared = interleave(
        lambda: ask(ours), lambda: ask(theirs), repeats=repeats, alternative_repeats=theirs_repeats
    )
    return compared, answers[0]


def peak_memory() -> int:
    """Return the most memory that this process held at once, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the process that started this one held
        lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(lines[0].split()[1]) * 1024
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024
