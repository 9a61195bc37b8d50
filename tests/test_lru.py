"""The bounded mapping keeps what was used last, and never more than its limit."""

from __future__ import annotations

from vtagent.lru import LRU


def test_the_least_recently_used_value_is_dropped_first() -> None:
    cache = LRU[str, int](2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)


def test_the_limit_bounds_the_total_size() -> None:
    cache = LRU[int, str](10, size=len)
    for key in range(20):
        cache.put(key, "x" * (key % 5))
        assert cache.total <= 10
    assert cache.total == sum(len(cache.get(key) or "") for key in range(20))


def test_a_value_that_is_put_again_replaces_the_old_one() -> None:
    cache = LRU[str, str](10, size=len)
    cache.put("a", "1234")
    cache.put("a", "12")
    assert (cache.get("a"), cache.total) == ("12", 2)


def test_a_value_above_the_limit_is_not_kept() -> None:
    cache = LRU[str, str](3, size=len)
    cache.put("a", "12")
    cache.put("b", "1234")
    assert (cache.get("a"), cache.get("b"), cache.total) == (None, None, 0)


def test_clear_drops_everything() -> None:
    cache = LRU[str, int](3)
    cache.put("a", 1)
    cache.clear()
    assert (cache.get("a"), cache.total) == (None, 0)
