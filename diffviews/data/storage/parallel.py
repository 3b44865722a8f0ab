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

        def one(item: T) -> None:
            work(item)
            bar.update()

        while left:
            with ThreadPoolExecutor(min(workers, len(left)), thread_name_prefix="store") as pool:
                begun = {pool.submit(one, item): item for item in left}
                for future in wait(begun, return_when=FIRST_EXCEPTION).not_done:
                    future.cancel()
            ended = {future: None if future.cancelled() else future.exception() for future in begun}
            failed = [error for error in ended.values() if error is not None]
            gone = [future for future, error in ended.items() if error is None and not future.cancelled()]
            for error in failed:
                if not gone or not isinstance(error, StoreError):
                    raise error
                logger.info("%s: %s; asking again for those that are left", describe, error)
            left = [item for future, item in begun.items() if future not in gone]
