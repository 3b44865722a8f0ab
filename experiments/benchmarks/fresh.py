"""Measuring in a process of its own: start-up, first use, peak memory.

A module that is measured this way can be run, `python -m MODULE WORDS`, and ends with `answer({...})`.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffviews.errors import DiffViewsError

_MARK = "benchmark-answer "
_ROOT = Path(__file__).parents[2]


class FreshProcessError(DiffViewsError, RuntimeError):
    """A process that was measured failed; its last words are quoted."""


def run_fresh(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    cores: int | None = None,
    folder: Path | None = None,
) -> tuple[float, str]:
    """Run Python with these words; return its seconds from start to end and what it wrote to standard output.

    Args:
        command: words after the interpreter's name.
        environment: variables to set beside those of this process.
        cores: how many cores it may use, where the system can hold it to that; None: all.
        folder: where it works; None: here.

    Raises:
        FreshProcessError: if it fails.
    """
    variables = fresh_environment() | dict(environment or {})
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-P", *command],
        env=variables,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        if cores is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, sorted(os.sched_getaffinity(0))[:cores])
        said, complained = process.communicate()
    seconds = time.perf_counter() - began
    if process.returncode != 0:
        last = "; ".join(complained.strip().splitlines()[-3:])
        raise FreshProcessError(f"{' '.join(command[:3])} … ended with status {process.returncode}: {last}")
    return seconds, said


def fresh_environment() -> dict[str, str]:
    """Return the variables of a process that, with Python's -P, runs this very code, whatever folder it is in."""
    paths = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": paths}


def own_store(folder: Path) -> dict[str, str]:
    """Return the variables of a process that logs to a new tracking store in a folder and nowhere else."""
    taken = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "DIFFVIEWS_PROFILE")
    return {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}", **dict.fromkeys(taken, "")}


def ask_fresh(
    module: str, *words: str, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> dict[str, float]:
    """Run a module in a process of its own and return what it answered; `seconds_in_all` is its whole life.

    Raises:
        FreshProcessError: if it fails or does not answer.
    """
    seconds, said = run_fresh(["-m", module, *words], environment=environment, folder=folder)
    lines = [line for line in said.splitlines() if line.startswith(_MARK)]
    if not lines:
        raise FreshProcessError(f"{module} did not answer; it wrote {said[-200:]!r}")
    return {**json.loads(lines[-1].removeprefix(_MARK)), "seconds_in_all": seconds}


def answer(values: Mapping[str, float]) -> None:
    """Tell the process that asked, `peak_memory` (bytes) included; to be called last."""
    sys.stdout.write(f"{_MARK}{json.dumps({**values, 'peak_memory': peak_memory()})}\n")


def peak_memory() -> int:
    """Return the most memory that this process held at once, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the process that started this one held
        lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(lines[0].split()[1]) * 1024
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024
