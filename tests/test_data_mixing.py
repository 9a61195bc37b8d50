"""Mixing: fixed proportions, one order per seed, and any place of it at once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtagent.errors import DataError
from vtagent.training.data import Example, Joined, Mixture, Part, RenderedPages, by_source, mixed


def examples(source: str, count: int) -> list[Example]:
    return [Example(f"{source}/{number}", b"", "?", ("1",), source) for number in range(count)]


sizes = st.dictionaries(st.sampled_from("abcd"), st.tuples(st.integers(1, 12), st.integers(1, 4)), min_size=1)


def mixture(of: dict[str, tuple[int, int]], seed: int = 0, length: int | None = None) -> Mixture:
    parts = {source: examples(source, count) for source, (count, _) in of.items()}
    return Mixture(parts, {source: weight for source, (_, weight) in of.items()}, seed=seed, length=length)


@given(sizes, st.integers(0, 3))
def test_every_block_holds_each_source_as_often_as_its_weight_says(of: dict[str, tuple[int, int]], seed: int) -> None:
    weights = {source: weight for source, (_, weight) in of.items()}
    block = sum(weights.values())
    mixed = mixture(of, seed)
    for start in range(0, len(mixed), block):
        assert Counter(mixed.place(start + offset)[0] for offset in range(block)) == weights


@given(sizes, st.integers(0, 3))
def test_each_source_is_gone_through_whole_before_it_starts_again(of: dict[str, tuple[int, int]], seed: int) -> None:
    mixed = mixture(of, seed)
    seen: dict[str, list[int]] = {source: [] for source in of}
    for index in range(len(mixed)):
        source, row = mixed.place(index)
        seen[source].append(row)
    for source, (count, _) in of.items():
        for start in range(0, len(seen[source]), count):
            whole = seen[source][start : start + count]
            assert len(set(whole)) == len(whole)
        assert set(seen[source]) == set(range(count))


@given(sizes, st.integers(0, 200))
def test_any_place_is_found_without_walking_there(of: dict[str, tuple[int, int]], index: int) -> None:
    walked, jumped = mixture(of, length=201), mixture(of, length=201)
    assert [walked.place(place) for place in range(index + 1)][-1] == jumped.place(index)


def test_a_seed_is_an_order() -> None:
    of = {"a": (20, 1), "b": (20, 1)}
    assert mixture(of, 1)[:] == mixture(of, 1)[:]
    assert mixture(of, 1)[:] != mixture(of, 2)[:]


def test_a_second_pass_has_an_order_of_its_own() -> None:
    mixed = mixture({"a": (20, 1)}, length=40)
    assert mixed[:20] != mixed[20:]


def test_a_mixture_is_a_sequence() -> None:
    mixed = mixture({"a": (2, 2), "b": (3, 1)})
    assert len(mixed) == len(list(mixed)) == 9
    assert mixed[-1] == mixed[8]
    assert mixed.sources == [example.source for example in mixed]
    with pytest.raises(IndexError):
        mixed[9]


@pytest.mark.parametrize(
    ("parts", "weights", "complaint"),
    [
        ({"a": 3}, {"b": 1}, "a weight for 'b', which is no source; there are a"),
        ({"a": 3}, {"a": 0}, "source 'a' has a weight of 0"),
        ({"a": 3, "b": 0}, {}, "source 'b' has no examples"),
        ({}, {}, "nothing to mix"),
    ],
)
def test_what_cannot_be_mixed_is_refused(parts: dict[str, int], weights: dict[str, int], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        Mixture({source: examples(source, count) for source, count in parts.items()}, weights)


def test_sources_are_told_apart_without_reading_an_image() -> None:
    class Unread(RenderedPages):
        def __getitem__(self, index: Any) -> Any:
            raise AssertionError

    parts = by_source(Unread(5))
    assert {source: len(part) for source, part in parts.items()} == {"large print": 3, "small print": 2}
    assert by_source(RenderedPages(5))["small print"][1] == RenderedPages(5)[3]


def test_a_part_of_a_part_is_a_part() -> None:
    part = Part(examples("a", 10), range(0, 10, 2))
    assert [example.id for example in part[1:3]] == ["a/2", "a/4"]


def test_a_list_can_be_split_by_source() -> None:
    parts = by_source(examples("a", 2) + examples("b", 1))
    assert [len(parts[source]) for source in "ab"] == [2, 1]


def test_sources_are_mixed_by_name_and_those_without_a_weight_are_left_out() -> None:
    three = examples("a", 4) + examples("b", 4) + examples("c", 4)
    assert Counter(mixed(three, ["a=2", "b=1"]).sources) == {"a": 8, "b": 4}
    assert Counter(mixed(three, ["a=2", "*=1"]).sources) == {"a": 8, "b": 4, "c": 4}
    assert mixed(three, ["*=1"], seed=1).sources != mixed(three, ["*=1"], seed=2).sources


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        (["a"], "write SOURCE=WEIGHT"),
        (["a=x"], "write SOURCE=WEIGHT"),
        (["a=1", "a=2"], "each source once"),
        (["d=1"], "there is no such source; there are a, b"),
        (["a=0"], "weight of 0"),
        ([], "nothing to mix"),
    ],
)
def test_a_mix_that_cannot_be_meant_is_refused(weights: list[str], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        mixed(examples("a", 1) + examples("b", 1), weights)


def test_parts_and_joined_sequences_know_their_sources() -> None:
    joined = Joined([examples("a", 2), examples("b", 3)])
    assert joined.sources == [example.source for example in joined] == ["a", "a", "b", "b", "b"]
    assert joined[-1].id == "b/2"
    assert [example.id for example in joined[1:3]] == ["a/1", "b/0"]
    assert Part(joined, [4, 0]).sources == ["b", "a"]
    with pytest.raises(IndexError):
        joined[5]
