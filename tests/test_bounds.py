"""No reply makes a run endless or dear: model calls and tool calls are bounded, in agents with and without images."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool

from tests.scripted_chat import ANSWER, ZOOM, ScriptedChat, asked, picture
from tests.wire.models import PROVIDERS, QUIET
from tests.wire.server import Call, Reply, Server
from vtagent.graphs import ZoomContext, create_zoom_agent
from vtagent.graphs.calls_of_reply import bounded, with_untagged_calls
from vtagent.graphs.middleware import ZoomMiddleware
from vtagent.protocol import format_tool_call

pytestmark = QUIET

BABBLE = "<tool_call>{broken</tool_call>"
QUESTION = asked("?", picture())


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


def unreadable(name: str | None, count: int = 1) -> AIMessage:
    """A reply whose calls a server's parser could not read."""
    calls: Any = [
        {"type": "invalid_tool_call", "name": name, "args": "{", "id": f"bad{n}", "error": None} for n in range(count)
    ]
    return AIMessage("", invalid_tool_calls=calls)


def middleware(model: Any, *tools: Any, **context: Any) -> Any:
    return create_agent(model, list(tools), middleware=[ZoomMiddleware(defaults=ZoomContext(**context))])


def graph(model: Any, *tools: Any, **context: Any) -> Any:
    return create_zoom_agent(model, tools=tools, defaults=ZoomContext(**context))


def answers(state: Any) -> list[ToolMessage]:
    return [message for message in state["messages"] if isinstance(message, ToolMessage)]


# ---------------------------------------------------------------- model calls

BABBLES: dict[str, Any] = {
    "text": BABBLE,
    "nameless": unreadable(None),
    "zoom_image": unreadable("zoom_image"),
    "another tool": unreadable("multiply"),
}


@pytest.mark.parametrize("said", list(BABBLES))
@pytest.mark.parametrize("tools", [[], [multiply]], ids=["alone", "other tools"])
def test_without_an_image_a_model_that_babbles_is_called_as_often_as_without_the_middleware(
    said: str, tools: list[Any]
) -> None:
    def run(*middleware: Any) -> tuple[int, list[str]]:
        model = ScriptedChat(lines=[BABBLES[said]], resolves_images=False, reads_calls=False)
        state = create_agent(model, tools, middleware=middleware).invoke({"messages": [HumanMessage("?")]})
        return len(model.seen), [message.text for message in state["messages"]]

    assert run(ZoomMiddleware()) == run()


@pytest.mark.parametrize("said", list(BABBLES))
@pytest.mark.parametrize("tools", [[], [multiply]], ids=["alone", "other tools"])
@pytest.mark.parametrize("kind", [middleware, graph])
def test_with_an_image_it_is_told_its_mistakes_and_then_ends(kind: Callable[..., Any], said: str, tools: Any) -> None:
    model = ScriptedChat(lines=[BABBLES[said]], resolves_images=False, reads_calls=False)
    state = kind(model, *tools).invoke({"messages": [QUESTION]})
    assert len(model.seen) <= 4
    assert isinstance(state["messages"][-1], AIMessage)
    if kind is middleware and said == "another tool":
        assert len(model.seen) == 1


@pytest.mark.parametrize("image", [True, False])
def test_a_model_that_only_zooms_ends_in_an_agent_with_other_tools(image: bool) -> None:
    model = ScriptedChat(lines=[ZOOM], resolves_images=False)
    question: Any = QUESTION if image else HumanMessage("?")
    state = middleware(model, multiply).invoke({"messages": [question]}, {"recursion_limit": 60})
    assert len(model.seen) <= 6
    assert state["messages"][-1].tool_calls == []


def test_a_call_of_another_tool_that_cannot_be_read_is_left_to_langchain() -> None:
    both = AIMessage(
        "",
        tool_calls=[{"name": "multiply", "args": {"a": 6, "b": 7}, "id": "1"}],
        invalid_tool_calls=unreadable("multiply").invalid_tool_calls,
    )

    def run(*middleware: Any) -> list[tuple[str, str]]:
        model = ScriptedChat(lines=[both, "42"], resolves_images=False)
        state = create_agent(model, [multiply], middleware=middleware).invoke({"messages": [QUESTION]})
        return [(message.type, message.text) for message in state["messages"][1:]]

    assert run(ZoomMiddleware()) == run()
    assert any("arguments were malformed" in text for _, text in run())


@pytest.mark.parametrize("name", list(PROVIDERS))
@pytest.mark.parametrize("kind", [middleware, graph])
def test_every_provider_takes_the_answer_to_a_call_that_could_not_be_read(kind: Callable[..., Any], name: str) -> None:
    with Server(PROVIDERS[name].format(), [f"I look. {BABBLE}", "<answer>48.10</answer>"]) as server:
        state = kind(PROVIDERS[name].chat(server)).invoke({"messages": [QUESTION]})
    assert not server.refused
    assert "48.10" in state["messages"][-1].text
    assert "not valid JSON" in repr(server.requests[1].body)


def test_a_request_without_a_runtime_is_prepared() -> None:
    taken = ZoomMiddleware()
    seen: list[Any] = []

    def answer(request: ModelRequest[Any]) -> ModelResponse[Any]:
        seen.append(request)
        return ModelResponse(result=[AIMessage("48.10")])

    for question in (QUESTION, HumanMessage("?")):
        messages = taken.referenced([question])
        request: ModelRequest[Any] = ModelRequest(
            model=ScriptedChat(lines=["48.10"]), messages=messages, state={"messages": messages}, runtime=None
        )
        taken.wrap_model_call(request, answer)
    assert len(seen) == 2


# ---------------------------------------------------------------- untagged calls

UNTAGGED = '{"name": "zoom_image", "arguments": {"region": [0, 0, 500, 500]}}'


@pytest.mark.parametrize(
    "text",
    [
        UNTAGGED,
        f"\n{UNTAGGED}\n",
        f"<think>Too small.</think>\n{UNTAGGED}",
        f"Too small.</think>{UNTAGGED}",
        f"```json\n{UNTAGGED}\n```",
        f"```\n{UNTAGGED}```",
    ],
)
@pytest.mark.parametrize("kind", [middleware, graph])
def test_an_untagged_call_is_a_call(kind: Callable[..., Any], text: str) -> None:
    model = ScriptedChat(lines=[text, ANSWER], resolves_images=False)
    state = kind(model).invoke({"messages": [QUESTION]})
    assert len(model.seen) == 2
    assert "region [0, 0, 500, 500]" in answers(state)[0].text
    assert "zoom_image" not in state["messages"][1].text


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "zoom_image"}',
        '{"name": "zoom_image", "arguments": [1]}',
        '{"name": "zoom_image", "arguments": {"region": [0, 0,',
        '{"name": "zoom_image", "parameters": {}}',
        '{"name": "zoom_image", "arguments": {"region": NaN}}',
        '{"name": "zoom_image", "name": "zoom_image", "arguments": {}}',
    ],
)
@pytest.mark.parametrize("kind", [middleware, graph])
def test_one_that_cannot_be_run_is_a_mistake(kind: Callable[..., Any], text: str) -> None:
    model = ScriptedChat(lines=[text, ANSWER], resolves_images=False)
    state = kind(model).invoke({"messages": [QUESTION]})
    assert [answer.status for answer in answers(state)] == ["error"]
    usage = state["usage"] if "usage" in state else state["zoom"]["usage"]
    assert (usage["mistakes"], usage["zooms"]) == (1, 0)
    assert "48.10" in state["messages"][-1].text


@pytest.mark.parametrize("kind", [middleware, graph])
def test_where_it_must_answer_an_untagged_call_is_no_answer(kind: Callable[..., Any]) -> None:
    state = kind(ScriptedChat(lines=[ZOOM, UNTAGGED], resolves_images=False)).invoke({"messages": [QUESTION]})
    assert state["messages"][-1].text == ""
    if kind is graph:
        assert (state["answer"], state["stop"]) == (None, "max_zooms")


@pytest.mark.parametrize(
    "text",
    [
        '{"total": "48.10"}',
        '{"name": "Anna", "arguments": {}}',
        '{"name": ["zoom_image"]}',
        "[1, 2]",
        "```json\n{}\n```",
        "{zoom_image",
        f"<answer>{UNTAGGED}</answer>",
        f"The call would be {UNTAGGED}",
    ],
)
def test_json_that_names_no_tool_is_an_answer(text: str) -> None:
    message = AIMessage(text)
    assert with_untagged_calls(message, {"zoom_image"}) is message


@given(st.text(st.sampled_from('{}[]":, \nname"zoom_image"arguments`\\'), max_size=60) | st.text())
@settings(max_examples=300)
def test_any_text_is_read_as_a_call_or_left_alone(text: str) -> None:
    for whole in (text, f'{{"name": "zoom_image", {text}', f'{{"name": "zoom_image", "arguments": {text}}}'):
        message = AIMessage(whole)
        read = with_untagged_calls(message, {"zoom_image"})
        calls = len(read.tool_calls) + len(read.invalid_tool_calls)
        assert calls == (read is not message)
    assert with_untagged_calls(AIMessage(f'{{"name": "zoom_image", {text}'), {"zoom_image"}).text == ""


# ---------------------------------------------------------------- calls of one reply


def zooms(count: int) -> AIMessage:
    calls: Any = [
        {"name": "zoom_image", "args": {"region": [n, n, n + 400, n + 400]}, "id": f"z{n}"} for n in range(count)
    ]
    return AIMessage("", tool_calls=calls)


COSTLY: dict[str, Any] = {
    "zooms": zooms(1000),
    "unreadable": unreadable("zoom_image", 41_666),
    "nameless": unreadable(None, 41_666),
    "text": BABBLE * 41_666,
    "zooms as text": "".join(format_tool_call("zoom_image", {"region": [n, n, n + 9, n + 9]}) for n in range(1000)),
}


@pytest.mark.parametrize("said", list(COSTLY))
@pytest.mark.parametrize("image", [True, False], ids=["image", "no image"])
@pytest.mark.parametrize("kind", [middleware, graph])
def test_a_reply_of_very_many_calls_is_cheap(kind: Callable[..., Any], image: bool, said: str) -> None:
    model = ScriptedChat(lines=[COSTLY[said], ANSWER], resolves_images=False, reads_calls=False)
    agent = kind(model, max_zooms=2000, max_mistakes=100_000)
    question: Any = QUESTION if image else HumanMessage("?")
    start = time.process_time()
    state = agent.invoke({"messages": [question]})
    assert time.process_time() - start < 20  # one to two seconds; without the bound, minutes
    assert len(answers(state)) <= 33
    assert "48.10" in state["messages"][-1].text or not image


@pytest.mark.parametrize("kind", [middleware, graph])
def test_the_rest_is_told_in_one_sentence_and_counts_as_one_mistake(kind: Callable[..., Any]) -> None:
    model = ScriptedChat(lines=[zooms(10), ANSWER], resolves_images=False)
    state = kind(model, max_zooms=20, max_calls=4).invoke({"messages": [QUESTION]})
    told = answers(state)
    assert [answer.status for answer in told].count("success") == 4
    [refused] = [answer for answer in told if answer.status == "error"]
    assert "Your reply has 10 calls; at most 4 calls of one reply are run, and the other 6 were not." in refused.text
    usage = state["usage"] if "usage" in state else state["zoom"]["usage"]
    assert (usage["zooms"], usage["mistakes"]) == (4, 1)


@pytest.mark.parametrize("name", list(PROVIDERS))
@pytest.mark.parametrize("kind", [middleware, graph])
def test_every_provider_takes_the_shortened_reply(kind: Callable[..., Any], name: str) -> None:
    many = tuple(Call("zoom_image", {"region": [n, n, n + 400, n + 400]}) for n in range(40))
    with Server(PROVIDERS[name].format(), [Reply("", many), "<answer>48.10</answer>"]) as server:
        state = kind(PROVIDERS[name].chat(server), max_zooms=3).invoke({"messages": [QUESTION]})
    assert not server.refused
    assert "48.10" in state["messages"][-1].text
    assert len(answers(state)) == 33


def test_other_tools_of_an_agent_are_called_as_often_as_it_likes() -> None:
    many: Any = [{"name": "multiply", "args": {"a": n, "b": n}, "id": f"m{n}"} for n in range(50)]
    model = ScriptedChat(lines=[AIMessage("", tool_calls=many), "done"], resolves_images=False)
    state = middleware(model, multiply).invoke({"messages": [QUESTION]})
    assert [answer.status for answer in answers(state)] == ["success"] * 50


CALLS = st.lists(st.tuples(st.sampled_from(["zoom_image", "multiply", ""]), st.booleans()), max_size=12)


@given(calls=CALLS, most=st.integers(1, 6), form=st.sampled_from(["tool_use", "function_call", None]))
def test_bounded_keeps_the_first_calls_and_names_the_rest_once(
    calls: list[tuple[str, bool]], most: int, form: str | None
) -> None:
    valid: Any = [{"name": name or "x", "args": {}, "id": f"v{n}"} for n, (name, ok) in enumerate(calls) if ok]
    invalid: Any = [
        {"type": "invalid_tool_call", "name": name or None, "args": "", "id": f"i{n}", "error": None}
        for n, (name, ok) in enumerate(calls)
        if not ok
    ]
    content: Any = [{"type": form, "id": call["id"], "name": call["name"]} for call in (*valid, *invalid)]
    message = AIMessage([{"type": "text", "text": "?"}, *content] if form else "?", additional_kwargs={"mine": 1})
    message.tool_calls, message.invalid_tool_calls = valid, invalid
    short = bounded(message, most, tool_name="zoom_image")
    assert len(short.tool_calls) + len(short.invalid_tool_calls) == min(len(calls), most + 1)
    assert short.tool_calls == message.tool_calls[: len(short.tool_calls)]
    assert (short is message) == (len(calls) <= most)
    left = {call["id"] for call in (*short.tool_calls, *short.invalid_tool_calls)}
    assert len(left) == len(short.tool_calls) + len(short.invalid_tool_calls)
    if form:
        blocks = [block for block in short.content if isinstance(block, dict) and block["type"] == form]
        assert {block["id"] for block in blocks} == left
    assert short.additional_kwargs == {"mine": 1}


def test_the_limit_must_be_a_positive_number() -> None:
    with pytest.raises(ValueError, match="max_calls must be at least 1, not 0"):
        ZoomContext(max_calls=0)
