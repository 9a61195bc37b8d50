"""Bootstrap intervals of means, of ratios of means, and of both over a weighted mix of sources.

The percentile bootstrap (Efron, 1979): questions are drawn again with replacement, within each source, and a figure's
interval is where the middle 95 % of the redrawn figures lie. What was measured on one question is drawn together, so a
ratio of two modes is paired. Where every question came out the same, the interval is a point: it knows nothing of what
was never seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 2000
_AT_ONCE = 2**22
"""Numbers drawn at a time, to bound memory."""


def weighted_mean(strata: Sequence[Array], weights: Sequence[float]) -> Array:
    """The mean of each measured quantity over strata that count as `weights` says.

    Args:
        strata: Per source an array (questions, quantities); none is empty.
        weights: One per source, not negative; only their proportions matter.

    Returns:
        Shape (quantities,).
    """
    share = np.asarray(weights, float) / np.sum(weights)
    means = np.stack([stratum.mean(axis=0) for stratum in strata])
    return np.asarray(share @ means, float)


def resampled_means(
    strata: Sequence[Array], weights: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> Array:
    """`weighted_mean` of `resamples` redrawn data sets of the same sizes.

    Redrawing n questions is drawing how often each distinct row occurs, so right-or-wrong data of any length cost a
    handful of numbers a time.

    Returns:
        Shape (resamples, quantities). Equal arguments give equal numbers.
    """
    rng = np.random.default_rng(seed)
    share = np.asarray(weights, float) / np.sum(weights)
    means = np.zeros((resamples, strata[0].shape[1]))
    for weight, stratum in zip(share, strata, strict=True):
        rows, counts = np.unique(stratum, axis=0, return_counts=True)
        step = max(1, _AT_ONCE // len(rows))
        for start in range(0, resamples, step):
            part = means[start : start + step]
            drawn = rng.multinomial(len(stratum), counts / len(stratum), size=len(part))
            part += weight * (drawn @ rows) / len(stratum)
    return means


def interval(figures: Array, *, level: float = 0.95) -> tuple[float, float]:
    """Where the middle `level` of redrawn figures lie; those that are not finite (a ratio to nothing) are left out."""
    finite = figures[np.isfinite(figures)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
