"""Writes the results of a benchmark as JSON and as a Markdown table, with the machine that it ran on."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def report(name: str, rows: list[dict[str, Any]], *, note: str) -> None:
    """Writes benchmarks/results/<name>.json and <name>.md, and prints the table.

    Args:
        name: Name of the benchmark and of the files.
        rows: One dictionary of JSON values per line. All have the same keys, in the order of the columns.
        note: One or two sentences on what was measured, how, and what follows from it.
    """
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    table = "\n".join(
        [_line(list(rows[0])), _line(["---"] * len(rows[0])), *(_line(list(row.values())) for row in rows)]
    )
    on = ", ".join(f"{key} {value}" for key, value in machine.items())
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"name": name, "note": note, "on": machine, "rows": rows}, indent=1, ensure_ascii=False)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(f"# {name}\n\n{note}\n\n{table}\n\nMeasured on: {on}.\n", encoding="utf-8")
    print(f"{name}: {note}\n\n{table}")


def _line(cells: list[Any]) -> str:
    """Returns one line of a Markdown table."""
    return "| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"
