"""Questions about images with their gold answers: rendered afresh, or read from a JSONL file."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vtagent.errors import DataError
from vtagent.training.pages.documents import TRAINING_LOOK, WIDE_LOOK, PrintSize, render_document

Domain = Literal["training", "wide"]
LOOKS = {"training": TRAINING_LOOK, "wide": WIDE_LOOK}


@dataclass(frozen=True)
class Example:
    """One question."""

    id: str
    image: bytes
    """An encoded file."""
    question: str
    answers: tuple[str, ...]
    """Gold answers, any of which is right; the first is the one to show. Never empty."""
    source: str
    """A name to report by, such as "small print"."""

    @property
    def answer(self) -> str:
        """The gold answer to show."""
        return self.answers[0]


def rendered(
    count: int, *, seed: int, prints: tuple[PrintSize, ...] = ("large", "small"), domain: Domain = "training"
) -> Iterator[Example]:
    """`count` fresh documents of each print size, one question each.

    Seeds here never meet those of pretraining, whose pages are numbered under other words.
    """
    for print_size in prints:
        for number in range(count):
            page = f"evaluation/{domain}/{seed}/{number}"
            document = render_document(page, print_size=print_size, look=LOOKS[domain])
            rng = random.Random(page)
            field = rng.choice(document.fields)
            file = io.BytesIO()
            document.image.save(file, "PNG")
            yield Example(
                f"{print_size}/{number}", file.getvalue(), field.question(rng), (field.value,), f"{print_size} print"
            )


def read_jsonl(path: Path) -> Iterator[Example]:
    """The rows of `vtagent samples`: image (relative to the file), question, answer, and print as the source.

    Raises:
        DataError: A row that is not JSON, lacks a column, or whose image is missing; with the line's number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            image = (path.parent / row["image"]).read_bytes()
            yield Example(row["image"], image, row["question"], (row["answer"],), f"{row.get('print', 'any')} print")
        except (json.JSONDecodeError, TypeError) as error:
            raise DataError(f"{path}, line {number}: not a JSON object") from error
        except KeyError as error:
            raise DataError(f"{path}, line {number}: no column {error}") from error
        except OSError as error:
            raise DataError(f"{path}, line {number}: image {row['image']!r}: {error.strerror}") from error
