"""A rollout earns accuracy + format - penalty, and the penalty is decided by its group: all rollouts of one prompt.

Pure functions over verdicts; who graded them, and how, is not known here.

    r = direct and right / all right            over the rollouts of the group that could be scored

    paper               r < threshold: every direct rollout pays; else every zoom pays
    paper-correct-only  the same, but only rollouts that are right pay
    reference           every right zoom pays; a right direct answer pays where 0 < r < threshold
    always              every right zoom pays, whatever r is
    off                 nobody pays

`paper` is the formula of VisionThink (arXiv:2507.13348, section 3); `reference` is what its released code computes. The
other three are for comparison: without a penalty, and with one on every zoom, the policy is expected to collapse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Penalty: TypeAlias = Literal["paper", "paper-correct-only", "reference", "always", "off"]
PENALTIES: tuple[Penalty, ...] = ("paper", "paper-correct-only", "reference", "always", "off")

_REFERENCE_EPSILON = 1e-4
"""The released code adds it to the denominator of r, which puts an r of exactly the threshold below it."""


@dataclass(frozen=True)
class Verdict:
    """One rollout, graded."""

    right: bool | None
    """None: unscorable (the run failed, the judge was down)."""
    well_formed: bool
    """Every reply keeps the format (`vtagent.protocol.is_well_formed`)."""
    zoomed: bool
    """At least one view was granted."""


@dataclass(frozen=True)
class Reward:
    """What one rollout earned, by part."""

    accuracy: float
    format: float
    penalty: float
    """Not negative; it is taken off."""

    @property
    def total(self) -> float:
        """The number that the trainer sees."""
        return self.accuracy + self.format - self.penalty


@dataclass(frozen=True)
class RewardSettings:
    """The constants; the defaults are the paper's."""

    penalty: Penalty = "paper"
    penalty_size: float = 0.1
    threshold: float = 0.2
    """Of r. An r of exactly this much counts as enough direct answers, so the zooms pay."""
    format_reward: float = 0.5

    def __post_init__(self) -> None:
        if self.penalty not in PENALTIES:
            raise ValueError(f"penalty must be one of {', '.join(PENALTIES)}, not {self.penalty!r}")
        for name in ("penalty_size", "format_reward"):
            if not (value := getattr(self, name)) >= 0:
                raise ValueError(f"{name} must not be negative, not {value}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be between 0 and 1, not {self.threshold}")


def direct_share(group: Sequence[Verdict]) -> float | None:
    """r: how many of the right rollouts answered directly, 0 to 1; None where none is right."""
    direct, zoomed = _right(group)
    return direct / (direct + zoomed) if direct + zoomed else None


def group_rewards(group: Sequence[Verdict], settings: RewardSettings) -> list[Reward | None]:
    """The rewards of all rollouts of one prompt, in their order.

    An unscorable rollout gets None and is left out of r. Where no rollout is right there is no r, and nobody pays:
    such a group says nothing about which of the two ways is enough.

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
                penalty=settings.penalty_size if (verdict.right, verdict.zoomed) in paying else 0.0,
            )
        )
    return rewards


def _right(group: Sequence[Verdict]) -> tuple[int, int]:
    """How many rollouts are right, direct ones and zooms."""
    right = [verdict.zoomed for verdict in group if verdict.right]
    return right.count(False), right.count(True)


def _paying(direct: int, zoomed: int, settings: RewardSettings) -> set[tuple[bool, bool]]:
    """The kinds of rollout, (right, zoomed), that pay in a group with so many right ones of each way."""
    right_zoom, right_direct = (True, True), (True, False)
    match settings.penalty:
        case "off":
            return set()
        case "always":
            return {right_zoom}
        case "reference":
            r = direct / (direct + zoomed + _REFERENCE_EPSILON)
            return {right_zoom, right_direct} if 0 < r < settings.threshold else {right_zoom}
    if not direct + zoomed:
        return set()
    zooms_pay = direct / (direct + zoomed) >= settings.threshold
    paying = {(True, zooms_pay)}
    return paying if settings.penalty == "paper-correct-only" else paying | {(False, zooms_pay)}
