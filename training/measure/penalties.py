"""What several runs under several penalties have in common: the share that zooms against steps, over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from vtagent.training.measure.curves import History, by_source, curve
from vtagent.training.measure.plots import Series, plot_curves

Runs = Mapping[str, Sequence[History]]
"""{penalty: what each seed's run has logged}."""

WINDOW = 5
"""Steps that one figure is the mean of: a step's share is of some dozens of rollouts, and jumps."""

_STOPS = 5
"""Columns of the table: how often training is looked at, its beginning and its end included."""


def smoothed(series: Series, window: int = WINDOW) -> Series:
    """Each value the mean of itself and those of the `window - 1` steps before it, as far as there are any."""
    means = [fmean(series.y[max(0, end - window) : end]) for end in range(1, len(series.y) + 1)]
    return Series(series.x, means)


def over_seeds(curves: Sequence[Series]) -> Series:
    """The mean of several runs' curves, with the lowest and the highest as its band, at the steps that all have."""
    values = [dict(zip(own.x, own.y, strict=True)) for own in curves]
    steps = sorted(set.intersection(*(set(own) for own in values)))
    at = [[own[step] for own in values] for step in steps]
    return Series(steps, [fmean(own) for own in at], [min(own) for own in at], [max(own) for own in at])


def zoom_shares(runs: Runs) -> dict[str, dict[str, Series]]:
    """{source: {penalty: share that zooms against steps}}, smoothed and over seeds."""
    shares: dict[str, dict[str, Series]] = {}
    for penalty, histories in runs.items():
        found = [by_source(history, "zoom") for history in histories]
        for source in sorted({source for own in found for source in own}):
            curves = [smoothed(own[source]) for own in found if source in own]
            shares.setdefault(source, {})[penalty] = over_seeds(curves)
    return shares


def table(runs: Runs) -> str:
    """A Markdown table: a line per penalty and source, the share that zooms at evenly spaced steps, and what it led to.

    Several seeds' figures are their mean, with the lowest and the highest behind it.
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
    """The share that zooms against steps: a panel per source, a line per penalty, its seeds a band."""
    panels = {f"share that zooms, {source}": lines for source, lines in zoom_shares(runs).items()}
    plot_curves(panels, path, y=f"% of rollouts, mean of {WINDOW} steps")


def _stops(steps: Sequence[float]) -> list[float]:
    if len(steps) <= _STOPS:
        return list(steps)
    first = WINDOW - 1  # the first full window
    span = len(steps) - 1 - first
    return [steps[first + round(span * stop / (_STOPS - 1))] for stop in range(_STOPS)]


def _end(curves: Sequence[Series | None]) -> str:
    known = [smoothed(own) for own in curves if own is not None]
    if not known:
        return "–"
    return _cell(over_seeds([Series([0], own.y[-1:]) for own in known]), 0)


def _cell(series: Series, step: float) -> str:
    if step not in series.x:
        return "–"
    place = list(series.x).index(step)
    low, value, high = (100 * side[place] for side in (series.low, series.y, series.high))
    return f"{value:.0f} %" if high - low < 0.5 else f"{value:.0f} % ({low:.0f}–{high:.0f})"
