"""Bootstrap intervals of means, and of ratios of means, over a weighted mix of sources.

This is the percentile bootstrap (Efron, 1979). Questions are drawn again with replacement within each source. The
interval of a figure holds the middle 95 % of the redrawn figures. All measurements of one question are drawn together,
so a ratio of two modes is paired. If every question had the same result, the interval is a single point: the bootstrap
cannot tell about results that were never seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 2000
_AT_ONCE = 2**22
"""Numbers drawn at a time; bounds the memory."""


def weighted_mean(strata: Sequence[Array], weights: Sequence[float]) -> Array:
    """The weighted mean of each measured quantity over strata.

    Args:
        strata: Per source an array of shape (questions, quantities). None is empty.
        weights: One per source, not negative. Only their proportions matter.

    Returns:
        Shape (quantities,).
    """
    share = np.asarray(weights, float) / np.sum(weights)
    means = np.stack([stratum.mean(axis=0) for stratum in strata])
    return np.asarray(share @ means, float)


def resampled_means(
    strata: Sequence[Array], weights: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> Array:
    """The `weighted_mean` of redrawn data sets of the same sizes.

    To redraw n questions, it draws how often each distinct row occurs. Data of right and wrong have few distinct rows,
    so they need only a few numbers per data set, whatever their length.

    Args:
        strata: Per source an array of shape (questions, quantities). None is empty.
        weights: One per source, not negative. Only their proportions matter.
        resamples: Number of redrawn data sets.
        seed: The seed of the draws.

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


def interval(figures: Array) -> tuple[float, float]:
    """The interval that holds the middle 95 % of redrawn figures.

    Args:
        figures: Shape (resamples,). Figures that are not finite (a division by zero) are left out.

    Returns:
        Its ends; nan if no figure is finite.
    """
    finite = figures[np.isfinite(figures)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(low), float(high)
