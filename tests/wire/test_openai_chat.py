"""The stand-in for Chat Completions refuses what OpenAI refuses; the one for llama.cpp is lenient."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.wire.llama_cpp import LlamaCpp
from tests.wire.openai_chat import OpenAIChat
from tests.wire.openai_errors import MAX_IMAGES
from tests.wire.plain import Bad, Change, changed, image, post, url
from tests.wire.server import Call, Reply, Server

PATH, HEADERS = "/v1/chat/completions", {"Authorization": "Bearer key"}


def call(id_: str, name: str = "look") -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": "{}"}}


GOOD: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [
        {"role": "system", "content": "Be short."},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": url()}},
                {"type": "text", "text": "What is the Total?"},
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [call("1"), call("2")]},
        {"role": "tool", "content": "Image 1", "tool_call_id": "2"},
        {"role": "tool", "content": [{"type": "text", "text": "Image 2"}], "tool_call_id": "1"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url("JPEG"), "detail": "low"}}]},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}],
    "tool_choice": "auto",
}


def shown(**image_url: Any) -> Change:
    """The first image, with other fields."""
    return lambda body: body["messages"][1]["content"][0]["image_url"].update(image_url)


def message(place: int, **fields: Any) -> Change:
    return lambda body: body["messages"][place].update(fields)


def function(**fields: Any) -> Change:
    return lambda body: body["tools"][0]["function"].update(fields)


def options(**fields: Any) -> Change:
    return lambda body: body.update(fields)


PART = {"type": "image_url", "image_url": {"url": url()}}
BAD: Bad = {
    "an image from a tool": (
        message(4, content=[PART]),
        r"Invalid 'messages\[4\]'. Image URLs are only allowed for messages with role 'user', but .* role 'tool'",
    ),
    "an image from the system": (message(0, content=[PART]), "only allowed for messages with role 'user'"),
    "an open call": (lambda body: body["messages"].pop(3), "did not have response messages: 2"),
    "a call answered late": (
        lambda body: body["messages"].insert(4, {"role": "user", "content": "Well?"}),
        "did not have response messages: 1",
    ),
    "a call open at the end": (lambda body: body["messages"].__delitem__(slice(3, None)), "response messages: 1, 2"),
    "an answer to no call": (lambda body: body["messages"].pop(2), "must be a response to a preceeding message"),
    "an answer to another call": (message(3, tool_call_id="3"), "must be a response to a preceeding message"),
    "a second answer": (message(4, tool_call_id="2"), "must be a response to a preceeding message"),
    "an unknown field": (options(store_it=True), "Unrecognized request argument supplied: store_it"),
    "an unknown field of a message": (message(1, id="1"), r"Unknown parameter: 'messages\[1\].id'"),
    "an unknown field of a part": (
        lambda body: body["messages"][1]["content"][1].update(cache_control={}),
        "Unknown parameter: .*cache_control",
    ),
    "an unknown field of an image": (shown(size=1), "Unknown parameter: .*image_url.size"),
    "an unknown part": (
        message(1, content=[{"type": "image", "source": {}}]),
        "Invalid value: 'image'. Supported values are: 'text', 'image_url'",
    ),
    "an unknown role": (message(0, role="bot"), "Invalid value: 'bot'"),
    "temperature 0 for a reasoning model": (
        options(model="gpt-5-mini", temperature=0),
        "'temperature' does not support 0 with this model. Only the default",
    ),
    "temperature 0 for o4-mini": (options(model="o4-mini", temperature=0.0), "Unsupported value: 'temperature'"),
    "temperature 3": (options(temperature=3), "decimal out of range"),
    "max_tokens for a reasoning model": (
        options(model="o4-mini", max_tokens=10),
        "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead",
    ),
    "another URL scheme": (shown(url="vtimg://1"), "Expected a base64-encoded data URL"),
    "no URL": (shown(url=None), "expected a string, but got null"),
    "a bare URL": (message(1, content=[{"type": "image_url", "image_url": url()}]), "expected an object"),
    "another media type": (shown(url=f"data:application/pdf;base64,{image()}"), "Only image types are supported"),
    "broken base64": (shown(url="data:image/png;base64,A*="), "Invalid base64 image_url"),
    "no image": (shown(url="data:image/png;base64,AAAA"), "make sure your image is valid"),
    "half an image": (
        shown(url=f"data:image/png;base64,{image()[: len(image()) // 8 * 4]}"),
        "make sure your image is valid",
    ),
    "a bitmap": (
        shown(url=f"data:image/png;base64,{image(format='BMP')}"),
        r"formats: \['png', 'jpeg', 'gif', 'webp'\]",
    ),
    "an unknown detail": (shown(detail="max"), "Invalid value: 'max'. Supported values are: 'low', 'high', 'auto'"),
    "too many images": (message(5, content=[PART] * (MAX_IMAGES + 1)), "Too many images"),
    "no content": (message(1, content=None), "expected a string, got null"),
    "an empty content": (message(1, content=[]), "empty array"),
    "an empty reply": (
        lambda body: body["messages"].append({"role": "assistant", "content": None}),
        "expected a string, got null",
    ),
    "an empty list of calls": (message(2, tool_calls=[]), "empty array"),
    "no messages": (options(messages=[]), "empty array"),
    "no model": (lambda body: body.pop("model"), "expected a string, but got null"),
    "a schema that is no object": (
        function(parameters={"type": "array", "items": {}}),
        "JSON Schema of 'type: \"object\"'",
    ),
    "a list without items": (
        function(parameters={"type": "object", "properties": {"region": {"type": "array"}}}),
        r"In context=\('properties', 'region'\), array schema missing items",
    ),
    "a tool's name with a space": (function(name="zoom image"), "string does not match pattern"),
    "a tool's name of 65 letters": (function(name="z" * 65), "string too long"),
    "a call of a wrong name": (message(2, tool_calls=[call("1", "zoom!"), call("2")]), "string does not match pattern"),
    "no tools": (options(tools=[], tool_choice=None), "empty array"),
    "a choice without tools": (lambda body: body.pop("tools"), "only allowed when 'tools' are specified"),
    "a choice of an unknown tool": (
        options(tool_choice={"type": "function", "function": {"name": "none"}}),
        "Tool choice 'none' not found",
    ),
    "an unknown choice": (options(tool_choice="any"), "Invalid value: 'any'"),
    "stream options without a stream": (options(stream_options={"include_usage": True}), "only allowed when 'stream'"),
}


@pytest.mark.parametrize("bad", list(BAD))
def test_it_is_refused(bad: str) -> None:
    change, said = BAD[bad]
    with changed(OpenAIChat(), GOOD, change) as (server, body):
        status, answer = post(server, PATH, body, HEADERS)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    assert re.search(said, answer["error"]["message"])
    assert [(refused.status, refused.reason) for refused in server.refused] == [(400, answer["error"]["message"])]


@pytest.mark.parametrize(
    "change",
    [
        lambda body: None,
        options(model="gpt-5-chat-latest", temperature=0.2, max_tokens=5),
        options(model="o4-mini", temperature=1, max_completion_tokens=5),
        shown(detail="original"),
        message(4, content=""),
    ],
)
def test_a_good_request_is_answered_with_what_it_costs(change: Change) -> None:
    with changed(OpenAIChat(), GOOD, change) as (server, body):
        status, answer = post(server, PATH, body, HEADERS)
    assert (status, server.refused) == (200, [])
    assert answer["choices"][0]["message"]["content"] == "48.10"
    assert answer["usage"]["prompt_tokens"] == server.requests[0].prompt_tokens


def test_a_low_detail_is_billed_as_one() -> None:
    with Server(OpenAIChat(), ["48.10"]) as server:
        _, answer = post(server, PATH, GOOD, HEADERS)
    high, low = server.requests[0].images
    assert ((high.setting, high.tokens), (low.setting, low.tokens)) == ((None, 85 + 170), ("low", 85))
    assert answer["usage"]["prompt_tokens"] > 85 + 170 + 85


def test_a_stream_tells_its_usage_only_when_asked() -> None:
    reply = Reply("Wait.", (Call("look", {"region": [1]}),))
    with Server(OpenAIChat(), [reply, reply]) as server:
        _, plain = post(server, PATH, {**GOOD, "stream": True}, HEADERS)
        _, counted = post(server, PATH, {**GOOD, "stream": True, "stream_options": {"include_usage": True}}, HEADERS)
    assert plain.endswith("data: [DONE]\n\n")
    assert "prompt_tokens" not in plain
    assert f'"prompt_tokens": {server.requests[0].prompt_tokens}' in counted.split("\n\n")[-3]


def test_the_bytes_of_images_are_limited() -> None:
    with Server(OpenAIChat(max_bytes=100), ["48.10"]) as server:
        status, answer = post(server, PATH, GOOD, HEADERS)
    assert (status, answer["error"]["code"]) == (413, "image_content_too_large")


def test_without_a_key_elsewhere_and_without_json_it_is_refused() -> None:
    with Server(OpenAIChat(), ["48.10"]) as server:
        assert post(server, PATH, GOOD, {})[0] == 401
        assert post(server, "/chat", GOOD, HEADERS)[0] == 404
        assert post(server, PATH, b"{", HEADERS)[0] == 400
        assert post(server, PATH, [], HEADERS)[0] == 400
    assert [refused.status for refused in server.refused] == [401, 404, 400, 400]


def test_a_script_that_has_ended_refuses_and_a_function_sees_the_request() -> None:
    with Server(OpenAIChat(), [lambda request: request.body["model"]]) as server:
        assert post(server, PATH, GOOD, HEADERS)[1]["choices"][0]["message"]["content"] == "gpt-4o"
        status, answer = post(server, PATH, GOOD, HEADERS)
    assert (status, answer["error"]["message"]) == (400, "The script has no reply number 2.")


def test_a_fault_of_the_server_itself_is_raised_where_it_is_left() -> None:
    with (
        pytest.raises(KeyError, match="colour"),
        Server(OpenAIChat(), [lambda request: request.body["colour"]]) as server,
    ):
        assert post(server, PATH, GOOD, HEADERS)[0] == 500


LENIENT = ["an unknown field", "an open call", "temperature 0 for o4-mini", "an unknown detail", "no tools"]


@pytest.mark.parametrize("bad", LENIENT)
def test_llama_cpp_passes_over_what_it_does_not_know(bad: str) -> None:
    with changed(LlamaCpp(), GOOD, BAD[bad][0]) as (server, body):
        assert post(server, PATH, body, {})[0] == 200


@pytest.mark.parametrize("bad", ["an image from a tool", "an unknown part", "broken base64", "no image"])
def test_llama_cpp_refuses_what_its_model_would_not_see(bad: str) -> None:
    with changed(LlamaCpp(), GOOD, BAD[bad][0]) as (server, body):
        status, answer = post(server, PATH, body, {})
    assert (status, answer["error"]["code"]) == (400, 400)


def test_llama_cpp_has_one_path() -> None:
    with Server(LlamaCpp(), ["48.10"]) as server:
        assert post(server, "/chat", GOOD, {})[0] == 404
        assert post(server, PATH, {"messages": "Hello"}, {})[0] == 400
