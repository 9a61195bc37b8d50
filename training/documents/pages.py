"""Renders a page with a title and three to five sections from a seed: its pixels, its fields and their places.

This is the second edition of the domain. A page has 448 × 320 pixels, which is 560 visual tokens of 16 pixels a side.
At half of both sides it takes 140. Each section fills a cell of a grid. Cells lie on the token grid, so the view of a
cell at full resolution takes 84 or 126 tokens. Titles stay readable at a quarter of both sides and headings at half of
them, so that they tell where to look.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

from PIL import Image, ImageDraw, ImageFont

from vtagent.abstention import ABSENT
from vtagent.training.documents.render import (
    CAPITAL_HEIGHT,
    TRAINING_LOOK,
    Glyph,
    Look,
    PrintSize,
    colours,
    em_for_capitals,
    glyphs_of,
    load_font,
    scanned,
    turned,
)
from vtagent.training.documents.sections import (
    SECTIONS,
    Asked,
    asked_for,
    draw_absent,
    draw_section,
    draw_title,
)
from vtagent.training.documents.values import Field

PAGE = (448, 320)
"""Width and height of a page in pixels."""
TITLE_HEIGHT = (26.5, 28.0)
"""Least and greatest height of a title's capitals in pixels."""
SECTION_COUNTS = (3, 4, 5)
MOST_FIELDS = 14
"""Most fields on a page. Each section has two to four."""
TILT = 0.4
"""Tilt of a page in relation to that of a card: a page is twice as wide, and print must stay in its cell."""

LEAST_EM = 7
"""Font size in pixels below which nothing can be read."""

_EDGE = 8
"""Least distance of print from the left and right borders of its cell, in pixels."""

Cell = tuple[int, int, int, int]
"""Left, top, right and bottom in thousandths of the page."""

GRIDS: Mapping[str, tuple[Cell, ...]] = {
    "four": tuple((x, y, x + 500, y + 450) for y in (100, 550) for x in (0, 500)),
    "six": tuple((x, y, x + 500, y + 300) for y in (100, 400, 700) for x in (0, 500)),
}
"""The cells of each grid, row by row, below the title."""
CELLS = tuple(cell for cells in GRIDS.values() for cell in cells)
"""All cells, which are all regions that the bundled policies ask for."""

PRINT_SHARES: Mapping[PrintSize, float] = {"large": 0.5, "medium": 0.25, "small": 0.25}
"""How often a section has each print size."""


@dataclass(frozen=True)
class Section:
    """A heading in large print with two to four fields of one print size."""

    heading: str
    """A key of `SECTIONS`."""
    cell: Cell
    print_size: PrintSize
    fields: tuple[Field, ...]
    """From top to bottom."""
    boxes: tuple[Cell, ...]
    """The place of each field's value, in thousandths of the page."""


@dataclass(frozen=True)
class PageQuestion:
    """A question about a page, with its answer and where that stands."""

    asked: Asked
    answer: str
    """The value, or `ABSENT`."""
    cell: Cell | None
    """The cell that must be read; None if the headings alone tell that the answer is not on the page."""
    box: Cell | None
    """The place of the value in thousandths of the page; None if it is not on the page."""
    print_size: PrintSize | None
    """The print of the section that must be read."""


@dataclass(frozen=True)
class Page:
    """A rendered page."""

    image: Image.Image
    """RGB."""
    title: str
    sections: tuple[Section, ...]
    """Row by row."""
    grid: str
    """A key of `GRIDS`."""
    font: str
    tilt: float
    """Rotation in degrees, counter-clockwise."""
    glyphs: tuple[Glyph, ...] = field(repr=False)
    ems: tuple[int, ...] = field(repr=False)
    """The font size of each glyph in pixels."""
    labels: tuple[str | None, ...] = field(repr=False)
    """The label of the field that each glyph belongs to, as a part of the label or of the value."""

    def glyphs_in(self, cell: Cell | None = None, *, scale: float = 1.0) -> list[Glyph]:
        """The glyphs that can be read in a view, in its pixels. Some may lie outside of it.

        Args:
            cell: What the view shows; None: the page.
            scale: Its sides in relation to those of the page.
        """
        return [glyph for glyph, _ in self.print_in(cell, scale=scale)]

    def print_in(self, cell: Cell | None = None, *, scale: float = 1.0) -> list[tuple[Glyph, str | None]]:
        """The glyphs of `glyphs_in`, each with the label of its field; None outside of fields."""
        left, top = cell_pixels(cell)[:2] if cell else (0, 0)
        return [
            (Glyph(glyph.char, (glyph.x - left) * scale, (glyph.y - top) * scale), label)
            for glyph, em, label in zip(self.glyphs, self.ems, self.labels, strict=True)
            if em * scale >= LEAST_EM
        ]

    def sections_in(self, size: tuple[int, int]) -> list[int]:
        """The kind of section under which each visual token of the whole page lies, row by row.

        Args:
            size: Visual tokens of the view in a row and in a column.

        Returns:
            The place of the section's heading in `SECTIONS`, counted from 1; 0 outside of all sections.
        """
        columns, rows = size
        kinds = {heading: place for place, heading in enumerate(SECTIONS, 1)}
        found = [0] * (columns * rows)
        for section in self.sections:
            left, top, right, bottom = section.cell
            for token in range(columns * rows):
                x, y = (token % columns + 0.5) * 1000 / columns, (token // columns + 0.5) * 1000 / rows
                if left <= x < right and top <= y < bottom:
                    found[token] = kinds[section.heading]
        return found

    @property
    def contested(self) -> list[tuple[int, int]]:
        """The section and place of each field whose label is printed in another section, too."""
        labels = Counter(f.label for section in self.sections for f in section.fields)
        return [
            (i, place)
            for i, section in enumerate(self.sections)
            for place, f in enumerate(section.fields)
            if labels[f.label] > 1
        ]

    @property
    def headings(self) -> tuple[str, ...]:
        """The headings of the sections, row by row."""
        return tuple(section.heading for section in self.sections)

    def ask(self, rng: random.Random, section: int, place: int) -> PageQuestion:
        """Ask for a field that is printed.

        Args:
            rng: Draws whether the section is named where it need not be.
            section: The index of its section.
            place: Its index in the section.
        """
        chosen = self.sections[section]
        wanted = asked_for(rng, chosen.fields[place].label, chosen.heading, self.headings)
        return PageQuestion(wanted, chosen.fields[place].value, chosen.cell, chosen.boxes[place], chosen.print_size)

    def ask_absent(self, rng: random.Random, *, contested: bool = False) -> PageQuestion:
        """Ask for something that is not on the page.

        Args:
            rng: Draws the question.
            contested: Whether to ask for a label that another section holds, where the page has such a one.
        """
        labels = {section.heading: {f.label for f in section.fields} for section in self.sections}
        wanted, heading = draw_absent(rng, labels, elsewhere=contested)
        chosen = next((section for section in self.sections if section.heading == heading), None)
        cell, print_size = (chosen.cell, chosen.print_size) if chosen else (None, None)
        return PageQuestion(wanted, ABSENT, cell, None, print_size)

    def ask_about(self, rng: random.Random, print_size: PrintSize) -> PageQuestion:
        """Ask for a printed field of a section of this print size.

        Raises:
            ValueError: The page has no such section.
        """
        places = [i for i, section in enumerate(self.sections) if section.print_size == print_size]
        if not places:
            raise ValueError(f"no section of this page is in {print_size} print")
        section = rng.choice(places)
        return self.ask(rng, section, rng.randrange(len(self.sections[section].fields)))


def cell_pixels(cell: Cell) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a cell in pixels; multiples of 16."""
    left, top, right, bottom = cell
    return left * PAGE[0] // 1000, top * PAGE[1] // 1000, right * PAGE[0] // 1000, bottom * PAGE[1] // 1000


def render_page(
    seed: int | str,
    *,
    print_size: PrintSize | None = None,
    sections: int | None = None,
    grid: str | None = None,
    look: Look = TRAINING_LOOK,
) -> Page:
    """Render the page of a seed. The same arguments give the same pixels.

    Args:
        seed: Any int or string. Seeds that begin with different words never collide.
        print_size: A print size that at least one section has; None: any.
        sections: How many sections the page has, 3 to 5; drawn if absent.
        grid: A key of `GRIDS`; drawn if absent. Five sections need "six" cells.
        look: The ranges of fonts, tilt, noise and compression. Its margins do not apply; tilt is less, see `TILT`.

    Raises:
        ValueError: There is no such print size or grid, or a page or grid cannot have that many sections.
    """
    if print_size is not None and print_size not in get_args(PrintSize):
        raise ValueError(f"print size {print_size!r} cannot be drawn: choose {', '.join(get_args(PrintSize))}")
    if sections is not None and sections not in SECTION_COUNTS:
        raise ValueError(f"a page cannot have {sections} sections: choose 3, 4 or 5")
    if grid is not None and (grid not in GRIDS or (sections or 0) > len(GRIDS[grid])):
        raise ValueError(f"{sections or 'its'} sections cannot be drawn in a grid of {grid!r}: choose 'four' or 'six'")
    rng = random.Random(f"page/{seed}/{print_size}/{sections}/{grid}")
    font_name = rng.choice(look.fonts)
    count = sections or rng.choice(SECTION_COUNTS[:2] if grid == "four" else SECTION_COUNTS)
    grid = grid or ("six" if count == 5 or rng.random() < 0.5 else "four")
    cells = sorted(rng.sample(range(len(GRIDS[grid])), count))
    sizes = rng.choices(list(PRINT_SHARES), list(PRINT_SHARES.values()), k=count)
    if print_size is not None and print_size not in sizes:
        sizes[rng.randrange(count)] = print_size
    headings = rng.sample(list(SECTIONS), count)
    style = rng.choice(("card", "form", "receipt"))
    head_em = em_for_capitals(font_name, round(rng.uniform(*CAPITAL_HEIGHT["large"]), 1))
    title = draw_title(rng)
    title_em = em_for_capitals(font_name, round(rng.uniform(*TITLE_HEIGHT), 1))
    lines = [_Line(rng.randint(8, 40), 31, title, load_font(font_name, title_em))]
    drawn: list[tuple[tuple[Field, ...], tuple[int, ...]]] = []
    left_over = MOST_FIELDS
    for i, (place, heading, size) in enumerate(zip(cells, headings, sizes, strict=True)):
        most = min(4, left_over - 2 * (count - i - 1))
        block = _lay_out(rng, heading, size, GRIDS[grid][place], style, font_name, head_em, most)
        left_over -= len(block.fields)
        drawn.append((block.fields, tuple(len(lines) + at for at in block.values)))
        lines += block.lines
    image, glyphs, tilt = _print(rng, lines, GRIDS[grid], look)
    return Page(
        image,
        title,
        tuple(
            Section(
                heading, GRIDS[grid][place], size, fields, tuple(_box(glyphs[at], lines[at].font.size) for at in values)
            )
            for place, heading, size, (fields, values) in zip(cells, headings, sizes, drawn, strict=True)
        ),
        grid,
        font_name,
        tilt,
        tuple(glyph for line in glyphs for glyph in line),
        tuple(round(line.font.size) for line, row in zip(lines, glyphs, strict=True) for _ in row),
        tuple(line.label for line, row in zip(lines, glyphs, strict=True) for _ in row),
    )


@dataclass(frozen=True)
class _Line:
    """A text, the place of its left end on the baseline in pixels before the page is turned, and its font."""

    x: float
    y: float
    text: str
    font: ImageFont.FreeTypeFont
    label: str | None = None
    """The label of its field."""


@dataclass(frozen=True)
class _Block:
    """A section that is laid out."""

    fields: tuple[Field, ...]
    lines: list[_Line]
    values: tuple[int, ...]
    """The places of the values in `lines`."""


def _lay_out(
    rng: random.Random,
    heading: str,
    print_size: PrintSize,
    cell: Cell,
    style: str,
    font_name: str,
    head_em: int,
    most: int,
) -> _Block:
    """Lay out a section with two to `most` fields, as many as fit. Fields are drawn again while they are too wide."""
    left, top, right, bottom = cell_pixels(cell)
    lowest, highest = CAPITAL_HEIGHT[print_size]
    capitals = rng.uniform(lowest, highest)
    head_font = load_font(font_name, head_em)
    head = _Line(left + _EDGE + rng.randint(0, 6), top + 5 + round(0.8 * head_em), heading, head_font)
    width = right - left - 2 * _EDGE
    for attempt in range(200):
        if attempt == 20:
            capitals = lowest
        em = em_for_capitals(font_name, round(capitals, 1))
        font = load_font(font_name, em)
        first = head.y + 0.35 * head_em + 0.85 * em
        room = bottom - 6 - 0.2 * em - first
        fits = 1 + int(room / (1.2 * em))
        count = rng.randint(2, max(2, min(most, fits, 4)))
        fields = draw_section(rng, heading, count)
        colon = ":" if style == "card" else ""
        labels = [font.getlength(f.label + colon) for f in fields]
        values = [font.getlength(f.value) for f in fields]
        gap = font.getlength("n") * (1.0 if style == "card" else rng.uniform(1.0, 2.5))
        aligned = max(labels) + gap
        needed = max(a + gap + b for a, b in zip(labels, values, strict=True))
        needed = needed if style == "card" else aligned + max(values)
        if needed <= width and count <= fits:
            break
    else:
        raise ValueError(f"no fields of {heading} fit into {cell} in {print_size} print of {font_name}")
    pitch = rng.uniform(1.2 * em, max(1.2 * em, min(1.9 * em, room / (count - 1))))
    start = left + _EDGE + rng.uniform(0, width - needed)
    end = start + needed + (rng.uniform(0, left + _EDGE + width - start - needed) if style == "receipt" else 0.0)
    y = first + rng.uniform(0, max(0.0, room - pitch * (count - 1)))
    lines = [head]
    for row, f in enumerate(fields):
        value_x = {"card": start + labels[row] + gap, "form": start + aligned, "receipt": end - values[row]}[style]
        baseline = round(y + row * pitch)
        lines += [
            _Line(round(start), baseline, f.label + colon, font, f.label),
            _Line(round(value_x), baseline, f.value, font, f.label),
        ]
    return _Block(fields, lines, tuple(range(2, len(lines), 2)))


def _print(
    rng: random.Random, lines: Sequence[_Line], cells: Sequence[Cell], look: Look
) -> tuple[Image.Image, list[list[Glyph]], float]:
    """Draw the lines, turn them, apply ink to paper, and compress half of the pages as JPEG.

    Returns:
        The RGB image, the glyphs of each line, and the tilt in degrees.
    """
    tilt = TILT * rng.choice((-1, 1)) * rng.uniform(look.least_tilt, look.tilt)
    paper, ink = colours(rng, look)
    plate = Image.new("L", PAGE, 0)  # coverage by ink, 0 to 255
    draw = ImageDraw.Draw(plate)
    if rng.random() < 0.5:
        for left, top, right, bottom in map(cell_pixels, cells):
            draw.rectangle((left + 1, top + 1, right - 2, bottom - 2), outline=60)
    glyphs = []
    for line in lines:
        draw.text((line.x, line.y), line.text, font=line.font, fill=255, anchor="ls")
        glyphs.append(turned(glyphs_of(line.font, line.x, line.y, line.text), tilt, PAGE))
    page = scanned(rng, plate.rotate(tilt, Image.Resampling.BICUBIC), paper, ink, look)
    return page, glyphs, tilt


def _box(glyphs: Sequence[Glyph], em: float) -> Cell:
    """The rectangle of a line in thousandths of the page.

    Args:
        glyphs: The line's glyphs.
        em: The font's size in pixels.
    """
    xs, ys = [g.x for g in glyphs], [g.y for g in glyphs]

    def thousandths(value: float, side: int) -> int:
        return max(0, min(1000, round(1000 * value / side)))

    return (
        thousandths(min(xs) - 0.3 * em, PAGE[0]),
        thousandths(min(ys) - 0.45 * em, PAGE[1]),
        thousandths(max(xs) + 0.3 * em, PAGE[0]),
        thousandths(max(ys) + 0.45 * em, PAGE[1]),
    )


def thumbnail(page: Page) -> Image.Image:
    """The page at a quarter of both sides, 35 visual tokens: only its title can be read."""
    return page.image.resize((PAGE[0] // 4, PAGE[1] // 4), Image.Resampling.BICUBIC)


def with_title(question: PageQuestion, title: str) -> PageQuestion:
    """The question as it is asked where a conversation has several pages."""
    return replace(question, asked=replace(question.asked, title=title))
