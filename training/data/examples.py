"""`Example`, a question about images with its gold answers, and the sequences that examples are read from.

`RenderedPages` and `rendered` draw examples on demand; `files` reads them from tables.
"""

from __future__ import annotations

import hashlib
import io
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, overload

from vtagent.regions import Region
from vtagent.training.documents import TRAINING_LOOK, WIDE_LOOK, PrintSize, render_document

Domain = Literal["training", "wide"]
LOOKS = {"training": TRAINING_LOOK, "wide": WIDE_LOOK}
PRINTS: tuple[PrintSize, ...] = ("large", "small")
"""The print sizes of rendered pages, unless others are asked for."""


@dataclass(frozen=True)
class Example:
    """One question, mostly about one image."""

    id: str
    image: bytes
    """An encoded image file; empty for a question without an image."""
    question: str
    answers: tuple[str, ...]
    """Gold answers, never empty. Any of them is right; the first is shown to people."""
    source: str
    """The name that results are reported under, such as "small print"."""
    value_box: Region | None = None
    """Where the asked value stands on the image. Measures alone read it; the policy never sees it. None: not known, or
    the value is not on the image."""
    more_images: tuple[bytes, ...] = ()
    """The images after the first, where the question is about several."""

    @property
    def images(self) -> tuple[bytes, ...]:
        """All images, in the order in which they are shown."""
        return ((self.image,) if self.image else ()) + self.more_images

    @property
    def answer(self) -> str:
        """The gold answer that is shown to people."""
        return self.answers[0]


def digest_of_images(images: Sequence[bytes]) -> str:
    """A digest of encoded images, in their order."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(hashlib.sha256(image).digest())
    return digest.hexdigest()


class ExampleSequence(Sequence[Example], ABC):
    """Examples that are read or rendered when they are asked for.

    A subclass defines `__len__` and `at`. It also overrides `sources` if it knows them without reading examples.
    """

    @abstractmethod
    def at(self, index: int) -> Example:
        """Return one example.

        Args:
            index: 0 or greater, and less than `len(self)`.
        """

    @property
    def sources(self) -> Sequence[str]:
        """The source of each example. This default reads every example."""
        return [example.source for example in self]

    @property
    def pages(self) -> Sequence[str]:
        """A digest of the images of each example, equal for those about one page. This default reads every example."""
        return [digest_of_images(example.images) for example in self]

    def _slice(self, places: range) -> Sequence[Example]:
        """The examples at these places; read at once unless a subclass does it lazily."""
        return [self[place] for place in places]

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return self._slice(range(*index.indices(len(self))))
        return self.at(range(len(self))[index])


def rendered(
    count: int, *, seed: int, domain: Domain = "training", prints: Sequence[PrintSize] = PRINTS
) -> Iterator[Example]:
    """Render pages for evaluation, with one question each.

    No page occurs in pretraining or in `RenderedPages`: their seeds begin with other words.

    Args:
        count: Pages of each print size.
        seed: Seed of the evaluation set.
        domain: "training", or "wide" for an appearance that training never shows.
        prints: The print sizes.

    Yields:
        The examples, all of one print size before the next.
    """
    for print_size in prints:
        for number in range(count):
            yield _render_example(f"evaluation/{domain}/{seed}/{number}", print_size, domain, number)


class RenderedPages(ExampleSequence):
    """Pages to train on, rendered when they are asked for. Print sizes take turns; each page has one question.

    No page occurs in `rendered`, which is for evaluation, or in pretraining.

    Args:
        count: Number of pages.
        seed: Seed of the pages.
        domain: "training", or "wide" for an appearance that training never shows.
        prints: The print sizes.
    """

    def __init__(
        self, count: int, *, seed: int = 0, domain: Domain = "training", prints: Sequence[PrintSize] = PRINTS
    ) -> None:
        self._count, self.seed, self.domain, self.prints = count, seed, domain, tuple(prints)

    @property
    def sources(self) -> list[str]:
        """The source of each page, known without rendering it."""
        return [f"{self.prints[place % len(self.prints)]} print" for place in range(self._count)]

    def __len__(self) -> int:
        return self._count

    def at(self, index: int) -> Example:
        """Render one page; see `ExampleSequence.at`."""
        number, turn = divmod(index, len(self.prints))
        return _render_example(f"practice/{self.domain}/{self.seed}/{number}", self.prints[turn], self.domain, number)


def _render_example(page_seed: str, print_size: PrintSize, domain: Domain, number: int) -> Example:
    """Render one page and draw a question about one of its fields."""
    document = render_document(page_seed, print_size=print_size, look=LOOKS[domain])
    rng = random.Random(page_seed)
    field = rng.choice(document.fields)
    file = io.BytesIO()
    document.image.save(file, "PNG")
    return Example(
        f"{print_size}/{number}", file.getvalue(), field.question(rng), (field.value,), f"{print_size} print"
    )
