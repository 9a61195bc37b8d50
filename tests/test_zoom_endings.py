"""Whatever the model says, a run ends, says why, and charges mistakes apart from zooms."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.messages.tool import invalid_tool_call, tool_call
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from tests.scripted_chat import ANSWER, ZOOM, ScriptedChat, asked, picture, zoom_call
from vtagent.errors import ImageRefused, ModelError, UnreadableImage
from vtagent.graphs.zoom import create_zoom_agent
from vtagent.protocol import format_tool_call

DEEP = 300 * "[" + 300 * "]"


@tool
def again() -> str:
    """Never enough."""
    return "more"


def run(*lines: Any, tools: Any = (), model: dict[str, Any] | None = None, **context: Any) -> dict[str, Any]:
    chat = ScriptedChat(lines=list(lines), **(model or {}))
    agent = create_zoom_agent(chat, tools=tools, checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}, "recursion_limit": 200}
    result: dict[str, Any] = agent.invoke(
        {"messages": [asked("What is the total?", picture())]}, config, context=context
    )
    assert isinstance(result["messages"][-1], AIMessage)
    assert every_call_is_answered(result["messages"])
    assert len(chat.seen) == result["usage"]["turns"]
    return result


def every_call_is_answered(messages: list[Any]) -> bool:
    asked_for = [
        str(call["id"])
        for message in messages
        if isinstance(message, AIMessage)
        for call in itertools.chain(message.tool_calls, message.invalid_tool_calls)
    ]
    answered = [message.tool_call_id for message in messages if isinstance(message, ToolMessage)]
    return sorted(asked_for) == sorted(answered)


def tool_texts(result: dict[str, Any]) -> list[str]:
    return [message.text for message in result["messages"] if isinstance(message, ToolMessage)]


def summary(result: dict[str, Any]) -> tuple[Any, ...]:
    return result["answer"], result["stop"], result["usage"]["zooms"], result["usage"]["mistakes"]


def test_a_reply_of_tags_alone_is_no_answer() -> None:
    result = run("</answer>")
    assert (result["answer"], result["stop"]) == (None, "no_answer")


def test_an_untagged_answer_is_taken_and_marked() -> None:
    result = run("<think>Large.</think> It is 48.10.")
    assert summary(result) == ("It is 48.10.", None, 0, 0)
    assert result["usage"]["untagged"]


@pytest.mark.parametrize("nothing", ["", "<think>Hm.</think>", "<think>a</think><answer> </answer>", "   \n"])
def test_no_answer_is_said_to_be_none(nothing: str) -> None:
    result = run(nothing)
    assert summary(result) == (None, "no_answer", 0, 0)
    assert result["usage"]["untagged"]


CUT = {"finish_reason": "length"}


@pytest.mark.parametrize(
    "text", ["<think>The total may be 48", "Let me look: the total may be 48", "<think>Hm.</think><answer>48.1", "48.1"]
)
def test_a_reply_that_was_cut_gives_no_answer_and_says_so(text: str) -> None:
    result = run(AIMessage(text, response_metadata=CUT))
    assert summary(result) == (None, "length", 0, 0)
    assert result["messages"][-1].text == text
    assert result["messages"][-1].response_metadata["answer"] is None


def test_an_answer_that_was_closed_before_the_cut_counts() -> None:
    result = run(AIMessage("<think>Hm.</think><answer>48.10</answer> And", response_metadata=CUT))
    assert summary(result) == ("48.10", None, 0, 0)


def test_a_forced_answer_that_was_cut_is_told_as_cut() -> None:
    result = run(ZOOM, AIMessage("<think>It may be 48", response_metadata=CUT))
    assert summary(result) == (None, "length", 1, 0)


def test_a_thought_that_never_ends_is_no_answer() -> None:
    assert summary(run("<think>It may be 48, or 49")) == (None, "no_answer", 0, 0)


def test_asking_to_zoom_for_ever_ends_with_a_forced_answer() -> None:
    result = run(ZOOM, model={"reads_calls": False})
    assert summary(result) == (None, "max_zooms", 1, 0)
    assert result["usage"]["turns"] == 2


def test_a_model_that_calls_although_it_must_answer_is_not_run_again() -> None:
    result = run(ZOOM, zoom_call(region=[0, 0, 9, 9]) + "It is 7.")
    assert summary(result) == ("It is 7.", "max_zooms", 1, 0)
    assert result["messages"][-1].tool_calls == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("<think>a</think><tool_call>{broken</tool_call>", "not valid JSON"),
        (
            "<think>a</think>" + format_tool_call("zoom_out", {}),
            "There is no tool 'zoom_out'; call one of: zoom_image.",
        ),
        (zoom_call(region=[0, 0, 9000, 9000]), "runs past 1000"),
        (zoom_call(region=[900, 900, 200, 200]), "could be swapped corners"),
        (zoom_call(region=[0.1, 0.1, 0.2, 0.2]), "could be fractions"),
        (zoom_call(region=[1, 2, 3]), "four numbers"),
        (zoom_call(image=2), "There is no image 2"),
        (zoom_call(bbox=[0, 0, 1, 1]), "not bbox"),
        (zoom_call(self=1, config=2, run_manager=3, args=4), "not args, config, run_manager, self"),
        (f'<tool_call>{{"name": "zoom_image", "arguments": {{"a": {DEEP}}}}}</tool_call>', "nested too deeply"),
        ('<tool_call>{"name": "zoom_image"}</tool_call>', '"arguments" is missing'),
        ("<tool_call>{}", "not closed"),
    ],
)
@pytest.mark.parametrize("reads_calls", [True, False])
def test_a_mistake_is_explained_and_costs_no_zoom(wrong: str, says: str, reads_calls: bool) -> None:
    result = run(wrong, ZOOM, ANSWER, model={"reads_calls": reads_calls})
    assert summary(result) == ("48.10", "max_zooms", 1, 1)
    assert says in tool_texts(result)[0]


@pytest.mark.parametrize("depth", [40, 300, 5000])
def test_arguments_that_a_server_read_are_no_deeper_either(depth: int) -> None:
    nested: dict[str, Any] = {}
    for _ in range(depth):
        nested = {"a": nested}
    result = run(AIMessage("", tool_calls=[tool_call(name="zoom_image", args=nested, id="1")]), ZOOM, ANSWER)
    assert summary(result) == ("48.10", "max_zooms", 1, 1)
    assert "nested too deeply" in tool_texts(result)[0]


async def test_odd_names_of_arguments_are_refused_asynchronously_too() -> None:
    model = ScriptedChat(lines=[zoom_call(self=1), ZOOM, ANSWER])
    result = await create_zoom_agent(model).ainvoke({"messages": [asked("?", picture())]})
    assert (result["answer"], result["usage"]["mistakes"]) == ("48.10", 1)


def test_more_mistakes_than_allowed_force_the_answer() -> None:
    assert summary(run("<tool_call>x</tool_call>")) == (None, "max_mistakes", 0, 3)
    assert summary(run("<tool_call>x</tool_call>", ANSWER, max_mistakes=0)) == ("48.10", "max_mistakes", 0, 1)


def test_each_bad_call_of_a_reply_is_a_mistake_and_a_good_one_beside_them_counts() -> None:
    reply = (
        "<think>a</think><tool_call>x</tool_call>" + format_tool_call("zoom_image", {}) + format_tool_call("nope", {})
    )
    assert summary(run(reply, ANSWER)) == ("48.10", "max_zooms", 1, 2)


def test_the_same_view_twice_in_one_reply_is_granted_once() -> None:
    result = run(ZOOM + format_tool_call("zoom_image", {}), ANSWER, max_zooms=3)
    assert summary(result) == ("48.10", None, 1, 1)
    assert "already been shown" in tool_texts(result)[1]


def test_views_beyond_the_limit_are_refused_even_within_one_reply() -> None:
    both = zoom_call(region=[0, 0, 100, 100]) + format_tool_call("zoom_image", {"region": [500, 500, 900, 900]})
    result = run(both, ANSWER)
    assert summary(result) == ("48.10", "max_zooms", 1, 1)
    assert "No zoom is left" in tool_texts(result)[1]


def test_a_view_that_was_shown_is_refused_and_the_zoom_is_kept() -> None:
    part = zoom_call(region=[0, 0, 500, 500])
    assert summary(run(part, part, zoom_call(region=[500, 500, 900, 900]), ANSWER, max_zooms=2)) == (
        "48.10",
        "max_zooms",
        2,
        1,
    )


def test_a_view_beyond_the_token_budget_is_refused_with_what_is_left() -> None:
    result = run(ZOOM, zoom_call(region=[0, 0, 300, 300]), ANSWER, max_visual_tokens=500)
    assert "costs 1200 visual tokens and 200 are left" in tool_texts(result)[0]
    assert result["usage"]["zooms"] == 1
    assert result["usage"]["visual_tokens"] <= 500


def test_a_spent_token_budget_forces_the_answer() -> None:
    assert summary(run(ANSWER, max_visual_tokens=300)) == ("48.10", "max_visual_tokens", 0, 0)


def test_spent_time_forces_the_answer() -> None:
    assert summary(run(ANSWER, max_seconds=0)) == ("48.10", "max_seconds", 0, 0)


def test_calling_other_tools_for_ever_ends_too() -> None:
    result = run("<think>a</think>" + format_tool_call("again", {}), tools=[again])
    assert result["stop"] == "max_turns"
    assert result["usage"]["turns"] == 12


def test_with_other_tools_zooming_for_ever_is_a_mistake_each_time() -> None:
    assert summary(run(ZOOM, tools=[again])) == (None, "max_mistakes", 1, 3)


def test_a_call_without_a_tool_to_call_is_a_mistake() -> None:
    result = run(ZOOM, ANSWER, max_zooms=0)
    assert result["answer"] == "48.10"
    assert result["usage"]["zooms"] == 0
    assert result["usage"]["mistakes"] == 1


def test_the_models_failure_is_the_runs_failure() -> None:
    with pytest.raises(ModelError, match="out of memory"):
        run(ModelError("out of memory"))


def test_a_model_without_tools_is_named() -> None:
    class Plain(ScriptedChat):
        def bind_tools(self, *args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError

    with pytest.raises(ModelError, match="Plain cannot be given tools"):
        create_zoom_agent(Plain(lines=[ANSWER])).invoke({"messages": [asked("?", picture())]})


def test_a_bias_for_a_model_that_takes_none_is_refused() -> None:
    with pytest.raises(ModelError, match="takes no zoom_bias"):
        run(ANSWER, model={"resolves_images": False}, zoom_bias=1.0)


def test_a_bias_for_a_served_model_is_a_logit_bias_of_its_call_token() -> None:
    model = ScriptedChat(lines=[ZOOM, ANSWER], resolves_images=False)
    agent = create_zoom_agent(model)
    agent.invoke({"messages": [asked("?", picture())]}, context={"zoom_bias": 1.5, "zoom_token_id": 7})
    assert [options.get("logit_bias") for options in model.options] == [{"7": 1.5}, None]


def test_no_model_at_all_is_said() -> None:
    with pytest.raises(ModelError, match="no model"):
        create_zoom_agent().invoke({"messages": [asked("?", picture())]})


def test_a_picture_that_is_none_is_the_callers_error() -> None:
    with pytest.raises(UnreadableImage):
        create_zoom_agent(ScriptedChat(lines=[ANSWER])).invoke({"messages": [asked("?", b"not a picture")]})


def test_a_path_in_a_message_is_never_opened() -> None:
    message = ("user", [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}])
    with pytest.raises(ImageRefused):
        create_zoom_agent(ScriptedChat(lines=[ANSWER])).invoke({"messages": [message]})


@pytest.mark.parametrize(
    "calls",
    [
        [tool_call(name="zoom_image", args={}, id=None)],
        [tool_call(name="zoom_image", args={}, id="1"), tool_call(name="zoom_image", args={"image": 3}, id="1")],
        [tool_call(name="zoom_image", args={"image": 10**40}, id="1")],
        [tool_call(name="zoom_image", args={"image": float("nan")}, id="1")],
        [tool_call(name="\ud800", args={"\ud800": 1}, id="1")],
        [tool_call(name="", args={}, id="1")],
    ],
)
def test_calls_that_a_server_made_a_mess_of_are_answered_and_stored(calls: list[Any]) -> None:
    result = run(AIMessage("", tool_calls=calls), ANSWER, ANSWER)
    assert result["answer"] == "48.10"


def test_a_cached_reply_with_the_id_of_an_earlier_one_does_not_replace_it() -> None:
    cached = AIMessage("<think>a</think><answer>7</answer>", id="cached")
    agent = create_zoom_agent(ScriptedChat(lines=[cached]), checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    agent.invoke({"messages": [asked("?", picture())]}, config)
    assert agent.invoke({"messages": [("user", "Again?")]}, config)["answer"] == "7"


def test_a_servers_invalid_calls_are_explained() -> None:
    bad = invalid_tool_call(name="zoom_image", args="{", id="1", error=None)
    result = run(AIMessage("", invalid_tool_calls=[bad]), ANSWER)
    assert tool_texts(result) == ["The call of 'zoom_image' could not be read: its arguments are not valid JSON."]


REPLIES = [
    ZOOM,
    ANSWER,
    "",
    "<tool_call>",
    "<tool_call>[]</tool_call>",
    zoom_call(region=[0, 0, 9, 9]),
    zoom_call(image=9),
]


@settings(max_examples=40)
@given(lines=st.lists(st.sampled_from(REPLIES) | st.text(max_size=20), min_size=1, max_size=5), zooms=st.integers(0, 3))
def test_every_script_ends_within_its_budgets(lines: list[str], zooms: int) -> None:
    result = run(*lines, max_zooms=zooms)
    usage = result["usage"]
    assert usage["zooms"] <= zooms
    assert usage["turns"] <= zooms + 4
    assert usage["mistakes"] <= 4
    assert (result["answer"] is None) <= (result["stop"] is not None)
