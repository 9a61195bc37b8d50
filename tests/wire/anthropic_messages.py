"""`AnthropicMessages`: POST /v1/messages as Anthropic answers it. Tool results may hold images, and stand first.

Source: Anthropic, API reference, "Messages" and "Streaming messages"; `anthropic_check` names those of the rules.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.wire.anthropic_check import Check
from tests.wire.server import Format, Refusal, Request, Turn, cut, sse

MAX_BYTES = 32 * 2**20
"""Of the request's body. Source: "Errors", "Request size limits"."""
KINDS = {401: "authentication_error", 404: "not_found_error", 413: "request_too_large"}


@dataclass
class AnthropicMessages(Format):
    """The Messages API.

    One rule is stricter than the API as it is today: it joins turns of one role that follow one another (Bedrock
    refuses them). Another may be: whether it still refuses tool calls in a request without `tools` is not known.

    Args:
        max_bytes: Of the request's body.
    """

    max_bytes: int = MAX_BYTES

    def check(self, request: Request) -> None:
        """See `Format.check`."""
        if request.path.partition("?")[0] != "/v1/messages":
            raise Refusal("Not found", 404)
        if not {"x-api-key", "authorization"} & set(request.headers):
            raise Refusal("x-api-key header is required", 401)
        if "anthropic-version" not in request.headers:
            raise Refusal("anthropic-version: header is required")
        if int(request.headers.get("content-length", 0)) > self.max_bytes:
            raise Refusal("Request exceeds the maximum size", 413)
        request.streamed = bool(request.body.get("stream"))
        Check(request).run()

    def whole(self, turn: Turn) -> Any:
        """See `Format.whole`."""
        content: list[dict[str, Any]] = []
        if turn.reply.text:
            content.append({"type": "text", "text": turn.reply.text})
        content += [_use(turn, place, call.arguments) for place, call in enumerate(turn.reply.calls)]
        return {**_head(turn), "content": content, "stop_reason": _stop(turn), "usage": _usage(turn)}

    def pieces(self, turn: Turn) -> Iterator[bytes]:
        """See `Format.pieces`."""
        for event in _events(turn):
            yield sse(event, event["type"])

    def error(self, refusal: Refusal) -> Any:
        """See `Format.error`."""
        kind = refusal.kind or KINDS.get(refusal.status, "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": refusal.message}, "request_id": "req_0001"}


def _use(turn: Turn, place: int, arguments: dict[str, Any]) -> dict[str, Any]:
    id_ = turn.call_id(place, "toolu_")
    return {"type": "tool_use", "id": id_, "name": turn.reply.calls[place].name, "input": arguments}


def _head(turn: Turn) -> dict[str, Any]:
    return {
        "id": f"msg_{turn.number:04d}",
        "type": "message",
        "role": "assistant",
        "model": turn.model,
        "stop_sequence": None,
    }


def _usage(turn: Turn) -> dict[str, Any]:
    cache = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"input_tokens": turn.prompt_tokens, "output_tokens": turn.completion_tokens, **cache}


def _stop(turn: Turn) -> str:
    return "tool_use" if turn.reply.calls else "end_turn"


def _events(turn: Turn) -> Iterator[dict[str, Any]]:
    begun = {**_head(turn), "content": [], "stop_reason": None, "usage": {**_usage(turn), "output_tokens": 1}}
    yield {"type": "message_start", "message": begun}
    yield {"type": "ping"}
    index = 0
    if turn.reply.text:
        yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        for text in cut(turn.reply.text):
            delta = {"type": "text_delta", "text": text}
            yield {"type": "content_block_delta", "index": 0, "delta": delta}
        yield {"type": "content_block_stop", "index": 0}
        index = 1
    for place, call in enumerate(turn.reply.calls):
        at = {"index": index + place}
        yield {"type": "content_block_start", **at, "content_block": _use(turn, place, {})}
        for text in cut(json.dumps(call.arguments)):
            delta = {"type": "input_json_delta", "partial_json": text}
            yield {"type": "content_block_delta", **at, "delta": delta}
        yield {"type": "content_block_stop", **at}
    ending = {"stop_reason": _stop(turn), "stop_sequence": None}
    yield {"type": "message_delta", "delta": ending, "usage": _usage(turn)}
    yield {"type": "message_stop"}
