"""`OpenAIResponses`: POST /v1/responses as OpenAI answers it. A tool's output may hold images here.

Source: OpenAI, API reference, "Create a model response" and "Streaming events"; the errors' words are those that users
report.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.wire import openai_errors as openai
from tests.wire.server import Format, Refusal, Request, Turn, cut, sse, words

FIELDS = words(
    "background context_management conversation include input instructions max_output_tokens max_tool_calls metadata "
    "model parallel_tool_calls previous_response_id prompt prompt_cache_key prompt_cache_retention reasoning "
    "safety_identifier service_tier store stream stream_options temperature text tool_choice tools top_logprobs top_p "
    "truncation user"
)
ITEMS = {
    "message": {"type", "role", "content", "id", "status", "phase"},
    "function_call": {"type", "call_id", "name", "arguments", "id", "status"},
    "function_call_output": {"type", "call_id", "output", "id", "status"},
    "reasoning": {"type", "id", "summary", "content", "encrypted_content", "status"},
    "item_reference": {"type", "id"},
}
PARTS = {
    "input_text": {"type", "text"},
    "input_image": {"type", "image_url", "detail", "file_id"},
    "input_file": {"type", "file_id", "file_data", "filename", "file_url"},
}
SAID = {"output_text": {"type", "text", "annotations", "logprobs"}, "refusal": {"type", "refusal"}}
PREFIXES = {"message": "msg", "function_call": "fc", "reasoning": "rs"}
CREATED = 1_700_000_000


@dataclass
class OpenAIResponses(Format):
    """The Responses API. Nothing is stored: a request must bring the whole conversation.

    Args:
        max_bytes: Of all images of a request.
    """

    max_bytes: int = openai.MAX_BYTES

    def check(self, request: Request) -> None:
        """See `Format.check`."""
        body = request.body
        if request.path != "/v1/responses":
            raise Refusal(f"Invalid URL (POST {request.path})", 404)
        openai.check_key(request)
        openai.only(body, FIELDS)
        openai.text_of(body.get("model"), "model")
        if openai.is_reasoning(body["model"]) and body.get("temperature") not in (None, 1):
            said = "Unsupported parameter: 'temperature' is not supported with this model."
            raise Refusal(said, param="temperature")
        openai.check_options(body)
        if body.get("previous_response_id") is not None:
            said = f"Previous response with id '{body['previous_response_id']}' not found."
            raise Refusal(said, param="previous_response_id", code="previous_response_not_found")
        request.streamed = bool(body.get("stream"))
        self._check_tools(request)
        request.characters += len(body.get("instructions") or "")
        if isinstance(body.get("input"), str):
            request.characters += len(body["input"])
            return
        items = openai.filled(body.get("input"), "input")
        for place, item in enumerate(items):
            self._check_item(request, item, f"input[{place}]")
        _check_order(items)
        openai.check_amount(request, [len(part["image_url"]) for part in _images(items)], self.max_bytes)

    def _check_tools(self, request: Request) -> None:
        body = request.body
        names = []
        for place, tool in enumerate(body.get("tools") or ()):
            where = f"tools[{place}]"
            openai.one_of(tool.get("type"), ("function", "custom", "web_search", "file_search"), f"{where}.type")
            if tool["type"] == "function":
                openai.only(tool, {"type", "name", "description", "parameters", "strict"}, where)
                openai.check_function(tool, where)
                names.append(tool["name"])
            request.characters += len(json.dumps(tool))
        choice = body.get("tool_choice")
        if isinstance(choice, str):
            openai.one_of(choice, ("none", "auto", "required"), "tool_choice")
        elif choice is not None and choice.get("type") == "function" and choice.get("name") not in names:
            said = f"Tool choice '{choice.get('name')}' not found in 'tools' parameter."
            raise Refusal(said, param="tool_choice")

    def _check_item(self, request: Request, item: Any, where: str) -> None:
        if not isinstance(item, dict):
            said = f"Invalid type for '{where}': expected an input item, but got {type(item).__name__} instead."
            raise Refusal(said, param=where, code="invalid_type")
        kind = item.get("type", "message" if "role" in item else None)
        kind = openai.one_of(kind, ITEMS, f"{where}.type" if "type" in item else where)
        openai.only(item, ITEMS[kind], where)
        prefix, id_ = PREFIXES.get(kind), item.get("id")
        if prefix and id_ is not None and not str(id_).startswith(prefix):
            said = f"Invalid '{where}.id': '{id_}'. Expected an ID that begins with '{prefix}'."
            raise Refusal(said, param=f"{where}.id", code="invalid_value")
        if kind == "message":
            self._check_message(request, item, where)
        elif kind == "function_call":
            openai.text_of(item.get("call_id"), f"{where}.call_id")
            openai.check_name(openai.text_of(item.get("name"), f"{where}.name"), f"{where}.name")
            request.characters += len(openai.text_of(item.get("arguments"), f"{where}.arguments"))
        elif kind == "function_call_output":
            openai.text_of(item.get("call_id"), f"{where}.call_id")
            self._check_content(request, item.get("output"), "tool", f"{where}.output")
        elif kind == "item_reference":
            said = f"Item with id '{id_}' not found."
            raise Refusal(said, 404, param="input")

    def _check_message(self, request: Request, item: dict[str, Any], where: str) -> None:
        role = openai.one_of(item.get("role"), ("assistant", "system", "developer", "user"), f"{where}.role")
        self._check_content(request, item.get("content"), role, f"{where}.content")

    def _check_content(self, request: Request, content: Any, role: str, where: str) -> None:
        if not isinstance(content, list):
            request.characters += len(openai.text_of(content, where))
            return
        allowed = SAID if role == "assistant" else PARTS
        for place, part in enumerate(openai.filled(content, where)):
            here = f"{where}[{place}]"
            kind = openai.one_of(part.get("type") if isinstance(part, dict) else part, allowed, f"{here}.type")
            openai.only(part, allowed[kind], here)
            if kind in ("input_text", "output_text"):
                request.characters += len(openai.text_of(part.get("text"), f"{here}.text"))
            if kind == "input_image":
                if role in ("system", "developer"):
                    said = f"Invalid value: 'input_image'. Supported values are: 'input_text' for role '{role}'."
                    raise Refusal(said, param=here, code="invalid_value")
                where_ = f"{here}.image_url"
                openai.check_image(request, part.get("image_url"), part.get("detail"), role=role, where=where_)

    def whole(self, turn: Turn) -> Any:
        """See `Format.whole`."""
        return _response(turn, "completed", _output(turn))

    def pieces(self, turn: Turn) -> Iterator[bytes]:
        """See `Format.pieces`."""
        for number, event in enumerate(_events(turn)):
            yield sse({**event, "sequence_number": number}, event["type"])

    def error(self, refusal: Refusal) -> Any:
        """See `Format.error`."""
        return openai.error_body(refusal)


def _check_order(items: list[dict[str, Any]]) -> None:
    """Refuse a call without its output, an output without its call, and a lone reasoning item."""
    called: list[str] = []
    answered: set[str] = set()
    for place, item in enumerate(items):
        kind = item.get("type")
        if kind == "function_call":
            called.append(item["call_id"])
        if kind == "function_call_output":
            if item["call_id"] not in called:
                said = f"No tool call found for function call output with call_id {item['call_id']}."
                raise Refusal(said, param="input")
            answered.add(item["call_id"])
        follows = items[place + 1] if place + 1 < len(items) else {}
        ours = follows.get("type") in ("function_call", "reasoning") or follows.get("role") == "assistant"
        if kind == "reasoning" and not ours:
            said = f"Item '{item['id']}' of type 'reasoning' was provided without its required following item."
            raise Refusal(said, param="input")
    for id_ in called:
        if id_ not in answered:
            raise Refusal(f"No tool output found for function call {id_}.", param="input")


def _images(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for item in items:
        for content in (item.get("content"), item.get("output")):
            if isinstance(content, list):
                yield from (part for part in content if part.get("type") == "input_image")


def _message(turn: Turn, text: str, status: str) -> dict[str, Any]:
    content = [_text(text)] if status == "completed" else []
    head = {"id": f"msg_{turn.number:04d}", "type": "message", "role": "assistant"}
    return {**head, "status": status, "content": content}


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call(turn: Turn, place: int, arguments: str, status: str) -> dict[str, Any]:
    return {
        "id": turn.call_id(place, "fc_"),
        "type": "function_call",
        "call_id": turn.call_id(place),
        "name": turn.reply.calls[place].name,
        "arguments": arguments,
        "status": status,
    }


def _output(turn: Turn) -> list[dict[str, Any]]:
    said = [_message(turn, turn.reply.text, "completed")] if turn.reply.text else []
    calls = turn.reply.calls
    return said + [_call(turn, place, json.dumps(call.arguments), "completed") for place, call in enumerate(calls)]


def _response(turn: Turn, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    body = turn.request.body
    done = status == "completed"
    usage = {
        "input_tokens": turn.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": turn.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": turn.prompt_tokens + turn.completion_tokens,
    }
    return {
        "id": f"resp_{turn.number:04d}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "metadata": {},
        "model": turn.model,
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_p": 1.0,
        "usage": usage if done else None,
    }


def _events(turn: Turn) -> Iterator[dict[str, Any]]:
    for kind in ("created", "in_progress"):
        yield {"type": f"response.{kind}", "response": _response(turn, "in_progress", [])}
    output = _output(turn)
    for index, item in enumerate(output):
        at = {"output_index": index}
        if item["type"] == "message":
            text = item["content"][0]["text"]
            inside = {**at, "item_id": item["id"], "content_index": 0}
            yield {"type": "response.output_item.added", **at, "item": _message(turn, "", "in_progress")}
            yield {"type": "response.content_part.added", **inside, "part": _text("")}
            for piece in cut(text):
                yield {"type": "response.output_text.delta", **inside, "delta": piece, "logprobs": []}
            yield {"type": "response.output_text.done", **inside, "text": text, "logprobs": []}
            yield {"type": "response.content_part.done", **inside, "part": _text(text)}
        else:
            inside = {**at, "item_id": item["id"]}
            begun = {**item, "arguments": "", "status": "in_progress"}
            yield {"type": "response.output_item.added", **at, "item": begun}
            for piece in cut(item["arguments"]):
                yield {"type": "response.function_call_arguments.delta", **inside, "delta": piece}
            done = {"arguments": item["arguments"], "name": item["name"]}
            yield {"type": "response.function_call_arguments.done", **inside, **done}
        yield {"type": "response.output_item.done", **at, "item": item}
    yield {"type": "response.completed", "response": _response(turn, "completed", output)}
