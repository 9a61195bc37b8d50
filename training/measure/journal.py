"""The outcomes of an evaluation on disk, one JSON line each. After a kill, only the missing questions are asked.

A folder belongs to one evaluation, which its settings.json names; any other one is refused. A line that was not
complete when the process died is cut off. Questions whose run failed or could not be graded are asked again. Digests of
the weights and of the questions are among the settings, so that no two evaluations are confused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from vtagent.errors import DataError
from vtagent.models.families import checkpoint_path
from vtagent.training.data import Example
from vtagent.training.durable import SETTINGS, claim, cut_to_whole_lines, read_whole_lines
from vtagent.training.measure.outcomes import Outcome

SAMPLES = "samples.jsonl"
_BLOCK, _BLOCKS = 2**16, 256
"""Bytes per block, and blocks per file. Of a larger file, evenly spaced blocks are read."""
_WEIGHTS = (".safetensors", ".bin", ".json", ".jinja")


class Journal:
    """The outcomes of one evaluation.

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
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")
        self._outcomes[outcome.mode, outcome.number] = outcome


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


def digest_of_weights(model: str) -> str:
    """A digest of the names, sizes and contents of the files in a checkpoint's folder.

    Args:
        model: The name of a bundled policy, a folder, or a hub id.

    Returns:
        16 hexadecimal digits; a hub id is returned as it is.
    """
    folder = Path(checkpoint_path(str(model)))
    if not folder.is_dir():
        return str(model)
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in _WEIGHTS):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        step = max(_BLOCK, size // _BLOCKS)
        with path.open("rb") as file:
            for start in range(0, size, step):
                file.seek(start)
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:16]


def digest_of_examples(examples: Sequence[Example]) -> str:
    """A digest of the questions, gold answers and images, in their order."""
    digest = hashlib.sha256()
    for example in examples:
        image = hashlib.sha256(example.image).hexdigest()
        row = [example.id, image, example.question, example.answers, example.source]
        if example.value_box is not None:
            row.append(str(example.value_box))
        row += [hashlib.sha256(more).hexdigest() for more in example.more_images]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()[:16]


def folder_name(settings: Mapping[str, Any]) -> str:
    """A readable name for the folder of an evaluation; other settings give another name."""
    model = re.sub(r"[^\w.-]+", "-", str(settings["model"]).strip("/"))[-40:].strip("-.")
    return f"{model}-{hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()[:8]}"
