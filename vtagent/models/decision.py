"""Where a zoom bias acts: at the token that decides whether a reply calls a tool, and nowhere else.

A reply is a thought (`<think>…</think>`, or none), then a call or an answer. Inside the thought nothing is biased.
After it the two signs differ, because raising the odds of a call in the middle of a sentence would break the sentence,
while lowering them never does:

- A positive bias acts on the first token that is not white space. That token is drawn without the bias first. If it
  opens a thought or is white space, it stays; else it is drawn again with the bias. So a thought is never cut off.
- A negative bias acts on every token up to the first `<tool_call>` or `<answer>`: a model may say something first.

Engines read this from `Sampling.call_bias`, and keep one `Decision` per reply.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from vtagent.protocol import ANSWER, THINK, TOOL_CALL

__all__ = ["CallBias", "Decision", "Place", "in_thought", "reply_opening"]

Place = Literal["thought", "decision", "over"]
"""Where a reply stands: inside its thought, where a call could begin, or past that."""

_Stage = Literal["start", "thought", "after", "over"]
_TURN = "<|im_start|>"


@dataclass(frozen=True)
class CallBias:
    """A bias on the log-odds of a call."""

    value: float
    """Added to the raw logit of `call_id` at the decision, in nats."""
    call_id: int
    """The token that opens a call."""
    thought_id: int
    """The token that opens a thought, or the first of several that do."""
    thought_end_id: int | None
    """The token that ends a thought; None if several tokens do."""
    answer_id: int | None
    """The token that opens an answer; None if several tokens do."""
    opening: str
    """The beginning of the reply that already stands in the prompt, such as `<think>` of a thinking model."""
    text_of: Callable[[int], str] = field(compare=False, repr=False)
    """The text of one token."""


class Decision:
    """Follows one reply, token by token, to its decision.

    Args:
        bias: The bias of the reply.
    """

    def __init__(self, bias: CallBias) -> None:
        self.bias = bias
        self._stage: _Stage = "start"
        self._text = ""
        """What is outside of the thought, or the end of what is inside."""
        self._read(bias.opening)
        begun = any(tag in self._text for tag in (TOOL_CALL[0], ANSWER[0]))
        if begun and self.place == "decision":  # what follows the thought in the prompt is a call or an answer
            self._stage = "over"

    @property
    def place(self) -> Place:
        """Where the next token stands."""
        if self._stage == "start" and self._text.strip():  # the first tokens of a `<think>` that is not one token
            return "thought"
        if self._stage in ("thought", "over"):
            return self._stage
        return "decision"

    @property
    def drawn_twice(self) -> bool:
        """Whether a token at the decision is drawn without the bias first; see `stands`."""
        return self.bias.value > 0

    def stands(self, token: int) -> bool:
        """Whether a token that was drawn without the bias at the decision is kept.

        Args:
            token: The token.
        """
        opens_thought = self._stage == "start" and token == self.bias.thought_id
        return opens_thought or not self.bias.text_of(token).strip()

    def push(self, token: int) -> None:
        """Add a sampled token of the reply."""
        if self._stage == "over":
            return
        if self._stage != "thought" and token in (self.bias.call_id, self.bias.answer_id):
            self._stage = "over"
            return
        self._read(self.bias.text_of(token))

    def _read(self, text: str) -> None:
        self._text += text
        if self._stage == "start":
            begun = self._text.lstrip()
            if begun.startswith(THINK[0]):
                self._stage, self._text = "thought", begun[len(THINK[0]) :]
            elif THINK[0].startswith(begun):  # nothing yet, or a part of the tag
                return
            else:
                self._stage = "after"
        if self._stage == "thought":
            _, end, after = self._text.partition(THINK[1])
            if not end:
                self._text = self._text[-len(THINK[1]) :]
                return
            self._stage, self._text = "after", after
        if self._stage == "after" and self._text.strip() and self.bias.value > 0:
            self._stage = "over"


def reply_opening(prompt: str) -> str:
    """The beginning of the reply at the end of a rendered prompt: what follows the line with the role."""
    _, turn, last = prompt.rpartition(_TURN)
    return last.partition("\n")[2] if turn else ""


def in_thought(opening: str) -> bool:
    """Whether the beginning of a reply leaves a thought open."""
    return opening.rfind(THINK[0]) > opening.rfind(THINK[1])
