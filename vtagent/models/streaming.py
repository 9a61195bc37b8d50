"""A sampled reply as chat messages: whole, or in chunks whose text can be shown before the reply is complete."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.utils.json import parse_partial_json

from vtagent.models.codec import TextStream
from vtagent.models.engine import Generation
from vtagent.protocol import TOOL_CALL, with_structured_calls


def to_message(text: str) -> AIMessage:
    """A reply as a message, its calls in `tool_calls` and `invalid_tool_calls`."""
    return with_structured_calls(AIMessage(text.rstrip()))


def usage(generation: Generation) -> UsageMetadata:
    """Token counts; `image` are the visual tokens of the prompt, `cache_read` those whose KV was there already."""
    details: Any = {
        "image": generation.image_tokens,
        "cache_read": generation.prompt_tokens - generation.prefilled_tokens,
    }
    sampled = len(generation.token_ids)
    return UsageMetadata(
        input_tokens=generation.prompt_tokens,
        output_tokens=sampled,
        total_tokens=generation.prompt_tokens + sampled,
        input_token_details=details,
    )


def last_chunk(message: AIMessage, shown: str) -> AIMessageChunk:
    """What of a complete message was not streamed yet: the rest of its text, its calls and its metadata."""
    calls = [
        tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=place)
        for place, call in enumerate(message.tool_calls)
    ]
    calls += [
        tool_call_chunk(
            name=call["name"], args=_unparsable(call["args"] or ""), id=call["id"], index=len(calls) + place
        )
        for place, call in enumerate(message.invalid_tool_calls)
    ]
    return AIMessageChunk(
        content=str(message.content)[len(shown) :],
        tool_call_chunks=calls,
        response_metadata=message.response_metadata,
        usage_metadata=message.usage_metadata,
        chunk_position="last",
    )


class Shown:
    """What of a reply that is still being sampled has been shown: text, up to where a call or a stop may begin.

    Args:
        reader: Makes text of the reply's tokens.
        stops: Texts that end the reply.
    """

    def __init__(self, reader: TextStream, stops: Sequence[str]) -> None:
        self._reader = reader
        self._stops = stops
        self._text = ""

    def push(self, token: int) -> str:
        """The text that can be shown now that this token is there; often none."""
        text = visible(cut(self._reader.push(token), self._stops), self._stops)
        new = text[len(self._text) :]
        self._text += new
        return new

    def rest(self, message: AIMessage) -> AIMessageChunk:
        """What is left to show of the complete reply."""
        return last_chunk(message, self._text)


def visible(text: str, stops: Sequence[str] = ()) -> str:
    """The part of an unfinished reply that its complete message is sure to begin with: up to the first call."""
    opening = text.find(TOOL_CALL[0])
    if opening >= 0:
        return text[:opening].rstrip()
    held = max((_overlap(text, tag) for tag in (TOOL_CALL[0], *stops)), default=0)
    return text[: len(text) - held].rstrip()


def cut(text: str, stops: Sequence[str]) -> str:
    """Text up to the first stop string."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


def _unparsable(args: str) -> str:
    """LangChain completes broken JSON when it merges chunks; what the model wrote must stay invalid."""
    try:
        completed = parse_partial_json(args) if args else {}
    except ValueError:
        return args
    return f"{TOOL_CALL[0]}{args}" if isinstance(completed, dict) else args


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of `text` may be the beginning of `tag`."""
    return next((size for size in range(min(len(tag), len(text)), 0, -1) if text.endswith(tag[:size])), 0)
