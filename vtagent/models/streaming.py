"""Converts sampled replies to chat messages: complete ones, or chunks that can be shown while sampling goes on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.utils.json import parse_partial_json

from vtagent.models.codec import Detokenizer
from vtagent.models.engine import Generation
from vtagent.protocol import TOOL_CALL, with_structured_calls


def to_message(text: str) -> AIMessage:
    """A reply as a message, its calls in `tool_calls` and `invalid_tool_calls`."""
    return with_structured_calls(AIMessage(text.rstrip()))


def usage(generation: Generation) -> UsageMetadata:
    """Token counts: `image` counts the prompt's visual tokens, `cache_read` its tokens whose KV was in the cache."""
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
    """The last chunk of a streamed message: the rest of its text, its calls and its metadata.

    Args:
        message: The complete message.
        shown: The text that was streamed before.
    """
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


class ReplyStreamer:
    """Splits a reply that is being sampled into chunks of text; holds back what may begin a call or a stop text.

    Args:
        detokenizer: Of the reply.
        stops: Texts that end the reply.
    """

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str]) -> None:
        self._detokenizer = detokenizer
        self._stops = stops
        self._text = ""

    def push(self, token: int) -> str:
        """Add one token and return the text that can be shown now; often none."""
        text = visible(cut(self._detokenizer.push(token), self._stops), self._stops)
        new = text[len(self._text) :]
        self._text += new
        return new

    def last_chunk(self, message: AIMessage) -> AIMessageChunk:
        """The chunk with everything that `push` has not returned.

        Args:
            message: The complete reply.
        """
        return last_chunk(message, self._text)


def visible(text: str, stops: Sequence[str] = ()) -> str:
    """The part of an unfinished reply that its complete message is certain to begin with: up to the first call.

    Args:
        text: The reply so far.
        stops: Texts that end the reply; an unfinished one at the end of `text` is left out.
    """
    opening = text.find(TOOL_CALL[0])
    if opening >= 0:
        return text[:opening].rstrip()
    held = max((_overlap(text, tag) for tag in (TOOL_CALL[0], *stops)), default=0)
    return text[: len(text) - held].rstrip()


def cut(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stop texts."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


def _unparsable(args: str) -> str:
    """Keep invalid arguments invalid: LangChain would complete truncated JSON when it merges chunks."""
    try:
        completed = parse_partial_json(args) if args else {}
    except ValueError:
        return args
    return f"{TOOL_CALL[0]}{args}" if isinstance(completed, dict) else args


def _overlap(text: str, tag: str) -> int:
    """Number of characters at the end of `text` that may be the beginning of `tag`."""
    return next((size for size in range(min(len(tag), len(text)), 0, -1) if text.endswith(tag[:size])), 0)


def as_chunk(message: AIMessageChunk) -> ChatGenerationChunk:
    """The message as what LangChain's streams consist of."""
    return ChatGenerationChunk(message=message)


def seconds_left(timeout: float | None) -> Callable[[], float | None]:
    """Start a timer.

    Args:
        timeout: Seconds from now; None is no limit.

    Returns:
        A function that returns the seconds left; None without a limit.
    """
    end = None if timeout is None else time.monotonic() + timeout
    return lambda: None if end is None else max(0.0, end - time.monotonic())


def put_token(loop: asyncio.AbstractEventLoop, tokens: asyncio.Queue[int | None], token: int | None) -> None:
    """Put a token into a queue of an event loop, from the engine's thread.

    Args:
        loop: The event loop.
        tokens: A queue of that loop.
        token: The token; None ends the reply.
    """
    if not loop.is_closed():
        loop.call_soon_threadsafe(tokens.put_nowait, token)
