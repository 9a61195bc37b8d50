"""`Codec` converts between text and token ids: chat template, tokenizer, and the ids of special tokens."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any

from vtagent.errors import ModelError
from vtagent.models.decision import CallBias
from vtagent.protocol import ANSWER, THINK, TOOL_CALL

IMAGE_TOKEN = "<|image_pad|>"
_LARGEST_BIAS = 1e4
"""No difference of logits comes near this, and it is finite in every dtype and in JSON."""
_PARTIAL = "\ufffd"
_NEVER_SAMPLED = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")


class Codec:
    """A checkpoint's tokenizer and chat template. Thread-safe.

    Args:
        tokenizer: A transformers tokenizer of a Qwen vision-language model.
        template: The chat template, in the type that the processor declares; None takes the tokenizer's own.

    Attributes:
        image_token_id: The placeholder of an image, or of one visual token of it.
        tool_call_id: The token that opens a tool call; None if the tokenizer has no such token.
        end_ids: The tokens that end a reply.

    Raises:
        ModelError: The tokenizer has no image placeholder.
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
        self._thought_end_id, self._answer_id = known.get(THINK[1]), known.get(ANSWER[0])
        ends = [tokenizer.eos_token_id, known.get("<|im_end|>"), known.get("<|endoftext|>")]
        self.end_ids = frozenset(token for token in ends if token is not None)
        control = [name for name in known if re.fullmatch(r"<\|[^|<>]+\|>", name)]
        self._control = re.compile("|".join(re.escape(name) for name in sorted(control, key=len, reverse=True)))

    @cached_property
    def fingerprint(self) -> str:
        """A hash that is equal for codecs with the same template and vocabulary."""
        known = self._tokenizer.get_vocab()
        content = f"{self._template}\n{sorted(known.items())}"
        return sha256(content.encode(errors="surrogatepass")).hexdigest()

    def call_bias(self, value: float, opening: str) -> CallBias:
        """The bias of a reply on the log-odds of a call.

        Args:
            value: In nats.
            opening: The beginning of the reply that stands in the prompt.

        Raises:
            ModelError: The tokenizer has no single token that opens a call.
        """
        if self.tool_call_id is None:
            raise ModelError(f"zoom_bias needs a tokenizer with {TOOL_CALL[0]} as one token")
        return CallBias(
            value=max(-_LARGEST_BIAS, min(value, _LARGEST_BIAS)),
            call_id=self.tool_call_id,
            thought_id=self.encode(THINK[0])[0],
            thought_end_id=self._thought_end_id,
            answer_id=self._answer_id,
            opening=opening,
            text_of=self.token,
        )

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str:
        """Render the prompt as text, up to where the reply begins.

        Args:
            messages: As the chat template reads them; see `template.to_template`.
            tools: OpenAI-style schemas.

        Raises:
            ModelError: The template refuses the conversation.
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
        """The ids of a text. Control tokens in it, such as `<|im_end|>`, become their single ids."""
        with self._lock:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a reply's ids, without the end-of-turn token."""
        if ids and ids[-1] in self.end_ids:
            ids = ids[:-1]
        return self._text(ids)

    def token(self, token_id: int) -> str:
        """The text of one token."""
        return self._text([token_id])

    def defuse(self, text: str) -> str:
        """Break up control tokens (`<|im_end|>`, `<|image_pad|>`, …) in a text, so that it is encoded as data only."""
        return self._control.sub(lambda found: f"<| {found[0][2:]}", text)

    def detokenizer(self, text: str = "") -> Detokenizer:
        """A new incremental detokenizer.

        Args:
            text: What precedes the first token.
        """
        return Detokenizer(self, text)

    def _text(self, ids: Sequence[int]) -> str:
        with self._lock:
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def never_sampled(tokenizer: Any) -> frozenset[int]:
    """The tokens that stand for images. In a reply, one would be counted as an image of the prompt."""
    known = tokenizer.get_vocab()
    return frozenset(known[name] for name in _NEVER_SAMPLED if name in known)


class Detokenizer:
    """Builds text from tokens that arrive one by one; a character appears once all of its bytes are there.

    Args:
        codec: The tokens' codec.
        text: What precedes the first token.
    """

    def __init__(self, codec: Codec, text: str = "") -> None:
        self.text = text
        self._codec = codec
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        """Add one token and return the text so far. The end-of-turn token adds nothing."""
        if token in self._codec.end_ids:
            return self.text
        self._pending.append(token)
        new = self._codec._text(self._pending)
        if not new.endswith(_PARTIAL) or len(self._pending) >= 8:  # no character has so many tokens, so it is not UTF-8
            self.text += new
            self._pending = []
        return self.text
