"""The stand-in for the Responses API refuses what OpenAI refuses."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.wire.openai_responses import OpenAIResponses
from tests.wire.plain import Bad, Change, changed, post, url
from tests.wire.server import Call, Reply, Server

PATH, HEADERS = "/v1/responses", {"Authorization": "Bearer key"}
IMAGE = {"type": "input_image", "image_url": url()}
GOOD: dict[str, Any] = {
    "model": "gpt-5",
    "instructions": "Be short.",
    "input": [
        {"role": "user", "content": [dict(IMAGE), {"type": "input_text", "text": "What is the Total?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}", "id": "fc_1"},
        {"type": "function_call", "call_id": "2", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "2", "output": "Image 1"},
        {
            "type": "function_call_output",
            "call_id": "1",
            "output": [{"type": "input_text", "text": "Here."}, dict(IMAGE)],
        },
    ],
    "tools": [{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}],
    "tool_choice": "auto",
}


def item(place: int, **fields: Any) -> Change:
    return lambda body: body["input"][place].update(fields)


def tool(**fields: Any) -> Change:
    return lambda body: body["tools"][0].update(fields)


def options(**fields: Any) -> Change:
    return lambda body: body.update(fields)


BAD: Bad = {
    "an open call": (lambda body: body["input"].pop(4), "No tool output found for function call 2"),
    "an answer to no call": (
        lambda body: body["input"].pop(3),
        "No tool call found for function call output with call_id 2",
    ),
    "an answer before its call": (
        lambda body: body["input"].insert(0, body["input"].pop()),
        "No tool call found for function call output with call_id 1",
    ),
    "reasoning without what follows": (
        lambda body: body["input"].insert(6, {"type": "reasoning", "id": "rs_2", "summary": []}),
        "without its required following item",
    ),
    "an unknown field": (options(messages=[]), "Unknown parameter: 'messages'"),
    "an unknown item": (item(4, type="tool"), "Invalid value: 'tool'"),
    "an unknown field of an item": (item(4, name="look"), r"Unknown parameter: 'input\[4\].name'"),
    "an unknown part": (
        item(0, content=[{"type": "image_url", "image_url": {"url": url()}}]),
        "Invalid value: 'image_url'",
    ),
    "an unknown part of an output": (item(5, output=[{"type": "text", "text": "."}]), "Invalid value: 'text'"),
    "an unknown field of a part": (item(0, content=[{**IMAGE, "cache_control": {}}]), "Unknown parameter"),
    "an input part of the assistant": (
        item(0, role="assistant", content=[{"type": "input_text", "text": "."}]),
        "Invalid value: 'input_text'. Supported values are: 'output_text', 'refusal'",
    ),
    "an image of the system": (item(0, role="system"), "'input_text' for role 'system'"),
    "an unknown role": (item(0, role="tool"), "Invalid value: 'tool'"),
    "an id of another kind": (item(2, id="call_1"), "Expected an ID that begins with 'fc'"),
    "an unknown item id": (lambda body: body["input"].append({"type": "item_reference", "id": "msg_9"}), "not found"),
    "an object for a URL": (item(0, content=[{**IMAGE, "image_url": {"url": url()}}]), "expected a string"),
    "another URL scheme": (item(0, content=[{**IMAGE, "image_url": "vtimg://1"}]), "base64-encoded data URL"),
    "no image": (
        item(5, output=[{**IMAGE, "image_url": "data:image/png;base64,AAAA"}]),
        "make sure your image is valid",
    ),
    "an unknown detail": (item(0, content=[{**IMAGE, "detail": "max"}]), "Invalid value: 'max'"),
    "an output that is null": (item(4, output=None), "expected a string, but got null"),
    "an empty content": (item(0, content=[]), "empty array"),
    "an empty input": (options(input=[]), "empty array"),
    "an item that is a text": (options(input=["Hello"]), "expected an input item"),
    "temperature 0 for a reasoning model": (options(temperature=0), "'temperature' is not supported with this model"),
    "temperature 3": (options(model="gpt-4o", temperature=3), "decimal out of range"),
    "an earlier response": (options(previous_response_id="resp_9"), "Previous response with id 'resp_9' not found"),
    "a tool in the form of Chat Completions": (tool(function={}), "Unknown parameter"),
    "an unknown kind of tool": (tool(type="image"), "Invalid value: 'image'"),
    "a schema that is no object": (tool(parameters={"type": "string"}), "JSON Schema of 'type: \"object\"'"),
    "a tool's name with a space": (tool(name="zoom image"), "string does not match pattern"),
    "a choice of an unknown tool": (options(tool_choice={"type": "function", "name": "none"}), "'none' not found"),
    "an unknown choice": (options(tool_choice="any"), "Invalid value: 'any'"),
}


@pytest.mark.parametrize("bad", list(BAD))
def test_it_is_refused(bad: str) -> None:
    change, said = BAD[bad]
    with changed(OpenAIResponses(), GOOD, change) as (server, body):
        status, answer = post(server, PATH, body, HEADERS)
    assert status == (404 if bad == "an unknown item id" else 400)
    assert answer["error"]["type"] == "invalid_request_error"
    assert re.search(said, answer["error"]["message"])
    assert len(server.refused) == 1


@pytest.mark.parametrize("change", [lambda body: None, options(input="Hello"), options(model="gpt-4o", temperature=0)])
def test_a_good_request_is_answered(change: Change) -> None:
    with changed(OpenAIResponses(), GOOD, change) as (server, body):
        status, answer = post(server, PATH, body, HEADERS)
    assert (status, server.refused) == (200, [])
    assert answer["output"][0]["content"][0]["text"] == "48.10"
    assert answer["usage"]["input_tokens"] == server.requests[0].prompt_tokens


def test_images_of_users_and_tools_are_told_apart() -> None:
    with Server(OpenAIResponses(), ["48.10"]) as server:
        post(server, PATH, GOOD, HEADERS)
    assert [(image.role, image.tokens) for image in server.requests[0].images] == [("user", 210), ("tool", 210)]


def test_a_streams_events_are_numbered_and_named() -> None:
    with Server(OpenAIResponses(), [Reply("Wait.", (Call("look", {"region": [1]}),))]) as server:
        _, answer = post(server, PATH, {**GOOD, "stream": True}, HEADERS)
    events = [block.split("\n") for block in answer.strip().split("\n\n")]
    data = [json.loads(line.removeprefix("data: ")) for _, line in events]
    assert [name.removeprefix("event: ") for name, _ in events] == [event["type"] for event in data]
    assert [event["sequence_number"] for event in data] == list(range(len(data)))
    assert (data[0]["type"], data[-1]["type"]) == ("response.created", "response.completed")


def test_without_a_key_elsewhere_and_with_too_many_bytes_it_is_refused() -> None:
    with Server(OpenAIResponses(max_bytes=100), ["48.10"]) as server:
        statuses = [
            post(server, PATH, GOOD, {})[0],
            post(server, "/v1/chat/completions", GOOD, HEADERS)[0],
            post(server, PATH, GOOD, HEADERS)[0],
        ]
    assert statuses == [401, 404, 413]
