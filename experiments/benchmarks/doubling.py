"""Whether work on twice as many samples takes at most twice as long."""

from collections.abc import Callable, Sequence

import numpy as np

from experiments.benchmarks.benchmark import Measurement
from experiments.benchmarks.measurement import Comparison, Measure, Target

LINEAR = Target("ratio", 1.1)
"""A tenth is left to the noise of the machine."""

TWICE, TWICE_THE_HALF = "the doubling that costs most, its larger set", "twice the time of its smaller set"
"""What is compared, in words."""


def measure_doubling(
    prepare: Callable[[int], Measure], sizes: Sequence[int], *, repeats: int
) -> Measurement:
    """Measure work on sets of doubling sizes, one after the other, again and again.

    Args:
        prepare: returns the measure of the work on a set of a size.
        sizes: two or more, each twice the one before.
        repeats: rounds.
    """
    works = [prepare(size) for size in sizes]
    works[0]()
    seconds = np.array([[work() for work in works] for _ in range(repeats)])
    medians = np.median(seconds, axis=0)
    rows = [
        {
            "samples": size,
            "seconds": round(float(medians[turn]), 3),
            "samples a second": round(size / float(medians[turn])),
            "times the half": round(float(medians[turn] / medians[turn - 1]), 2) if turn else "",
        }
        for turn, size in enumerate(sizes)
    ]
    worst = int(np.argmax(medians[1:] / medians[:-1])) + 1
    larger, smaller = seconds[:, worst].tolist(), (2 * seconds[:, worst - 1]).tolist()
    return Measurement(Comparison(tuple(larger), tuple(smaller)), table=rows)
