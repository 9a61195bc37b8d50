"""Text on one side, token ids on the other: the chat template, the tokenizer, and the ids that mean something to us."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any

from vtagent.errors import ModelError
from vtagent.protocol import TOOL_CALL

IMAGE_TOKEN = "<|image_pad|>"
_PARTIAL = "\ufffd"
_NEVER_SAMPLED = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")


class Codec:
    """What a chat model needs of a tokenizer and its chat template. Safe to use from several threads.

    Args:
        tokenizer: a transformers tokenizer of a Qwen vision-language model.
        template: the chat template, a text in whatever type a processor declares; None is the tokenizer's own.

    Raises:
        ModelError: the tokenizer has no image placeholder.
    """

    def __init__(self, tokenizer: Any, template: str | dict[str, str] | None = None) -> None:
        self._tokenizer = tokenizer
        self._template = template or tokenizer.chat_template
        self._lock = threading.Lock()
        known: dict[str, int] = tokenizer.get_vocab()
        if IMAGE_TOKEN not in known:
            raise ModelError(f"the tokenizer has no {IMAGE_TOKEN} token, so it is not a Qwen vision-language tokenizer")
        self.image_token_id = known[IMAGE_TOKEN]
        self.tool_call_id: int | None = known.get(TOOL_CALL[0])
        ends = [tokenizer.eos_token_id, known.get("<|im_end|>"), known.get("<|endoftext|>")]
        self.end_ids = frozenset(token for token in ends if token is not None)
        control = [name for name in known if re.fullmatch(r"<\|[^|<>]+\|>", name)]
        self._control = re.compile("|".join(re.escape(name) for name in sorted(control, key=len, reverse=True)))

    @cached_property
    def fingerprint(self) -> str:
        """Equal for codecs that give the same ids to the same conversation."""
        known = self._tokenizer.get_vocab()
        told = f"{self._template}\n{sorted(known.items())}"
        return sha256(told.encode(errors="surrogatepass")).hexdigest()

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str:
        """The prompt as text: messages in the template's own dialect, ending where the reply begins.

        Raises:
            ModelError: the template refuses the conversation.
        """
        from jinja2 import TemplateError

        try:
            text = self._tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=True,
            )
        except TemplateError as error:
            raise ModelError(f"the chat template refuses the conversation: {' '.join(str(error).split())}") from error
        return str(text)

    def encode(self, text: str) -> list[int]:
        """Ids of text, control tokens such as `<|im_end|>` read as what they are."""
        with self._lock:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without the end-of-turn token that a reply ends with."""
        if ids and ids[-1] in self.end_ids:
            ids = ids[:-1]
        return self._text(ids)

    def token(self, token_id: int) -> str:
        """How one token is written."""
        return self._text([token_id])

    def defuse(self, text: str) -> str:
        """Text in which control tokens (`<|im_end|>`, `<|image_pad|>`, …) are only words: what others wrote is data."""
        return self._control.sub(lambda found: f"<| {found[0][2:]}", text)

    def stream(self) -> TextStream:
        """A reader of tokens that come one by one."""
        return TextStream(self)

    def _text(self, ids: Sequence[int]) -> str:
        with self._lock:
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def never_sampled(tokenizer: Any) -> frozenset[int]:
    """Tokens that stand for images: one in a reply would be taken for an image that is not there."""
    known = tokenizer.get_vocab()
    return frozenset(known[name] for name in _NEVER_SAMPLED if name in known)


class TextStream:
    """The text of the tokens so far; a character is shown once all of its bytes are there."""

    def __init__(self, codec: Codec) -> None:
        self.text = ""
        self._codec = codec
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        """Add one token and return the text so far; the end-of-turn token adds nothing."""
        if token in self._codec.end_ids:
            return self.text
        self._pending.append(token)
        new = self._codec._text(self._pending)
        if not new.endswith(_PARTIAL) or len(self._pending) >= 8:  # no character has so many tokens: it is not UTF-8
            self.text += new
            self._pending = []
        return self.text
