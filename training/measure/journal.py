"""An evaluation's outcomes on disk, a JSON line each as they come: what is there when it is killed is not asked again.

A folder belongs to one evaluation. settings.json says which; it is refused to any other. A line that was being written
when the process died is cut off; outcomes of runs that failed or could not be graded are asked anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from vtagent.errors import DataError
from vtagent.training.durable import SETTINGS, claim, cut_to_whole_lines, read_whole_lines
from vtagent.training.measure.outcomes import Outcome

SAMPLES = "samples.jsonl"


class Journal:
    """The outcomes of one evaluation; use it as a context manager.

    Args:
        out: The folder; made if missing.
        settings: All that decides an outcome, as JSON values: model, data, grader, sampling.

    Raises:
        DataError: The folder holds an evaluation of other settings, or lines that are not ours.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.path = out / SAMPLES
        out.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and not (out / SETTINGS).exists():
            raise DataError(f"{self.path} is there without {SETTINGS}: not known what it measured; name another --out")
        claim(out, settings, what="evaluation")
        cut_to_whole_lines(self.path)
        self._outcomes = _read(self.path)
        self.session = 1 + max((o.session for o in self._outcomes.values()), default=-1)
        self._file: TextIO | None = None

    @property
    def outcomes(self) -> list[Outcome]:
        """All that is known: of several outcomes of one question in one mode the last."""
        return list(self._outcomes.values())

    def get(self, mode: str, number: int) -> Outcome | None:
        """The outcome of a question in a mode; None if it is still to be asked."""
        outcome = self._outcomes.get((mode, number))
        return outcome if outcome is not None and outcome.right is not None and outcome.error is None else None

    def add(self, outcome: Outcome) -> None:
        """Keep an outcome. It is in the file, whatever becomes of this process, when this returns."""
        if self._file is None:
            self._file = self.path.open("a", encoding="utf-8")
        self._file.write(json.dumps(asdict(outcome)) + "\n")
        self._file.flush()
        self._outcomes[outcome.mode, outcome.number] = outcome

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _read(path: Path) -> dict[tuple[str, int], Outcome]:
    """The outcomes in the file, by mode and number."""
    known = {field.name for field in fields(Outcome)}
    outcomes = {}
    for number, line in enumerate(read_whole_lines(path), 1):
        try:
            outcome = Outcome(**{name: value for name, value in json.loads(line).items() if name in known})
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path}, line {number}: not an outcome; remove the line, or name another --out") from error
        outcomes[outcome.mode, outcome.number] = outcome
    return outcomes
