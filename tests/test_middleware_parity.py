"""An agent that sees no image behaves with `ZoomMiddleware` as LangChain's own does: replies, model calls, messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from tests.scripted_chat import ScriptedChat, StreamingChat
from vtagent.graphs.middleware import ZoomMiddleware


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


@tool
def broken() -> str:
    """Fail."""
    raise RuntimeError("out of order")


@tool
async def slow(text: str) -> str:
    """Answer later."""
    await asyncio.sleep(0)
    return text


@tool(return_direct=True)
def final(text: str) -> str:
    """Answer at once."""
    return text


@tool
def ask(question: str) -> str:
    """Ask a person."""
    return str(interrupt({"question": question}))


class Total(BaseModel):
    """The total."""

    amount: str


def calls(*named: tuple[str, dict[str, Any]]) -> AIMessage:
    made: Any = [{"name": name, "args": args, "id": f"{name}{n}"} for n, (name, args) in enumerate(named)]
    return AIMessage("", tool_calls=made)


def unreadable(name: str | None) -> AIMessage:
    bad: Any = {"type": "invalid_tool_call", "name": name, "args": "{", "id": "bad", "error": None}
    return AIMessage("So.", invalid_tool_calls=[bad])


LINES: list[Any] = [
    "It is 42.",
    "<think>Hm.</think><answer>42</answer>",
    "<tool_call>{broken</tool_call>",
    '<tool_call>{"name": "multiply", "arguments": {"a": 6, "b": 7}}</tool_call>',
    '{"name": "multiply", "arguments": {"a": 6, "b": 7}}',
    '{"amount": "48.10"}',
    "",
    calls(("multiply", {"a": 6, "b": 7})),
    calls(("multiply", {"a": 6, "b": 7}), ("multiply", {"a": 1, "b": 1})),
    calls(*[("multiply", {"a": n, "b": n}) for n in range(40)]),
    calls(("multiply", {"a": "six"})),
    calls(("divide", {})),
    calls(("final", {"text": "Done."})),
    calls(("final", {"text": "Done."}), ("multiply", {"a": 6, "b": 7})),
    calls(("Total", {"amount": "48.10"})),
    calls(("Total", {"amount": ["no"]})),
    calls(("Total", {"amount": "1"}), ("Total", {"amount": "2"})),
    unreadable("multiply"),
    unreadable(None),
    RuntimeError("the server is down"),
]
SCRIPTS = st.lists(st.sampled_from(range(len(LINES))), min_size=1, max_size=4)
FORMATS: dict[str, Any] = {
    "none": None,
    "schema": Total,
    "tool": ToolStrategy(Total),
    "provider": ProviderStrategy(Total),
}
SAID = HumanMessage("What is six times seven?", id="question")


def script(numbers: list[int]) -> list[Any]:
    """The lines, and a last one that ends every run."""
    fresh = [line.model_copy() if isinstance(line, AIMessage) else line for line in (LINES[n] for n in numbers)]
    return [*fresh, calls(("Total", {"amount": "0"}), ("final", {"text": "End."})), "End."]


def plain(value: Any) -> Any:
    """What has no random ids: messages as tuples, errors as text."""
    if isinstance(value, AIMessage):
        return (
            type(value).__name__,
            value.content,
            value.name,
            [(call["name"], call["args"], call["id"]) for call in value.tool_calls],
            [(call["name"], call["args"], call["error"]) for call in value.invalid_tool_calls],
        )
    if hasattr(value, "tool_call_id"):
        return value.type, value.content, value.name, value.tool_call_id, value.status
    if hasattr(value, "content"):
        return value.type, value.content
    return value


def told(model: ScriptedChat) -> list[Any]:
    """What each call of the model was sent."""
    return [
        ([plain(message) for message in seen], options) for seen, options in zip(model.seen, model.options, strict=True)
    ]


def outcome(
    act: Callable[[Any], Any], lines: list[Any], *middleware: Any, kind: Any = ScriptedChat, **options: Any
) -> Any:
    """What a run leaves: its messages, its structured response or its error, and what the model was sent."""
    model = kind(lines=lines, resolves_images=False, reads_calls=False)
    tools = options.pop("tools", [multiply, final])
    saver = InMemorySaver() if options.pop("saved", False) else None
    agent = create_agent(
        model, tools, checkpointer=saver, middleware=[*options.pop("before", ()), *middleware], **options
    )
    try:
        left = act(agent)
    except Exception as error:
        left = f"{type(error).__name__}: {str(error)[:200]}"
    if isinstance(left, dict):
        left = {key: [plain(each) for each in value] if key == "messages" else value for key, value in left.items()}
        left.pop("zoom", None)
    return left, told(model)


def same(act: Callable[[Any], Any], lines: Callable[[], list[Any]], **options: Any) -> Any:
    """Asserts that the run is the same with the middleware, and returns what it left."""
    ours, theirs = outcome(act, lines(), ZoomMiddleware(), **options), outcome(act, lines(), **options)
    assert ours == theirs
    return ours[0]


def invoked(agent: Any) -> Any:
    return agent.invoke({"messages": [SAID]}, {"recursion_limit": 30})


def ainvoked(agent: Any) -> Any:
    return asyncio.run(agent.ainvoke({"messages": [SAID]}, {"recursion_limit": 30}))


@pytest.mark.parametrize("format", list(FORMATS))
@given(numbers=SCRIPTS)
@example(numbers=[2])
@example(numbers=[17])
@example(numbers=[9])
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_runs_are_the_same(format: str, numbers: list[int]) -> None:
    options = {"response_format": FORMATS[format], "system_prompt": "Be kind.", "name": "helper"}
    same(invoked, lambda: script(numbers), **options)


@given(numbers=SCRIPTS)
@settings(max_examples=20)
def test_asynchronous_runs_are_the_same(numbers: list[int]) -> None:
    same(ainvoked, lambda: script(numbers), tools=[multiply, slow, final])


def test_a_tools_error_ends_the_run_as_before() -> None:
    left = same(invoked, lambda: [calls(("broken", {})), "done"], tools=[broken])
    assert "out of order" in left


def test_tools_that_are_coroutines_run_side_by_side_as_before() -> None:
    both = ("slow", {"text": "one"}), ("slow", {"text": "two"})
    left = same(ainvoked, lambda: [calls(*both), "done"], tools=[slow])
    assert [message[1] for message in left["messages"]][2:4] == ["one", "two"]


@pytest.mark.parametrize("tools", [[ask], [ask, multiply]])
def test_interrupts_are_the_same(tools: list[Any]) -> None:
    both = (("ask", {"question": "May I?"}), ("multiply", {"a": 6, "b": 7}))[: len(tools)]

    def paused(agent: Any) -> Any:
        config: Any = {"configurable": {"thread_id": "1"}}
        waiting = agent.invoke({"messages": [SAID]}, config)["__interrupt__"]
        assert [each.value for each in waiting] == [{"question": "May I?"}]
        return agent.invoke(Command(resume="yes"), config)

    left = same(paused, lambda: [calls(*both), "done"], tools=tools, saved=True)
    assert [message[1] for message in left["messages"]][2] == "yes"


@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_a_persons_decisions_are_the_same(decision: str) -> None:
    def paused(agent: Any) -> Any:
        config: Any = {"configurable": {"thread_id": decision}}
        agent.invoke({"messages": [SAID]}, config)
        return agent.invoke(Command(resume={"decisions": [{"type": decision}]}), config)

    def lines() -> list[Any]:
        return [calls(("multiply", {"a": 6, "b": 7})), "done"]

    before = [HumanInTheLoopMiddleware({"multiply": True})]
    left = same(paused, lines, before=before, tools=[multiply], saved=True)
    assert left["messages"][-1][1] == "done"


@pytest.mark.parametrize("mode", ["values", "messages", "updates", "custom"])
@pytest.mark.parametrize("kind", [ScriptedChat, StreamingChat])
def test_streams_are_the_same(mode: Any, kind: Any) -> None:
    def streamed(agent: Any) -> Any:
        chunks = list(agent.stream({"messages": [SAID]}, stream_mode=mode))
        if mode == "messages":
            return [
                plain(message) for message, _ in chunks if not isinstance(message, AIMessageChunk) or message.content
            ]
        if mode == "custom":
            return [chunk for chunk in chunks if chunk.get("event") != "observe"]
        if mode == "updates":
            chunks = [update for update in chunks if not any(name.startswith("Zoom") for name in update)]
            chunks = [{name: value["messages"] for name, value in update.items()} for update in chunks]
            return [{name: [plain(each) for each in value] for name, value in update.items()} for update in chunks]
        states = [[plain(each) for each in chunk["messages"]] for chunk in chunks]
        return [state for n, state in enumerate(states) if not n or state != states[n - 1]]

    left = same(streamed, lambda: [calls(("multiply", {"a": 6, "b": 7})), "It is 42."], kind=kind)
    assert left or mode == "custom"


def test_a_second_question_on_a_thread_is_the_same() -> None:
    def twice(agent: Any) -> Any:
        config: Any = {"configurable": {"thread_id": "1"}}
        agent.invoke({"messages": [SAID]}, config)
        return agent.invoke({"messages": [HumanMessage("And seven times eight?")]}, config)

    left = same(twice, lambda: [unreadable("multiply"), "56"], saved=True)
    assert [message[0] for message in left["messages"]] == ["human", "AIMessage", "human", "tool", "AIMessage"] or left
