"""An evaluation's outcomes on disk, a JSON line each as they come: what is there when it is killed is not asked again.

A folder belongs to one evaluation. settings.json says which; it is refused to any other. A line that was being written
when the process died is cut off; outcomes of runs that failed or could not be graded are asked anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from vtagent.errors import DataError
from vtagent.training.measure.outcomes import Outcome

SAMPLES = "samples.jsonl"
SETTINGS = "settings.json"


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
        _claim(out, settings)
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


def _claim(out: Path, settings: Mapping[str, Any]) -> None:
    """Write down whose folder this is, or compare."""
    path = out / SETTINGS
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        if (out / SAMPLES).exists():
            raise DataError(
                f"{out / SAMPLES} is there without {SETTINGS}: not known what it measured; name another --out"
            )
        write_whole(path, json.dumps(settings, indent=1) + "\n")
        return
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON; remove the folder or name another --out") from error
    different = [name for name in {**known, **settings} if known.get(name) != settings.get(name)]
    if different:
        name = different[0]
        raise DataError(
            f"{out} holds another evaluation ({name}: {known.get(name)!r} there, {settings.get(name)!r} here); "
            "name another --out"
        )


def _read(path: Path) -> dict[tuple[str, int], Outcome]:
    """The outcomes in the file, which is cut back to its last whole line."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data.rpartition(b"\n")[0]
    if len(data) > len(whole) + bool(whole):
        os.truncate(path, len(whole) + bool(whole))
    known = {field.name for field in fields(Outcome)}
    outcomes = {}
    for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
        try:
            outcome = Outcome(**{name: value for name, value in json.loads(line).items() if name in known})
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path}, line {number}: not an outcome; remove the line, or name another --out") from error
        outcomes[outcome.mode, outcome.number] = outcome
    return outcomes


def write_whole(path: Path, text: str) -> None:
    """Write a file so that nobody ever meets half of it."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
