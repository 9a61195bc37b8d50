"""Examples about pages with sections, and all data that are drawn here, by name.

The sources are the print sizes, and "absent": a question whose answer is not on the page. Sources take turns. Each page
has one question. The pages of training, of evaluation and of pretraining have seeds that begin with different words.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vtagent.regions import Region
from vtagent.training.data.examples import LOOKS, Domain, Example, ExampleSequence, RenderedPages, rendered
from vtagent.training.documents import CARD, PAGE, render_page

ABSENT_SOURCE = "absent"
SECTION_SOURCES = ("large print", "medium print", "small print", ABSENT_SOURCE)
"""The sources of pages with sections, in the order in which they take turns."""


class SectionPages(ExampleSequence):
    """Pages with sections to train on, rendered when they are asked for.

    Args:
        count: Number of pages.
        seed: Seed of the pages.
        domain: "training", or "wide" for an appearance that training never shows.
    """

    def __init__(self, count: int, *, seed: int = 0, domain: Domain = "training") -> None:
        self._count, self.seed, self.domain = count, seed, domain

    @property
    def sources(self) -> list[str]:
        """The source of each page, known without rendering it."""
        return [SECTION_SOURCES[place % len(SECTION_SOURCES)] for place in range(self._count)]

    def __len__(self) -> int:
        return self._count

    def at(self, index: int) -> Example:
        """Render one page; see `ExampleSequence.at`."""
        number, turn = divmod(index, len(SECTION_SOURCES))
        return _section_example(
            f"practice/{self.domain}/{self.seed}/{number}", SECTION_SOURCES[turn], self.domain, number
        )


def section_pages(count: int, *, seed: int, domain: Domain = "training") -> Iterator[Example]:
    """Render pages with sections for evaluation. No page occurs in pretraining or in `SectionPages`.

    Args:
        count: Pages of each source.
        seed: Seed of the evaluation set.
        domain: "training", or "wide" for an appearance that training never shows.

    Yields:
        The examples, all of one source before the next.
    """
    for source in SECTION_SOURCES:
        for number in range(count):
            yield _section_example(f"evaluation/{domain}/{seed}/{number}", source, domain, number)


def _section_example(seed: str, source: str, domain: Domain, number: int) -> Example:
    """Render one page and draw a question of this source."""
    rng = random.Random(f"{seed}/{source}")
    if source == ABSENT_SOURCE:
        page = render_page(f"{seed}/{source}", look=LOOKS[domain])
        question = page.ask_absent(rng)
    else:
        print_size = next(size for size in ("large", "medium", "small") if source == f"{size} print")
        page = render_page(seed, print_size=print_size, look=LOOKS[domain])  # type: ignore[arg-type]
        question = page.ask_about(rng, print_size)  # type: ignore[arg-type] # one of the literals
    file = io.BytesIO()
    page.image.save(file, "PNG")
    return Example(
        f"{source}/{number}",
        file.getvalue(),
        question.asked.question(rng),
        (question.answer,),
        source,
        value_box=Region(*question.box) if question.box else None,
    )


@dataclass(frozen=True)
class Drawn:
    """Data that are drawn here."""

    practice: Callable[[int, int], ExampleSequence]
    """(number of pages, seed) → pages to train on."""
    fresh: Callable[[int, int], Iterator[Example]]
    """(pages of each source, seed) → pages for evaluation, which occur in no training."""
    size: tuple[int, int] = CARD
    """Width and height of a page in pixels."""
    spare: int = 1
    """How many times as many pages as prompts a training opens, so that a mix shows no page twice."""


def _cards(domain: Domain = "training", **given: Sequence[str]) -> Drawn:
    chosen: dict[str, object] = {"domain": domain, **given}
    return Drawn(
        lambda count, seed: RenderedPages(count, seed=seed, **chosen),  # type: ignore[arg-type]
        lambda count, seed: rendered(count, seed=seed, **chosen),  # type: ignore[arg-type]
    )


def _sections(domain: Domain) -> Drawn:
    return Drawn(
        lambda count, seed: SectionPages(count, seed=seed, domain=domain),
        lambda count, seed: section_pages(count, seed=seed, domain=domain),
        PAGE,
        spare=len(SECTION_SOURCES),
    )


DRAWN: Mapping[str, Drawn] = {
    "rendered": _cards(),
    "rendered-medium": _cards(prints=("large", "medium")),
    "rendered-wide": _cards("wide"),
    "pages": _sections("training"),
    "pages-wide": _sections("wide"),
}
"""All data that are drawn here: cards in large and small, or large and medium print; pages with sections."""
