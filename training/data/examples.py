"""Questions about images with their gold answers, rendered afresh."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, overload

from vtagent.training.documents.render import TRAINING_LOOK, WIDE_LOOK, PrintSize, render_document

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
    """`count` fresh documents of each print size, one question each, to evaluate on.

    Seeds here never meet those of pretraining or of `RenderedPages`, whose pages are numbered under other words.
    """
    for print_size in prints:
        for number in range(count):
            yield _asked(f"evaluation/{domain}/{seed}/{number}", print_size, domain, number)


class RenderedPages(Sequence[Example]):
    """Fresh pages to train on, rendered when asked for: the print sizes take turns, one question each.

    No page is one of `rendered`, which are kept for evaluation, or of pretraining.
    """

    def __init__(
        self,
        count: int,
        *,
        seed: int = 0,
        prints: Sequence[PrintSize] = ("large", "small"),
        domain: Domain = "training",
    ) -> None:
        self._count, self.seed, self.prints, self.domain = count, seed, tuple(prints), domain

    @property
    def sources(self) -> list[str]:
        """The source of each page."""
        return [f"{self.prints[place % len(self.prints)]} print" for place in range(self._count)]

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._count))]
        number, turn = divmod(range(self._count)[index], len(self.prints))
        return _asked(f"practice/{self.domain}/{self.seed}/{number}", self.prints[turn], self.domain, number)


def _asked(page: str, print_size: PrintSize, domain: Domain, number: int) -> Example:
    """One page and a question about one of its fields."""
    document = render_document(page, print_size=print_size, look=LOOKS[domain])
    rng = random.Random(page)
    field = rng.choice(document.fields)
    file = io.BytesIO()
    document.image.save(file, "PNG")
    return Example(
        f"{print_size}/{number}", file.getvalue(), field.question(rng), (field.value,), f"{print_size} print"
    )
