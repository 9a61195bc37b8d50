"""The prefix cache finds exactly what was put in, shares beginnings, and stays inside its bound."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from vtagent.models.local.prefix_cache import PrefixCache

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12)


def kv_of(tokens: list[int]) -> torch.Tensor:
    """A stand-in for KV that depends on the whole prefix, as real KV does: (1, 2, 1, tokens, 1)."""
    values, state = [], 7
    for token in tokens:
        state = (state * 31 + token) % 100003
        values.append(float(state))
    return torch.tensor(values).view(1, 1, 1, -1, 1).expand(1, 2, 1, -1, 1)


def put(cache: PrefixCache, tokens: list[int]) -> None:
    cache.insert(tokens, lambda start, end: kv_of(tokens)[:, :, :, start:end].clone())


def found(cache: PrefixCache, tokens: list[int]) -> torch.Tensor:
    return torch.cat([torch.zeros(1, 2, 1, 0, 1), *cache.find(tokens)], dim=3)


def common(left: list[int], right: list[int]) -> int:
    return next((at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


@given(SEQUENCES, st.lists(st.integers(0, 2), max_size=12))
def test_the_longest_known_prefix_is_found_with_its_own_kv(stored: list[list[int]], asked: list[int]) -> None:
    cache = PrefixCache(10_000)
    for tokens in stored:
        put(cache, tokens)
    longest = max(common(tokens, asked) for tokens in stored)
    kv = found(cache, asked)
    assert kv.shape[3] == longest
    assert torch.equal(kv, kv_of(asked[:longest]))


@given(SEQUENCES, st.integers(1, 20))
def test_memory_stays_inside_the_bound_and_what_is_found_stays_right(stored: list[list[int]], bound: int) -> None:
    cache = PrefixCache(bound)
    for tokens in stored:
        put(cache, tokens)
        assert cache.tokens <= bound
        kv = found(cache, tokens)
        assert torch.equal(kv, kv_of(tokens[: kv.shape[3]]))


def test_shared_beginnings_are_kept_once() -> None:
    cache = PrefixCache(100)
    put(cache, [1, 2, 3, 4, 5])
    put(cache, [1, 2, 3, 8, 9])
    assert cache.tokens == 7


def test_what_was_used_last_is_forgotten_last() -> None:
    cache = PrefixCache(8)
    put(cache, [1, 1, 1, 1])
    put(cache, [2, 2, 2, 2])
    cache.find([1, 1, 1, 1])
    put(cache, [3, 3, 3, 3])
    assert found(cache, [1, 1, 1, 1]).shape[3] == 4
    assert found(cache, [2, 2, 2, 2]).shape[3] == 0


def test_clear_forgets_everything() -> None:
    cache = PrefixCache(100)
    put(cache, [1, 2, 3])
    cache.clear()
    assert cache.find([1, 2, 3]) == []
    assert cache.tokens == 0
