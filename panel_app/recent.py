"""The most recently used values, each made once for all visitors."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """The most recently used values by key; each is made once, even when several threads ask at a time.

    Args:
        size: how many are kept.
        weigh: how many a value counts as; the newest is kept whatever it weighs. None: each counts as one.
    """

    def __init__(self, size: int, weigh: Callable[[T], int] | None = None) -> None:
        self._size, self._weigh = size, weigh
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._locks: dict[Hashable, threading.Lock] = {}
        self._guard = threading.Lock()

    def known(self, key: Hashable) -> T | None:
        """Return the value of a key if it is kept."""
        with self._guard:
            return self._values.get(key)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of a key, made by `make` if it is not kept; a failure is not kept."""
        with self._guard:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            with self._guard:
                if key in self._values:
                    return self._values[key]
            value = make()
            with self._guard:
                self._values[key] = value
                self._locks.pop(key, None)
                while len(self._values) > 1 and self._weight() > self._size:
                    self._values.popitem(last=False)
            return value

    def _weight(self) -> int:
        return sum(map(self._weigh, self._values.values())) if self._weigh else len(self._values)
