"""`OllamaChat`: POST /api/chat as Ollama answers it; its stream is one JSON value a line.

Source: ollama/ollama, docs/api.md, "Generate a chat completion"; that `server/prompt.go` takes images of all roles:
stdapi-ai/stdapi.ai #255. The errors' words are those of its Go decoder, or ours where the server says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

from tests.wire.images import decoded, qwen_tokens, strict_base64
from tests.wire.server import Format, Refusal, Request, ShownImage, Turn, cut, words

FIELDS = words("model messages tools think format options stream keep_alive logprobs top_logprobs truncate shift")
MESSAGE_FIELDS = words("role content thinking images tool_calls tool_name tool_call_id")
ROLES = ("system", "user", "assistant", "tool")
MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp")
CREATED = "2026-01-01T00:00:00Z"


class OllamaChat(Format):
    """Ollama's own API.

    Three rules are stricter than the server, because the model would not see what was sent. The server says nothing of
    a field that it does not know (`tool_choice`, images at the top level). It takes images from messages of all roles,
    but the templates of most checkpoints write those of user messages alone. It takes a tool message without a call.
    """

    stream_type: ClassVar[str] = "application/x-ndjson"

    def check(self, request: Request) -> None:
        """See `Format.check`."""
        body = request.body
        if request.path != "/api/chat":
            raise Refusal("404 page not found", 404)
        for name in body:
            if name not in FIELDS:
                raise Refusal(f"unknown field: {name}")
        if not isinstance(body.get("model"), str) or not body["model"]:
            raise Refusal("model is required")
        request.streamed = body.get("stream") is not False
        for place, tool in enumerate(body.get("tools") or ()):
            function = tool.get("function") or {}
            if tool.get("type") != "function" or not function.get("name"):
                raise Refusal(f"tools[{place}]: expected a function with a name")
            if (function.get("parameters") or {}).get("type") != "object":
                raise Refusal(f"tools[{place}]: parameters must be of type object")
            request.characters += len(json.dumps(function))
        waiting = 0
        for message in body.get("messages") or ():
            self._check_message(request, message)
            if message["role"] == "tool":
                waiting -= 1
                if waiting < 0:
                    raise Refusal("a tool message must answer a tool call")
            else:
                waiting = len(message.get("tool_calls") or ())

    def _check_message(self, request: Request, message: dict[str, Any]) -> None:
        for name in message:
            if name not in MESSAGE_FIELDS:
                raise Refusal(f"unknown field: messages.{name}")
        role, content = message.get("role"), message.get("content", "")
        if role not in ROLES:
            raise Refusal(f"invalid role: {role}, role must be one of [system, user, assistant, tool]")
        if not isinstance(content, str):
            kind = "array" if isinstance(content, list) else type(content).__name__
            said = f"json: cannot unmarshal {kind} into Go struct field ChatRequest.messages.content of type string"
            raise Refusal(said)
        request.characters += len(content)
        for call in message.get("tool_calls") or ():
            if not isinstance(call.get("function", {}).get("arguments"), dict):
                said = "json: cannot unmarshal string into Go struct field ToolCallFunction.arguments of type object"
                raise Refusal(said)
        images = message.get("images") or ()
        if images and role != "user":
            raise Refusal(f"images are only read from user messages, not from a message with role {role}")
        for data in images:
            self._check_image(request, data)

    def _check_image(self, request: Request, text: Any) -> None:
        try:
            data = strict_base64(text)
        except (ValueError, TypeError) as error:
            raise Refusal("illegal base64 data at input byte 4") from error
        try:
            image = decoded(data)
        except ValueError as error:
            raise Refusal(
                "Failed to create new sequence: failed to process inputs: image: unknown format", 500
            ) from error
        if image.media_type not in MEDIA_TYPES:
            raise Refusal("Failed to create new sequence: failed to process inputs: image: unknown format", 500)
        request.images.append(ShownImage("user", image.media_type, image.size, None, qwen_tokens(image.size)))

    def whole(self, turn: Turn) -> Any:
        """See `Format.whole`."""
        return _line(turn, turn.reply.text, calls=True, done=True)

    def pieces(self, turn: Turn) -> Iterator[bytes]:
        """See `Format.pieces`."""
        lines = [_line(turn, text) for text in cut(turn.reply.text)]
        if turn.reply.calls:
            lines.append(_line(turn, "", calls=True))
        lines.append(_line(turn, "", done=True))
        yield from (json.dumps(line).encode() + b"\n" for line in lines)

    def error(self, refusal: Refusal) -> Any:
        """See `Format.error`."""
        return {"error": refusal.message}


def _line(turn: Turn, text: str, *, calls: bool = False, done: bool = False) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls and turn.reply.calls:
        message["tool_calls"] = [
            {"function": {"name": call.name, "arguments": call.arguments}} for call in turn.reply.calls
        ]
    line = {"model": turn.model, "created_at": CREATED, "message": message, "done": done}
    if done:
        line |= {
            "done_reason": "stop",
            "total_duration": 2_000_000,
            "load_duration": 1_000_000,
            "prompt_eval_count": turn.prompt_tokens,
            "prompt_eval_duration": 500_000,
            "eval_count": turn.completion_tokens,
            "eval_duration": 500_000,
        }
    return line
