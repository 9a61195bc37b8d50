"""The store in memory is bounded: idle images go, images in use stay, and one that does not fit is refused."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.image_samples import encode, solid
from vtagent.caches import SharedCache
from vtagent.errors import ImageNotFound, ImageTooLarge
from vtagent.garbage import collect_garbage
from vtagent.images import MemoryImageStore, default_store


class Clock:
    """A monotonic clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


def image(number: int) -> bytes:
    """An image of exactly 500 bytes, one for each number."""
    data = encode(solid((8, 8), (number % 256, number // 256, 7)), "BMP")
    return data.ljust(500, b"\0")


def test_the_longest_unused_images_make_room(clock: Clock) -> None:
    store = MemoryImageStore(max_bytes=1500, grace=10)
    first, second, third = (store.put(image(n)).sha256 for n in range(3))
    clock.now += 20
    store.ref(first)  # a turn of its conversation
    fourth = store.put(image(3)).sha256
    assert list(store) == [third, first, fourth]
    with pytest.raises(ImageNotFound):
        store.get(second)
    assert second not in store


def test_images_in_use_stay_and_the_new_one_is_refused(clock: Clock) -> None:
    store = MemoryImageStore(max_bytes=1500, grace=10)
    kept = [store.put(image(n)).sha256 for n in range(3)]
    with pytest.raises(ImageTooLarge, match="1500 bytes of images in use; with 500 more it would exceed 1500"):
        store.put(image(3))
    assert list(store) == kept
    assert store.put(image(0)).sha256 == kept[0]  # it is there already
    clock.now += 20
    store.put(image(3))
    assert len(list(store)) == 3


def test_nothing_is_deleted_for_an_image_that_does_not_fit_anyway(clock: Clock) -> None:
    store = MemoryImageStore(max_bytes=1200, grace=10)
    old = store.put(image(0)).sha256
    clock.now += 20
    recent = store.put(image(1)).sha256
    with pytest.raises(ImageTooLarge):
        store.put(encode(solid((16, 16)), "BMP").ljust(1000, b"\0"))
    assert list(store) == [old, recent]


def test_a_store_without_bound_takes_all() -> None:
    store = MemoryImageStore(max_bytes=None)
    assert len({store.put(image(n)).sha256 for n in range(300)}) == 300


@settings(max_examples=60)
@given(
    steps=st.lists(st.tuples(st.integers(0, 12), st.sampled_from([0.0, 3.0, 30.0])), max_size=40),
    most=st.integers(500, 3000),
)
def test_the_bound_holds_and_what_was_just_used_is_there(steps: list[tuple[int, float]], most: int) -> None:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", clock)
        store = MemoryImageStore(max_bytes=most, grace=10)
        used: dict[str, float] = {}
        for number, pause in steps:
            clock.now += pause
            try:
                ref = store.put(image(number))
            except ImageTooLarge:
                pass
            else:
                used[ref.sha256] = clock.now
            assert sum(len(store._data[name]) for name in store) <= most
            assert all(name in store for name, moment in used.items() if moment > clock.now - 9)


def test_garbage_is_collected_in_memory_too(clock: Clock) -> None:
    store = MemoryImageStore()
    used, unused = (store.put(image(n)).sha256 for n in range(2))
    clock.now += 100
    fresh = store.put(image(2)).sha256
    dry = collect_garbage(store, {used}, grace=50, dry_run=True)
    assert (dry.deleted, dry.freed, dry.in_use, dry.recent) == ((unused,), 500, 1, 1)
    assert unused in store
    assert collect_garbage(store, {used}, grace=50) == dry
    assert list(store) == [used, fresh]
    with pytest.raises(ImageNotFound):
        store.ref(unused)


def test_a_cleared_store_is_empty() -> None:
    store = MemoryImageStore()
    name = store.put(image(1)).sha256
    store.clear()
    assert name not in store
    with pytest.raises(ImageNotFound):
        store.ref(name)


def test_a_process_has_one_default_store() -> None:
    assert default_store() is default_store()


# ---- the cache behind it --------------------------------------------------------------------------------------------


def test_room_is_made_before_a_value_is_made() -> None:
    cache: SharedCache[str, bytes] = SharedCache(100, len)
    held: list[int] = []
    cache.get("a", lambda: bytes(60))

    def make() -> bytes:
        held.append(cache._bytes)
        return bytes(50)

    cache.get("b", make, expected=50)
    assert held == [0]


def test_a_value_that_is_too_large_is_not_kept() -> None:
    cache: SharedCache[str, bytes] = SharedCache(100, len)
    made: list[int] = []

    def make() -> bytes:
        made.append(1)
        return bytes(101)

    for _ in range(2):
        cache.get("a", make)
    assert len(made) == 2
    assert cache._bytes == 0
