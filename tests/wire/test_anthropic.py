"""The stand-in for Anthropic's Messages API refuses what Anthropic refuses."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.wire.anthropic_check import MAX_IMAGE_BYTES
from tests.wire.anthropic_messages import AnthropicMessages
from tests.wire.plain import Bad, Change, changed, image, post
from tests.wire.server import Call, Reply, Server

PATH, HEADERS = "/v1/messages", {"X-Api-Key": "key", "Anthropic-Version": "2023-06-01"}


def block(data: str = "", media_type: str = "image/png", **fields: Any) -> dict[str, Any]:
    source = {"type": "base64", "media_type": media_type, "data": data or image()}
    return {"type": "image", "source": source, **fields}


def use(id_: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": id_, "name": "look", "input": {}}


def result(id_: str, content: Any = "Here.") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id_, "content": content}


TEXT = {"type": "text", "text": "What is the Total?"}
MARK = {"cache_control": {"type": "ephemeral"}}
GOOD: dict[str, Any] = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 100,
    "system": [{"type": "text", "text": "Be short.", **MARK}],
    "messages": [
        {"role": "user", "content": [block(), TEXT]},
        {"role": "assistant", "content": [{"type": "text", "text": "I look."}, use("1"), use("2")]},
        {"role": "user", "content": [result("2"), result("1", [TEXT, block()]), {**TEXT, **MARK}]},
    ],
    "tools": [{"name": "look", "input_schema": {"type": "object", "properties": {}}}],
    "tool_choice": {"type": "auto"},
}


def message(place: int, **fields: Any) -> Change:
    return lambda body: body["messages"][place].update(fields)


def first(*blocks: Any) -> Change:
    """The first message, with other blocks."""
    return message(0, content=list(blocks))


def options(**fields: Any) -> Change:
    return lambda body: body.update(fields)


def tool(**fields: Any) -> Change:
    return lambda body: body["tools"][0].update(fields)


def prefilled(text: str, **fields: Any) -> Change:
    def change(body: dict[str, Any]) -> None:
        body["messages"].append({"role": "assistant", "content": text})
        body.update(fields)

    return change


BAD: Bad = {
    "an open call": (
        message(2, content=[result("2")]),
        "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: 1",
    ),
    "text before a result": (
        message(2, content=[TEXT, result("2"), result("1")]),
        "without `tool_result` blocks immediately",
    ),
    "no answer at all": (lambda body: body["messages"].pop(), "without `tool_result` blocks immediately after: 1, 2"),
    "an answer to no call": (
        message(2, content=[result("2"), result("1"), result("3")]),
        "unexpected `tool_use_id` found in `tool_result` blocks: 3",
    ),
    "an answer in the first message": (first(result("1")), "unexpected `tool_use_id`"),
    "one id twice": (message(1, content=[use("1"), use("1")]), "`tool_use` ids must be unique"),
    "an id with a dot": (message(1, content=[use("1.1"), use("2")]), "should match pattern"),
    "two turns of the user": (
        lambda body: body["messages"].append({"role": "user", "content": "Well?"}),
        'multiple "user" roles in a row',
    ),
    "an assistant who begins": (
        lambda body: body["messages"].insert(0, {"role": "assistant", "content": "Hello."}),
        'first message must use the "user" role',
    ),
    "a system message": (message(0, role="system"), "Input should be 'user' or 'assistant'"),
    "no messages": (options(messages=[]), "at least one message is required"),
    "no max_tokens": (lambda body: body.pop("max_tokens"), "max_tokens: Field required"),
    "max_tokens 0": (options(max_tokens=0), "greater than or equal to 1"),
    "no model": (lambda body: body.pop("model"), "model: Field required"),
    "temperature 2": (options(temperature=2), "temperature: range: 0..1"),
    "temperature 0 for a new model": (options(model="claude-opus-4-7", temperature=0), "`temperature` is deprecated"),
    "an unknown field": (options(n=1), "^n: Extra inputs are not permitted"),
    "an unknown field of a message": (message(0, id="1"), "messages.0.id: Extra inputs are not permitted"),
    "an unknown field of a block": (
        first(block(detail="low"), TEXT),
        "messages.0.content.0.image.detail: Extra inputs",
    ),
    "an unknown block": (
        first({"type": "image_url", "image_url": {"url": ""}}),
        "Input tag 'image_url' found using 'type' does not match",
    ),
    "an unknown block in a result": (
        message(2, content=[result("1", [use("3")]), result("2")]),
        r"messages.2.content.0.tool_result.content.0: Input tag 'tool_use'",
    ),
    "an image of the assistant": (message(1, content=[block()]), "not permitted in `assistant` messages"),
    "a call of the user": (first(use("1")), "can only be in `assistant` messages"),
    "no content": (message(0, content=[]), "must have non-empty content"),
    "an empty text": (first(block(), {"type": "text", "text": ""}), "text content blocks must be non-empty"),
    "a blank text": (first(block(), {"type": "text", "text": " \n"}), "must contain non-whitespace text"),
    "another media type": (first(block(media_type="image/bmp")), "Input should be 'image/jpeg', 'image/png'"),
    "a wrong media type": (first(block(media_type="image/jpeg")), "but the image appears to be a image/png image"),
    "broken base64": (first(block("A*=")), "Invalid base64 data"),
    "a data URL for data": (first(block(f"data:image/png;base64,{image()}")), "Invalid base64 data"),
    "no image": (first(block("AAAA")), "Could not process image"),
    "a file of 6 MB": (first(block("A" * (MAX_IMAGE_BYTES + 4))), "image exceeds 5 MB maximum: 5242884 bytes"),
    "a side of 8001 pixels": (first(block(image((8001, 1)))), "max allowed size: 8000 pixels"),
    "a side of 2001 pixels among 21 images": (
        first(*[block()] * 19, block(image((2001, 1)))),
        "max allowed size for many-image requests: 2000 pixels",
    ),
    "101 images": (first(*[block()] * 100), r"Too much media: 0 document pages \+ 101 images > 100"),
    "five cache marks": (
        first(*[{**block(), **MARK}] * 3),
        "A maximum of 4 blocks with cache_control may be provided. Found 5",
    ),
    "another kind of cache mark": (first(block(cache_control={"type": "forever"})), "Input should be 'ephemeral'"),
    "no schema": (lambda body: body["tools"][0].pop("input_schema"), "input_schema: Field required"),
    "a schema that is no object": (tool(input_schema={"type": "array"}), "Input should be 'object'"),
    "a schema without a type": (tool(input_schema={}), "input_schema.type: Field required"),
    "a tool's name with a space": (tool(name="zoom image"), "should match pattern"),
    "a tool in OpenAI's form": (tool(function={}), "function: Extra inputs are not permitted"),
    "two tools of one name": (lambda body: body["tools"].append(body["tools"][0]), "Tool names must be unique"),
    "calls and no tools": (lambda body: [body.pop("tools"), body.pop("tool_choice")], "must define tools"),
    "a choice of an unknown tool": (options(tool_choice={"type": "tool", "name": "none"}), "Tool 'none' not found"),
    "a choice without tools": (lambda body: body.pop("tools"), "only be specified while providing tools"),
    "an unknown choice": (options(tool_choice={"type": "required"}), "Input tag 'required'"),
    "a prefill that ends in a space": (prefilled("The Total is "), "cannot end with trailing whitespace"),
    "a prefill for a new model": (
        prefilled("The", model="claude-opus-4-6"),
        "does not support assistant message prefill",
    ),
}


@pytest.mark.parametrize("bad", list(BAD))
def test_it_is_refused(bad: str) -> None:
    change, said = BAD[bad]
    with changed(AnthropicMessages(), GOOD, change) as (server, body):
        status, answer = post(server, PATH, body, HEADERS)
    assert (status, answer["type"], answer["error"]["type"]) == (400, "error", "invalid_request_error")
    assert re.search(said, answer["error"]["message"])
    assert len(server.refused) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda body: None,
        prefilled("The Total is"),
        options(tool_choice={"type": "none"}, temperature=0),
        first(*[block()] * 99),
        first(block(image((8000, 1)))),
        message(2, content=[result("1", ""), result("2", [block(image(format="WEBP"), "image/webp")])]),
    ],
)
def test_a_good_request_is_answered(change: Change) -> None:
    with changed(AnthropicMessages(), GOOD, change) as (server, body):
        status, answer = post(server, PATH, body, HEADERS)
    assert (status, server.refused) == (200, [])
    assert answer["content"] == [{"type": "text", "text": "48.10"}]
    assert answer["usage"]["input_tokens"] == server.requests[0].prompt_tokens


def test_cache_marks_and_whose_images_there_are_is_kept() -> None:
    with Server(AnthropicMessages(), ["48.10"]) as server:
        post(server, PATH, GOOD, HEADERS)
    [request] = server.requests
    assert request.cache_marks == ["system.0", "messages.2.content.2"]
    assert [image.role for image in request.images] == ["user", "tool"]


def test_a_streams_events_are_named_and_end() -> None:
    with Server(AnthropicMessages(), [Reply("Wait.", (Call("look", {"region": [1]}),))]) as server:
        _, answer = post(server, PATH, {**GOOD, "stream": True}, HEADERS)
    events = [block.split("\n") for block in answer.strip().split("\n\n")]
    data = [json.loads(line.removeprefix("data: ")) for _, line in events]
    assert [name.removeprefix("event: ") for name, _ in events] == [event["type"] for event in data]
    assert (data[0]["type"], data[-1]["type"]) == ("message_start", "message_stop")
    assert data[-2]["delta"]["stop_reason"] == "tool_use"


def test_without_a_key_a_version_elsewhere_and_with_too_many_bytes_it_is_refused() -> None:
    with Server(AnthropicMessages(max_bytes=100), ["48.10"]) as server:
        answers = [
            post(server, PATH, GOOD, {"Anthropic-Version": "2023-06-01"}),
            post(server, PATH, GOOD, {"X-Api-Key": "key"}),
            post(server, "/v1/complete", GOOD, HEADERS),
            post(server, PATH, GOOD, HEADERS),
        ]
    assert [(status, answer["error"]["type"]) for status, answer in answers] == [
        (401, "authentication_error"),
        (400, "invalid_request_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
    ]
