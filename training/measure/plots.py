"""Plots: accuracy against visual tokens, the sweep of the zoom bias, and curves over training.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart. Series also differ in marker or dash.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtagent.training.durable import replacing
from vtagent.training.measure.modes import zoom_bias_of
from vtagent.training.measure.summaries import OVERALL, Estimate, SummaryRow

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
_STYLE: Mapping[str, tuple[str, str]] = {
    "full": ("#000000", "s"),
    "quarter": ("#E69F00", "v"),
    "zoom": ("#0072B2", "o"),
    "forced-zoom": ("#D55E00", "^"),
    "forced-direct": ("#CC79A7", "D"),
}
_SWEEP = "#56B4E9"


@dataclass(frozen=True)
class Series:
    """One line of a plot. `low` and `high`, if given, are a band around it."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def plot_accuracy(rows: Sequence[SummaryRow], path: Path) -> None:
    """Plot accuracy against visual tokens, with a panel for all questions and one per source. A sweep is a line.

    Args:
        rows: The summary.
        path: The PNG file to write.
    """
    panels = {row.source: [r for r in rows if r.source == row.source] for row in rows}
    names = sorted(panels, key=lambda name: (name != OVERALL, name))
    with figure(len(names), path, width=4.4, height=4.0) as axes:
        for axis, name in zip(axes, names, strict=True):
            _accuracy_panel(axis, panels[name])
            axis.set_title(f"{name}, {max(row.questions for row in panels[name])} questions")
            axis.set_xlabel("visual tokens read, % of full resolution")
        axes[0].set_ylabel("accuracy, % (bars: 95 % interval)")
        _one_legend(axes)


def plot_sweep(rows: Sequence[SummaryRow], path: Path) -> bool:
    """Plot the share that zooms and the accuracy against the zoom bias, with a line per source.

    Args:
        rows: The summary.
        path: The PNG file to write.

    Returns:
        Whether a file was written. False: the summary has no sweep.
    """
    swept = [row for row in rows if zoom_bias_of(row.mode) is not None]
    if len({row.mode for row in swept}) < 2:
        return False
    names = sorted({row.source for row in swept}, key=lambda name: (name != OVERALL, name))
    with figure(2, path, width=4.8, height=4.0) as axes:
        for axis, shown, label in zip(axes, ("zoomed", "accuracy"), ("share that zooms", "accuracy"), strict=True):
            for place, name in enumerate(names):
                found = sorted(
                    (zoom_bias_of(row.mode) or 0.0, getattr(row, shown)) for row in swept if row.source == name
                )
                points = [(bias, estimate) for bias, estimate in found if estimate is not None]
                series = Series(
                    [bias for bias, _ in points],
                    [estimate.value for _, estimate in points],
                    [estimate.low for _, estimate in points],
                    [estimate.high for _, estimate in points],
                )
                _line(axis, series, name, place)
            axis.set_xlabel("zoom bias, added to the log-odds of a call")
            axis.set_ylabel(f"{label}, % (band: 95 % interval)")
            axis.set_ylim(-3, 103)
        _one_legend(axes)
    return True


def plot_curves(
    panels: Mapping[str, Mapping[str, Series]], path: Path, *, x: str = "optimiser steps", y: str = "%"
) -> None:
    """Plot shares over training: a panel per title, a line per label. A label has the same colour in all panels.

    Args:
        panels: {title: {label: series}}; at least one. The values are shares; they are shown as percentages.
        path: The PNG file to write.
        x: The label of the horizontal axis.
        y: The label of the vertical axis.
    """
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    with figure(len(panels), path, width=4.8, height=3.8) as axes:
        for axis, (title, lines) in zip(axes, panels.items(), strict=True):
            for label, series in lines.items():
                _line(axis, series, label, labels.index(label), markers=False)
            axis.set_title(title)
            axis.set_xlabel(x)
            axis.xaxis.get_major_locator().set_params(integer=True)
            # The share of visual tokens can exceed 100 %.
            axis.set_ylim(-3, 103 * max([1.0, *(value for series in lines.values() for value in series.y)]))
        axes[0].set_ylabel(y)
        _one_legend(axes)


def _accuracy_panel(axis: Any, rows: Sequence[SummaryRow]) -> None:
    placed = [(row, row.of_full_tokens, row.accuracy) for row in rows]
    points = [(row, 100 * tokens.value, accuracy) for row, tokens, accuracy in placed if tokens and accuracy]
    swept = sorted(
        ((bias, tokens, accuracy) for row, tokens, accuracy in points if (bias := zoom_bias_of(row.mode)) is not None),
        key=lambda point: point[0],
    )
    if len(swept) > 1:
        axis.plot(
            [tokens for _, tokens, _ in swept],
            [100 * accuracy.value for _, _, accuracy in swept],
            color=_SWEEP,
            marker=".",
            markersize=8,
            linewidth=1.8,
            label="zoom bias swept",
            zorder=1,
        )
        labelled: list[tuple[float, float]] = []
        for bias, tokens, accuracy in swept:
            near = any(abs(tokens - x) < 6 and abs(accuracy.value - y) < 0.04 for x, y in labelled)
            if bias and not near:
                labelled.append((tokens, accuracy.value))
                axis.annotate(
                    f"{bias:+g}",
                    (tokens, 100 * accuracy.value),
                    xytext=(6, -11),
                    textcoords="offset points",
                    fontsize=7,
                    color="#33789c",
                )
    for row, tokens, accuracy in points:
        if row.mode in _STYLE:
            colour, marker = _STYLE[row.mode]
            _point(axis, tokens, accuracy, colour, marker, row.mode)
    axis.set_xlim(0, max([130, *(1.05 * tokens for _, tokens, _ in points)]))
    low = min((accuracy.low for _, _, accuracy in points), default=0.0)
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.set_ylim(max(-3.0, 100 * low - 8), 103)


def _point(axis: Any, x: float, accuracy: Estimate, colour: str, marker: str, label: str) -> None:
    y = 100 * accuracy.value
    bars = [[max(0.0, y - 100 * accuracy.low)], [max(0.0, 100 * accuracy.high - y)]]
    forced = label.startswith("forced")  # hollow, since they often lie on other points
    axis.errorbar(
        x,
        y,
        yerr=bars,
        color=colour,
        marker=marker,
        markersize=10 if forced else 8,
        markerfacecolor="none" if forced else colour,
        markeredgewidth=1.6,
        capsize=3,
        linestyle="none",
        label=label,
    )


def _line(axis: Any, series: Series, label: str, place: int, *, markers: bool = True) -> None:
    colour, dash = COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]
    axis.plot(
        series.x,
        [100 * value for value in series.y],
        color=colour,
        linestyle=dash,
        linewidth=1.8,
        marker="o" if markers else None,
        markersize=4,
        label=label,
    )
    if series.low:
        low, high = ([100 * value for value in side] for side in (series.low, series.high))
        axis.fill_between(series.x, low, high, color=colour, alpha=0.15, linewidth=0)


def _one_legend(axes: Sequence[Any]) -> None:
    """One legend under all panels, with every label once."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        axes[0].figure.legend(
            found.values(), found, loc="outside lower center", ncols=min(6, len(found)), frameon=False, fontsize=9
        )


@contextmanager
def figure(panels: int, path: Path, *, width: float, height: float) -> Iterator[list[Any]]:
    """Draw a figure with at most three panels in a row.

    Args:
        panels: Number of panels.
        path: The PNG file to write when the block ends; its folder is made if missing.
        width: Of a panel, in inches.
        height: Of a panel, in inches.

    Yields:
        The axes of the panels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, panels)
    lines = math.ceil(panels / columns)
    drawn = Figure(figsize=(max(5.0, width * columns), height * lines + 0.5), layout="constrained")
    FigureCanvasAgg(drawn)
    grid = drawn.subplots(lines, columns, squeeze=False)
    axes = [axis for line in grid for axis in line]
    for axis in axes[panels:]:
        axis.set_visible(False)
    for axis in axes[:panels]:
        axis.grid(color="#dddddd", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    yield axes[:panels]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        drawn.savefig(part, dpi=150, format="png")
