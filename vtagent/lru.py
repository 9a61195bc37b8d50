"""A mapping of bounded size that drops its least recently used entries first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["LRU"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LRU(Generic[K, V]):
    """Keeps values up to a total size. Not thread-safe.

    Args:
        limit: Maximum total size. A value that is larger by itself is not kept, and displaces all others.
        size: Size of a value; by default each counts 1.

    Attributes:
        total: Size of all values together.

    Example:
        >>> cache = LRU[str, bytes](5, size=len)
        >>> cache.put("a", b"123"), cache.put("b", b"456")
        (None, None)
        >>> cache.get("a"), cache.get("b"), cache.total
        (None, b'456', 3)
    """

    def __init__(self, limit: int, size: Callable[[V], int] = lambda _: 1) -> None:
        self.total = 0
        self._limit = limit
        self._size = size
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value, which becomes the most recently used one; None if it is not here."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        """Keep a value as the most recently used one, and drop others until the limit holds."""
        if key in self._values:
            self.total -= self._size(self._values.pop(key))
        self._values[key] = value
        self.total += self._size(value)
        while self.total > self._limit:
            _, dropped = self._values.popitem(last=False)
            self.total -= self._size(dropped)

    def clear(self) -> None:
        """Drop all values."""
        self._values.clear()
        self.total = 0
