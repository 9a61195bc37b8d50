"""How well a policy in training reads pages it has never seen: by teacher forcing, quick, near to greedy decoding."""

from __future__ import annotations

import random
from functools import cache

import torch
from transformers import Qwen3VLForConditionalGeneration

from vtagent.training.documents.render import PAGE, PrintSize, render_document
from vtagent.training.pretraining.batched import encode_pages, hidden_states
from vtagent.training.pretraining.lessons import half, stack_pixels
from vtagent.training.pretraining.packing import PackedBatch, collate
from vtagent.training.pretraining.rows import HALF, page_row, tokenizer

PAGES = 96


@cache
def _pages(print_size: PrintSize, quarter: bool) -> tuple[torch.Tensor, PackedBatch]:
    rng = random.Random("probe")
    documents = [render_document(f"probe/{i}", print_size=print_size) for i in range(PAGES)]
    images = [half(d.image) if quarter else d.image for d in documents]
    rows = [page_row(rng, d, HALF if quarter else PAGE, tools=False) for d in documents]
    return stack_pixels(images), collate(rows, pad=tokenizer().pad_token_id)


@torch.no_grad()
def probe(model: Qwen3VLForConditionalGeneration) -> dict[str, float]:
    """Share of fields whose every value token is the likeliest one, by print size and resolution."""
    model.eval()
    shares: dict[str, float] = {}
    for print_size in ("large", "small"):
        for quarter in (True, False):
            pixels, batch = _pages(print_size, quarter)
            right = total = 0
            for start in range(0, PAGES, 24):
                rows = slice(start, start + 24)
                part = PackedBatch(
                    batch.ids[rows],
                    batch.positions[:, rows],
                    batch.attend[rows],
                    batch.targets[rows],
                    batch.weights[rows],
                )
                states = hidden_states(model, part, [encode_pages(model.model.visual, pixels[rows])])
                predicted = model.lm_head(states).argmax(-1)
                wrong = (predicted != part.targets) & (part.weights == 1.0)
                # A field's value is a run of targets of weight 1; count runs, and runs without a mistake.
                value = part.weights == 1.0
                begins = value & ~torch.nn.functional.pad(value, (1, 0))[:, :-1]
                field = begins.long().cumsum(1) * value
                total += int(begins.sum())
                failed = sum(len(set(field[i][wrong[i]].tolist())) for i in range(field.shape[0]))
                right += int(begins.sum()) - failed
            shares[f"{'quarter' if quarter else 'full'}, {print_size} print"] = right / total
    return shares
