"""The outcomes of an evaluation on disk, one JSON line each. After a kill, only the missing questions are asked.

A folder belongs to one evaluation, which its settings.json names; any other one is refused. A line that was not
complete when the process died is cut off. Questions whose run failed or could not be graded are asked again.
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
    """The outcomes of one evaluation. Use it as a context manager.

    Args:
        out: The folder; made if missing.
        settings: Everything that decides an outcome, as JSON values: model, data, grader, sampling.

    Raises:
        DataError: The folder holds another evaluation, or lines that are not outcomes.
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
        """All outcomes. If a question was asked several times in one mode, the last one counts."""
        return list(self._outcomes.values())

    def get(self, mode: str, number: int) -> Outcome | None:
        """The outcome of a question in a mode. None: it has to be asked.

        Args:
            mode: The name of the mode.
            number: The number of the example, from 0.
        """
        outcome = self._outcomes.get((mode, number))
        return outcome if outcome is not None and outcome.right is not None and outcome.error is None else None

    def add(self, outcome: Outcome) -> None:
        """Keep an outcome. When this returns, it is in the file and survives the end of this process."""
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
