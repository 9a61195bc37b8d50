"""Compares runs under several penalties: the share that zooms against training steps, over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from vtagent.training.measure.curves import History, by_source, curve
from vtagent.training.measure.plots import Series, plot_curves

Runs = Mapping[str, Sequence[History]]
"""{penalty: the log of each seed's run}."""

WINDOW = 5
"""Steps per moving average. A step has only some dozens of rollouts, so its share is noisy."""

_STOPS = 5
"""Columns of the table: points in training, including its beginning and its end."""


def smoothed(series: Series, window: int = WINDOW) -> Series:
    """The moving average of a series.

    Args:
        series: The series.
        window: Steps per average: each step and those before it. The first steps have fewer.
    """
    means = [fmean(series.y[max(0, end - window) : end]) for end in range(1, len(series.y) + 1)]
    return Series(series.x, means)


def over_seeds(curves: Sequence[Series]) -> Series:
    """The mean of several curves at the steps that all of them have, with the lowest and the highest as a band."""
    values = [dict(zip(own.x, own.y, strict=True)) for own in curves]
    steps = sorted(set.intersection(*(set(own) for own in values)))
    at = [[own[step] for own in values] for step in steps]
    return Series(steps, [fmean(own) for own in at], [min(own) for own in at], [max(own) for own in at])


def zoom_shares(runs: Runs) -> dict[str, dict[str, Series]]:
    """{source: {penalty: the share that zooms against steps}}, smoothed and averaged over seeds."""
    shares: dict[str, dict[str, Series]] = {}
    for penalty, histories in runs.items():
        found = [by_source(history, "zoom") for history in histories]
        for source in sorted({source for own in found for source in own}):
            curves = [smoothed(own[source]) for own in found if source in own]
            shares.setdefault(source, {})[penalty] = over_seeds(curves)
    return shares


def table(runs: Runs) -> str:
    """A Markdown table with a line per penalty and source: the share that zooms at evenly spaced steps, and results.

    A figure over several seeds is their mean, followed by the lowest and the highest.
    """
    shares = zoom_shares(runs)
    steps = sorted({step for own in shares.values() for series in own.values() for step in series.x})
    stops = _stops(steps)
    head = ["penalty", "source", *(f"step {step:g}" for step in stops), "right at the end", "tokens of full"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for penalty, histories in runs.items():
        tokens = _end([curve(history, "visual_tokens/of_full") for history in histories])
        for source in (source for source in shares if penalty in shares[source]):
            right = _end([by_source(history, "accuracy").get(source) for history in histories])
            cells = [_cell(shares[source][penalty], step) for step in stops]
            lines.append("| " + " | ".join([penalty, source, *cells, right, tokens]) + " |")
    return "\n".join(lines)


def plot(runs: Runs, path: Path) -> None:
    """Plot the share that zooms against steps: a panel per source, a line per penalty, and a band over seeds."""
    panels = {f"share that zooms, {source}": lines for source, lines in zoom_shares(runs).items()}
    plot_curves(panels, path, y=f"% of rollouts, mean of {WINDOW} steps")


def _stops(steps: Sequence[float]) -> list[float]:
    """At most `_STOPS` evenly spaced steps; the first is the first with a full window."""
    if len(steps) <= _STOPS:
        return list(steps)
    first = WINDOW - 1
    span = len(steps) - 1 - first
    return [steps[first + round(span * stop / (_STOPS - 1))] for stop in range(_STOPS)]


def _end(curves: Sequence[Series | None]) -> str:
    """The last values of the curves, as a cell."""
    known = [smoothed(own) for own in curves if own is not None]
    if not known:
        return "–"
    return _cell(over_seeds([Series([0], own.y[-1:]) for own in known]), 0)


def _cell(series: Series, step: float) -> str:
    """The value at a step in percent, with its band unless that is narrow."""
    if step not in series.x:
        return "–"
    place = list(series.x).index(step)
    low, value, high = (100 * side[place] for side in (series.low, series.y, series.high))
    return f"{value:.0f} %" if high - low < 0.5 else f"{value:.0f} % ({low:.0f}–{high:.0f})"
