"""The stand-in for Ollama refuses what Ollama refuses, and what it would pass over without a word."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.wire.ollama_chat import OllamaChat
from tests.wire.plain import Bad, Change, changed, image, post, url
from tests.wire.server import Call, Reply, Server

PATH = "/api/chat"
GOOD: dict[str, Any] = {
    "model": "qwen2.5vl:7b",
    "stream": False,
    "messages": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What is the Total?", "images": [image()]},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look", "arguments": {}}}]},
        {"role": "tool", "content": "Here.", "images": []},
        {"role": "user", "content": "The image:", "images": [image(format="JPEG")]},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}],
    "options": {"temperature": 0},
}


def message(place: int, **fields: Any) -> Change:
    return lambda body: body["messages"][place].update(fields)


def options(**fields: Any) -> Change:
    return lambda body: body.update(fields)


PART = {"type": "text", "text": "What?"}
BAD: Bad = {
    "an image from a tool": (message(3, images=[image()]), "only read from user messages, not .* role tool"),
    "an image from the system": (message(0, images=[image()]), "only read from user messages, not .* role system"),
    "a tool choice": (options(tool_choice="none"), "unknown field: tool_choice"),
    "images beside the messages": (options(images=[image()]), "unknown field: images"),
    "an unknown field of a message": (message(1, name="me"), "unknown field: messages.name"),
    "a content of parts": (
        message(1, content=[PART]),
        "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string",
    ),
    "an unknown role": (message(1, role="bot"), "invalid role: bot"),
    "a data URL": (message(1, images=[url()]), "illegal base64 data"),
    "an object for an image": (message(1, images=[{"url": url()}]), "illegal base64 data"),
    "an answer to no call": (lambda body: body["messages"].pop(2), "must answer a tool call"),
    "arguments as a text": (
        message(2, tool_calls=[{"function": {"name": "look", "arguments": "{}"}}]),
        "cannot unmarshal string",
    ),
    "no model": (options(model=""), "model is required"),
    "a tool without a name": (options(tools=[{"type": "function", "function": {}}]), "a function with a name"),
    "a schema that is no object": (
        options(tools=[{"type": "function", "function": {"name": "look", "parameters": {"type": "array"}}}]),
        "parameters must be of type object",
    ),
}
BROKEN: Bad = {
    "no image": (message(1, images=["AAAA"]), "image: unknown format"),
    "a bitmap": (message(1, images=[image(format="BMP")]), "image: unknown format"),
}


@pytest.mark.parametrize("bad", [*BAD, *BROKEN])
def test_it_is_refused(bad: str) -> None:
    change, said = {**BAD, **BROKEN}[bad]
    with changed(OllamaChat(), GOOD, change) as (server, body):
        status, answer = post(server, PATH, body, {})
    assert status == (500 if bad in BROKEN else 400)
    assert re.search(said, answer["error"])
    assert len(server.refused) == 1


def test_a_good_request_is_answered_with_what_it_costs() -> None:
    with Server(OllamaChat(), ["48.10"]) as server:
        status, answer = post(server, PATH, GOOD, {})
    assert (status, server.refused) == (200, [])
    assert (answer["message"]["content"], answer["done"]) == ("48.10", True)
    assert answer["prompt_eval_count"] == server.requests[0].prompt_tokens
    assert [image.media_type for image in server.requests[0].images] == ["image/png", "image/jpeg"]


def test_a_request_streams_lines_unless_it_says_otherwise() -> None:
    with Server(OllamaChat(), [Reply("Wait.", (Call("look", {"region": [1]}),))]) as server:
        _, answer = post(server, PATH, {name: value for name, value in GOOD.items() if name != "stream"}, {})
    lines = [json.loads(line) for line in answer.splitlines()]
    assert [line["done"] for line in lines] == [False, False, False, True]
    assert lines[2]["message"]["tool_calls"] == [{"function": {"name": "look", "arguments": {"region": [1]}}}]


def test_elsewhere_it_is_refused() -> None:
    with Server(OllamaChat(), ["48.10"]) as server:
        assert post(server, "/api/generate", GOOD, {})[0] == 404
