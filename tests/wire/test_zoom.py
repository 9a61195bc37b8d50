"""One zoom on each wire format, through the graph and through the middleware: sync, async, streamed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent

from tests.image_samples import encode, scene
from tests.scripted_chat import asked
from tests.wire.models import PROVIDERS, QUIET
from tests.wire.server import Call, Line, Reply, Server
from vtagent.graphs import create_zoom_agent
from vtagent.graphs.middleware import ZoomMiddleware

pytestmark = QUIET

PAGE = encode(scene((1280, 960)))
SCRIPT: list[Line] = [
    Reply("<think>Too small.</think>", (Call("zoom_image", {"region": [0, 0, 500, 1000]}),)),
    "<answer>48.10</answer>",
]
AGENTS: dict[str, Callable[[Any], Any]] = {
    "graph": create_zoom_agent,
    "middleware": lambda model: create_agent(model, middleware=[ZoomMiddleware()]),
}


def streamed(agent: Any, asked: Any) -> Any:
    chunks = list(agent.stream(asked, stream_mode=["messages", "values"]))
    return chunks_end(chunks)


def chunks_end(chunks: list[Any]) -> Any:
    """The last state; before it, the model's words came in pieces."""
    assert sum(mode == "messages" for mode, _ in chunks) > 2
    return [value for mode, value in chunks if mode == "values"][-1]


async def astreamed(agent: Any, asked: Any) -> Any:
    return chunks_end([chunk async for chunk in agent.astream(asked, stream_mode=["messages", "values"])])


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "sync": lambda agent, asked: agent.invoke(asked),
    "async": lambda agent, asked: asyncio.run(agent.ainvoke(asked)),
    "streamed": streamed,
    "async streamed": lambda agent, asked: asyncio.run(astreamed(agent, asked)),
}


@pytest.fixture(params=list(PROVIDERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(name: str) -> Iterator[Server]:
    with Server(PROVIDERS[name].format(), SCRIPT) as server:
        yield server


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("kind", list(AGENTS))
def test_a_zoom_is_shown_and_the_question_answered(kind: str, way: str, name: str, server: Server) -> None:
    agent = AGENTS[kind](PROVIDERS[name].chat(server))
    state = WAYS[way](agent, {"messages": [asked("What is the Total?", PAGE)]})
    assert not server.refused
    assert "48.10" in state["messages"][-1].text
    first, second = server.requests
    assert [image.size for image in first.images] == [(640, 480)]
    assert [image.size for image in second.images] == [(640, 480), (640, 960)]
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
