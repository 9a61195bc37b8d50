"""Ends a run that trains on nothing: its judge is gone, its replies are cut off, or its rollouts all earn the same.

A run goes on for hours while it learns nothing, and ends as if all were well, unless somebody looks. So each generation
is looked at before it is trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from vtagent.errors import VtagentError
from vtagent.training.rl.metrics import Scored

__all__ = ["BarrenRun", "Barrenness"]

_WHY: Mapping[str, str] = {
    "judge": "the judge gave no verdict",
    "truncated": "a reply was cut off: raise max_completion_length",
    "failed": "the run of the graph failed: see the rollouts",
    "same": "all rollouts of a question earned the same: take harder or easier questions, or more rollouts of each",
}


class BarrenRun(VtagentError):
    """A run has nothing to learn from. What it has learned before is in its last checkpoint."""


class Barrenness:
    """Counts the generations in a row that teach nothing.

    Args:
        share: Share of the groups that teach nothing from which a generation is barren, above 0 and at most 1.
        patience: Barren generations in a row that end the run; 0: none do.
    """

    def __init__(self, share: float, patience: int) -> None:
        self._share, self._patience = share, patience
        self._in_a_row = 0

    def read(self, groups: Sequence[Sequence[Scored]], *, same: int, step: int) -> None:
        """Look at a generation before it is trained on.

        Args:
            groups: The groups of all processes.
            same: How many of them teach nothing.
            step: The step that would train on them, counted from 1.

        Raises:
            BarrenRun: The rows have no verdict, or too many generations in a row have taught nothing.
        """
        rows = [row for group in groups for row in group]
        failures = Counter(row.failure for row in rows if row.failure is not None)
        if self._patience and failures["judge"] >= self._share * len(rows):
            raise BarrenRun(_said(step, failures["judge"], len(rows), "judge"))
        if same < self._share * len(groups):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if self._patience and self._in_a_row >= self._patience:
            why, count = failures.most_common(1)[0] if failures else ("same", len(rows))
            if 2 * count < len(rows):
                why, count = "same", len(rows) - sum(failures.values())
            said = _said(step, count, len(rows), why)
            raise BarrenRun(f"{self._in_a_row} generations in a row taught nothing; {said}")


def _said(step: int, count: int, rows: int, why: str) -> str:
    return f"step {step}: {count} of {rows} rollouts teach nothing, because {_WHY[why]}"
