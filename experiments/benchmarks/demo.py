"""The demo's pipeline from nothing, on two cores."""

from experiments.benchmarks.benchmark import Measurement, Setting, benchmark
from experiments.benchmarks.fresh import own_store, run_fresh
from experiments.benchmarks.measurement import Comparison, Target

CORES = 2


@benchmark(
    "demo",
    "demo pipeline on 2 cores, after install",
    "`diffviews demo --serve false` in an empty folder, the process whole",
    "",
    Target("seconds", 180),
)
def demo(setting: Setting) -> Measurement:
    """Run `diffviews demo --serve false` once in an empty folder."""
    words = ["-m", "diffviews", "demo", "--serve", "false"]
    if setting.quick:
        words += ["--max_samples", "24", "--control_seeds", "0"]
    seconds, _ = run_fresh(words, environment=own_store(setting.folder), cores=CORES, folder=setting.folder)
    return Measurement(Comparison((seconds,)), {"cores": CORES})
