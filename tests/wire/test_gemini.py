"""The stand-in for the Gemini API refuses what Google refuses."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.wire.gemini import Gemini
from tests.wire.gemini_check import MAX_IMAGES, SIGNATURE, SKIP
from tests.wire.plain import Bad, Change, changed, image, post
from tests.wire.server import Call, Reply, Server

HEADERS = {"X-Goog-Api-Key": "key"}


def path(model: str = "gemini-2.5-flash", method: str = "generateContent") -> str:
    return f"/v1beta/models/{model}:{method}"


def part(data: str = "", mime_type: str = "image/png", **fields: Any) -> dict[str, Any]:
    return {"inlineData": {"mimeType": mime_type, "data": data or image()}, **fields}


def called(name: str = "look", **fields: Any) -> dict[str, Any]:
    return {"functionCall": {"name": name, "args": {"some_name": 1}}, **fields}


def answered(name: str = "look", **fields: Any) -> dict[str, Any]:
    return {"functionResponse": {"name": name, "response": {"output": "Here."}, **fields}}


TEXT = {"text": "What is the Total?"}
GOOD: dict[str, Any] = {
    "systemInstruction": {"parts": [{"text": "Be short."}]},
    "contents": [
        {"role": "user", "parts": [part(), TEXT]},
        {"role": "model", "parts": [{"text": "I look."}, called(thoughtSignature=SKIP), called()]},
        {"role": "user", "parts": [part(), answered(), answered()]},
    ],
    "tools": [
        {
            "functionDeclarations": [
                {"name": "look", "parameters": {"type": "OBJECT", "properties": {"any_of": {"type": "STRING"}}}}
            ]
        }
    ],
    "toolConfig": {"functionCallingConfig": {"mode": "AUTO"}},
    "generationConfig": {"temperature": 0, "mediaResolution": "MEDIA_RESOLUTION_LOW"},
}


def content(place: int, *parts: Any) -> Change:
    return lambda body: body["contents"][place].update(parts=list(parts))


def options(**fields: Any) -> Change:
    return lambda body: body.update(fields)


def config(**fields: Any) -> Change:
    return lambda body: body["generationConfig"].update(fields)


def function(**fields: Any) -> Change:
    return lambda body: body["tools"][0]["functionDeclarations"][0].update(fields)


NUMBER = "number of function response parts is equal to the number of function call parts of the function call turn"
LIST = {"type": "OBJECT", "properties": {"region": {"type": "ARRAY"}}}
BAD: Bad = {
    "one answer for two calls": (content(2, answered()), NUMBER),
    "three answers for two calls": (content(2, answered(), answered(), answered()), NUMBER),
    "no answer": (lambda body: body["contents"].pop(), NUMBER),
    "a question before the answers": (
        lambda body: body["contents"].insert(2, {"role": "user", "parts": [TEXT]}),
        NUMBER,
    ),
    "answers to no call": (content(1, TEXT), "function response turn comes immediately after a function call turn"),
    "a call that begins": (
        lambda body: body["contents"].pop(0),
        "function call turn comes immediately after a user turn",
    ),
    "a call of the user": (content(0, called()), "function call turn has role 'model'"),
    "an answer of the model": (content(1, answered(), answered()), "function response turn has role 'user'"),
    "another role": (lambda body: body["contents"][1].update(role="assistant"), "valid role: user, model"),
    "an image in a function response": (
        content(2, answered(parts=[part()]), answered()),
        "`function_response.parts` is not supported for this model",
    ),
    "a resolution of a part": (
        content(0, part(mediaResolution={"level": "MEDIA_RESOLUTION_LOW"})),
        "Media resolution for individual parts is not supported",
    ),
    "an unknown resolution": (config(mediaResolution="LOW"), "Invalid value at 'generation_config.media_resolution'"),
    "an ultra high resolution of all": (config(mediaResolution="MEDIA_RESOLUTION_ULTRA_HIGH"), "ULTRA_HIGH"),
    "temperature 3": (config(temperature=3), r"not in the range \[0.0, 2.0\]"),
    "an unknown field": (options(messages=[]), 'Unknown name "messages": Cannot find field'),
    "an unknown field of a part": (
        content(0, part(detail="low")),
        r'Unknown name "detail" at .contents\[0\].parts\[0\]',
    ),
    "an unknown field of an image": (content(0, {"inlineData": {"url": ""}}), 'Unknown name "url"'),
    "an unknown field of the configuration": (config(n=1), 'Unknown name "n" at .generation_config'),
    "no contents": (options(contents=[]), "contents is not specified"),
    "no parts": (content(0), "contents.parts must not be empty"),
    "an empty part": (content(0, {}), "required oneof field 'data' must have one initialized field"),
    "two kinds in a part": (content(0, part(text="Total?")), "required oneof field 'data'"),
    "another media type": (content(0, part(mime_type="image/gif")), "Unsupported MIME type: image/gif"),
    "broken base64": (content(0, part("A*=")), r"Invalid value at .*\(TYPE_BYTES\), Base64 decoding failed"),
    "no image": (content(0, part("AAAA")), "Unable to process input image"),
    "too many images": (content(0, *[part()] * MAX_IMAGES), f"fewer than {MAX_IMAGES} images"),
    "a file elsewhere": (content(0, {"fileData": {"fileUri": "vtimg://1"}}), "Cannot fetch content"),
    "an answer without a name": (content(2, answered(""), answered()), "Name cannot be empty"),
    "an answer that is a text": (content(2, answered(response="Here."), answered()), "google.protobuf.Struct"),
    "a tool's name with a space": (function(name="zoom image"), "Invalid function name"),
    "a schema of JSON's": (
        function(parameters={"type": "OBJECT", "additionalProperties": False}),
        'Unknown name "additionalProperties"',
    ),
    "a schema that is no object": (function(parameters={"type": "STRING"}), "must be OBJECT"),
    "a list without items": (function(parameters=LIST), r"parameters.properties\[region\].items: missing field"),
    "an unknown type": (
        function(parameters={"type": "OBJECT", "properties": {"a": {"type": "TUPLE"}}}),
        "Invalid value",
    ),
    "a required property that is none": (
        function(parameters={"type": "OBJECT", "properties": {}, "required": ["a"]}),
        "property is not defined: a",
    ),
    "an unknown mode": (options(toolConfig={"functionCallingConfig": {"mode": "SOME"}}), "Invalid value .*mode"),
    "a mode without tools": (lambda body: body.pop("tools"), "without function_declarations"),
    "an unknown allowed function": (
        options(toolConfig={"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["none"]}}),
        "not declared",
    ),
}
OF_GEMINI_3: Bad = {
    "a lost signature": (
        content(1, called(), called()),
        "missing a thought_signature .*`default_api:look` , position 2",
    ),
    "another's signature": (content(1, called(thoughtSignature="AAAA"), called()), "missing a thought_signature"),
    "an unknown resolution of a part": (
        content(0, part(mediaResolution={"level": "LOW"})),
        "Invalid value at .*media_resolution.level",
    ),
    "a resolution that is a text": (content(0, part(mediaResolution="LOW")), "MediaResolution"),
}


@pytest.mark.parametrize("bad", [*BAD, *OF_GEMINI_3])
def test_it_is_refused(bad: str) -> None:
    change, said = {**BAD, **OF_GEMINI_3}[bad]
    model = "gemini-3-pro-preview" if bad in OF_GEMINI_3 else "gemini-2.5-flash"
    with changed(Gemini(), GOOD, change) as (server, body):
        status, answer = post(server, path(model), body, HEADERS)
    assert (status, answer["error"]["code"], answer["error"]["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert re.search(said, answer["error"]["message"])
    assert len(server.refused) == 1


@pytest.mark.parametrize(
    ("model", "change"),
    [
        ("gemini-2.5-flash", lambda body: None),
        ("gemini-2.5-flash", content(1, called(), called())),
        ("gemini-3-pro-preview", content(1, called(thoughtSignature=f"{SIGNATURE}0000"), called())),
        ("gemini-3-pro-preview", content(2, answered(parts=[part()]), answered())),
        ("gemini-3-pro-preview", lambda body: body["contents"].extend([{"role": "model", "parts": [TEXT]}])),
        ("gemini-3-pro-preview", content(0, {"inline_data": {"mime_type": "image/png", "data": image()}})),
    ],
)
def test_a_good_request_is_answered(model: str, change: Change) -> None:
    with changed(Gemini(), GOOD, change) as (server, body):
        status, answer = post(server, path(model), body, HEADERS)
    assert (status, server.refused) == (200, [])
    assert answer["candidates"][0]["content"]["parts"] == [{"text": "48.10"}]
    assert answer["usageMetadata"]["promptTokenCount"] == server.requests[0].prompt_tokens


def test_signatures_are_wanted_in_the_current_turn_alone() -> None:
    def change(body: dict[str, Any]) -> None:
        content(1, called(), called())(body)
        body["contents"] += [{"role": "model", "parts": [{"text": "48.10"}]}, {"role": "user", "parts": [TEXT]}]

    with changed(Gemini(), GOOD, change) as (server, body):
        assert post(server, path("gemini-3-pro-preview"), body, HEADERS)[0] == 200


def test_a_part_says_its_resolution_and_else_the_request_does() -> None:
    def change(body: dict[str, Any]) -> None:
        body["contents"][0]["parts"][0]["mediaResolution"] = {"level": "MEDIA_RESOLUTION_ULTRA_HIGH"}

    with changed(Gemini(), GOOD, change) as (server, body):
        post(server, path("gemini-3-pro-preview"), body, HEADERS)
    assert [(image.setting, image.tokens) for image in server.requests[0].images] == [
        ("ULTRA_HIGH", 2240),
        ("LOW", 280),
    ]


@pytest.mark.parametrize("sse", [True, False])
def test_a_stream_is_events_or_one_list(sse: bool) -> None:
    with Server(Gemini(), [Reply("Wait.", (Call("look", {"region": [1]}),))]) as server:
        where = path(method="streamGenerateContent") + ("?alt=sse" if sse else "")
        _, answer = post(server, where, GOOD, HEADERS)
    if sse:
        answer = [json.loads(block.removeprefix("data: ")) for block in answer.strip().split("\n\n")]
    assert ["finishReason" in chunk["candidates"][0] for chunk in answer] == [False, False, True]
    assert answer[-1]["candidates"][0]["content"]["parts"][0]["thoughtSignature"] == f"{SIGNATURE}0000"


def test_without_a_key_elsewhere_and_with_too_many_bytes_it_is_refused() -> None:
    with Server(Gemini(max_bytes=100), ["48.10"]) as server:
        answers = [
            post(server, path(), GOOD, {}),
            post(server, "/v1beta/models/gemini:chat", GOOD, HEADERS),
            post(server, path(), GOOD, HEADERS),
        ]
    assert [(status, answer["error"]["status"]) for status, answer in answers] == [
        (403, "PERMISSION_DENIED"),
        (404, "NOT_FOUND"),
        (400, "INVALID_ARGUMENT"),
    ]
