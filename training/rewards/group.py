"""Turns the verdicts of a group (all rollouts of one prompt) into rewards: accuracy + format - penalty.

These are pure functions; how rollouts are graded is not known here. A rollout is direct if it was granted no zoom. The
penalty of a rollout depends on r, the share of direct answers among the right ones:

    r = direct and right / all right            over the rollouts of the group that could be scored

    paper               if r < threshold, every direct rollout pays; else every zoom pays
    paper-correct-only  the same, but only right rollouts pay
    reference           every right zoom pays; a right direct answer pays if 0 < r < threshold
    always              every right zoom pays, whatever r is
    tokens              every right rollout pays for what it was shown: penalty_size × (visual tokens shown ÷ those of
                        full resolution at once); a low view at half the sides pays a quarter of penalty_size
    off                 no rollout pays

`paper` is the formula of VisionThink (arXiv:2507.13348, section 3). `reference` is what its released code computes.
`tokens` is this project's own: it tells a region from the whole image, and one zoom from three, which the flat
penalties do not. `always` and `off` are for comparison.

Functions of one's own are further terms: each scores a rollout, its weight scales the score, and both come with the
verdict.

To add a term here, add a field to `Reward` and its sign to `SIGNS`, and compute it in `group_rewards`. The trainer's
log, the rollout log and its page take the terms from there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Penalty: TypeAlias = Literal["paper", "paper-correct-only", "reference", "always", "tokens", "off"]
PENALTIES: tuple[Penalty, ...] = ("paper", "paper-correct-only", "reference", "always", "tokens", "off")

_REFERENCE_EPSILON = 1e-4
"""The released code adds it to the denominator of r, so an r of exactly the threshold counts as below the threshold."""

SIGNS: Mapping[str, int] = {"accuracy": 1, "format": 1, "penalty": -1}
"""Each term of a reward that is computed here, in the order of its fields: 1 if it is added to the total, -1 if it is
subtracted."""


@dataclass(frozen=True)
class Verdict:
    """One rollout, graded."""

    right: bool | None
    """None: unscorable, because the run failed or the judge was down."""
    well_formed: bool
    """Whether every reply keeps the format (`vtagent.protocol.is_well_formed`)."""
    zoomed: bool
    """Whether at least one zoom was granted."""
    shown: float = 0.0
    """Visual tokens of all views that were shown, divided by those of full resolution at once; above 1 if a low view
    came before the whole image. Only `tokens` reads it."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """What the functions of one's own found, each times its weight, by name."""


@dataclass(frozen=True)
class Reward:
    """The terms of one rollout's reward."""

    accuracy: float
    """1 for a right answer, else 0."""
    format: float
    """`RewardSettings.format_reward` if every reply is well formed, else 0."""
    penalty: float
    """What the rollout pays: `RewardSettings.penalty_size` or, with `tokens`, its share of it; else 0."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """What each function of one's own adds."""

    @property
    def contributions(self) -> dict[str, float]:
        """What each term adds to the total, by name; negative for a term that is subtracted."""
        return {**{name: sign * getattr(self, name) for name, sign in SIGNS.items()}, **self.scores}

    @property
    def total(self) -> float:
        """The reward that the trainer uses."""
        total = 0.0
        for contribution in self.contributions.values():
            total += contribution
        return total


@dataclass(frozen=True)
class RewardSettings:
    """The constants of the formulas. The defaults are the paper's.

    Raises:
        ValueError: The penalty is unknown, or a number is out of its range.
    """

    penalty: Penalty = "paper"
    """Which rollouts pay; see the module's table."""
    penalty_size: float = 0.1
    """What a rollout pays, 0 or more; with `tokens`, for as many visual tokens as full resolution takes, and below 1,
    which is what a right answer earns."""
    threshold: float = 0.2
    """Threshold of r, 0 to 1. If r equals it, there are enough direct answers, so the zooms pay."""
    format_reward: float = 0.5
    """What a well-formed rollout earns, 0 or more."""

    def __post_init__(self) -> None:
        if self.penalty not in PENALTIES:
            raise ValueError(f"penalty must be one of {', '.join(PENALTIES)}, not {self.penalty!r}")
        for name in ("penalty_size", "format_reward"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"{name} must not be negative, not {value}")
        if self.penalty == "tokens" and self.penalty_size >= 1:
            raise ValueError(
                f"penalty_size must be below 1 with penalty tokens, not {self.penalty_size}: a right answer after full "
                "resolution would earn no more than a wrong one"
            )
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be between 0 and 1, not {self.threshold}")


def direct_share(group: Sequence[Verdict]) -> float | None:
    """Compute r, the share of the right rollouts that answered directly, 0 to 1; None if no rollout is right."""
    direct, zoomed = _right(group)
    return direct / (direct + zoomed) if direct + zoomed else None


def group_rewards(group: Sequence[Verdict], settings: RewardSettings) -> list[Reward | None]:
    """Compute the rewards of all rollouts of one prompt.

    If no rollout is right, r is undefined and no rollout pays: the group does not show whether a direct answer would be
    enough.

    Args:
        group: The verdicts of the group.
        settings: The constants.

    Returns:
        The rewards in the order of `group`. An unscorable rollout has None and does not count in r.

    Example:
        >>> direct, zoom = Verdict(True, True, False), Verdict(True, True, True)
        >>> [reward.total for reward in group_rewards([direct, zoom], RewardSettings())]
        [1.5, 1.4]
    """
    direct, zoomed = _right(group)
    paying = _paying(direct, zoomed, settings)
    rewards: list[Reward | None] = []
    for verdict in group:
        if verdict.right is None:
            rewards.append(None)
            continue
        rewards.append(
            Reward(
                accuracy=float(verdict.right),
                format=settings.format_reward if verdict.well_formed else 0.0,
                penalty=_price(verdict, settings) if (verdict.right, verdict.zoomed) in paying else 0.0,
                scores=verdict.scores,
            )
        )
    return rewards


def _price(verdict: Verdict, settings: RewardSettings) -> float:
    """What a rollout pays if its kind pays."""
    return settings.penalty_size * (verdict.shown if settings.penalty == "tokens" else 1.0)


def _right(group: Sequence[Verdict]) -> tuple[int, int]:
    """The number of right rollouts: direct ones, and zooms."""
    right = [verdict.zoomed for verdict in group if verdict.right]
    return right.count(False), right.count(True)


def _paying(direct: int, zoomed: int, settings: RewardSettings) -> set[tuple[bool, bool]]:
    """The kinds of rollout, as (right, zoomed), that pay if so many direct answers and so many zooms are right."""
    right_zoom, right_direct = (True, True), (True, False)
    match settings.penalty:
        case "off":
            return set()
        case "always":
            return {right_zoom}
        case "tokens":
            return {right_zoom, right_direct}
        case "reference":
            r = direct / (direct + zoomed + _REFERENCE_EPSILON)
            return {right_zoom, right_direct} if 0 < r < settings.threshold else {right_zoom}
    if not direct + zoomed:
        return set()
    zooms_pay = direct / (direct + zoomed) >= settings.threshold
    paying = {(True, zooms_pay)}
    return paying if settings.penalty == "paper-correct-only" else paying | {(False, zooms_pay)}
