"""The agent as a part of other graphs: it writes what it is asked to, and shares images but no tallies."""

from __future__ import annotations

import operator
import warnings
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt

from tests.fakes import scripted_vlm
from tests.scripted_chat import ANSWER, ZOOM, ScriptedChat, StreamingChat, asked, picture
from vtagent.graphs.middleware import ZoomMiddleware
from vtagent.graphs.zoom import create_zoom_agent
from vtagent.images import DirectoryImageStore, MemoryImageStore, default_store
from vtagent.models import ChatVLM
from vtagent.models.identity import identity_of
from vtagent.protocol import format_tool_call

THREAD: Any = {"configurable": {"thread_id": "1"}}


class Parent(MessagesState):
    """A graph with keys of the same names."""

    answer: str
    usage: int
    stop: bool
    views: Annotated[list[str], operator.add]


OWN: dict[str, Any] = {"answer": "mine", "usage": 7, "stop": True, "views": ["a view of mine"]}


def around(agent: Any) -> Any:
    graph = StateGraph(Parent).add_node("look", agent).add_edge(START, "look").add_edge("look", END)
    return graph.compile()


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_as_a_node_it_touches_the_messages_alone(asynchronous: bool) -> None:
    parent = around(create_zoom_agent(ScriptedChat(lines=[ZOOM, ANSWER])))
    given = {"messages": [asked("?", picture())], **OWN}
    result = await parent.ainvoke(given) if asynchronous else parent.invoke(given)
    assert {key: result[key] for key in OWN} == OWN
    assert len(result["messages"]) == 4
    assert result["messages"][-1].response_metadata["answer"] == "48.10"


def test_as_a_node_it_shares_what_it_is_asked_to() -> None:
    agent = create_zoom_agent(ScriptedChat(lines=[ANSWER]), shares=("messages", "answer"))
    result = around(agent).invoke({"messages": [asked("?", picture())], **OWN})
    assert (result["answer"], result["usage"]) == ("48.10", 7)


def test_it_cannot_share_what_it_does_not_have() -> None:
    with pytest.raises(ValueError, match="shares names keys that the result does not have: \\['anser'\\]"):
        create_zoom_agent(ScriptedChat(lines=[ANSWER]), shares=("anser",))


def test_a_function_that_calls_it_in_a_node_finds_everything_by_name() -> None:
    agent = create_zoom_agent(ScriptedChat(lines=[ZOOM, ANSWER]))
    found: dict[str, Any] = {}

    def look(state: Parent) -> Any:
        result = agent.invoke({"messages": state["messages"]})
        found.update(answer=result["answer"], zooms=result.get("usage")["zooms"], no=result.get("no", "none"))
        return result

    result = around(look).invoke({"messages": [asked("?", picture())], **OWN})
    assert found == {"answer": "48.10", "zooms": 1, "no": "none"}
    assert {key: result[key] for key in OWN} == OWN


def test_many_of_them_at_once_are_gathered() -> None:
    agent = create_zoom_agent(ScriptedChat(lines=[ANSWER]))

    def fan(state: Parent) -> list[Send]:
        return [Send("look", {"messages": [asked(f"{n}?", picture())]}) for n in range(5)]

    graph = StateGraph(Parent).add_node("look", agent).add_conditional_edges(START, fan, ["look"])
    parent: Any = graph.compile()
    result = parent.invoke({"messages": [], **OWN})
    assert {key: result[key] for key in OWN} == OWN
    assert sum(isinstance(message, AIMessage) for message in result["messages"]) == 5


def test_on_its_own_it_returns_everything() -> None:
    result = create_zoom_agent(ScriptedChat(lines=[ANSWER])).invoke({"messages": [asked("?", picture())]})
    assert set(result) == {"messages", "answer", "views", "usage", "stop"}


def test_replies_say_who_speaks() -> None:
    result = create_zoom_agent(ScriptedChat(lines=[ZOOM, ANSWER]), name="reader").invoke(
        {"messages": [asked("?", picture())]}
    )
    assert [message.name for message in result["messages"] if isinstance(message, AIMessage)] == ["reader", "reader"]
    unnamed = create_zoom_agent(ScriptedChat(lines=[ANSWER])).invoke({"messages": [asked("?", picture())]})
    assert unnamed["messages"][-1].name is None


def test_replies_say_who_speaks_with_the_middleware_too() -> None:
    agent: Any = create_agent(ScriptedChat(lines=[ANSWER]), middleware=[ZoomMiddleware()], name="reader")
    assert agent.invoke({"messages": [asked("?", picture())]})["messages"][-1].name == "reader"


# --- tools


@tool(return_direct=True)
def look_up(x: int = 0) -> str:
    """Look it up."""
    if x:
        raise ValueError("no such page")
    return "page 12"


def test_a_tool_whose_answer_is_returned_as_it_is_ends_the_run() -> None:
    model = ScriptedChat(lines=[format_tool_call("look_up", {}), ANSWER])
    result = create_zoom_agent(model, tools=[look_up]).invoke({"messages": [asked("?", picture())]})
    assert (result["answer"], result["stop"], len(model.seen)) == ("page 12", None, 1)
    assert isinstance(result["messages"][-1], ToolMessage)


@pytest.mark.parametrize("other", [format_tool_call("zoom_image", {}), format_tool_call("look_up", {"x": 1})])
def test_beside_a_zoom_or_after_an_error_the_model_goes_on(other: str) -> None:
    model = ScriptedChat(lines=[format_tool_call("look_up", {}) + other, ANSWER])
    result = create_zoom_agent(model, tools=[look_up]).invoke({"messages": [asked("?", picture())]})
    assert (result["answer"], len(model.seen)) == ("48.10", 2)


RAN: list[str] = []


@tool
def book(room: str) -> Any:
    """Book a room; returns its picture."""
    RAN.append(room)
    image, words = asked(f"booked {room}", picture(64, 48)).content_blocks
    return [words, image]


@tool
def confirm(what: str) -> str:
    """Ask a person."""
    RAN.append(f"ask {what}")
    return f"{what}: {interrupt(what)}"


@tool
def note(text: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> Any:
    """Write a note."""
    RAN.append(text)
    return Command(update={"messages": [ToolMessage("noted", name="note", tool_call_id=tool_call_id)]})


@pytest.mark.parametrize("durability", ["exit", "sync"])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_tool_that_waits_does_not_make_the_others_run_twice(durability: Any, asynchronous: bool) -> None:
    calls = [("book", {"room": "A"}), ("confirm", {"what": "1"}), ("note", {"text": "n"}), ("confirm", {"what": "2"})]
    lines = ["".join(format_tool_call(name, args) for name, args in [*calls, ("zoom_image", {})]), ANSWER]
    agent = create_zoom_agent(ScriptedChat(lines=lines), tools=[book, confirm, note], checkpointer=InMemorySaver())
    RAN.clear()

    async def go(given: Any) -> Any:
        if asynchronous:
            return await agent.ainvoke(given, THREAD, durability=durability)
        return agent.invoke(given, THREAD, durability=durability)

    result = await go({"messages": [asked("?", picture())]})
    saved = list(agent.checkpointer.list(THREAD))  # type: ignore[union-attr]
    assert "base64" not in repr([each.pending_writes for each in saved])
    waiting = result["__interrupt__"]
    assert {each.value for each in waiting} == {"1", "2"}
    result = await go(Command(resume={each.id: f"yes {each.value}" for each in waiting}))
    assert result["answer"] == "48.10"
    assert (RAN.count("A"), RAN.count("n")) == (1, 1)
    texts = [message.text for message in result["messages"] if isinstance(message, ToolMessage)]
    assert {"booked A", "1: yes 1", "noted", "2: yes 2"} < set(texts)
    assert len(texts) == 5
    assert result["usage"]["zooms"] == 1


# --- images and tallies


def test_two_agents_see_the_same_images() -> None:
    one = create_zoom_agent(ScriptedChat(lines=[ANSWER]))
    messages = one.invoke({"messages": [asked("?", picture(700, 500))]})["messages"]
    model = ScriptedChat(lines=[ANSWER])
    other: Any = create_agent(model, middleware=[ZoomMiddleware()])
    result = other.invoke({"messages": [*messages, ("user", "And now?")]})
    assert len(result["zoom"]["views"]) == 1
    assert one.builder.store is default_store()
    assert scripted_vlm([]).image_store is default_store()


def test_a_lasting_checkpointer_over_a_store_in_memory_is_warned_about_once(tmp_path: Path) -> None:
    store = MemoryImageStore()
    with SqliteSaver.from_conn_string(":memory:") as saver:
        agents: list[Any] = [
            create_zoom_agent(ScriptedChat(lines=[ANSWER]), image_store=store, checkpointer=saver),
            create_agent(
                ScriptedChat(lines=[ANSWER]), middleware=[ZoomMiddleware(image_store=store)], checkpointer=saver
            ),
        ]
        with pytest.warns(
            UserWarning, match="SqliteSaver keeps conversations, but their images .* DirectoryImageStore"
        ):
            agents[0].invoke({"messages": [asked("?", picture())]}, THREAD)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for agent in agents:
                agent.invoke({"messages": [("user", "Again?")]}, THREAD)
            kept = DirectoryImageStore(tmp_path)
            create_zoom_agent(ScriptedChat(lines=[ANSWER]), image_store=kept, checkpointer=saver).invoke(
                {"messages": [asked("?", picture())]}, {"configurable": {"thread_id": "2"}}
            )


def test_the_middleware_warns_too() -> None:
    with SqliteSaver.from_conn_string(":memory:") as saver:
        middleware = ZoomMiddleware(image_store=MemoryImageStore())
        agent: Any = create_agent(ScriptedChat(lines=[ANSWER]), middleware=[middleware], checkpointer=saver)
        with pytest.warns(UserWarning, match="keeps conversations"):
            agent.invoke({"messages": [asked("?", picture())]}, THREAD)


def test_subagents_keep_their_tallies_to_themselves() -> None:
    """As deepagents does it: a tool writes all of a subagent's result into the state of the agent that called it."""

    @tool
    def task(question: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> Any:
        """Ask a subagent."""
        lines = [format_tool_call("zoom_image", {}), ANSWER]
        subagent: Any = create_agent(ScriptedChat(lines=lines), middleware=[ZoomMiddleware()])
        result = subagent.invoke({"messages": [asked(question, picture(900, 900))]})
        assert result["zoom"]["usage"]["zooms"] == 1
        rest = {key: value for key, value in result.items() if key != "messages"}
        message = ToolMessage(result["messages"][-1].text, tool_call_id=tool_call_id)
        return Command(update={**rest, "messages": [message]})

    calls = "".join(format_tool_call("task", {"question": f"{n}?"}) for n in range(3))
    agent: Any = create_agent(ScriptedChat(lines=[calls, ANSWER]), tools=[task], middleware=[ZoomMiddleware()])
    result = agent.invoke({"messages": [asked("?", picture())]})
    assert (result["zoom"]["usage"]["turns"], result["zoom"]["usage"]["zooms"]) == (2, 0)
    assert len(result["zoom"]["views"]) == 1


def test_the_tally_of_a_resumed_run_is_its_own() -> None:
    model = ScriptedChat(lines=[format_tool_call("zoom_image", {}), ANSWER])
    saver = InMemorySaver()
    agent: Any = create_agent(model, middleware=[ZoomMiddleware()], checkpointer=saver, interrupt_before=["tools"])
    agent.invoke({"messages": [asked("?", picture())]}, THREAD)
    agent = create_agent(model, middleware=[ZoomMiddleware()], checkpointer=saver)
    assert agent.invoke(None, THREAD)["zoom"]["usage"]["zooms"] == 1
    assert agent.invoke({"messages": [("user", "Again?")]}, THREAD)["zoom"]["usage"]["zooms"] == 0


# --- caches and streams


def test_a_cache_tells_two_checkpoints_apart(tmp_path: Path) -> None:
    folders = [tmp_path / "a" / "model", tmp_path / "b" / "model"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
    one, other = map(str, folders)
    assert identity_of(one) != identity_of(other)
    before = identity_of(one)
    assert before == identity_of(one)
    (folders[0] / "model.safetensors").write_bytes(b"other weights")
    assert identity_of(one) != before
    assert identity_of("Qwen/Qwen3-VL-4B-Instruct") == "Qwen/Qwen3-VL-4B-Instruct"


def test_models_over_other_weights_do_not_answer_from_each_others_cache() -> None:
    cache = InMemoryCache()
    first: ChatVLM = scripted_vlm(["<answer>1</answer>"])
    second: ChatVLM = scripted_vlm(["<answer>2</answer>"])
    first.cache = second.cache = cache
    question = [HumanMessage("?")]
    assert first.invoke(question).text == first.invoke(question).text == "<answer>1</answer>"
    assert second.invoke(question).text == "<answer>2</answer>"


@pytest.mark.parametrize("resolves_images", [False, True])
def test_a_model_that_does_not_stream_is_told_in_whole_messages(resolves_images: bool) -> None:
    model = ScriptedChat(lines=[ANSWER], resolves_images=resolves_images)
    parts = list(create_zoom_agent(model).stream({"messages": [asked("?", picture())]}, stream_mode="messages"))
    replies = [message for message, _ in parts if message.type.startswith("AI") or message.type == "ai"]
    assert [type(message) for message in replies] == [AIMessage]


def test_a_model_that_streams_is_told_in_chunks() -> None:
    model = StreamingChat(lines=[ANSWER], resolves_images=False)
    parts = list(create_zoom_agent(model).stream({"messages": [asked("?", picture())]}, stream_mode="messages"))
    assert sum(isinstance(message, AIMessageChunk) for message, _ in parts) > 2
