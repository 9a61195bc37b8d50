"""One line of middleware in a stock agent: the same answers for fewer tokens, and pixels nowhere but in the request."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import BaseMessage
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from pydantic import Field

from tests.checkpointers import IN_MEMORY
from tests.scripted_chat import ANSWER, ZOOM, ScriptedChat, asked, picture
from tests.test_zoom_state import Recorder, has_pixels
from vtagent.graphs.middleware import ZoomMiddleware
from vtagent.models import ChatVLM
from vtagent.protocol import parse_reply
from vtagent.training.data import rendered

pytestmark = IN_MEMORY


class Elsewhere(ChatVLM):
    """The bundled policy as somebody else's model: it is handed pixels, and knows nothing of references."""

    resolves_images: bool = Field(default=False, init=False)


@cache
def answers() -> list[tuple[str, str | None, str | None, int]]:
    """Of each document: its print, the answer without the middleware, the answer with it, the zooms."""
    pytest.importorskip("torch")  # `make test-versions` has none
    model = Elsewhere.from_pretrained("zoom", max_tokens=64)
    plain = create_agent(model)
    frugal = create_agent(model, middleware=[ZoomMiddleware(vision=model.vision)])
    rows: list[tuple[str, str | None, str | None, int]] = []
    for example in rendered(6, seed=5):
        question: Any = {"messages": [asked(example.question, example.image)]}
        at_once, looked = plain.invoke(question), frugal.invoke(question)
        first, second = (parse_reply(result["messages"][-1].text).answer for result in (at_once, looked))
        rows.append((example.source, first, second, looked["zoom"]["usage"]["zooms"]))
    return rows


def test_large_print_is_answered_as_without_it_and_never_zoomed_into() -> None:
    large = [row[1:] for row in answers() if row[0] == "large print"]
    assert len(large) == 6
    assert all(at_once for at_once, _, _ in large)
    assert [(at_once, 0) for at_once, _, _ in large] == [(looked, zooms) for _, looked, zooms in large]


def test_small_print_is_zoomed_into_once() -> None:
    assert [zooms for source, *_, zooms in answers() if source == "small print"] == [1] * 6


@pytest.mark.parametrize("referenced", [True, False])
def test_state_streams_and_traces_carry_no_pixels(referenced: bool) -> None:
    data = picture(640, 480, noise=True)
    model = ScriptedChat(lines=[ZOOM, ANSWER], resolves_images=False)
    middleware, recorder = ZoomMiddleware(), Recorder()
    agent = create_agent(model, middleware=[middleware])
    messages: list[BaseMessage] = [asked("?", data)]
    given: Any = middleware.referenced(messages) if referenced else messages
    modes: Any = ["updates", "messages", "custom"]
    streamed = list(agent.stream({"messages": given}, {"callbacks": [recorder]}, stream_mode=modes))
    assert has_pixels(repr(model.seen[1]), data)
    assert not has_pixels(repr(streamed), data)
    with_pixels = [payload for payload in recorder.payloads if has_pixels(payload, data)]
    assert len(recorder.payloads) >= 10
    # What the caller passed in stands in the root run's own payloads, at its start and at its end, and nowhere else.
    assert all("LangGraph" in payload[:20] for payload in with_pixels)
    assert len(with_pixels) == (0 if referenced else 2)
    assert len(data) > 800_000
    assert sum(len(payload) for payload in recorder.payloads if payload not in with_pixels) < 40_000


def tables(path: str) -> Iterator[bytes]:
    with SqliteSaver.from_conn_string(path) as saver, saver.cursor() as cursor:
        yield from (bytes(row[0]) for row in cursor.execute("SELECT checkpoint FROM checkpoints"))
        yield from (bytes(row[0]) for row in cursor.execute("SELECT value FROM writes"))


@pytest.mark.parametrize(
    ("referenced", "durability", "kept"),
    [(True, "sync", 0), (True, "async", 0), (False, "exit", 0), (False, "sync", 3)],
)
def test_what_a_checkpointer_is_handed(referenced: bool, durability: Any, kept: int, tmp_path: Any) -> None:
    data = picture(640, 480, noise=True)
    middleware, path = ZoomMiddleware(), str(tmp_path / "threads")
    model = ScriptedChat(lines=[ZOOM, ANSWER], resolves_images=False)
    messages: list[BaseMessage] = [asked("?", data)]
    with SqliteSaver.from_conn_string(path) as saver:
        agent = create_agent(model, middleware=[middleware], checkpointer=saver)
        given: Any = middleware.referenced(messages) if referenced else messages
        config: Any = {"configurable": {"thread_id": "1"}}
        agent.invoke({"messages": given}, config, durability=durability)
        state = repr(agent.get_state(config).values)
    assert not has_pixels(state, data)
    assert len(data) > 800_000
    assert len(state) < 3_000
    with_pixels = [row for row in tables(path) if has_pixels(repr(row), data)]
    assert len(with_pixels) == kept
    assert sum(len(row) for row in tables(path) if row not in with_pixels) < 25_000


@pytest.mark.parametrize(("referenced", "root", "kept"), [(True, 0, 0), (False, 2, 3)])
async def test_all_of_this_holds_asynchronously(referenced: bool, root: int, kept: int, tmp_path: Any) -> None:
    data = picture(640, 480, noise=True)
    middleware, recorder, path = ZoomMiddleware(), Recorder(), str(tmp_path / "threads")
    model = ScriptedChat(lines=[ZOOM, ANSWER], resolves_images=False)
    messages: list[BaseMessage] = [asked("?", data)]
    given: Any = middleware.referenced(messages) if referenced else messages
    config: Any = {"configurable": {"thread_id": "1"}, "callbacks": [recorder]}
    modes: Any = ["updates", "messages", "custom"]
    async with AsyncSqliteSaver.from_conn_string(path) as saver:
        agent = create_agent(model, middleware=[middleware], checkpointer=saver)
        stream = agent.astream({"messages": given}, config, stream_mode=modes, durability="sync")
        streamed = [chunk async for chunk in stream]
        state = repr((await agent.aget_state(config)).values)
    assert has_pixels(repr(model.seen[1]), data)
    assert not has_pixels(state + repr(streamed), data)
    assert len(state) < 3_000
    with_pixels = [payload for payload in recorder.payloads if has_pixels(payload, data)]
    assert all("LangGraph" in payload[:20] for payload in with_pixels)
    assert (len(with_pixels), len(recorder.payloads) >= 10) == (root, True)
    assert sum(len(payload) for payload in recorder.payloads if payload not in with_pixels) < 40_000
    rows = [(row, has_pixels(repr(row), data)) for row in tables(path)]
    assert sum(pixels for _, pixels in rows) == kept
    assert sum(len(row) for row, pixels in rows if not pixels) < 25_000


def test_without_it_the_same_is_megabytes(tmp_path: Any) -> None:
    data = picture(640, 480, noise=True)
    path, recorder = str(tmp_path / "threads"), Recorder()
    with SqliteSaver.from_conn_string(path) as saver:
        agent = create_agent(ScriptedChat(lines=[ANSWER]), checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "1"}, "callbacks": [recorder]}
        agent.invoke({"messages": [asked("?", data)]}, config, durability="sync")
        assert len(repr(agent.get_state(config).values)) > 1_000_000
    assert sum(map(len, tables(path))) > 4_000_000
    assert sum(map(len, recorder.payloads)) > 5_000_000
