"""The curriculum of pretraining: which lesson each step takes, and the batch of pages and targets of that step.

A step's batch is a function of the step number. These are about cards:

* `glyphs` trains the vision tower alone on windows full of random characters: which glyph stands in which slot of a
  visual token. The renderer knows the place of every glyph. Without this aligned supervision reading does not start.
* `line` reads aloud a strip with one line of print. There is nothing to search for, so reading starts here.
* `near` shows 112 × 80 pixels: a large-print page at half its sides, or a window of a small-print page that holds all
  its text. Capitals are seven to eight pixels tall in both, so most of reading is learned from few visual tokens.
* `full` shows whole cards of all print sizes.
* `zoomed` is the protocol of two turns: half view, tool call, full view, answer.

Then come the lessons of pages with sections (`page_lessons`): `low`, `region`, `page`, `look` and `pages`.

Whether to zoom is drawn at random, whatever the print: that decision is left to reinforcement learning.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from vtagent.training.documents import CARD, Document, Glyph, PrintSize, render_document, render_strings
from vtagent.training.documents.sections import PAGE_LABELS
from vtagent.training.documents.values import PRINTED, draw_lesson_page, draw_line
from vtagent.training.pretraining import page_lessons
from vtagent.training.pretraining.lesson_page import LessonPage, half
from vtagent.training.pretraining.packing import PackedBatch, collate
from vtagent.training.pretraining.supervision import (
    HALF,
    STRIP,
    TOKEN,
    answer,
    ask,
    call_zoom,
    pack_page,
    show_zoomed,
    start_trunk,
    tokenizer,
)

Lesson = Literal["glyphs", "line", "near", "full", "zoomed", "low", "region", "page", "look", "pages"]

SLOTS = (2, 4)
"""Rows and columns of glyph slots in a visual token. A slot is 4 × 8 pixels, so two glyphs rarely share one."""
BATCH: dict[Lesson, int] = {
    "glyphs": 64,
    "line": 64,
    "near": 32,
    "full": 12,
    "zoomed": 12,
    "low": 10,
    "region": 14,
    "page": 8,
    "look": 10,
    "pages": 6,
}
"""Rows in a batch, before `times`."""
_WHOLE_PAGES = 3
"""Rows in a batch of `look` or `pages` whose last view is a page at full resolution, before `times`."""

LABEL_INDEX = {label: i + 1 for i, label in enumerate(PAGE_LABELS)}
"""The class of each label in half a token; class 0 is print outside of fields, or none."""
GLYPH_INDEX = {char: i + 1 for i, char in enumerate(PRINTED)}
"""The class of each character in a slot; class 0 is an empty slot."""


@dataclass(frozen=True)
class LessonBatch:
    """The batch of one step: B pages."""

    lesson: Lesson
    views: tuple[Tensor, ...]
    """The views of each page, in the order of the conversation; each (B, 3, H, W) uint8."""
    slots: Tensor
    """(B, tokens, slots) int64: the glyphs of the last view."""
    packed: PackedBatch | None
    """The conversations; None for `glyphs`, which trains the vision tower alone."""
    sections: Tensor | None = None
    """(B, tokens) int64: the kind of section of each visual token of the last view; None: not learned."""
    labels: Tensor | None = None
    """(B, tokens, `SLOTS[0]`) int64: whose field's print each row of slots of the last view holds, a value of
    `LABEL_INDEX` or 0; None: not learned."""

    def to(self, device: torch.device) -> LessonBatch:
        """The batch on a device."""
        views = tuple(view.to(device, non_blocking=True) for view in self.views)
        packed = None if self.packed is None else self.packed.to(device)
        sections = None if self.sections is None else self.sections.to(device, non_blocking=True)
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        return LessonBatch(self.lesson, views, self.slots.to(device, non_blocking=True), packed, sections, labels)


@dataclass(frozen=True)
class Phase:
    """A stretch of the run in which lessons are drawn with the same probabilities."""

    start: float
    """Share of the run, 0 to 1, at which the phase begins."""
    shares: dict[Lesson, float]
    """Probability of each lesson."""
    read_all: float = 0.0
    """Probability that a page has a branch that reads all its fields aloud."""


_PAGES: dict[Lesson, float] = {
    "near": 0.07,
    "full": 0.05,
    "zoomed": 0.03,
    "low": 0.25,
    "region": 0.22,
    "page": 0.16,
    "look": 0.16,
    "pages": 0.06,
}

_FURTHER: dict[Lesson, float] = {
    "near": 0.03,
    "full": 0.04,
    "zoomed": 0.03,
    "low": 0.24,
    "region": 0.12,
    "page": 0.34,
    "look": 0.16,
    "pages": 0.04,
}
"""Whole pages are what a policy that has learned `_PAGES` still reads worst, and what costs most."""

_PLACES: dict[Lesson, float] = {
    "near": 0.02,
    "full": 0.04,
    "zoomed": 0.02,
    "low": 0.45,
    "region": 0.04,
    "page": 0.05,
    "look": 0.14,
    "pages": 0.24,
}
"""Where things stand: the section of a page, the page among several."""

Curriculum = Literal["whole", "further", "places"]
CURRICULA: dict[Curriculum, tuple[Phase, ...]] = {
    "whole": (
        Phase(0.0, {"glyphs": 1.0}),
        Phase(0.1, {"glyphs": 0.1, "line": 0.9}, read_all=1.0),
        Phase(0.18, {"line": 0.2, "near": 0.8}, read_all=0.3),
        Phase(0.28, {"near": 0.6, "full": 0.4}, read_all=0.05),
        Phase(0.46, _PAGES),
    ),
    "further": (Phase(0.0, _FURTHER),),
    "places": (Phase(0.0, _PLACES),),
}
"""The phases of a run, from its first step to its last: one that begins with random weights, and two that go on with a
policy that reads."""


def draw_lesson(step: int, steps: int, curriculum: Curriculum = "whole") -> tuple[Lesson, float]:
    """Draw the lesson of a step.

    Args:
        step: Number of the step, from 0.
        steps: Number of steps of the run.
        curriculum: A key of `CURRICULA`.

    Returns:
        The lesson, and the probability of a branch that reads all fields.
    """
    phase = next(phase for phase in reversed(CURRICULA[curriculum]) if step / steps >= phase.start)
    rng = random.Random(f"lesson/{step}")
    return rng.choices(list(phase.shares), list(phase.shares.values()))[0], phase.read_all


class LessonDataset(IterableDataset[LessonBatch]):
    """The batches of a run. A step's batch is the same in every process and after every interruption.

    Args:
        start: The first step.
        steps: Number of steps of the run; the last step is `steps - 1`.
        curriculum: A key of `CURRICULA`.
        times: As for `draw_batch`.
    """

    def __init__(self, *, start: int, steps: int, curriculum: Curriculum = "whole", times: int = 1) -> None:
        self.start, self.steps, self.curriculum, self.times = start, steps, curriculum, times

    def __iter__(self) -> Iterator[LessonBatch]:
        worker = torch.utils.data.get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(self.start + offset, self.steps, stride):
            lesson, read_all = draw_lesson(step, self.steps, self.curriculum)
            yield draw_batch(lesson, step, read_all=read_all, times=self.times)


def draw_batch(lesson: Lesson, step: int, *, read_all: float = 0.0, times: int = 1) -> LessonBatch:
    """Render the pages of one step.

    Args:
        lesson: What the step teaches.
        step: Number of the step; the seed of its pages.
        read_all: Probability of a branch that reads all fields of a page. `line` always has one and `zoomed` never.
        times: How many times the rows of `BATCH` it has; `glyphs` always has them once.

    Returns:
        The batch.
    """
    rng = random.Random(f"{lesson}/{step}")
    seeds = [f"train/{lesson}/{step}/{i}" for i in range(times * BATCH[lesson])]
    if lesson == "glyphs":
        return _glyph_batch(rng, step)
    pages = _rows(lesson, rng, seeds, read_all, times)
    views = tuple(stack_pixels([page.views[i] for page in pages]) for i in range(len(pages[0].views)))
    slots = torch.stack([glyph_slots(page.glyphs, views[-1].shape[-1], views[-1].shape[-2]) for page in pages])
    packed = collate([page.packed for page in pages], pad=tokenizer().pad_token_id)
    rows = [page.sections for page in pages]
    sections = None if any(row is None for row in rows) else torch.tensor(rows)
    labels = None
    if all(page.labels is not None for page in pages):
        labels = torch.stack([label_rows(page, views[-1].shape[-1], views[-1].shape[-2]) for page in pages])
    return LessonBatch(lesson, views, slots, packed, sections, labels)


def stack_pixels(images: Sequence[Image.Image]) -> Tensor:
    """Stack B RGB images of one size as (B, 3, H, W) uint8."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()


def glyph_slots(glyphs: Sequence[Glyph], width: int, height: int) -> Tensor:
    """Find the glyph whose centre falls in each slot.

    Args:
        glyphs: Glyphs of a view, in its pixels.
        width: Width of the view in pixels.
        height: Height of the view in pixels.

    Returns:
        (tokens, slots) int64: an index of `GLYPH_INDEX`, or 0 for an empty slot.
    """
    rows, columns = SLOTS
    grid = np.zeros((height // TOKEN, width // TOKEN, rows, columns), np.int64)
    for glyph in glyphs:
        x, y = int(glyph.x), int(glyph.y)
        if 0 <= x < width and 0 <= y < height:
            slot = (y // TOKEN, x // TOKEN, y % TOKEN * rows // TOKEN, x % TOKEN * columns // TOKEN)
            grid[slot] = GLYPH_INDEX[glyph.char]
    return torch.from_numpy(grid).flatten(0, 1).flatten(1)


def label_rows(page: LessonPage, width: int, height: int) -> Tensor:
    """Find the field whose print stands in each row of slots.

    Args:
        page: A row of a batch whose labels are learned.
        width: Width of the last view in pixels.
        height: Height of the last view in pixels.

    Returns:
        (tokens, `SLOTS[0]`) int64: a value of `LABEL_INDEX`, or 0.
    """
    rows = SLOTS[0]
    grid = np.zeros((height // TOKEN, width // TOKEN, rows), np.int64)
    for glyph, label in zip(page.glyphs, page.labels or (), strict=True):
        x, y = int(glyph.x), int(glyph.y)
        if label is not None and 0 <= x < width and 0 <= y < height:
            grid[y // TOKEN, x // TOKEN, y % TOKEN * rows // TOKEN] = LABEL_INDEX[label]
    return torch.from_numpy(grid).flatten(0, 1)


def _shifted(glyphs: Sequence[Glyph], *, left: float = 0, top: float = 0, scale: float = 1.0) -> list[Glyph]:
    """The glyphs of a page in the pixels of a view that begins at (left, top) and is scaled by `scale`."""
    return [Glyph(g.char, (g.x - left) * scale, (g.y - top) * scale) for g in glyphs]


def _glyph_batch(rng: random.Random, step: int) -> LessonBatch:
    """The batch of `glyphs`: three quarters small glyphs (windows, and large pages at half), one quarter large ones."""
    images: list[Image.Image] = []
    slots: list[Tensor] = []
    width, height = HALF

    def add(image: Image.Image, glyphs: Sequence[Glyph]) -> None:
        images.append(image)
        slots.append(glyph_slots(glyphs, width, height))

    for page in range(8):
        image, glyphs = render_strings(f"{step}/{page}", print_size="small")
        for corner in range(4):
            left = corner % 2 * width + rng.randint(-8, 8) * (1 if corner % 2 == 0 else -1)
            top = corner // 2 * height
            left = max(0, min(CARD[0] - width, left))
            add(image.crop((left, top, left + width, top + height)), _shifted(glyphs, left=left, top=top))
    for page in range(16):
        image, glyphs = render_strings(f"{step}/{page}", print_size="large")
        add(half(image), _shifted(glyphs, scale=0.5))
        left, top = rng.randint(0, CARD[0] - width), rng.randint(0, CARD[1] - height)
        add(image.crop((left, top, left + width, top + height)), _shifted(glyphs, left=left, top=top))
    return LessonBatch("glyphs", (stack_pixels(images),), torch.stack(slots), None)


def _rows(lesson: Lesson, rng: random.Random, seeds: Sequence[str], read_all: float, times: int) -> list[LessonPage]:
    """The rows of a batch, whose views have the same sizes."""
    with_whole_pages = seeds[: times * _WHOLE_PAGES]
    match lesson:
        case "low":
            return [page_lessons.low(rng, seed) for seed in seeds]
        case "page":
            return [page_lessons.whole(rng, seed) for seed in seeds]
        case "region":
            grid = page_lessons.draw_grid(rng)
            return [page_lessons.region(rng, seed, grid) for seed in seeds]
        case "look" if rng.random() < 0.2:
            return [page_lessons.look(rng, seed, None) for seed in with_whole_pages]
        case "look":
            grid = page_lessons.draw_grid(rng)
            return [page_lessons.look(rng, seed, grid) for seed in seeds]
        case "pages" if rng.random() < 0.3:
            count = rng.choice(page_lessons.THUMBNAILS[:3])
            return [page_lessons.several(rng, seed, count, True) for seed in with_whole_pages]
        case "pages":
            count = rng.choice(page_lessons.THUMBNAILS)
            return [page_lessons.several(rng, seed, count, False) for seed in seeds]
        case _:
            return [_DRAW[lesson](rng, seed, read_all) for seed in seeds]


def _line(rng: random.Random, seed: str, _: float) -> LessonPage:
    if rng.random() < 0.5:
        document = render_document(seed, print_size="small", fields=draw_line, size=STRIP)
        image, glyphs = document.image, list(document.glyphs)
    else:
        document = render_document(seed, print_size="large", fields=draw_line, size=(2 * STRIP[0], 2 * STRIP[1]))
        image, glyphs = half(document.image), _shifted(document.glyphs, scale=0.5)
    return LessonPage([image], glyphs, pack_page(rng, document, STRIP, tools=False, read_all=1.0))


def _near(rng: random.Random, seed: str, read_all: float) -> LessonPage:
    kind = rng.random()
    print_size: PrintSize = "large" if kind < 0.6 else "small"
    document = render_document(seed, print_size=print_size, fields=draw_lesson_page)
    if kind < 0.6:
        packed = pack_page(rng, document, HALF, tools=rng.random() < 0.5, read_all=read_all)
        return LessonPage([half(document.image)], _shifted(document.glyphs, scale=0.5), packed)
    if kind < 0.7:
        packed = pack_page(rng, document, HALF, tools=rng.random() < 0.8, readable=False)
        return LessonPage([half(document.image)], [], packed)
    window = _window(rng, document)
    if window is None:
        return _near(rng, seed + "'", read_all)
    left, top = window
    image = document.image.crop((left, top, left + HALF[0], top + HALF[1]))
    packed = pack_page(rng, document, HALF, tools=False, read_all=read_all)
    return LessonPage([image], _shifted(document.glyphs, left=left, top=top), packed)


def _full(rng: random.Random, seed: str, read_all: float) -> LessonPage:
    document = render_document(seed, print_size=rng.choice(("large", "small")), fields=draw_lesson_page)
    packed = pack_page(rng, document, CARD, tools=False, read_all=read_all)
    return LessonPage([document.image], document.glyphs, packed)


def _zoomed(rng: random.Random, seed: str, _: float) -> LessonPage:
    document = render_document(seed, print_size=rng.choice(("large", "small")), fields=draw_lesson_page)
    packed = start_trunk(HALF, tools=True)
    asked = rng.choice(document.fields)
    ask(packed, asked.question(rng))
    call_zoom(packed, asked.label, decision=0.0)  # every page of this lesson calls, so the call must not be learned
    show_zoomed(packed, CARD)
    answer(packed, asked.label, asked.value, 1.0)
    return LessonPage([half(document.image), document.image], document.glyphs, packed)


_DRAW = {"line": _line, "near": _near, "full": _full, "zoomed": _zoomed}


def _window(rng: random.Random, document: Document) -> tuple[int, int] | None:
    """Draw the top left corner, in pixels, of a window of size `HALF` that holds all print; None if no window does."""
    xs, ys = [g.x for g in document.glyphs], [g.y for g in document.glyphs]
    lefts = (max(0, int(max(xs)) + 6 - HALF[0]), min(CARD[0] - HALF[0], int(min(xs)) - 6))
    tops = (max(0, int(max(ys)) + 7 - HALF[1]), min(CARD[1] - HALF[1], int(min(ys)) - 7))
    if lefts[0] > lefts[1] or tops[0] > tops[1]:
        return None
    return rng.randint(*lefts), rng.randint(*tops)
