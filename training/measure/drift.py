"""Predicts from accuracies alone whether a penalty makes a policy zoom more or less, and where its share comes to rest.

A group of G rollouts zooms with probability p each. On a given page a direct answer is right with probability a_low and
one after a zoom with a_full. So the group's verdicts, rewards and advantages A (reward minus mean, divided by the
standard deviation) follow, and with them what a step of GRPO does to the log-odds of a zoom:

    drift(p) = E[ (1/G) Σ A_i · (z_i − p) ] = E[ (1/G) Σ A_i z_i ]        z_i = 1 if rollout i zooms

since advantages sum to 0. The expectation is computed exactly: over all counts of right and wrong direct answers and
zooms, and over the pages. The sign of the drift is the predicted direction. A share at which it falls through 0 is a
rest point: the policy stays there as long as it cannot tell the pages apart.

For `paper` the drift turns where zooms and direct answers swap who pays (`swap_share`). The model leaves out
everything but the decision: that replies differ in length and form, and that the policy learns which pages need a zoom.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

from vtagent.training.rewards import RewardSettings, Verdict, group_rewards

Rates = tuple[float, float]
"""Of a page: the probability that a direct answer is right, and that an answer after a zoom is."""
Shown = tuple[float, float]
"""Visual tokens ÷ those of full resolution: of a direct answer, and of an answer after a zoom."""

SHOWN: Shown = (0.25, 1.25)
"""A low view at half the sides; and that with the whole image."""
_EPSILON = 1e-4
"""TRL adds it to the standard deviation."""
_STEPS = 200
"""Shares at which rest points are looked for."""


def swap_share(a_low: float, a_full: float, threshold: float) -> float:
    """The share of zooms above which direct answers pay, and below which zooms do, for the penalties with a threshold.

    Args:
        a_low: Probability that a direct answer is right.
        a_full: Probability that an answer after a zoom is right.
        threshold: `RewardSettings.threshold`.

    Returns:
        0 to 1. With a threshold of 0, and where no zoom is right, zooms pay whatever the share: 1.

    Example:
        >>> round(swap_share(0.97, 0.97, 0.2), 3), round(swap_share(0.6, 0.97, 0.2), 3)
        (0.8, 0.712)
    """
    direct, zoom = a_low * (1 - threshold), a_full * threshold
    return direct / (direct + zoom) if zoom else 1.0


class Drift:
    """The drift of one penalty.

    Args:
        settings: The rewards.
        rollouts: Rollouts of a group.
        shown: What rollouts are shown; only `tokens` depends on it.

    Example:
        >>> easy = Drift(RewardSettings(penalty="paper", threshold=0.2), rollouts=16)
        >>> [round(easy.at(p, [(1.0, 1.0)]), 2) for p in (0.5, 0.95)]
        [-0.48, 0.12]
    """

    def __init__(self, settings: RewardSettings, *, rollouts: int, shown: Shown = SHOWN) -> None:
        self._rollouts = rollouts
        self._gain = _gains(settings, rollouts, shown)
        self._tables: dict[Rates, NDArray[np.float64]] = {}

    def at(self, p: float, pages: Sequence[Rates] | Mapping[Rates, float]) -> float:
        """The expected change of the log-odds of a zoom, in units of the step size.

        Args:
            p: The share of rollouts that zoom, 0 to 1.
            pages: The rates of each page, or of each kind of page with its weight.

        Returns:
            Positive if zooming becomes likelier.
        """
        weights = pages if isinstance(pages, Mapping) else Counter(pages)
        zooms = _binomial(self._rollouts, p)
        total = sum(weights.values())
        return float(sum(weight * (zooms @ self._by_zooms(rates)) for rates, weight in weights.items()) / total)

    def rest_points(self, pages: Sequence[Rates] | Mapping[Rates, float]) -> list[float]:
        """The shares in order at which the drift falls through 0, with 0 and 1 if the policy is driven there."""
        shares = np.linspace(0, 1, _STEPS + 1)[1:-1]
        drifts = [self.at(float(p), pages) for p in shares]
        inner = [
            float(p + (q - p) * here / (here - there))
            for p, q, here, there in zip(shares, shares[1:], drifts, drifts[1:], strict=False)
            if here > 0 >= there
        ]
        return [0.0] * (drifts[0] < 0) + inner + [1.0] * (drifts[-1] > 0)

    def _by_zooms(self, rates: Rates) -> NDArray[np.float64]:
        """The mean gain on a page for each number of zooms in the group, shape (rollouts + 1,)."""
        if rates not in self._tables:
            direct, zoom = rates
            size = self._rollouts
            table = np.zeros(size + 1)
            for zooms in range(size + 1):
                right_direct, right_zoom = _binomial(size - zooms, direct), _binomial(zooms, zoom)
                table[zooms] = right_direct @ self._gain[zooms] @ right_zoom
            self._tables[rates] = table
        return self._tables[rates]


def _gains(settings: RewardSettings, size: int, shown: Shown) -> list[NDArray[np.float64]]:
    """By number of zooms: the mean of A·z, shape (right direct answers + 1, right zooms + 1)."""
    kinds = [
        Verdict(right, True, zoomed, shown[zoomed]) for zoomed in (False, True) for right in (True, False)
    ]  # right and wrong direct answers, then right and wrong zooms
    gains = []
    for zooms in range(size + 1):
        gain = np.zeros((size - zooms + 1, zooms + 1))
        for right_direct in range(size - zooms + 1):
            for right_zoom in range(zooms + 1):
                counts = (right_direct, size - zooms - right_direct, right_zoom, zooms - right_zoom)
                group = [kind for kind, count in zip(kinds, counts, strict=True) for _ in range(count)]
                totals = np.array([reward.total for reward in group_rewards(group, settings) if reward is not None])
                advantages = (totals - totals.mean()) / (totals.std(ddof=1) + _EPSILON)
                gain[right_direct, right_zoom] = advantages[size - zooms :].sum() / size
        gains.append(gain)
    return gains


def _binomial(count: int, p: float) -> NDArray[np.float64]:
    """The probabilities of 0 to `count` successes, shape (count + 1,)."""
    return np.array([comb(count, k) * p**k * (1 - p) ** (count - k) for k in range(count + 1)])
