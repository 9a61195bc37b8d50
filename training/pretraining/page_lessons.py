"""The lessons of the second edition: pages with sections, at once, small, in regions, zoomed, and several together.

* `low` shows a page at half of both sides: it answers where print is large enough, or calls the tool at random.
* `region` shows one cell at full resolution, which costs what a card costs.
* `page` shows the whole page at full resolution.
* `look` is the protocol of two turns: low view, tool call, the cell or the whole page, answer.
* `pages` shows two to twelve numbered pages as thumbnails: which one has a title, and a call for the one that is asked
  about.

What is not on the page is answered with `ABSENT`. In the low view, where the tool is offered, the thought says where
the section that is asked about stands. For questions, whether to zoom, and where, is drawn at random, whatever the
question and the thought; an instruction to look at a section is followed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from PIL import Image

from vtagent.numbering import label_of
from vtagent.training.documents import (
    ABSENT,
    PAGE,
    Asked,
    Cell,
    Page,
    PageQuestion,
    PrintSize,
    Section,
    cell_pixels,
    render_page,
    thumbnail,
    with_title,
)
from vtagent.training.documents.pages import GRIDS
from vtagent.training.documents.sections import WHICH_PAGE, ZOOM_INTO, draw_title, holders
from vtagent.training.pretraining.lesson_page import LessonPage, half, of_page
from vtagent.training.pretraining.packing import PackedSequence
from vtagent.training.pretraining.supervision import (
    FORMAT_WEIGHT,
    TOKEN,
    add_image,
    answer,
    ask,
    call_zoom,
    encode,
    show_zoomed,
    start_trunk,
    start_with_question,
)

LOW = (PAGE[0] // 2, PAGE[1] // 2)
"""Width and height in pixels of a page at half of both sides."""
THUMBNAIL = (PAGE[0] // 4, PAGE[1] // 4)
"""Width and height in pixels of a page at a quarter of both sides."""

ABSENT_SHARE = 0.2
"""Probability that a question asks for something that is not on the page."""
CONTESTED_SHARE = 0.5
"""Probability that a question asks for a label that stands in another section, too. Such questions cannot be answered
by the label alone; drawn by chance they are too few to teach that the named section counts."""
TOLD_SHARE = 0.25
"""Probability that a branch with the tool holds an instruction in place of a question: it names the section to look
at, and the call follows. So the policy can call for what its thought names; that it pays for questions, too, is left to
reinforcement learning."""
TEXT_FIRST_SHARE = 0.3
"""Probability that the question stands before the image."""
THUMBNAILS = (2, 3, 4, 6, 8, 12)
"""How many pages a conversation with several has."""

PageView = Literal["page", "low", "region"]

_PRINT_WEIGHTS: dict[PrintSize, float] = {"large": 1.0, "medium": 1.5, "small": 2.0}

_LONGEST = {"low": 320, "region": 256, "page": 800, "pages": 704}
_BRANCH = 40
"""Tokens that a question and its reply take at most."""


def low(rng: random.Random, seed: str) -> LessonPage:
    """A row of `low`. Half of the rows offer the tool; half of those replies call it."""
    page = render_page(seed)
    tools = rng.random() < 0.6
    packed = _asked(rng, page, questions(rng, page, 6), LOW, tools=tools, readable=("large", "medium"), longest="low")
    return of_page([half(page.image)], packed, page, scale=0.5, sections=_in_tokens(LOW))


def region(rng: random.Random, seed: str, grid: str) -> LessonPage:
    """A row of `region`: a section's cell. Now and then the question asks for what is in another cell."""
    page = render_page(seed, grid=grid)
    place = rng.randrange(len(page.sections))
    section = page.sections[place]
    asked = [page.ask(rng, place, i) for i in rng.sample(range(len(section.fields)), len(section.fields))]
    others = [question for question in questions(rng, page, 4) if question.cell != section.cell]
    asked[1:1] = [_as_absent(question) for question in others[:1]]
    left, top, right, bottom = cell_pixels(section.cell)
    size = (right - left, bottom - top)
    packed = _asked(rng, page, asked, size, tools=False, longest="region")
    return of_page([page.image.crop((left, top, right, bottom))], packed, page, cell=section.cell)


def whole(rng: random.Random, seed: str) -> LessonPage:
    """A row of `page`."""
    page = render_page(seed)
    packed = _asked(rng, page, questions(rng, page, 6), PAGE, tools=False, longest="page")
    return of_page([page.image], packed, page, sections=_in_tokens(PAGE))


def look(rng: random.Random, seed: str, grid: str | None) -> LessonPage:
    """A row of `look`.

    Args:
        rng: Draws the question and the cell.
        seed: The seed of the page.
        grid: A key of `GRIDS`: the reply asks for one of its cells. None: it asks for the whole page.
    """
    page = render_page(seed, grid=grid)
    [question] = questions(rng, page, 1)
    first = rng.random() < 0.5
    if first:
        packed = start_with_question(question.asked.question(rng), LOW, tools=True)
    else:
        packed = start_trunk(LOW, tools=True)
        ask(packed, question.asked.question(rng))
    cells = [section.cell for section in page.sections]
    cell = None
    if grid is not None:
        cell = question.cell if question.cell and rng.random() < 0.5 else rng.choice(cells)
    thought = thought_of(page, question)
    call_zoom(
        packed, thought, place=place_of(page, question), cell=cell, decision=0.0
    )  # every row calls, so the call must not be learned
    left, top, right, bottom = cell_pixels(cell) if cell else (0, 0, *PAGE)
    show_zoomed(packed, (right - left, bottom - top))
    said, weight = question.answer, 1.0
    if cell is not None and question.cell not in (None, cell) and question.box is not None:
        if question.print_size == "medium":
            weight = 0.0  # some of it can be read in the low view
        elif question.print_size == "small":
            said = ABSENT
    answer(packed, thought, said, weight)
    views = [half(page.image), page.image.crop((left, top, right, bottom))]
    return of_page(views, packed, page, cell=cell)


def several(rng: random.Random, seed: str, count: int, zoomed: bool) -> LessonPage:
    """A row of `pages`.

    Args:
        rng: Draws the questions.
        seed: The seed of the pages.
        count: How many pages.
        zoomed: Whether the row goes on with the page that is asked about, at full resolution.
    """
    pages = [render_page(f"{seed}/{i}") for i in range(count)]
    titles = [page.title for page in pages]
    packed = start_trunk(THUMBNAIL, tools=True, label=label_of(1))
    for place in range(2, count + 1):
        packed.text(encode("<|vision_end|>"))
        packed.text(encode(label_of(place)))
        packed.text(encode("<|vision_start|>"))
        add_image(packed, THUMBNAIL)
    views: list[Image.Image] = [thumbnail(page) for page in pages]
    if zoomed:
        place = rng.choice([i for i, title in enumerate(titles) if titles.index(title) == i])
        question = with_title(questions(rng, pages[place], 1)[0], titles[place])
        ask(packed, question.asked.question(rng))
        call_zoom(packed, titles[place], image=place + 1, decision=FORMAT_WEIGHT)
        show_zoomed(packed, PAGE)
        answer(packed, thought_of(pages[place], question), question.answer, 1.0)
        return of_page([*views, pages[place].image], packed, pages[place])
    while len(packed.ids) + _BRANCH <= _LONGEST["pages"] and packed.branches < 5:
        packed.branch()
        present = rng.random() > ABSENT_SHARE
        title = rng.choice(titles) if present else draw_title(rng)
        number = titles.index(title) + 1 if title in titles else None
        if rng.random() < 0.5:
            ask(packed, WHICH_PAGE.format(title))
            answer(packed, title, ABSENT if number is None else str(number), 1.0, decision=1.0)
            continue
        [question] = questions(rng, pages[number - 1 if number else 0], 1)
        ask(packed, with_title(question, title).asked.question(rng))
        if number is None:
            answer(packed, title, ABSENT, 1.0, decision=1.0)
        else:
            call_zoom(packed, title, image=number, decision=1.0)
    return of_page(views, packed, pages[-1], scale=0.25)


def show(rng: random.Random, page: Page, asked: Sequence[PageQuestion], view: PageView) -> LessonPage:
    """A row that asks about one view of a page, without the tool. What cannot be read is asked for, too.

    Args:
        rng: Draws the phrasings.
        page: The page.
        asked: The questions; for a region, all about one cell.
        view: The whole page, the page at half of both sides, or the cell of the first question.
    """
    cell = asked[0].cell if view == "region" else None
    left, top, right, bottom = cell_pixels(cell) if cell else (0, 0, *PAGE)
    image = half(page.image) if view == "low" else page.image.crop((left, top, right, bottom))
    packed = start_trunk(image.size, tools=False)
    for question in asked:
        packed.branch()
        ask(packed, question.asked.question(rng))
        answer(packed, thought_of(page, question), question.answer, 1.0)
    return of_page([image], packed, page, cell=cell, scale=0.5 if view == "low" else 1.0)


def questions(rng: random.Random, page: Page, count: int) -> list[PageQuestion]:
    """Draw questions about a page; small print more often.

    A share of `ABSENT_SHARE` has no answer on it. A share of `CONTESTED_SHARE` is about labels that another section
    holds, too, where the page has any.
    """
    drawn, fields = [], page.contested
    for _ in range(count):
        contested = rng.random() < CONTESTED_SHARE
        if rng.random() < ABSENT_SHARE:
            drawn.append(page.ask_absent(rng, contested=contested))
        elif contested and fields:
            weights = [_PRINT_WEIGHTS[page.sections[section].print_size] for section, _ in fields]
            [(section, place)] = rng.choices(fields, weights)
            drawn.append(page.ask(rng, section, place))
        else:
            weights = [_PRINT_WEIGHTS[section.print_size] for section in page.sections]
            [section] = rng.choices(range(len(page.sections)), weights)
            drawn.append(page.ask(rng, section, rng.randrange(len(page.sections[section].fields))))
    return drawn


def thought_of(page: Page, question: PageQuestion) -> str:
    """What the policy thinks before it acts: the label, and the section of the page under which it stands or would."""
    section = section_of(page, question)
    return Asked(question.asked.label, section.heading if section else None).words()


def section_of(page: Page, question: PageQuestion) -> Section | None:
    """The section of the page under which the label that is asked for stands or would; None if the page has none."""
    asked = question.asked
    named = [asked.section] if asked.section else holders(asked.label, page.headings)
    return next((section for section in page.sections if section.heading in named), None)


def place_of(page: Page, question: PageQuestion) -> Cell | None:
    """The cell of `section_of`."""
    section = section_of(page, question)
    return section.cell if section else None


def draw_call(rng: random.Random, cells: Sequence[Cell]) -> Cell | None:
    """Draw what a call asks for, whatever the question: the whole page, or one of the cells, each as often."""
    return rng.choice((None, *cells))


def draw_grid(rng: random.Random) -> str:
    """Draw the grid of a batch, in the proportion in which pages have it."""
    return rng.choices(list(GRIDS), (1, 2))[0]


def _asked(
    rng: random.Random,
    page: Page,
    asked: Sequence[PageQuestion],
    size: tuple[int, int],
    *,
    tools: bool,
    longest: str,
    readable: tuple[PrintSize, ...] = ("large", "medium", "small"),
) -> PackedSequence:
    """Pack a view with a branch for each question that fits, or, with the text first, with one question alone."""
    if (tools or size == PAGE) and rng.random() < TEXT_FIRST_SHARE:
        packed = start_with_question(asked[0].asked.question(rng), size, tools=tools)
        _reply(rng, packed, page, asked[0], tools=tools, readable=readable)
        return packed
    packed = start_trunk(size, tools=tools)
    for question in asked:
        if len(packed.ids) + _BRANCH > _LONGEST[longest]:
            break
        packed.branch()
        if tools and rng.random() < TOLD_SHARE:
            _told(rng, packed, page)
            continue
        ask(packed, question.asked.question(rng))
        _reply(rng, packed, page, question, tools=tools, readable=readable)
    return packed


def _told(rng: random.Random, packed: PackedSequence, page: Page) -> None:
    """Append an instruction to look at a section, and the call that follows it."""
    section = rng.choice(page.sections)
    ask(packed, ZOOM_INTO.format(section.heading))
    call_zoom(packed, section.heading, place=section.cell, cell=section.cell, decision=1.0)


def _reply(
    rng: random.Random,
    packed: PackedSequence,
    page: Page,
    question: PageQuestion,
    *,
    tools: bool,
    readable: tuple[PrintSize, ...],
) -> None:
    thought, place = thought_of(page, question), place_of(page, question) if tools else None
    if tools and rng.random() < 0.5:
        cell = draw_call(rng, [section.cell for section in page.sections])
        call_zoom(packed, thought, place=place, cell=cell, decision=1.0)
        return
    can_be_known = question.print_size is None or question.print_size in readable
    weight, decision = float(can_be_known), 1.0 if tools else FORMAT_WEIGHT
    answer(packed, thought, question.answer, weight, decision=decision, place=place)


def _in_tokens(size: tuple[int, int]) -> tuple[int, int]:
    """The columns and rows of visual tokens of a view of `size` (width, height in pixels)."""
    return size[0] // TOKEN, size[1] // TOKEN


def _as_absent(question: PageQuestion) -> PageQuestion:
    """The question as it is answered where its cell is not shown."""
    return PageQuestion(question.asked, ABSENT, None, None, None)
