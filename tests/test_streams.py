"""What `stream_mode="messages"` shows of a run: what the model and its tool say, and nothing twice."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from tests.scripted_chat import ANSWER, ZOOM, ScriptedChat, StreamingChat, asked, picture
from vtagent.graphs import create_zoom_agent
from vtagent.graphs.middleware import ZoomMiddleware


def made(kind: str, model: ScriptedChat) -> Any:
    """The zoom agent alone, as a node of another graph, or an agent of `create_agent` with the middleware."""
    if kind == "agent":
        return create_zoom_agent(model, checkpointer=InMemorySaver())
    if kind == "middleware":
        return create_agent(model, middleware=[ZoomMiddleware()], checkpointer=InMemorySaver())
    graph = StateGraph(MessagesState)
    graph.add_node("look", create_zoom_agent(model))
    graph.add_edge(START, "look")
    return graph.compile(checkpointer=InMemorySaver())


@pytest.mark.parametrize("kind", ["agent", "node", "middleware"])
@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("subgraphs", [False, True])
async def test_a_stream_of_messages_does_not_repeat_the_question(kind: str, way: str, subgraphs: bool) -> None:
    """Langgraph up to 1.2.18 repeats messages that a node changes, as middleware does with images: hence the floor."""
    agent = made(kind, ScriptedChat(lines=[ZOOM, ANSWER, ANSWER]))
    thread = {"configurable": {"thread_id": "1"}}
    told = []
    for question in (asked("What is the total?", picture()), asked("And here?", picture(800, 600))):
        options: dict[str, Any] = {"stream_mode": "messages", "subgraphs": subgraphs}
        asking = {"messages": [question]}
        if way == "sync":
            streamed = list(agent.stream(asking, thread, **options))
        else:
            streamed = [each async for each in agent.astream(asking, thread, **options)]
        told.append([(each[-1][0] if subgraphs else each[0]).type for each in streamed])
    assert told == [["ai", "tool", "ai"], ["ai"]]


@pytest.mark.parametrize("kind", ["agent", "node", "middleware"])
def test_what_a_model_says_in_pieces_is_streamed_once(kind: str) -> None:
    agent = made(kind, StreamingChat(lines=[ANSWER]))
    asking = {"messages": [asked("What is the total?", picture())]}
    thread = {"configurable": {"thread_id": "1"}}
    pieces = [each[1][0] for each in agent.stream(asking, thread, stream_mode="messages", subgraphs=True)]
    assert "".join(piece.text for piece in pieces).count("48.10") == 1
    assert len(pieces) > 2
