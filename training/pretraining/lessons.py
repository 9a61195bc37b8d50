"""The lessons of pretraining: batches of rendered pages with what is to be learned from them, drawn from a step number.

Five lessons:

* `glyphs`: windows full of random characters, for the vision tower alone: which glyph stands in which slot of a token.
  The renderer knows every glyph's place, and this aligned supervision is what makes reading start at all.
* `line`: a strip with one line of print, to be read aloud. Reading starts here, where there is nothing to search for.
* `near`: 112 × 80 pixels, either a large-print page at half its sides or the window of a small-print page that holds
  its text. Both show capitals seven to eight pixels tall, so reading is learned where pages are cheap.
* `full`: whole pages, both prints.
* `zoomed`: the two-turn protocol: half view, tool call, full view, answer.

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

from vtagent.training.documents.render import PAGE, Document, Glyph, PrintSize, render_document, render_strings
from vtagent.training.documents.values import PRINTED, draw_lesson_page, draw_line
from vtagent.training.pretraining.packing import PackedBatch, PackedRow, collate
from vtagent.training.pretraining.policy import CALL_HEAD, CALL_TAIL, END
from vtagent.training.pretraining.rows import (
    FORMAT_WEIGHT,
    HALF,
    STRIP,
    TOKEN,
    add_image,
    answer,
    ask,
    encode,
    learn,
    page_row,
    tokenizer,
    trunk,
)

Lesson = Literal["glyphs", "line", "near", "full", "zoomed"]

SLOTS = (2, 4)
"""Rows and columns of glyph slots in a token: 8 × 4 pixels, so that two glyphs rarely share one."""
BATCH: dict[Lesson, int] = {"glyphs": 64, "line": 64, "near": 32, "full": 12, "zoomed": 12}

GLYPH_INDEX = {char: i + 1 for i, char in enumerate(PRINTED)}
"""0 is an empty slot."""


@dataclass(frozen=True)
class LessonBatch:
    """One step's work. `views` are in the order in which they stand in a row; glyph slots belong to the last one."""

    lesson: Lesson
    views: tuple[Tensor, ...]  # each (B, 3, H, W) uint8
    slots: Tensor  # (B, tokens, slots) int64
    packed: PackedBatch | None


@dataclass(frozen=True)
class Curriculum:
    """Shares of the lessons over the run: (progress at which it begins, shares, probability of reading everything)."""

    phases: tuple[tuple[float, dict[Lesson, float], float], ...] = (
        (0.0, {"glyphs": 1.0}, 0.0),
        (0.15, {"glyphs": 0.1, "line": 0.9}, 1.0),
        (0.26, {"line": 0.2, "near": 0.8}, 0.3),
        (0.41, {"near": 0.6, "full": 0.4}, 0.05),
        (0.85, {"near": 0.35, "full": 0.35, "zoomed": 0.3}, 0.0),
    )

    def draw(self, step: int, steps: int) -> tuple[Lesson, float]:
        """The lesson of a step and its chance of a read-everything branch."""
        _, shares, read_all = next(phase for phase in reversed(self.phases) if step / steps >= phase[0])
        rng = random.Random(f"lesson/{step}")
        return rng.choices(list(shares), list(shares.values()))[0], read_all


class Lessons(IterableDataset[LessonBatch]):
    """Batches from step `start` to `steps`; the same step gives the same batch, whoever asks and whenever."""

    def __init__(self, *, start: int, steps: int) -> None:
        self.start, self.steps = start, steps
        self.curriculum = Curriculum()

    def __iter__(self) -> Iterator[LessonBatch]:
        worker = torch.utils.data.get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(self.start + offset, self.steps, stride):
            lesson, read_all = self.curriculum.draw(step, self.steps)
            yield draw_batch(lesson, step, read_all=read_all)


def draw_batch(lesson: Lesson, step: int, *, read_all: float = 0.0) -> LessonBatch:
    """The batch of one step."""
    rng = random.Random(f"{lesson}/{step}")
    seeds = [f"train/{lesson}/{step}/{i}" for i in range(BATCH[lesson])]
    if lesson == "glyphs":
        return _glyph_batch(rng, step)
    examples = [_EXAMPLES[lesson](rng, seed, read_all) for seed in seeds]
    views = tuple(stack_pixels([e[0][i] for e in examples]) for i in range(len(examples[0][0])))
    slots = torch.stack([glyph_slots(e[1], views[-1].shape[-1], views[-1].shape[-2]) for e in examples])
    return LessonBatch(lesson, views, slots, collate([e[2] for e in examples], pad=tokenizer().pad_token_id))


def half(image: Image.Image) -> Image.Image:
    """The quarter-resolution view of a page, made as `vtagent.views` makes it."""
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)


def stack_pixels(images: Sequence[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()


def glyph_slots(glyphs: Sequence[Glyph], width: int, height: int) -> Tensor:
    """(tokens, slots): the glyph whose centre falls in each slot, 0 where none does."""
    rows, columns = SLOTS
    grid = np.zeros((height // TOKEN, width // TOKEN, rows, columns), np.int64)
    for glyph in glyphs:
        x, y = int(glyph.x), int(glyph.y)
        if 0 <= x < width and 0 <= y < height:
            slot = (y // TOKEN, x // TOKEN, y % TOKEN * rows // TOKEN, x % TOKEN * columns // TOKEN)
            grid[slot] = GLYPH_INDEX[glyph.char]
    return torch.from_numpy(grid).flatten(0, 1).flatten(1)


def _shifted(glyphs: Sequence[Glyph], *, left: float = 0, top: float = 0, scale: float = 1.0) -> list[Glyph]:
    return [Glyph(g.char, (g.x - left) * scale, (g.y - top) * scale) for g in glyphs]


def _glyph_batch(rng: random.Random, step: int) -> LessonBatch:
    """Three quarters small glyphs (windows, and large pages halved), one quarter large ones."""
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
            left = max(0, min(PAGE[0] - width, left))
            add(image.crop((left, top, left + width, top + height)), _shifted(glyphs, left=left, top=top))
    for page in range(16):
        image, glyphs = render_strings(f"{step}/{page}", print_size="large")
        add(half(image), _shifted(glyphs, scale=0.5))
        left, top = rng.randint(0, PAGE[0] - width), rng.randint(0, PAGE[1] - height)
        add(image.crop((left, top, left + width, top + height)), _shifted(glyphs, left=left, top=top))
    return LessonBatch("glyphs", (stack_pixels(images),), torch.stack(slots), None)


Example = tuple[list[Image.Image], Sequence[Glyph], PackedRow]


def _line(rng: random.Random, seed: str, _: float) -> Example:
    if rng.random() < 0.5:
        document = render_document(seed, print_size="small", fields=draw_line, size=STRIP)
        image, glyphs = document.image, document.glyphs
    else:
        document = render_document(seed, print_size="large", fields=draw_line, size=(2 * STRIP[0], 2 * STRIP[1]))
        image, glyphs = half(document.image), tuple(_shifted(document.glyphs, scale=0.5))
    return [image], glyphs, page_row(rng, document, STRIP, tools=False, read_all=1.0)


def _near(rng: random.Random, seed: str, read_all: float) -> Example:
    kind = rng.random()
    print_size: PrintSize = "large" if kind < 0.6 else "small"
    document = render_document(seed, print_size=print_size, fields=draw_lesson_page)
    if kind < 0.6:
        row = page_row(rng, document, HALF, tools=rng.random() < 0.5, read_all=read_all)
        return [half(document.image)], _shifted(document.glyphs, scale=0.5), row
    if kind < 0.7:
        row = page_row(rng, document, HALF, tools=rng.random() < 0.8, readable=False)
        return [half(document.image)], [], row
    window = _window(rng, document)
    if window is None:
        return _near(rng, seed + "'", read_all)
    left, top = window
    image = document.image.crop((left, top, left + HALF[0], top + HALF[1]))
    row = page_row(rng, document, HALF, tools=False, read_all=read_all)
    return [image], _shifted(document.glyphs, left=left, top=top), row


def _full(rng: random.Random, seed: str, read_all: float) -> Example:
    document = render_document(seed, print_size=rng.choice(("large", "small")), fields=draw_lesson_page)
    return [document.image], document.glyphs, page_row(rng, document, PAGE, tools=False, read_all=read_all)


def _zoomed(rng: random.Random, seed: str, _: float) -> Example:
    document = render_document(seed, print_size=rng.choice(("large", "small")), fields=draw_lesson_page)
    row = trunk(HALF, tools=True)
    asked = rng.choice(document.fields)
    ask(row, asked.question(rng))
    learn(row, f"<think>{asked.label}</think>", FORMAT_WEIGHT)
    learn(row, "<tool_call>", 0.0)
    learn(row, CALL_HEAD + CALL_TAIL + "</tool_call>" + END, FORMAT_WEIGHT)
    row.text(encode("\n<|im_start|>user\n<tool_response><|vision_start|>"))
    add_image(row, PAGE)
    row.text(encode("<|vision_end|></tool_response><|im_end|>\n<|im_start|>assistant\n"))
    answer(row, asked.label, asked.value, 1.0)
    return [half(document.image), document.image], document.glyphs, row


_EXAMPLES = {"line": _line, "near": _near, "full": _full, "zoomed": _zoomed}


def _window(rng: random.Random, document: Document) -> tuple[int, int] | None:
    """Top left corner of a half-sized window that holds all print, or None."""
    xs, ys = [g.x for g in document.glyphs], [g.y for g in document.glyphs]
    lefts = (max(0, int(max(xs)) + 6 - HALF[0]), min(PAGE[0] - HALF[0], int(min(xs)) - 6))
    tops = (max(0, int(max(ys)) + 7 - HALF[1]), min(PAGE[1] - HALF[1], int(min(ys)) - 7))
    if lefts[0] > lefts[1] or tops[0] > tops[1]:
        return None
    return rng.randint(*lefts), rng.randint(*tops)
