"""Work on blocks by several threads at once, whose results arrive in order: sums over them keep their bits."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST_THREADS = 16
"""Beyond these the memory of the blocks in flight costs more than the cores gain."""


def num_threads() -> int:
    """Return how many threads share the work: the cores of this process, or fewer by OMP_NUM_THREADS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "").strip()
    return min(cores, int(wanted) if wanted.isdecimal() and int(wanted) else cores, MOST_THREADS)


def in_order(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield `work(item)` of each item, in the items' order.

    NumPy lets go of the interpreter during products, so that threads gain where BLAS itself is held to one
    (`umap_backend.fitting`). An item is drawn only when a thread is free for it: one more than there are
    threads is held at most.
    """
    threads = num_threads()
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="blocks") as pool:
        under_way: deque[Future[R]] = deque()
        try:
            for item in items:
                under_way.append(pool.submit(work, item))
                del item
                if len(under_way) >= threads:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()
