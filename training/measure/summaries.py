"""Summarises outcomes: one row per mode and source, and one per mode over all sources, with intervals.

The overall row weighs sources by their number of questions, or by a given mix. So you can report two thirds large print
and one third small print from the same questions as equal parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vtagent.errors import DataError
from vtagent.training.measure.bootstrap import Array, interval, resampled_means, weighted_mean
from vtagent.training.measure.modes import in_order
from vtagent.training.measure.outcomes import Outcome

OVERALL = "overall"


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SummaryRow:
    """A line of the results table: one mode on one source, or on all of them."""

    mode: str
    source: str
    """`OVERALL` for all sources."""
    questions: int
    accuracy: Estimate | None
    """Share of the graded questions with a right answer. A failed run is not right. None: nothing was graded."""
    zoomed: Estimate | None
    """Share of the runs with more than the first view. None, as for all costs: every run failed."""
    of_full_accuracy: Estimate | None
    """Accuracy divided by that of mode `full` on the same questions. None: `full` was not asked."""
    visual_tokens: float | None
    """Mean cost per question of all views shown."""
    of_full_tokens: Estimate | None
    """Visual tokens divided by those of full resolution at once: 25 % + p · 100 % if a share p zooms on whole pages."""
    kept_of_full_tokens: Estimate | None
    """The same without low views that a zoom replaced: 25 % + p · 75 %. See `outcomes.kept_tokens`."""
    median_seconds: float | None
    """Seconds per run, with the others in progress."""
    p95_seconds: float | None
    failed: int
    """Number of runs that raised or took too long."""
    ungraded: int
    """Number of answers that the grader could not judge. They are in no accuracy."""
    holding: Estimate | None
    """Share of the zooms that show all of the asked value. None: its place is not known, or nothing zoomed."""
    area: Estimate | None
    """Mean share of the image that a zoom shows; 1 is all of it."""
    regions: Estimate | None
    """Zooms into a part of the image per run."""
    abstention_precision: Estimate | None
    """Share of the abstaining answers whose question has no answer on the image."""
    abstention_recall: Estimate | None
    """Share of the questions without an answer on the image that are answered so."""


def summarize(outcomes: Sequence[Outcome], *, mix: Mapping[str, float] | None = None) -> list[SummaryRow]:
    """Summarise outcomes.

    Args:
        outcomes: At most one for each question and mode.
        mix: The weight of each source in the overall row; a source that is missing has weight 0. A name may be
            shortened as long as only one source begins with it. Default: every question has the same weight.

    Returns:
        Rows in the order of modes, then of source names. The overall row of a mode comes last; there is none if there
        is only one source.

    Raises:
        DataError: A name of the mix fits no source, or several.
    """
    sources = sorted({outcome.source for outcome in outcomes})
    weights = None if mix is None else resolved_mix(mix, sources)
    full = {outcome.number: outcome for outcome in outcomes if outcome.mode == "full"}
    rows = []
    for mode in in_order([outcome.mode for outcome in outcomes]):
        strata = {name: [o for o in outcomes if o.mode == mode and o.source == name] for name in sources}
        strata = {name: part for name, part in strata.items() if part}
        rows += [_row(mode, name, {name: part}, {name: 1.0}, full) for name, part in strata.items()]
        if len(sources) > 1:
            counts = weights or {name: float(len(part)) for name, part in strata.items()}
            counted = {name: part for name, part in strata.items() if counts.get(name)}
            if counted:
                rows.append(_row(mode, OVERALL, counted, counts, full))
    return rows


def resolved_mix(mix: Mapping[str, float], sources: Sequence[str]) -> dict[str, float]:
    """The mix with full names.

    Args:
        mix: Weights by source; names may be shortened.
        sources: All sources.

    Returns:
        Weights by the full name of the source.

    Raises:
        DataError: A name that is not the beginning of exactly one source, or a weight that is not valid.
    """
    weights: dict[str, float] = {}
    for name, weight in mix.items():
        found = [name] if name in sources else [source for source in sources if source.startswith(name)]
        if len(found) != 1:
            raise DataError(f"the mix names {name!r}, which is {len(found)} of the sources: {', '.join(sources)}")
        if not 0 <= weight < float("inf"):
            raise DataError(f"the mix gives {name!r} the weight {weight}; it must be a number from 0 up")
        weights[found[0]] = weight
    if not any(weights.values()):
        raise DataError("the mix gives every source the weight 0")
    return weights


def _row(
    mode: str,
    source: str,
    strata: Mapping[str, Sequence[Outcome]],
    weights: Mapping[str, float],
    full: Mapping[int, Outcome],
) -> SummaryRow:
    graded = {name: [[float(bool(o.right))] for o in part if _is_graded(o)] for name, part in strata.items()}
    paired = {
        name: [
            [float(bool(o.right)), float(bool(full[o.number].right))]
            for o in part
            if _is_graded(o) and o.number in full and _is_graded(full[o.number])
        ]
        for name, part in strata.items()
    }
    ran = {name: [o for o in part if o.error is None] for name, part in strata.items()}
    tokens = _mean({name: [[o.visual_tokens] for o in part] for name, part in ran.items()}, weights)

    def figure(measured: Callable[[Outcome], Sequence[float] | None], *, ratio: bool = False) -> Estimate | None:
        """The estimate of what is measured of each run that did not fail; None leaves a run out."""
        rows = {name: [row for o in part if (row := measured(o)) is not None] for name, part in ran.items()}
        return estimate(rows, weights, ratio=ratio)

    seconds = [(o.seconds, weights[name] / len(part)) for name, part in ran.items() for o in part]
    everything = [o for part in strata.values() for o in part]
    return SummaryRow(
        mode=mode,
        source=source,
        questions=len(everything),
        accuracy=estimate(graded, weights),
        zoomed=figure(lambda o: [o.zooms > 0]),
        of_full_accuracy=estimate(paired, weights, ratio=True),
        visual_tokens=None if tokens is None else float(tokens[0]),
        of_full_tokens=figure(lambda o: [o.visual_tokens, o.full_visual_tokens], ratio=True),
        kept_of_full_tokens=figure(lambda o: [o.kept_visual_tokens, o.full_visual_tokens], ratio=True),
        median_seconds=quantile(seconds, 0.5),
        p95_seconds=quantile(seconds, 0.95),
        failed=sum(o.error is not None for o in everything),
        ungraded=sum(not _is_graded(o) for o in everything),
        holding=figure(lambda o: None if o.holding is None else [o.holding, o.zooms], ratio=True),
        area=figure(lambda o: [o.area, o.zooms], ratio=True),
        regions=figure(lambda o: [o.regions]),
        abstention_precision=figure(lambda o: [o.abstained and o.unanswerable, o.abstained], ratio=True),
        abstention_recall=figure(lambda o: [o.abstained] if o.unanswerable else None),
    )


def _is_graded(outcome: Outcome) -> bool:
    return outcome.right is not None or outcome.error is not None


def _arrays(
    measured: Mapping[str, Sequence[Sequence[float]]], weights: Mapping[str, float]
) -> tuple[list[Array], list[float]] | None:
    """The strata that are not empty, each of shape (questions, quantities), with their weights; None if all are."""
    parts = {name: np.asarray(rows, float) for name, rows in measured.items() if rows}
    return ([*parts.values()], [weights[name] for name in parts]) if parts else None


def _mean(measured: Mapping[str, Sequence[Sequence[float]]], weights: Mapping[str, float]) -> Array | None:
    arrays = _arrays(measured, weights)
    return None if arrays is None else weighted_mean(*arrays)


def estimate(
    measured: Mapping[str, Sequence[Sequence[float]]], weights: Mapping[str, float], *, ratio: bool = False
) -> Estimate | None:
    """Estimate a mean over sources, or the ratio of two.

    Args:
        measured: Per source one row for each question: the quantity, or with `ratio` the two to be divided.
        weights: The weight of each source.
        ratio: Whether to divide the mean of the first quantity by that of the second.

    Returns:
        The estimate; None without any row, or if the ratio would be divided by zero.
    """
    if (arrays := _arrays(measured, weights)) is None:
        return None
    mean, drawn = weighted_mean(*arrays), resampled_means(*arrays)
    if not ratio:
        return Estimate(float(mean[0]), *interval(drawn[:, 0]))
    if not mean[1]:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        return Estimate(float(mean[0] / mean[1]), *interval(drawn[:, 0] / drawn[:, 1]))


def quantile(weighted: Sequence[tuple[float, float]], level: float) -> float | None:
    """A quantile of weighted values.

    Args:
        weighted: Pairs of value and weight.
        level: The level of the quantile, 0 to 1.

    Returns:
        The smallest value such that it and all smaller values hold at least `level` of the weight. None: no values.
    """
    if not weighted:
        return None
    values, weights = np.asarray(sorted(weighted), float).T
    reached = np.cumsum(weights) / np.sum(weights)
    return float(values[min(int(np.searchsorted(reached, level - 1e-12)), len(values) - 1)])
