"""The summary as a Markdown table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
        "accuracy (95 % interval)": lambda row: _estimate(row.accuracy),
        "zoomed": lambda row: _percent(row.zoomed.value if row.zoomed else None),
        "of full accuracy": lambda row: _NONE if row.mode == "full" else _estimate(row.of_full_accuracy),
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
    lines = ["| " + " | ".join(shown) + " |", "|" + "---|" * len(shown)]
    lines += ["| " + " | ".join(_escaped(cell) for cell in cells) + " |" for cells in zip(*shown.values(), strict=True)]
    return "\n".join(lines)


def _estimate(figure: Estimate | None) -> str:
    return _NONE if figure is None else f"{figure.value:.1%} ({100 * figure.low:.1f}–{100 * figure.high:.1f})"


def _percent(figure: float | None) -> str:
    return _NONE if figure is None else f"{figure:.1%}"


def _seconds(figure: float | None) -> str:
    return _NONE if figure is None else f"{figure:.2f}"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
