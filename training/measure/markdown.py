"""Writes summaries as Markdown tables: results, where zooms looked, and what the tool was good for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vtagent.training.measure.effects import ToolEffect
from vtagent.training.measure.summaries import Estimate, SummaryRow

_NONE = "–"


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
        "of full": lambda row: _with_interval(row.of_full_tokens),
        "kept": lambda row: _percent(row.kept_of_full_tokens.value if row.kept_of_full_tokens else None),
        "median s": lambda row: _seconds(row.median_seconds),
        "95 % within s": lambda row: _seconds(row.p95_seconds),
        "failed": lambda row: str(row.failed or _NONE),
        "ungraded": lambda row: str(row.ungraded or _NONE),
    }
    return _table(columns, rows)


def looks_markdown(rows: Sequence[SummaryRow]) -> str:
    """A table of where zooms looked and of abstention; empty if no run zoomed into a part and none abstained.

    Example:
        | mode | source | zoomed | zooms that hold the value | area of a zoom | regions a run | … |
    """
    columns: Mapping[str, Callable[[SummaryRow], str]] = {
        "mode": lambda row: row.mode,
        "source": lambda row: row.source,
        "zoomed": lambda row: _with_interval(row.zoomed),
        "zooms that hold the value": lambda row: _with_interval(row.holding),
        "area of a zoom": lambda row: _with_interval(row.area),
        "regions a run": lambda row: _NONE if row.regions is None else f"{row.regions.value:.2f}",
        "abstention: precision": lambda row: _with_interval(row.abstention_precision),
        "recall": lambda row: _with_interval(row.abstention_recall),
    }
    telling = [
        row
        for row in rows
        if (row.regions and row.regions.value) or row.holding or row.abstention_precision or row.abstention_recall
    ]
    return _table(columns, telling) if telling else ""


def effects_markdown(effects: Sequence[ToolEffect]) -> str:
    """A table of what a zoom does to the answers of each source, with intervals.

    Example:
        | tool effect | questions | helped | hurt | no difference | right either way |
    """
    columns: Mapping[str, Callable[[ToolEffect], str]] = {
        "tool effect": lambda effect: effect.source,
        "questions": lambda effect: str(effect.questions),
        "helped": lambda effect: _with_interval(effect.helped),
        "hurt": lambda effect: _with_interval(effect.hurt),
        "no difference": lambda effect: _with_interval(effect.no_difference),
        "right either way": lambda effect: _with_interval(effect.both_right),
    }
    return _table(columns, effects) if effects else ""


def _table(columns: Mapping[str, Callable[[Any], str]], rows: Sequence[Any]) -> str:
    """A table without the columns that would be empty in every row."""
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
