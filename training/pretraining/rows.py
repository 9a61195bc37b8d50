"""How one page and its questions become one packed row: the protocol, token by token, and what of it is learned."""

from __future__ import annotations

import random
from functools import cache

from tokenizers import Tokenizer

from vtagent.training.documents.render import PAGE, Document
from vtagent.training.documents.values import READ_ALL
from vtagent.training.pretraining.packing import PackedRow
from vtagent.training.pretraining.policy import CALL_HEAD, CALL_TAIL, END, build_tokenizer

TOKEN = 16
"""Side of a visual token in pixels."""
HALF = (PAGE[0] // 2, PAGE[1] // 2)
STRIP = (112, 32)
FORMAT_WEIGHT = 0.25
"""Loss weight of the tokens that carry the protocol; those of a value and of the decision weigh 1."""

LONGEST_ROW = {STRIP: 96, HALF: 128, PAGE: 224}
LONGEST_BRANCH = 27
"""Tokens of a row by view size, and of a question with its reply; what does not fit is left out: few shapes occur."""


@cache
def tokenizer():  # type: ignore[no-untyped-def]
    """One tokenizer a process."""
    return build_tokenizer()


@cache
def _backend() -> Tokenizer:
    backend: Tokenizer = tokenizer().backend_tokenizer
    return backend


@cache
def encode(text: str) -> tuple[int, ...]:
    """Token ids of a text."""
    return tuple(_backend().encode(text, add_special_tokens=False).ids)


def page_row(
    rng: random.Random,
    document: Document,
    size: tuple[int, int],
    *,
    tools: bool,
    read_all: float = 0.0,
    readable: bool = True,
) -> PackedRow:
    """A branch for each field, three as a rule. Where the tool is offered, half of them call it, whatever the print."""
    row = trunk(size, tools=tools)
    if rng.random() < read_all:
        row.branch()
        ask(row, READ_ALL)
        answer(row, "", "\n".join(f"{f.label} {f.value}".strip() for f in document.fields), 1.0)
    for f in rng.sample(document.fields, len(document.fields)):
        if not f.label or len(row.ids) + LONGEST_BRANCH > LONGEST_ROW[size]:
            break
        row.branch()
        ask(row, f.question(rng))
        if tools and rng.random() < 0.5:
            learn(row, f"<think>{f.label}</think>", FORMAT_WEIGHT)
            learn(row, "<tool_call>", 1.0)
            learn(row, CALL_HEAD + CALL_TAIL + "</tool_call>" + END, FORMAT_WEIGHT)
        else:
            answer(row, f.label, f.value, 1.0 if readable else 0.0, decision=1.0 if tools else FORMAT_WEIGHT)
    return row


def trunk(size: tuple[int, int], *, tools: bool) -> PackedRow:
    row = PackedRow(encode("<|image_pad|>")[0])
    if tools:
        row.text(encode("<|im_start|>system\n<tools><|im_end|>\n"))
    row.text(encode("<|im_start|>user\n<|vision_start|>"))
    add_image(row, size)
    return row


def add_image(row: PackedRow, size: tuple[int, int]) -> None:
    row.image(size[1] // TOKEN, size[0] // TOKEN)


def ask(row: PackedRow, question: str) -> None:
    row.text(encode("<|vision_end|>"))
    row.text(encode(question))
    row.text(encode(f"{END}\n<|im_start|>assistant\n"))


def learn(row: PackedRow, text: str, weight: float) -> None:
    ids = encode(text)
    row.text(ids, weights=[weight] * len(ids))


def answer(row: PackedRow, thought: str, value: str, weight: float, *, decision: float = FORMAT_WEIGHT) -> None:
    """`weight` 0 teaches the form of an answer to what cannot be read, and no guess at its content."""
    learn(row, f"<think>{thought}</think>", FORMAT_WEIGHT)
    learn(row, "<answer>", decision)
    learn(row, value, weight)
    learn(row, "</answer>" + END, FORMAT_WEIGHT)
