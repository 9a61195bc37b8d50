"""What a rollout is worth: graders say whether an answer is right, a group's verdicts become rewards."""

from vtagent.training.rewards.group import (
    PENALTIES,
    Penalty,
    Reward,
    RewardSettings,
    Verdict,
    direct_share,
    group_rewards,
)

__all__ = ["PENALTIES", "Penalty", "Reward", "RewardSettings", "Verdict", "direct_share", "group_rewards"]
