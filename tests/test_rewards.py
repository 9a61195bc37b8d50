"""Rewards of a group: the worked table of both formulas, and what holds for every group."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtagent.training.rewards import (
    PENALTIES,
    SIGNS,
    Penalty,
    Reward,
    RewardSettings,
    Verdict,
    direct_share,
    group_rewards,
)

KINDS = {
    "direct right": Verdict(True, True, False),
    "direct wrong": Verdict(False, True, False),
    "zoom right": Verdict(True, True, True),
    "zoom wrong": Verdict(False, True, True),
}


def totals(counts: tuple[int, int, int, int], penalty: Penalty, **constants: Any) -> dict[str, float]:
    """The reward of each kind of rollout in a group with so many of each kind, in the order of KINDS."""
    group = [verdict for verdict, count in zip(KINDS.values(), counts, strict=True) for _ in range(count)]
    rewards = group_rewards(group, RewardSettings(penalty=penalty, **constants))
    found: dict[str, float] = {}
    for verdict, reward in zip(group, rewards, strict=True):
        assert reward is not None
        kind = next(name for name, other in KINDS.items() if other == verdict)
        assert found.setdefault(kind, reward.total) == reward.total  # equal rollouts of a group earn the same
    return {kind: round(total, 9) for kind, total in found.items()}


@pytest.mark.parametrize(
    ("counts", "reference", "paper", "correct_only"),
    [
        ((0, 8, 8, 0), (None, 0.5, 1.4, None), (None, 0.4, 1.5, None), (None, 0.5, 1.5, None)),
        ((1, 7, 8, 0), (1.4, 0.5, 1.4, None), (1.4, 0.4, 1.5, None), (1.4, 0.5, 1.5, None)),
        ((2, 6, 8, 0), (1.4, 0.5, 1.4, None), (1.5, 0.5, 1.4, None), (1.5, 0.5, 1.4, None)),
        ((4, 4, 8, 0), (1.5, 0.5, 1.4, None), (1.5, 0.5, 1.4, None), (1.5, 0.5, 1.4, None)),
        ((3, 5, 0, 8), (1.5, 0.5, None, 0.5), (1.5, 0.5, None, 0.4), (1.5, 0.5, None, 0.5)),
    ],
    ids=["r=0", "r=.11", "r=.20", "r=.33", "r=1"],
)
def test_groups_of_sixteen_earn_what_the_formulas_say(
    counts: tuple[int, int, int, int],
    reference: tuple[float | None, ...],
    paper: tuple[float | None, ...],
    correct_only: tuple[float | None, ...],
) -> None:
    modes: dict[Penalty, tuple[float | None, ...]] = {
        "reference": reference,
        "paper": paper,
        "paper-correct-only": correct_only,
    }
    for penalty, expected in modes.items():
        wanted = {kind: total for kind, total in zip(KINDS, expected, strict=True) if total is not None}
        assert totals(counts, penalty) == wanted, penalty


def test_without_a_penalty_both_ways_earn_the_same() -> None:
    assert totals((3, 1, 3, 1), "off") == {
        "direct right": 1.5,
        "direct wrong": 0.5,
        "zoom right": 1.5,
        "zoom wrong": 0.5,
    }


def test_always_charges_right_zooms_even_where_nothing_else_succeeds() -> None:
    assert totals((0, 8, 7, 1), "always") == {"direct wrong": 0.5, "zoom right": 1.4, "zoom wrong": 0.5}


@pytest.mark.parametrize("penalty", PENALTIES)
def test_nobody_pays_where_nobody_is_right(penalty: Penalty) -> None:
    assert totals((0, 8, 0, 8), penalty) == {"direct wrong": 0.5, "zoom wrong": 0.5}


def test_the_constants_are_free() -> None:
    constants = {"penalty_size": 0.3, "threshold": 0.4, "format_reward": 0.25}
    assert totals((1, 0, 2, 0), "paper", **constants) == {"direct right": 0.95, "zoom right": 1.25}
    assert totals((2, 0, 3, 0), "paper", **constants) == {"direct right": 1.25, "zoom right": 0.95}
    assert totals((1, 0, 2, 0), "reference", **constants) == {"direct right": 0.95, "zoom right": 0.95}


@pytest.mark.parametrize(
    ("seen", "shown", "direct", "zoom"),
    [
        ("a low view, then the whole page", 1.25, 1.475, 1.375),
        ("a low view, then a fifth of the page", 0.45, 1.475, 1.455),
        ("a low view, then three whole pages", 3.25, 1.475, 1.175),
    ],
)
def test_tokens_charges_right_rollouts_for_what_they_were_shown(
    seen: str, shown: float, direct: float, zoom: float
) -> None:
    look, wrong = Verdict(True, True, False, shown=0.25), Verdict(False, True, True, shown=shown)
    rewards = group_rewards([look, Verdict(True, True, True, shown=shown), wrong], RewardSettings(penalty="tokens"))
    assert [round(reward.total, 9) for reward in rewards if reward] == [direct, zoom, 0.5], seen


def test_tokens_asks_nothing_for_a_question_without_an_image() -> None:
    (reward,) = group_rewards([Verdict(True, True, False, shown=0.0)], RewardSettings(penalty="tokens"))
    assert reward == Reward(1, 0.5, 0)


def test_a_broken_format_costs_the_format_reward_alone() -> None:
    tidy, untidy = KINDS["direct right"], Verdict(True, False, False)
    assert group_rewards([tidy, untidy], RewardSettings()) == [Reward(1, 0.5, 0), Reward(1, 0, 0)]


def test_an_unscorable_rollout_has_no_reward_and_no_say_in_r() -> None:
    down = Verdict(None, True, False)
    one_of_six = [KINDS["direct right"]] + [KINDS["zoom right"]] * 5
    settings = RewardSettings()
    assert direct_share(one_of_six) == direct_share([*one_of_six, down, down])
    assert group_rewards([down, *one_of_six, down], settings) == [None, *group_rewards(one_of_six, settings), None]


def test_r_is_unknown_where_nobody_is_right() -> None:
    assert direct_share([KINDS["direct wrong"], KINDS["zoom wrong"]]) is None
    assert direct_share([]) is None


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"penalty": "papper"}, "penalty must be one of paper, paper-correct-only"),
        ({"penalty_size": -0.1}, "penalty_size must not be negative"),
        ({"penalty_size": float("nan")}, "penalty_size must not be negative"),
        ({"penalty_size": float("inf")}, "penalty_size must not be negative"),
        ({"penalty": "tokens", "penalty_size": 1.0}, "penalty_size must be below 1 with penalty tokens"),
        ({"threshold": 1.2}, "threshold must be between 0 and 1"),
        ({"format_reward": -1}, "format_reward must not be negative"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        RewardSettings(**wrong)


def test_every_mode_is_listed() -> None:
    assert get_args(Penalty) == PENALTIES


verdicts = st.builds(
    Verdict,
    st.sampled_from([True, False, None]),
    st.booleans(),
    st.booleans(),
    shown=st.sampled_from([0.25, 0.5, 1.25]),
)
groups = st.lists(verdicts, max_size=20)
settings = st.builds(
    RewardSettings,
    penalty=st.sampled_from(PENALTIES),
    penalty_size=st.floats(0, 0.99),
    threshold=st.floats(0, 1),
    format_reward=st.floats(0, 1),
)


@given(groups, settings)
def test_a_reward_is_its_parts_and_each_part_is_all_or_nothing(group: list[Verdict], settings: RewardSettings) -> None:
    for verdict, reward in zip(group, group_rewards(group, settings), strict=True):
        assert (reward is None) == (verdict.right is None)
        if reward is not None:
            assert reward.accuracy == (1.0 if verdict.right else 0.0)
            assert reward.format == (settings.format_reward if verdict.well_formed else 0.0)
            price = settings.penalty_size * (verdict.shown if settings.penalty == "tokens" else 1.0)
            assert reward.penalty in (0.0, price)
            assert reward.total == reward.accuracy + reward.format - reward.penalty


@given(groups, settings, st.randoms())
def test_the_order_of_a_group_does_not_matter(group: list[Verdict], settings: RewardSettings, rng: Any) -> None:
    order = list(range(len(group)))
    rng.shuffle(order)
    rewards = group_rewards(group, settings)
    assert group_rewards([group[place] for place in order], settings) == [rewards[place] for place in order]


@given(groups, settings)
def test_the_paper_charges_one_way_only(group: list[Verdict], settings: RewardSettings) -> None:
    if settings.penalty.startswith("paper"):
        pairs = zip(group, group_rewards(group, settings), strict=True)
        assert len({verdict.zoomed for verdict, reward in pairs if reward and reward.penalty}) <= 1


@given(groups, settings)
def test_the_wrong_pay_in_the_papers_own_formula_alone(group: list[Verdict], settings: RewardSettings) -> None:
    for verdict, reward in zip(group, group_rewards(group, settings), strict=True):
        if reward and reward.penalty and not verdict.right:
            assert settings.penalty == "paper"


@given(groups, st.floats(0.01, 0.99))
def test_with_tokens_whoever_is_right_and_saw_less_earns_more(group: list[Verdict], size: float) -> None:
    rewards = group_rewards(group, RewardSettings(penalty="tokens", penalty_size=size, format_reward=0))
    right = [
        (verdict.shown, reward.total)
        for verdict, reward in zip(group, rewards, strict=True)
        if verdict.right and reward
    ]
    assert all((one[0] < other[0]) == (one[1] > other[1]) for one in right for other in right)


@given(groups, settings)
def test_r_counts_right_rollouts_alone(group: list[Verdict], settings: RewardSettings) -> None:
    right = [verdict for verdict in group if verdict.right]
    assert direct_share(group) == direct_share(right)
    if right:
        assert direct_share(group) == sum(not verdict.zoomed for verdict in right) / len(right)


def test_every_term_has_a_sign_and_the_total_is_their_sum() -> None:
    assert [field.name for field in fields(Reward)] == [*SIGNS, "scores"]
    reward = Reward(accuracy=1.0, format=0.5, penalty=0.1)
    assert reward.contributions == {"accuracy": 1.0, "format": 0.5, "penalty": -0.1}
    assert reward.total == 1.4


def test_scores_of_functions_of_ones_own_are_added() -> None:
    [reward] = group_rewards([Verdict(True, True, False, scores={"brevity": 0.25, "frugal": -0.5})], RewardSettings())
    assert reward is not None
    assert reward.contributions == {"accuracy": 1.0, "format": 0.5, "penalty": 0.0, "brevity": 0.25, "frugal": -0.5}
    assert reward.total == 1.25
