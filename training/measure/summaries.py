"""Summarises outcomes in a table: one row per mode and source, and one per mode over all sources, with intervals.

The overall row weighs sources by their number of questions, or by a given mix. So you can report two thirds large print
and one third small print from the same questions as equal parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vtagent.errors import DataError
from vtagent.training.measure.bootstrap import Array, interval, resampled_means, weighted_mean
from vtagent.training.measure.modes import in_order
from vtagent.training.measure.outcomes import Outcome

OVERALL = "overall"
_NONE = "–"


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
    of_full_tokens: float | None
    """Visual tokens divided by those of full resolution at once: 25 % + p · 100 % if a share p zooms on whole pages."""
    kept_of_full_tokens: float | None
    """The same without low views that a zoom replaced: 25 % + p · 75 %. See `outcomes.kept_tokens`."""
    median_seconds: float | None
    """Seconds per run, with the others in progress."""
    p95_seconds: float | None
    failed: int
    """Number of runs that raised or took too long."""
    ungraded: int
    """Number of answers that the grader could not judge. They are in no accuracy."""


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
    costs = {
        name: [[o.visual_tokens, o.kept_visual_tokens, o.full_visual_tokens] for o in part]
        for name, part in ran.items()
    }
    tokens = _mean(costs, weights)
    seconds = [(o.seconds, weights[name] / len(part)) for name, part in ran.items() for o in part]
    everything = [o for part in strata.values() for o in part]
    return SummaryRow(
        mode=mode,
        source=source,
        questions=len(everything),
        accuracy=_estimate(graded, weights),
        zoomed=_estimate({name: [[float(o.zooms > 0)] for o in part] for name, part in ran.items()}, weights),
        of_full_accuracy=_estimate(paired, weights, ratio=True),
        visual_tokens=None if tokens is None else float(tokens[0]),
        of_full_tokens=_ratio(tokens, 0),
        kept_of_full_tokens=_ratio(tokens, 1),
        median_seconds=quantile(seconds, 0.5),
        p95_seconds=quantile(seconds, 0.95),
        failed=sum(o.error is not None for o in everything),
        ungraded=sum(not _is_graded(o) for o in everything),
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


def _estimate(
    measured: Mapping[str, Sequence[Sequence[float]]], weights: Mapping[str, float], *, ratio: bool = False
) -> Estimate | None:
    """The mean of the only quantity, or the mean of the first divided by that of the second."""
    if (arrays := _arrays(measured, weights)) is None:
        return None
    mean, drawn = weighted_mean(*arrays), resampled_means(*arrays)
    if not ratio:
        return Estimate(float(mean[0]), *interval(drawn[:, 0]))
    if not mean[1]:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        return Estimate(float(mean[0] / mean[1]), *interval(drawn[:, 0] / drawn[:, 1]))


def _ratio(tokens: Array | None, of: int) -> float | None:
    return None if tokens is None or not tokens[2] else float(tokens[of] / tokens[2])


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


def markdown(rows: Sequence[SummaryRow]) -> str:
    """A table with one line per row. Columns that would be empty in every row are left out.

    Example:
        | mode | source | questions | accuracy (95 %) | zoomed | of full accuracy | visual tokens | of full | kept | … |
    """
    columns: Mapping[str, Callable[[SummaryRow], str]] = {
        "mode": lambda row: row.mode,
        "source": lambda row: row.source,
        "questions": lambda row: str(row.questions),
        "accuracy (95 % interval)": lambda row: _with_interval(row.accuracy),
        "zoomed": lambda row: _percent(row.zoomed.value if row.zoomed else None),
        "of full accuracy": lambda row: _NONE if row.mode == "full" else _with_interval(row.of_full_accuracy),
        "visual tokens": lambda row: _NONE if row.visual_tokens is None else f"{row.visual_tokens:.1f}",
        "of full": lambda row: _percent(row.of_full_tokens),
        "kept": lambda row: _percent(row.kept_of_full_tokens),
        "median s": lambda row: _seconds(row.median_seconds),
        "95 % within s": lambda row: _seconds(row.p95_seconds),
        "failed": lambda row: str(row.failed or _NONE),
        "ungraded": lambda row: str(row.ungraded or _NONE),
    }
    filled = {name: [cell(row) for row in rows] for name, cell in columns.items()}
    shown = {name: cells for name, cells in filled.items() if any(cell != _NONE for cell in cells)}
    return markdown_table([*shown], zip(*shown.values(), strict=True))


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table in Markdown.

    Args:
        head: The names of the columns.
        rows: The cells of each line.
    """
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _with_interval(figure: Estimate | None) -> str:
    return _NONE if figure is None else f"{figure.value:.1%} ({100 * figure.low:.1f}–{100 * figure.high:.1f})"


def _percent(figure: float | None) -> str:
    return _NONE if figure is None else f"{figure:.1%}"


def _seconds(figure: float | None) -> str:
    return _NONE if figure is None else f"{figure:.2f}"
