"""Trials: what answers at two resolutions say about a question, and the files that keep them.

Each finished question is one JSON line, so a selection that was killed continues after the last whole line.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from vtagent.errors import DataError
from vtagent.pixels import ImageLimits, inspect
from vtagent.training.durable import claim, cut_to_whole_lines, read_whole_lines, write_whole

Kind: TypeAlias = Literal["low resolution suffices", "needs full resolution"]
SUFFICES: Kind = "low resolution suffices"
NEEDS_FULL: Kind = "needs full resolution"


@dataclass(frozen=True)
class Trial:
    """The result of one question, which was answered several times at each resolution."""

    id: str
    image: str | list[str] | None
    """The image file, relative to the folder; a list unless there is exactly one. None: the question was not
    selected."""
    question: str
    answers: tuple[str, ...]
    source: str
    low: int
    """Right answers at low resolution."""
    full: int
    """Right answers at full resolution."""
    samples: int
    """Answers at each resolution."""


def kind_of(low: int, full: int, samples: int, gain: int) -> Kind | None:
    """The kind of a question (VisionThink, arXiv:2507.13348, section 3: 8 samples, a gain of 6).

    Args:
        low: Right answers at low resolution.
        full: Right answers at full resolution.
        samples: Answers at each resolution.
        gain: Full resolution is needed if at least this many more answers are right there.

    Returns:
        The kind, or None for a question that teaches nothing.
    """
    if low == full == samples:
        return SUFFICES
    return NEEDS_FULL if full - low >= gain else None


class TrialLog:
    """The trials in a folder. It reads the files of all processes and appends to one of its own.

    Args:
        folder: The folder; made if missing.
        settings: Everything that a trial depends on. A folder belongs to one selection; any other one is refused.
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
        """Keep a trial. When this returns, it is in the file and survives the end of this process."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(trial), ensure_ascii=False) + "\n")
        self.trials[trial.id] = trial

    def keep_image(self, data: bytes) -> str:
        """Write an encoded image to a file that is named for its contents, unless it is there.

        Returns:
            The file, relative to the folder.
        """
        mime_type, _, _ = inspect(data, limits=ImageLimits())
        name = f"images/{hashlib.sha256(data).hexdigest()}.{mime_type.partition('/')[2]}"
        if not (self.folder / name).exists():
            write_whole(self.folder / name, data)
        return name

    def selected(self, gain: int, want: int | None = None) -> list[tuple[Kind, Trial]]:
        """The selected questions, in an order that depends only on their ids.

        Args:
            gain: See `kind_of`.
            want: At most this many of each kind. None: all.
        """
        taken: Counter[Kind] = Counter()
        rows: list[tuple[Kind, Trial]] = []
        for trial in sorted(self.trials.values(), key=lambda trial: hashlib.sha256(trial.id.encode()).digest()):
            kind = kind_of(trial.low, trial.full, trial.samples, gain)
            if kind is not None and trial.image is not None and (want is None or taken[kind] < want):
                taken[kind] += 1
                rows.append((kind, trial))
        return rows


def write_selected(path: Path, selected: Iterable[tuple[Kind, Trial]]) -> None:
    """Write selected questions in the form that `open_examples` reads.

    Args:
        path: The JSONL file to write. Image paths are relative to its folder.
        selected: The questions with their kinds.
    """
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


def _read(path: Path) -> list[Trial]:
    """The trials in a file. A line that another process is still writing is left out."""
    trials = []
    for number, line in enumerate(read_whole_lines(path), 1):
        try:
            fields = json.loads(line)
            trials.append(Trial(**{**fields, "answers": tuple(fields["answers"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}, line {number}: not a trial; remove the line") from error
    return trials
