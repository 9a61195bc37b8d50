"""Measures how well a policy in training reads pages it has never seen.

It uses teacher forcing, which is fast and agrees closely with greedy decoding.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from vtagent.training.documents import CARD, PrintSize, render_document, render_page
from vtagent.training.pretraining.batched import encode_pages, hidden_states
from vtagent.training.pretraining.lesson_page import LessonPage, half
from vtagent.training.pretraining.lessons import stack_pixels
from vtagent.training.pretraining.packing import PackedBatch, collate
from vtagent.training.pretraining.page_lessons import PageView, show
from vtagent.training.pretraining.supervision import HALF, pack_page, tokenizer

PAGES = 96
"""Pages of each print size."""
_BATCH = 24
"""Pages in one forward pass."""


@cache
def _pages(print_size: PrintSize, quarter: bool) -> tuple[Tensor, PackedBatch]:
    """The pages of a print size, in full or at a quarter of the pixels: pixels (B, 3, H, W) uint8 and questions."""
    rng = random.Random("probe")
    documents = [render_document(f"probe/{i}", print_size=print_size) for i in range(PAGES)]
    images = [half(d.image) if quarter else d.image for d in documents]
    sequences = [pack_page(rng, d, HALF if quarter else CARD, tools=False) for d in documents]
    return stack_pixels(images), collate(sequences, pad=tokenizer().pad_token_id)


@cache
def _page_rows(view: PageView, kind: PrintSize | Literal["absent"]) -> list[tuple[list[Tensor], PackedBatch]]:
    """Batches of pages: pixels (B, 3, H, W) uint8, and questions about one print size, or about what is not there."""
    rng = random.Random("probe/pages")
    rows: list[LessonPage] = []
    for i in range(PAGES // 2):
        page = render_page(f"probe/{i}", print_size=None if kind == "absent" else kind, grid="six")
        if kind == "absent":
            asked = [page.ask_absent(rng) for _ in range(4)]
        else:
            asked = [page.ask_about(rng, kind) for _ in range(4)]
            asked = [question for question in asked if question.cell == asked[0].cell]
        rows.append(show(rng, page, asked, view))
    parts = [rows[start : start + _BATCH // 2] for start in range(0, len(rows), _BATCH // 2)]
    pad = tokenizer().pad_token_id
    return [
        ([stack_pixels([row.views[0] for row in part])], collate([row.packed for row in part], pad=pad))
        for part in parts
    ]


@torch.no_grad()
def probe(model: Qwen3VLForConditionalGeneration) -> dict[str, float]:
    """Measure how many fields the model reads.

    Args:
        model: The policy. It is left in evaluation mode.

    Returns:
        The share of questions, 0 to 1, whose answer's tokens are all the most likely ones; by view and print size. The
        first are about cards.
    """
    model.eval()
    device = next(model.parameters()).device
    shares: dict[str, float] = {}

    def share(batches: list[tuple[list[Tensor], PackedBatch]]) -> float:
        right = total = 0
        for pixels, batch in batches:
            part = batch.to(device)
            views = [encode_pages(model.model.visual, view.to(device)) for view in pixels]
            fields, failed = count_fields(model.lm_head(hidden_states(model, part, views)).argmax(-1), part)
            total += fields
            right += fields - failed
        return right / total

    cards: tuple[PrintSize, ...] = ("large", "small")
    for print_size in cards:
        for quarter in (True, False):
            pixels, batch = _pages(print_size, quarter)
            places = [slice(start, start + _BATCH) for start in range(0, PAGES, _BATCH)]
            shares[f"{'quarter' if quarter else 'full'}, {print_size} print"] = share(
                [([pixels[place]], batch.part(place)) for place in places]
            )
    views: tuple[PageView, ...] = ("page", "low", "region")
    for view in views:
        for kind in ("large", "medium", "small"):
            shares[f"{view}, {kind} print"] = share(_page_rows(view, kind))
    shares["page, absent"] = share(_page_rows("page", "absent"))
    return shares


def count_fields(predicted: Tensor, batch: PackedBatch) -> tuple[int, int]:
    """Count the fields of a batch, and those with a mistake.

    A field's value is a run of targets of weight 1.

    Args:
        predicted: The most likely next token at each place, (B, T) int64.
        batch: The batch.

    Returns:
        The number of fields and the number of fields with a wrong token.
    """
    value = batch.weights == 1.0  # (B, T) bool, as are `wrong` and `begins`
    wrong = (predicted != batch.targets) & value
    begins = value & ~torch.nn.functional.pad(value, (1, 0))[:, :-1]
    field = begins.long().cumsum(1) * value  # (B, T): the number of the field within its sequence; 0: no field
    failed = sum(len(set(field[i][wrong[i]].tolist())) for i in range(field.shape[0]))
    return int(begins.sum()), failed
