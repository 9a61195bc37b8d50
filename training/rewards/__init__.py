"""Grades answers, by rules and by a judge, and turns the verdicts of a group of rollouts into rewards."""

from vtagent.abstention import abstains
from vtagent.training.rewards.grading import Cascade, Grader, build_grader, chat_model
from vtagent.training.rewards.group import (
    PENALTIES,
    SIGNS,
    Penalty,
    Reward,
    RewardSettings,
    Verdict,
    direct_share,
    group_rewards,
)
from vtagent.training.rewards.judge import Judge
from vtagent.training.rewards.rules import anls, exact, numeric

__all__ = [
    "PENALTIES",
    "SIGNS",
    "Cascade",
    "Grader",
    "Judge",
    "Penalty",
    "Reward",
    "RewardSettings",
    "Verdict",
    "abstains",
    "anls",
    "build_grader",
    "chat_model",
    "direct_share",
    "exact",
    "group_rewards",
    "numeric",
]
