"""Work on many files at once, of which some are refused by chance."""

import logging
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

from diffviews.data.storage.store_errors import StoreError
from diffviews.errors import ConfigError

logger = logging.getLogger(__name__)

T = TypeVar("T")


def in_parallel(work: Callable[[T], object], items: list[T], workers: int, *, describe: str) -> None:
    """Do `work` on each item, some at once; a failure ends it all and is raised.

    When a store fails although some items went through, the rest is asked for again: among thousands of requests
    one is refused again and again by chance alone.
    """
    from tqdm import tqdm

    if workers < 1:
        raise ConfigError(f"{workers} workers do nothing; take 1 or more")
    left = list(items)
    with tqdm(total=len(items), desc=describe[:40], unit="file", delay=2, disable=None, leave=False) as bar:
        while left:
            waiting, failed = dict(enumerate(left)), list[T]()

            def one(number: int, waiting: dict[int, T] = waiting, failed: list[T] = failed) -> None:
                try:
                    work(waiting[number])
                except StoreError:
                    failed.append(waiting.pop(number))
                    raise
                del waiting[number]
                bar.update()

            try:
                _all(one, list(waiting), workers)
            except StoreError as error:
                if len(waiting) + len(failed) == len(left):
                    raise
                logger.info("%s: %s; asking again for those that are left", describe, error)
            left = [*waiting.values(), *failed]


def _all(work: Callable[[T], object], items: list[T], workers: int) -> None:
    with ThreadPoolExecutor(min(workers, len(items)), thread_name_prefix="store") as pool:
        futures = [pool.submit(work, item) for item in items]
        done, pending = wait(futures, return_when=FIRST_EXCEPTION)
        for future in pending:
            future.cancel()
        for future in done:
            future.result()
