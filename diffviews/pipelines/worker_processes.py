"""Worker processes of this machine, among which independent jobs are shared, such as the maps of several layers."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from typing import Literal, TypeVar

from diffviews.errors import ConfigError, WorkerError
from diffviews.lightning.process_group import ProcessGroup
from diffviews.processing.blocks import HELD_AT_ONCE, num_threads
from diffviews.processing.umap_backend import cuda_is_allowed

R = TypeVar("R")
Workers = Literal["auto"] | int

LITTLE = 4_000
"""Samples of all maps together below which starting workers (seconds, for importing UMAP) costs more than it gains."""


def choose_workers(workers: Workers, maps: int, samples: int, group: ProcessGroup) -> int:
    """Return how many processes make the maps that fall to one process of a group.

    Args:
        workers: how many on this machine; auto takes its cores as far as memory goes, or one where there is little
            to do or a GPU does it.
        maps: how many there are to make, by the whole group.
        samples: of each map.
        group: whose processes on this machine share its cores.

    Raises:
        ConfigError: if it is below 1.
    """
    own = -(-maps // group.size)
    if workers != "auto":
        if workers < 1:
            raise ConfigError(f"workers is {workers}; take 1 or more, or auto")
        return max(1, min(own, workers // group.local_size))
    if own * samples < LITTLE or cuda_is_allowed():
        return 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else HELD_AT_ONCE
    return max(1, min(own, min(num_threads(), memory // HELD_AT_ONCE) // group.local_size))


@contextmanager
def in_processes(jobs: Sequence[Callable[[], R]], workers: int) -> Iterator[Iterator[R]]:
    """Give what each job returns, in their order, while `workers` processes do them; with one, this process does.

    The cores are shared out among the workers: a job has as many threads as there are for each. Leaving the
    block early, as on Ctrl-C, ends the workers.

    Raises:
        WorkerError: if a worker is gone, for lack of memory or by a signal.
    """
    if workers == 1 or len(jobs) < 2:
        yield (job() for job in jobs)
        return
    from joblib import Parallel, delayed, parallel_config

    with parallel_config("loky", inner_max_num_threads=max(1, num_threads() // workers), idle_worker_timeout=10):
        parallel = Parallel(n_jobs=workers, return_as="generator", batch_size=1, pre_dispatch=workers)
        results = parallel(delayed(job)() for job in jobs)
    try:
        yield results
    except BrokenExecutor as error:
        raise WorkerError(
            f"one of {workers} worker processes is gone, perhaps for lack of memory; what is written is kept: go on "
            "with --resume and fewer workers"
        ) from error
    finally:
        results.close()
