"""Each official chat model calls tools about an image of its stand-in: sync, async, streamed."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool

from tests.image_samples import encode, quarters
from tests.wire.models import LLAMA_CPP, PROVIDERS, QUIET, Provider
from tests.wire.server import Call, Reply, Server

pytestmark = QUIET

IMAGE = {
    "type": "image_url",
    "image_url": {"url": "data:image/png;base64," + base64.b64encode(encode(quarters((640, 480)))).decode()},
}
BILLED = {
    "openai_chat": 85 + 2 * 170,
    "openai_responses": 70 + 2 * 140,
    "anthropic": 23 * 18,
    "gemini": 1120,
    "ollama": 23 * 18,
    "llama_cpp": 85 + 2 * 170,
}
ALL = {**PROVIDERS, "llama_cpp": LLAMA_CPP}


@tool
def look(region: list[int], note: str = "") -> str:
    """Look at a part of the image again."""
    return f"{region}{note}"


def invoked(model: Any, messages: list[Any]) -> AIMessage:
    reply = model.invoke(messages)
    assert isinstance(reply, AIMessage)
    return reply


def ainvoked(model: Any, messages: list[Any]) -> AIMessage:
    reply = asyncio.run(model.ainvoke(messages))
    assert isinstance(reply, AIMessage)
    return reply


def summed(chunks: list[AIMessageChunk]) -> AIMessage:
    assert len(chunks) > 1
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    return total


def streamed(model: Any, messages: list[Any]) -> AIMessage:
    return summed(list(model.stream(messages)))


def astreamed(model: Any, messages: list[Any]) -> AIMessage:
    async def chunks() -> list[AIMessageChunk]:
        return [chunk async for chunk in model.astream(messages)]

    return summed(asyncio.run(chunks()))


WAYS: dict[str, Callable[[Any, list[Any]], AIMessage]] = {
    "sync": invoked,
    "async": ainvoked,
    "streamed": streamed,
    "async streamed": astreamed,
}


@pytest.fixture(params=list(ALL))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def provider(name: str) -> Provider:
    return ALL[name]


@pytest.mark.parametrize("way", list(WAYS))
def test_a_model_calls_its_tools_and_then_answers(way: str, name: str, provider: Provider) -> None:
    calls = (Call("look", {"region": [0, 0, 500, 500]}), Call("look", {"region": [0, 0, 9, 9], "note": "é"}))
    with Server(provider.format(), [Reply("I look.", calls), "It is red."]) as server:
        model = provider.chat(server).bind_tools([look])
        said: list[Any] = [SystemMessage("Be short."), HumanMessage([IMAGE, {"type": "text", "text": "What colour?"}])]
        said.append(first := WAYS[way](model, said))
        said += [ToolMessage(look.invoke(call["args"]), tool_call_id=call["id"]) for call in first.tool_calls]
        last = WAYS[way](model, said)
    assert not server.refused
    assert [(call["name"], call["args"]) for call in first.tool_calls] == [
        (call.name, call.arguments) for call in calls
    ]
    assert len({call["id"] for call in first.tool_calls}) == 2
    assert (first.text.strip(), last.text) == ("I look.", "It is red.")
    assert [len(request.images) for request in server.requests] == [1, 1]
    assert [request.streamed for request in server.requests] == ["streamed" in way or name == "ollama"] * 2


def test_the_bill_of_an_image_reaches_the_models_usage(name: str, provider: Provider) -> None:
    with Server(provider.format(), ["Red.", "Red."]) as server:
        model: BaseChatModel = provider.chat(server)
        text = {"type": "text", "text": "What colour?"}
        counted = [WAYS[way](model, [HumanMessage([IMAGE, text])]).usage_metadata for way in ("sync", "streamed")]
    [image], _ = (request.images for request in server.requests)
    assert (image.role, image.media_type, image.size, image.tokens) == ("user", "image/png", (640, 480), BILLED[name])
    for usage in counted:
        assert usage is not None
        assert usage["input_tokens"] == server.requests[0].prompt_tokens > image.tokens


@pytest.mark.parametrize("way", list(WAYS))
def test_a_refusal_reaches_the_caller_in_the_vendors_words(way: str, provider: Provider) -> None:
    broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with Server(provider.format(), ["Red."]) as server, pytest.raises(Exception, match=r"400|500") as raised:
        WAYS[way](provider.chat(server), [HumanMessage([broken, {"type": "text", "text": "?"}])])
    [refused] = server.refused
    assert refused.reason.strip() in str(raised.value)
    assert refused.request is server.requests[0]
