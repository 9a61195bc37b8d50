"""A cache of limited size for costly values: threads that ask for the same value together cause one computation."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["SharedCache"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SharedCache(Generic[K, V]):
    """Keeps the latest values up to a number of bytes. Safe to use from several threads.

    Args:
        size: Bytes to keep.
        weigh: Returns the bytes that a value takes.
    """

    def __init__(self, size: int, weigh: Callable[[V], int]) -> None:
        self.size = size
        self._weigh = weigh
        self._lock = threading.Lock()
        self._values: OrderedDict[K, Future[V]] = OrderedDict()
        self._bytes = 0

    def get(self, key: K, make: Callable[[], V], *, expected: int = 0) -> V:
        """Returns the kept value, or makes it and keeps it. A failure is not kept.

        Args:
            key: Names the value.
            make: Makes the value; what it raises is raised for all who wait for it.
            expected: Bytes that the value will take. As many are freed before it is made.
        """
        with self._lock:
            future = self._values.get(key)
            mine = future is None
            if future is None:
                self._free(expected)
                future = self._values[key] = Future()
            self._values.move_to_end(key)
        if mine:
            try:
                future.set_result(make())
            except BaseException as error:
                with self._lock:
                    self._values.pop(key, None)
                future.set_exception(error)
                raise
            with self._lock:
                self._bytes += self._weigh(future.result())
                self._free(0)
        return future.result()

    def clear(self) -> None:
        """Forgets all values but those that are being made."""
        with self._lock:
            size, self.size = self.size, 0
            self._free(0)
            self.size = size

    def _free(self, needed: int) -> None:
        """Drops the least recently used values until `needed` bytes are free; values in the making stay."""
        if self._bytes + needed <= self.size:
            return
        for key, future in list(self._values.items()):
            if self._bytes + needed <= self.size:
                break
            if future.done():
                del self._values[key]
                self._bytes -= self._weigh(future.result())
