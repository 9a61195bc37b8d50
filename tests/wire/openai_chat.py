"""`OpenAIChat`: POST /v1/chat/completions as OpenAI answers it.

Sources: OpenAI, API reference, "Create chat completion"; "Images and vision"; "Reasoning models". The errors' words are
those that users report, such as OpenHands/OpenHands #7700 for an image in a tool message.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.wire import openai_errors as openai
from tests.wire.server import Format, Refusal, Request, Turn, cut, sse, words

FIELDS = words(
    "audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens messages "
    "metadata modalities model moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key "
    "prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier stop store stream "
    "stream_options temperature tool_choice tools top_logprobs top_p user verbosity web_search_options"
)
ROLES = {
    "system": {"role", "content", "name"},
    "developer": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "refusal", "audio", "tool_calls", "function_call", "annotations"},
    "tool": {"role", "content", "tool_call_id", "name"},
}
PARTS = {
    "text": {"type", "text"},
    "image_url": {"type", "image_url"},
    "input_audio": {"type", "input_audio"},
    "refusal": {"type", "refusal"},
    "file": {"type", "file"},
}
CREATED = 1_700_000_000


@dataclass
class OpenAIChat(Format):
    """Chat Completions.

    One rule is stricter than the API: from gpt-5.2 on it takes an image in a tool message without an error, but the
    model does not see it (openai/openai-openapi #523). It is refused here.

    Args:
        max_bytes: Of all images of a request.
    """

    max_bytes: int = openai.MAX_BYTES

    def check(self, request: Request) -> None:
        """See `Format.check`."""
        body = request.body
        if request.path != "/v1/chat/completions":
            raise Refusal(f"Invalid URL (POST {request.path})", 404)
        openai.check_key(request)
        for name in body:
            if name not in FIELDS:
                raise Refusal(f"Unrecognized request argument supplied: {name}")
        openai.check_options(body)
        if openai.is_reasoning(body["model"]) and body.get("max_tokens") is not None:
            said = (
                "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead."
            )
            raise Refusal(said, param="max_tokens", code="unsupported_parameter")
        request.streamed = bool(body.get("stream"))
        if body.get("stream_options") is not None and not request.streamed:
            said = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
            raise Refusal(said, param="stream_options")
        self._check_tools(request)
        messages = openai.filled(body.get("messages"), "messages")
        for place, message in enumerate(messages):
            self._check_message(request, message, f"messages[{place}]")
        check_order(messages)
        sizes = [
            len(part["image_url"]["url"])
            for message in messages
            if isinstance(message.get("content"), list)
            for part in message["content"]
            if part["type"] == "image_url"
        ]
        openai.check_amount(request, sizes, self.max_bytes)

    def _check_tools(self, request: Request) -> None:
        body = request.body
        tools = body.get("tools")
        names = []
        if tools is not None:
            for place, tool in enumerate(openai.filled(tools, "tools")):
                where = f"tools[{place}]"
                openai.only(tool, {"type", "function", "custom"}, where)
                openai.one_of(tool.get("type"), ("function", "custom"), f"{where}.type")
                openai.only(tool["function"], {"name", "description", "parameters", "strict"}, f"{where}.function")
                openai.check_function(tool["function"], f"{where}.function")
                request.characters += len(json.dumps(tool["function"]))
                names.append(tool["function"]["name"])
        choice = body.get("tool_choice")
        if choice is None:
            return
        if tools is None:
            said = "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified."
            raise Refusal(said, param="tool_choice")
        if isinstance(choice, str):
            openai.one_of(choice, ("none", "auto", "required"), "tool_choice")
        elif choice.get("type") == "function" and choice.get("function", {}).get("name") not in names:
            said = f"Tool choice '{choice.get('function', {}).get('name')}' not found in 'tools' parameter."
            raise Refusal(said, param="tool_choice")

    def _check_message(self, request: Request, message: Any, where: str) -> None:
        if not isinstance(message, dict):
            said = f"Invalid type for '{where}': expected an object, but got {type(message).__name__} instead."
            raise Refusal(said, param=where, code="invalid_type")
        role = openai.one_of(message.get("role"), ROLES, f"{where}.role")
        openai.only(message, ROLES[role], where)
        content = message.get("content")
        if role == "assistant":
            if message.get("tool_calls") is not None:
                self._check_calls(request, openai.filled(message["tool_calls"], f"{where}.tool_calls"), where)
            elif content is None and message.get("refusal") is None:
                said = "Invalid value for 'content': expected a string, got null."
                raise Refusal(said, param=f"{where}.content")
        if role == "tool":
            openai.text_of(message.get("tool_call_id"), f"{where}.tool_call_id")
        if isinstance(content, list):
            for place, part in enumerate(openai.filled(content, f"{where}.content")):
                self._check_part(request, part, role, where, f"{where}.content[{place}]")
        elif content is not None or role != "assistant":
            if content is None:
                said = "Invalid value for 'content': expected a string, got null."
                raise Refusal(said, param=f"{where}.content")
            request.characters += len(openai.text_of(content, f"{where}.content"))

    def _check_calls(self, request: Request, calls: list[Any], where: str) -> None:
        seen: set[str] = set()
        for place, call in enumerate(calls):
            here = f"{where}.tool_calls[{place}]"
            openai.only(call, {"id", "type", "function", "custom"}, here)
            openai.one_of(call.get("type"), ("function", "custom"), f"{here}.type")
            id_ = openai.text_of(call.get("id"), f"{here}.id")
            if id_ in seen:
                raise Refusal(f"Duplicate value for 'tool_call_id' of '{id_}' in message.", param=here)
            seen.add(id_)
            openai.only(call["function"], {"name", "arguments"}, f"{here}.function")
            openai.check_name(openai.text_of(call["function"].get("name"), here), f"{here}.function.name")
            request.characters += len(openai.text_of(call["function"].get("arguments"), f"{here}.function.arguments"))

    def _check_part(self, request: Request, part: Any, role: str, message: str, where: str) -> None:
        if not isinstance(part, dict):
            said = f"Invalid type for '{where}': expected an object, but got {type(part).__name__} instead."
            raise Refusal(said, param=where, code="invalid_type")
        kind = openai.one_of(part.get("type"), PARTS, f"{where}.type")
        openai.only(part, PARTS[kind], where)
        if kind == "text":
            request.characters += len(openai.text_of(part.get("text"), f"{where}.text"))
        if kind == "image_url":
            self.check_place(role, message)
            image = part["image_url"]
            if not isinstance(image, dict):
                said = f"Invalid type for '{where}.image_url': expected an object, but got a string instead."
                raise Refusal(said, param=f"{where}.image_url", code="invalid_type")
            openai.only(image, {"url", "detail"}, f"{where}.image_url")
            here = f"{where}.image_url.url"
            openai.check_image(request, image.get("url"), image.get("detail"), role=role, where=here)

    def check_place(self, role: str, where: str) -> None:
        """Refuse an image in a message that is not a user's.

        Args:
            role: Whose message it is.
            where: Its place in the request.

        Raises:
            Refusal: An image may not stand there.
        """
        if role != "user":
            said = (
                f"Invalid '{where}'. Image URLs are only allowed for messages with role 'user', "
                f"but this message with role '{role}' contains an image URL."
            )
            raise Refusal(said, param=where, code="invalid_value")

    def whole(self, turn: Turn) -> Any:
        """See `Format.whole`."""
        message: dict[str, Any] = {"role": "assistant", "content": turn.reply.text or None, "refusal": None}
        if turn.reply.calls:
            message["tool_calls"] = [
                {
                    "id": turn.call_id(place),
                    "type": "function",
                    "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
                }
                for place, call in enumerate(turn.reply.calls)
            ]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(turn)}
        return {**_head(turn), "object": "chat.completion", "choices": [choice], "usage": usage(turn)}

    def pieces(self, turn: Turn) -> Iterator[bytes]:
        """See `Format.pieces`."""
        counted = bool((turn.request.body.get("stream_options") or {}).get("include_usage"))

        def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            rest = {"usage": None} if counted else {}
            return sse({**_head(turn), "object": "chat.completion.chunk", "choices": [choice], **rest})

        yield chunk({"role": "assistant", "content": "" if turn.reply.text else None, "refusal": None})
        for text in cut(turn.reply.text):
            yield chunk({"content": text})
        for place, call in enumerate(turn.reply.calls):
            head = {"index": place, "id": turn.call_id(place), "type": "function"}
            yield chunk({"tool_calls": [{**head, "function": {"name": call.name, "arguments": ""}}]})
            for text in cut(json.dumps(call.arguments)):
                yield chunk({"tool_calls": [{"index": place, "function": {"arguments": text}}]})
        yield chunk({}, _finish(turn))
        if counted:
            yield sse({**_head(turn), "object": "chat.completion.chunk", "choices": [], "usage": usage(turn)})
        yield sse("[DONE]")

    def error(self, refusal: Refusal) -> Any:
        """See `Format.error`."""
        return openai.error_body(refusal)


def check_order(messages: list[dict[str, Any]]) -> None:
    """Refuse a call that is not answered directly after its message, and an answer without a call.

    Args:
        messages: All of the conversation.

    Raises:
        Refusal: The words are those of the API.
    """
    open_calls: list[str] = []
    answering = False
    for place, message in enumerate(messages):
        if message["role"] == "tool":
            if not answering or message["tool_call_id"] not in open_calls:
                said = (
                    "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with "
                    "'tool_calls'."
                )
                raise Refusal(said, param=f"messages.[{place}].role")
            open_calls.remove(message["tool_call_id"])
            continue
        _check_answered(open_calls, f"messages.[{place}].role")
        open_calls = [call["id"] for call in message.get("tool_calls") or ()]
        answering = bool(open_calls)
    _check_answered(open_calls, "messages")


def usage(turn: Turn) -> dict[str, Any]:
    """The reply's usage, in tokens."""
    return {
        "prompt_tokens": turn.prompt_tokens,
        "completion_tokens": turn.completion_tokens,
        "total_tokens": turn.prompt_tokens + turn.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _check_answered(open_calls: list[str], where: str) -> None:
    if open_calls:
        said = (
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(open_calls)}"
        )
        raise Refusal(said, param=where)


def _head(turn: Turn) -> dict[str, Any]:
    return {"id": f"chatcmpl-{turn.number:04d}", "created": CREATED, "model": turn.model, "system_fingerprint": None}


def _finish(turn: Turn) -> str:
    return "tool_calls" if turn.reply.calls else "stop"
