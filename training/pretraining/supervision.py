"""Writes a page and conversations about it into a packed sequence, with the loss weight of each token.

What the policy writes is learned; what the user, the tool and the template write is not.
"""

from __future__ import annotations

import random
from functools import cache

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from vtagent.training.documents import CARD, Cell, Document
from vtagent.training.documents.values import READ_ALL
from vtagent.training.pretraining.packing import PackedSequence
from vtagent.training.pretraining.policy import (
    CALL_HEAD,
    CALL_IMAGE,
    CALL_REGION,
    CALL_TAIL,
    END,
    build_tokenizer,
    cell_token,
)

TOKEN = 16
"""Side of a visual token in pixels."""
HALF = (CARD[0] // 2, CARD[1] // 2)
"""Width and height in pixels of a page at half its sides."""
STRIP = (112, 32)
"""Width and height in pixels of a page with one line of print."""
FORMAT_WEIGHT = 0.25
"""Loss weight of the tokens that carry the protocol; those of a value, of a place and of the decision weigh 1."""

LONGEST_SEQUENCE = {STRIP: 96, HALF: 128, CARD: 224}
"""Greatest length in tokens of a packed sequence, by the size of its view. Further branches are left out, so that few
shapes occur."""
LONGEST_BRANCH = 27
"""Tokens that a question and its reply take at most."""


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """The policy's tokenizer; one object for each process."""
    return build_tokenizer()


@cache
def _backend() -> Tokenizer:
    backend: Tokenizer = tokenizer().backend_tokenizer
    return backend


@cache
def encode(text: str) -> tuple[int, ...]:
    """The token ids of a text."""
    return tuple(_backend().encode(text, add_special_tokens=False).ids)


def pack_page(
    rng: random.Random,
    document: Document,
    size: tuple[int, int],
    *,
    tools: bool,
    read_all: float = 0.0,
    readable: bool = True,
) -> PackedSequence:
    """Pack one view of a page with a branch for each of its fields that fits, usually three.

    If the tool is offered, half of the branches call it, whatever the print: that decision is left to reinforcement
    learning.

    Args:
        rng: Draws the order of the fields, the phrasing of the questions and which branches call the tool.
        document: The page.
        size: Width and height of the view in pixels.
        tools: Whether the tool is offered.
        read_all: Probability of a first branch that reads all fields aloud.
        readable: Whether the view shows print that can be read. If not, the form of an answer is learned but not its
            value.

    Returns:
        The packed sequence.
    """
    packed = start_trunk(size, tools=tools)
    if rng.random() < read_all:
        packed.branch()
        ask(packed, READ_ALL)
        answer(packed, "", "\n".join(f"{f.label} {f.value}".strip() for f in document.fields), 1.0)
    for f in rng.sample(document.fields, len(document.fields)):
        if not f.label or len(packed.ids) + LONGEST_BRANCH > LONGEST_SEQUENCE[size]:
            break
        packed.branch()
        ask(packed, f.question(rng))
        if tools and rng.random() < 0.5:
            call_zoom(packed, f.label, decision=1.0)
        else:
            answer(packed, f.label, f.value, 1.0 if readable else 0.0, decision=1.0 if tools else FORMAT_WEIGHT)
    return packed


def start_trunk(size: tuple[int, int], *, tools: bool, label: str = "") -> PackedSequence:
    """Start a sequence with its first view.

    Args:
        size: Width and height of the view in pixels.
        tools: Whether the tool is offered; a system turn says so.
        label: What stands before the view.
    """
    packed = _start(tools)
    packed.text(encode(label))
    packed.text(encode("<|vision_start|>"))
    add_image(packed, size)
    return packed


def start_with_question(question: str, size: tuple[int, int], *, tools: bool) -> PackedSequence:
    """Start a sequence in which the question stands before its image, up to the reply. Nothing of it is learned.

    Args:
        question: The question.
        size: Width and height of the view in pixels.
        tools: Whether the tool is offered.
    """
    packed = _start(tools)
    packed.text(encode(question))
    packed.text(encode("<|vision_start|>"))
    add_image(packed, size)
    packed.text(encode(f"<|vision_end|>{END}\n<|im_start|>assistant\n"))
    return packed


def _start(tools: bool) -> PackedSequence:
    """The system turn, if the tool is offered, and the beginning of the user's turn."""
    packed = PackedSequence(encode("<|image_pad|>")[0])
    if tools:
        packed.text(encode("<|im_start|>system\n<tools><|im_end|>\n"))
    packed.text(encode("<|im_start|>user\n"))
    return packed


def add_image(packed: PackedSequence, size: tuple[int, int]) -> None:
    """Append the placeholders of an image of `size` (width, height in pixels)."""
    packed.image(size[1] // TOKEN, size[0] // TOKEN)


def ask(packed: PackedSequence, question: str) -> None:
    """Append the end of the image, the question and the start of the reply. Nothing of it is learned."""
    packed.text(encode("<|vision_end|>"))
    packed.text(encode(question))
    packed.text(encode(f"{END}\n<|im_start|>assistant\n"))


def show_zoomed(packed: PackedSequence, size: tuple[int, int]) -> None:
    """Append what the tool returns, an image of `size` (width, height in pixels), and the start of the next reply."""
    packed.text(encode("\n<|im_start|>user\n<tool_response><|vision_start|>"))
    add_image(packed, size)
    packed.text(encode(f"<|vision_end|></tool_response>{END}\n<|im_start|>assistant\n"))


def learn(packed: PackedSequence, text: str, weight: float) -> None:
    """Append a text whose tokens are learned with this loss weight; 0: not learned."""
    ids = encode(text)
    packed.text(ids, weights=[weight] * len(ids))


def think(packed: PackedSequence, thought: str, place: Cell | None = None) -> None:
    """Append the beginning of a reply, its thought.

    Args:
        packed: Where to append.
        thought: The words.
        place: The cell that the thought ends with; None: none.
    """
    learn(packed, f"<think>{thought}", FORMAT_WEIGHT)
    if place is not None:
        learn(packed, " ", FORMAT_WEIGHT)
        learn(packed, cell_token(place), 1.0)
    learn(packed, "</think>", FORMAT_WEIGHT)


def call_zoom(
    packed: PackedSequence,
    thought: str,
    *,
    decision: float,
    place: Cell | None = None,
    cell: Cell | None = None,
    image: int | None = None,
) -> None:
    """Append a reply that calls the tool.

    Args:
        packed: Where to append.
        thought: Text between the think tags.
        place: The cell that the thought ends with; None: none.
        decision: Loss weight of the token that begins the call, and of the one that says for what.
        cell: The region to look at, a cell of a page; None: all of the image.
        image: The number of the image; None where there is one.
    """
    think(packed, thought, place)
    learn(packed, "<tool_call>", decision)
    learn(packed, CALL_HEAD, FORMAT_WEIGHT)
    if cell is not None:
        learn(packed, CALL_REGION, decision)
        learn(packed, cell_token(cell), decision)
    elif image is not None:
        learn(packed, CALL_IMAGE, decision)
        learn(packed, str(image), decision)
    else:
        learn(packed, CALL_TAIL, decision or FORMAT_WEIGHT)
    if cell is not None or image is not None:
        learn(packed, CALL_TAIL, FORMAT_WEIGHT)
    learn(packed, "</tool_call>" + END, FORMAT_WEIGHT)


def answer(
    packed: PackedSequence,
    thought: str,
    value: str,
    weight: float,
    *,
    decision: float = FORMAT_WEIGHT,
    place: Cell | None = None,
) -> None:
    """Append a reply that answers.

    Args:
        packed: Where to append.
        thought: Text between the think tags.
        value: The answer.
        weight: Loss weight of the value. 0 teaches the form of an answer where the value cannot be read.
        decision: Loss weight of the token that begins the answer.
        place: The cell that the thought ends with; None: none.
    """
    think(packed, thought, place)
    learn(packed, "<answer>", decision)
    learn(packed, value, weight)
    learn(packed, "</answer>" + END, FORMAT_WEIGHT)
