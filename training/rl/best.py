"""Keeps the policy that did best on held-out questions.

The more accurate one is the better one; of two that are as accurate, the one that was shown fewer visual tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from vtagent.errors import DataError
from vtagent.training.durable import write_whole

BEST = "policy-best"
"""The folder of the best policy in that of a run."""
_RECORD = "held_out.json"
"""What is known of it, in its folder."""


class BestPolicy:
    """The best policy of a run so far. It survives the end of the process.

    Args:
        folder: The folder of the run.
        save: Writes the present policy to a folder. All processes call it together.
        writes: Whether this process writes the record.
    """

    def __init__(self, folder: Path, save: Callable[[Path], None], *, writes: bool = True) -> None:
        self.folder, self._save, self._writes = folder / BEST, save, writes
        self.step: int | None = None
        """The step after which the best policy was measured; None: there is none yet."""
        self._rank: tuple[float, float] | None = None
        path = self.folder / _RECORD
        if path.exists():
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                self.step, self._rank = int(record["step"]), _rank(record["measured"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path} cannot be read; remove the folder {self.folder}") from error

    def consider(self, step: int, measured: Mapping[str, float]) -> bool:
        """Keep the present policy if it is better than all before it.

        Args:
            step: Steps that it was trained for.
            measured: What `HeldOutProbe` found. Equal on all processes.

        Returns:
            Whether it was kept.
        """
        rank = _rank(measured)
        if self._rank is not None and rank <= self._rank:
            return False
        self._save(self.folder)
        if self._writes:
            record = {"step": step, "measured": dict(measured)}
            write_whole(self.folder / _RECORD, json.dumps(record, indent=1) + "\n")
        self.step, self._rank = step, rank
        return True


def _rank(measured: Mapping[str, float]) -> tuple[float, float]:
    return measured.get("held_out/accuracy", 0.0), -measured["held_out/of_full"]
