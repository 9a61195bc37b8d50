"""Measures how well a policy in training reads pages it has never seen.

It uses teacher forcing, which is fast and agrees closely with greedy decoding.
"""

from __future__ import annotations

import random
from functools import cache

import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from vtagent.training.documents import PAGE, PrintSize, render_document
from vtagent.training.pretraining.batched import encode_pages, hidden_states
from vtagent.training.pretraining.lessons import half, stack_pixels
from vtagent.training.pretraining.packing import PackedBatch, collate
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
    sequences = [pack_page(rng, d, HALF if quarter else PAGE, tools=False) for d in documents]
    return stack_pixels(images), collate(sequences, pad=tokenizer().pad_token_id)


@torch.no_grad()
def probe(model: Qwen3VLForConditionalGeneration) -> dict[str, float]:
    """Measure how many fields the model reads.

    Args:
        model: The policy. It is left in evaluation mode.

    Returns:
        The share of fields, 0 to 1, whose value tokens are all the most likely ones; by resolution and print size.
    """
    model.eval()
    shares: dict[str, float] = {}
    for print_size in ("large", "small"):
        for quarter in (True, False):
            pixels, batch = _pages(print_size, quarter)
            right = total = 0
            for start in range(0, PAGES, _BATCH):
                places = slice(start, start + _BATCH)
                part = batch.part(places)
                states = hidden_states(model, part, [encode_pages(model.model.visual, pixels[places])])
                fields, failed = count_fields(model.lm_head(states).argmax(-1), part)
                total += fields
                right += fields - failed
            shares[f"{'quarter' if quarter else 'full'}, {print_size} print"] = right / total
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
