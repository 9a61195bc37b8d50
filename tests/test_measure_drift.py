"""The predicted drift: exact where it can be worked out by hand, and equal to what sampled groups come to."""

from __future__ import annotations

import random
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtagent.training.measure.drift import Drift, swap_share
from vtagent.training.rewards import PENALTIES, RewardSettings, Verdict, group_rewards

EASY, NEEDS_A_ZOOM = (1.0, 1.0), (0.0, 1.0)


def drift(penalty: Any, threshold: float = 0.2, rollouts: int = 16) -> Drift:
    return Drift(RewardSettings(penalty=penalty, threshold=threshold), rollouts=rollouts)


def test_a_group_of_two_comes_to_what_it_comes_to_by_hand() -> None:
    """Only a group with one of each teaches: the zoom is right alone, 1.5 to 0.5, an advantage of 0.707; half of it."""
    for p in (0.2, 0.5, 0.9):
        expected = 2 * p * (1 - p) * 0.5**0.5 / 2
        assert drift("off", rollouts=2).at(p, [NEEDS_A_ZOOM]) == pytest.approx(expected, rel=1e-3)
        assert drift("always", rollouts=2).at(p, [EASY]) == pytest.approx(-expected, rel=2e-3)


def test_without_a_penalty_pages_that_are_read_either_way_move_nothing() -> None:
    assert drift("off").at(0.5, [EASY]) == pytest.approx(0.0, abs=1e-12)
    assert drift("off").rest_points([EASY, NEEDS_A_ZOOM]) == [1.0]


def test_the_papers_penalty_is_bistable_on_easy_pages_and_turns_at_one_minus_the_threshold() -> None:
    for threshold in (0.2, 0.3, 0.6):
        paper = drift("paper", threshold)
        assert paper.rest_points([EASY]) == [0.0, 1.0]
        assert paper.at(1 - threshold - 0.1, [EASY]) < 0 < paper.at(1 - threshold + 0.1, [EASY])


@pytest.mark.parametrize("penalty", ["always", "tokens"])
def test_a_penalty_on_every_zoom_drives_easy_pages_to_none(penalty: str) -> None:
    assert drift(penalty).rest_points([EASY]) == [0.0]
    assert drift(penalty).rest_points([NEEDS_A_ZOOM]) == [1.0]


@settings(max_examples=25)
@given(
    st.sampled_from(PENALTIES),
    st.floats(0.05, 0.95),
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.sampled_from([0.5, 1.0])),
    st.floats(0, 1),
)
def test_it_is_the_mean_over_sampled_groups(
    penalty: Any, p: float, rates: tuple[float, float], threshold: float
) -> None:
    rewards = RewardSettings(penalty=penalty, threshold=threshold)
    rng, size, gains = random.Random(1), 4, []
    for _ in range(3000):
        zooms = [rng.random() < p for _ in range(size)]
        group = [Verdict(rng.random() < rates[zoom], True, zoom, (0.25, 1.25)[zoom]) for zoom in zooms]
        totals = [reward.total for reward in group_rewards(group, rewards) if reward]
        scale = stdev(totals) + 1e-4
        gains.append(
            fmean((total - fmean(totals)) / scale * (zoom - p) for total, zoom in zip(totals, zooms, strict=True))
        )
    expected = Drift(rewards, rollouts=size).at(p, [rates])
    assert expected == pytest.approx(fmean(gains), abs=5 * stdev(gains) / len(gains) ** 0.5 + 1e-9)


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0.01, 0.99))
def test_the_swap_stands_where_the_odds_are_those_of_the_rule(a_low: float, a_full: float, threshold: float) -> None:
    p = swap_share(a_low, a_full, threshold)
    assert p / (1 - p) == pytest.approx(a_low / a_full * (1 - threshold) / threshold)
    r = (1 - p) * a_low / ((1 - p) * a_low + p * a_full)
    assert r == pytest.approx(threshold)


def test_where_no_zoom_is_right_or_nothing_is_below_the_threshold_zooms_pay_at_every_share() -> None:
    assert swap_share(0.9, 0.0, 0.2) == swap_share(0.9, 0.9, 0.0) == 1.0


def test_weights_and_repeated_pages_are_the_same() -> None:
    paper = drift("paper")
    assert paper.at(0.4, [EASY, EASY, NEEDS_A_ZOOM]) == pytest.approx(paper.at(0.4, {EASY: 2.0, NEEDS_A_ZOOM: 1.0}))
