"""The order of the data and all seeds follow from the run's seed and the generation's number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vtagent.training.rl.checkpoints import Windows, seed_of


def windows(examples: int, prompts: int, *, count: int = 3, batches: int = 1, shuffle: bool = True) -> list[int]:
    """The indices of a run with groups of two."""
    order = Windows(examples, prompts=prompts, rollouts=2, batches=batches, windows=count, shuffle=shuffle, seed=5)
    assert len(order) == len(list(order))
    return list(order)


def test_each_prompt_comes_once_for_each_of_its_rollouts_and_side_by_side() -> None:
    assert windows(4, 2, count=2, shuffle=False) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_generation_that_is_used_twice_comes_twice() -> None:
    assert windows(4, 2, count=1, batches=2, shuffle=False) == [0, 0, 1, 1, 0, 0, 1, 1]


def test_a_pass_over_the_data_may_end_inside_a_generation() -> None:
    assert windows(3, 2, count=3, shuffle=False)[::2] == [0, 1, 2, 0, 1, 2]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(0, 5))
def test_a_longer_run_begins_like_a_shorter_one(examples: int, prompts: int, count: int, more: int) -> None:
    short = windows(examples, prompts, count=count)
    assert windows(examples, prompts, count=count + more)[: len(short)] == short


@given(st.integers(1, 9), st.integers(1, 4))
def test_every_pass_shows_every_example_once(examples: int, passes: int) -> None:
    seen = windows(examples, 1, count=examples * passes)[::2]
    for number in range(passes):
        assert sorted(seen[number * examples : (number + 1) * examples]) == list(range(examples))


def test_seeds_differ_by_what_they_are_for_and_are_the_same_tomorrow() -> None:
    assert seed_of("rollout", 0, 1, 2) == seed_of("rollout", 0, 1, 2)
    assert len({seed_of("rollout", 0, 1, 2), seed_of("rollout", 0, 12), seed_of("order", 0, 1, 2)}) == 3
