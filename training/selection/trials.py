"""What sampling at two resolutions says of a question: a low view suffices, full resolution is needed, or neither.

Finished questions are kept as one JSON line each, so that a selection that was killed goes on after the last whole one.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from vtagent.errors import DataError
from vtagent.training.durable import claim, cut_to_whole_lines, read_whole_lines, write_whole

Kind: TypeAlias = Literal["low resolution suffices", "needs full resolution"]
SUFFICES: Kind = "low resolution suffices"
NEEDS_FULL: Kind = "needs full resolution"


@dataclass(frozen=True)
class Trial:
    """One question that was answered several times at each resolution."""

    id: str
    image: str | None
    """Its file, relative to the folder; None for a question that was not selected."""
    question: str
    answers: tuple[str, ...]
    source: str
    low: int
    """Right answers at low resolution."""
    full: int
    """Right answers at full resolution."""
    samples: int
    """Answers at each."""


def kind_of(low: int, full: int, samples: int, gain: int) -> Kind | None:
    """What a question is good for (VisionThink, arXiv:2507.13348, section 3: 8 samples, a gain of 6).

    Args:
        low: Right answers at low resolution.
        full: Right answers at full resolution.
        samples: Answers at each.
        gain: So many more have to be right at full resolution, for it to be needed.
    """
    if low == full == samples:
        return SUFFICES
    return NEEDS_FULL if full - low >= gain else None


class TrialLog:
    """The trials in a folder; this process appends to a file of its own and knows all others'.

    Args:
        folder: Made if missing.
        settings: All that a trial depends on. A folder belongs to one selection and is refused to others.
        name: The file to append to.

    Raises:
        DataError: The folder belongs to another selection, or cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, name: str = "trials.jsonl") -> None:
        self.folder = folder
        self.path = folder / name
        try:
            (folder / "images").mkdir(parents=True, exist_ok=True)
            self.settings = claim(folder, settings, what="selection")
            cut_to_whole_lines(self.path)
        except OSError as error:
            raise DataError(f"{folder}: {error.strerror}") from error
        self.trials: dict[str, Trial] = {}
        for path in sorted(folder.glob("trials*.jsonl")):
            self.trials.update((trial.id, trial) for trial in _read(path))

    def add(self, trial: Trial) -> None:
        """Keep a trial. When this returns it is in the file, whatever becomes of this process."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(trial), ensure_ascii=False) + "\n")
        self.trials[trial.id] = trial

    def keep_image(self, data: bytes, name: str) -> str:
        """Write an image file, whole or not at all; its path relative to the folder."""
        path = self.folder / "images" / name
        if not path.exists():
            write_whole(path, data)
        return f"images/{name}"

    def selected(self, gain: int, want: int | None = None) -> list[tuple[Kind, Trial]]:
        """The questions of both kinds, at most `want` of each, in an order that depends on their ids alone."""
        taken: Counter[Kind] = Counter()
        rows: list[tuple[Kind, Trial]] = []
        for trial in sorted(self.trials.values(), key=lambda trial: hashlib.sha256(trial.id.encode()).digest()):
            kind = kind_of(trial.low, trial.full, trial.samples, gain)
            if kind is not None and trial.image is not None and (want is None or taken[kind] < want):
                taken[kind] += 1
                rows.append((kind, trial))
        return rows


def write_selected(path: Path, selected: Iterable[tuple[Kind, Trial]]) -> None:
    """Write the rows that `open_examples` reads, their images beside the file."""
    rows = [
        {
            "id": trial.id,
            "image": trial.image,
            "question": trial.question,
            "answers": list(trial.answers),
            "source": trial.source,
            "kind": kind,
            "right_low": trial.low,
            "right_full": trial.full,
            "samples": trial.samples,
        }
        for kind, trial in selected
    ]
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def count_table(trials: Sequence[Trial]) -> list[list[int]]:
    """How many questions had `low` right answers at low and `full` at full resolution: cell [full][low]."""
    samples = max(trial.samples for trial in trials)
    table = [[0] * (samples + 1) for _ in range(samples + 1)]
    for trial in trials:
        table[trial.full][trial.low] += 1
    return table


def _read(path: Path) -> list[Trial]:
    """The whole lines of a file; one that another process is writing now is left out."""
    trials = []
    for number, line in enumerate(read_whole_lines(path), 1):
        try:
            fields = json.loads(line)
            trials.append(Trial(**{**fields, "answers": tuple(fields["answers"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}, line {number}: not a trial; remove the line") from error
    return trials
