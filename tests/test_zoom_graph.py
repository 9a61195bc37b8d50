"""The zoom graph on good days: what the model is shown, what the caller gets back, and how it composes."""

from __future__ import annotations

import doctest
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, interrupt

from tests.scripted_chat import ANSWER, ZOOM, ScriptedChat, StreamingChat, asked, picture, put, zoom_call
from vtagent import prompts
from vtagent.conversation import image_blocks
from vtagent.errors import ImageTampered, UnreadableImage
from vtagent.graphs import zoom
from vtagent.graphs.zoom import ZoomAgent, ZoomContext, build_zoom_graph, create_zoom_agent
from vtagent.images import DirectoryImageStore, MemoryImageStore
from vtagent.prompts import zoom_prompt
from vtagent.visual_tokens import QWEN3_VL

TOOL_IMAGES: Any = {"image_tool_message": True}


def urls(messages: list[Any]) -> list[str]:
    return [block["url"].partition("?")[2] for _, block in image_blocks(messages)]


def test_the_examples_in_the_docstrings_hold() -> None:
    model = ScriptedChat(lines=["<think>It is large.</think><answer>48.10</answer>"])
    globs = {**vars(zoom), "model": model, "question": asked("What is the total?", picture(320, 240))}
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(zoom, globs=globs):
        runner.run(test)
    assert runner.summarize().failed == 0
    assert runner.tries > 6
    assert doctest.testmod(prompts).failed == 0


def test_the_graph_is_drawn_as_designed() -> None:
    drawn = create_zoom_agent(ScriptedChat(lines=[ANSWER])).get_graph().draw_mermaid()
    assert drawn == (Path(__file__).parent / "snapshots" / "zoom_graph.mmd").read_text(encoding="utf-8")


def test_a_readable_image_is_answered_from_a_quarter_of_the_tokens() -> None:
    model = ScriptedChat(lines=[ANSWER])
    result = create_zoom_agent(model).invoke({"messages": [asked("What is the total?", picture(1280, 960))]})
    assert result["answer"] == "48.10"
    assert result["stop"] is None
    assert urls(model.seen[0]) == ["scale=0.5"]
    [view] = result["views"]
    assert (view["kind"], view["width"], view["height"], view["tokens"]) == ("low", 640, 480, 300)
    usage = result["usage"]
    assert (usage["visual_tokens"], usage["full_visual_tokens"], usage["zooms"], usage["turns"]) == (300, 1200, 0, 1)
    assert (usage["input_tokens"], usage["output_tokens"], usage["mistakes"]) == (100, 10, 0)
    assert not usage["untagged"]
    assert usage["seconds"] > 0


def test_an_unreadable_image_is_zoomed_and_then_answered() -> None:
    model = ScriptedChat(lines=[ZOOM, ANSWER], profile=TOOL_IMAGES)
    result = create_zoom_agent(model).invoke({"messages": [asked("What is the total?", picture(1280, 960))]})
    assert result["answer"] == "48.10"
    assert result["stop"] == "max_zooms"
    assert [view["kind"] for view in result["views"]] == ["low", "zoom"]
    assert urls(model.seen[1]) == ["scale=0.5", ""]
    assert result["usage"]["visual_tokens"] == 300 + 1200
    assert [type(message) for message in result["messages"]] == [HumanMessage, AIMessage, ToolMessage, AIMessage]


def test_a_region_is_cheaper_than_the_whole() -> None:
    model = ScriptedChat(lines=[zoom_call(region=[500, 500, 1000, 1000]), ANSWER])
    result = create_zoom_agent(model).invoke({"messages": [asked("What is the total?", picture(1280, 960))]})
    assert result["views"][1]["region"] == [500, 500, 1000, 1000]
    assert result["views"][1]["tokens"] == 300


def test_when_it_must_answer_it_is_offered_the_same_tools_and_may_call_none() -> None:
    model = ScriptedChat(lines=[ZOOM, ANSWER])
    create_zoom_agent(model).invoke({"messages": [asked("?", picture())]})
    assert model.offered == [["zoom_image"], ["zoom_image"]]
    assert [options.get("tool_choice") for options in model.options] == [None, "none"]
    assert model.seen[0][0] == model.seen[1][0]  # the system prompt stays too


def test_without_zooms_the_tool_is_not_offered() -> None:
    model = ScriptedChat(lines=[ANSWER])
    result = create_zoom_agent(model).invoke({"messages": [asked("?", picture())]}, context=ZoomContext(max_zooms=0))
    assert model.offered == [[]]
    assert "zoom_image" not in model.seen[0][0].text
    assert result["stop"] is None


def test_full_resolution_at_once_is_a_setting() -> None:
    model = ScriptedChat(lines=[ANSWER])
    result = create_zoom_agent(model).invoke(
        {"messages": [asked("?", picture())]}, context={"scale": 1.0, "max_zooms": 0}
    )
    assert urls(model.seen[0]) == [""]
    assert result["usage"]["visual_tokens"] == result["usage"]["full_visual_tokens"] == 1200


def test_without_images_the_tool_is_not_offered() -> None:
    model = ScriptedChat(lines=[ANSWER])
    result = create_zoom_agent(model).invoke({"messages": [("user", "Hello")]})
    assert model.offered == [[]]
    assert result["views"] == []


def test_several_images_can_be_zoomed_in_one_reply() -> None:
    both = zoom_call(image=2) + zoom_call(image=1).removeprefix("<think>Too small.</think>")
    model = ScriptedChat(lines=[both, ANSWER])
    pictures = picture(640, 480), picture(960, 640)
    result = create_zoom_agent(model).invoke({"messages": [asked("?", *pictures)]}, context={"max_zooms": 2})
    assert [view["width"] for view in result["views"]] == [320, 480, 960, 640]


def test_the_bias_reaches_the_model_while_it_is_free_to_choose() -> None:
    model = ScriptedChat(lines=[ZOOM, ANSWER])
    create_zoom_agent(model).invoke({"messages": [asked("?", picture())]}, context={"zoom_bias": 1.5})
    assert [options.get("zoom_bias") for options in model.options] == [1.5, None]


def test_the_tool_may_have_another_name() -> None:
    line = '<think>a</think><tool_call>{"name": "request_resolution", "arguments": {}}</tool_call>'
    model = ScriptedChat(lines=[line, ANSWER])
    result = create_zoom_agent(model, tool_name="request_resolution").invoke({"messages": [asked("?", picture())]})
    assert result["usage"]["zooms"] == 1
    assert "request_resolution" in model.seen[0][0].text


@pytest.mark.parametrize(
    "prompt", ["Be brief.", lambda *, tool_name, scale, max_zooms: f"{tool_name} {scale} {max_zooms}", None]
)
def test_the_prompt_is_replaceable(prompt: Any) -> None:
    model = ScriptedChat(lines=[ANSWER])
    create_zoom_agent(model, system_prompt=prompt).invoke({"messages": [asked("?", picture())]})
    first = model.seen[0][0]
    assert (first.text if isinstance(first, SystemMessage) else None) == (
        "zoom_image 0.5 1" if callable(prompt) else prompt
    )


def test_the_callers_system_message_is_kept_beside_ours() -> None:
    model = ScriptedChat(lines=[ANSWER])
    create_zoom_agent(model).invoke({"messages": [SystemMessage("Answer in French."), asked("?", picture())]})
    assert [type(message) for message in model.seen[0]] == [SystemMessage, HumanMessage]
    assert model.seen[0][0].text.startswith(zoom_prompt(tool_name="zoom_image", scale=0.5, max_zooms=1))
    assert model.seen[0][0].text.endswith("Answer in French.")


def test_a_picture_in_the_callers_system_message_is_shown() -> None:
    model = ScriptedChat(lines=[ANSWER])
    logo = SystemMessage([*asked("Our logo.", picture(64, 64)).content])
    result = create_zoom_agent(model).invoke({"messages": [logo, asked("?", picture())]})
    system = model.seen[0][0]
    assert system.text.startswith(zoom_prompt(tool_name="zoom_image", scale=0.5, max_zooms=1))
    assert system.text.endswith("Our logo.")
    assert len(list(image_blocks(model.seen[0]))) == len(result["views"]) == 2


def test_a_run_may_bring_its_own_model() -> None:
    result = create_zoom_agent().invoke(
        {"messages": [asked("?", picture())]}, context=ZoomContext(model=ScriptedChat(lines=[ANSWER]))
    )
    assert result["answer"] == "48.10"


def test_a_dict_of_settings_overrides_the_graphs_defaults_one_by_one() -> None:
    agent = create_zoom_agent(ScriptedChat(lines=[ANSWER]), defaults=ZoomContext(scale=0.25, max_zooms=3))
    result = agent.invoke({"messages": [asked("?", picture(1280, 960))]}, context={"max_zooms": 0})
    assert result["views"][0]["width"] == 320


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": 0},
        {"scale": 1.5},
        {"scale": math.nan},
        {"max_zooms": -1},
        {"max_turns": 0},
        {"max_seconds": -1},
        {"max_seconds": math.nan},
        {"zoom_bias": math.nan},
        {"zoom_bias": math.inf},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ZoomContext(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "zoom"},
        {"scale": "0.5"},
        {"max_zooms": "2"},
        {"max_zooms": 1.5},
        {"max_turns": None},
        {"max_seconds": "60"},
        {"zoom_token_id": 1.5},
    ],
)
def test_settings_of_the_wrong_type_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"^{next(iter(wrong))} must be"):
        create_zoom_agent(ScriptedChat(lines=[ANSWER])).invoke({"messages": [asked("?", picture())]}, context=wrong)


def test_settings_may_be_numbers_of_numpy() -> None:
    assert ZoomContext(max_zooms=np.int64(2), scale=np.float32(0.5)).max_zooms == 2  # type: ignore[arg-type]


def test_a_run_without_messages_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one message"):
        create_zoom_agent(ScriptedChat(lines=[ANSWER])).invoke({"messages": []})


async def test_it_runs_asynchronously() -> None:
    model = ScriptedChat(lines=[zoom_call(region=[0, 0, 500, 500]), ANSWER])
    result = await create_zoom_agent(model).ainvoke({"messages": [asked("?", picture())]})
    assert (result["answer"], result["usage"]["zooms"]) == ("48.10", 1)


def test_decisions_and_progress_are_streamed() -> None:
    agent = create_zoom_agent(ScriptedChat(lines=[zoom_call(image=7), ZOOM, ANSWER]))
    events: list[Any] = list(agent.stream({"messages": [asked("?", picture())]}, stream_mode="custom"))
    assert [event["event"] for event in events] == [
        "observe",
        "decision",
        "refused",
        "decision",
        "zoom",
        "decision",
        "answer",
    ]
    assert [event["choice"] for event in events if event["event"] == "decision"] == ["zoom", "zoom", "answer"]
    assert events[-1]["answer"] == "48.10"


def test_the_models_words_are_streamed_as_they_come() -> None:
    agent = create_zoom_agent(StreamingChat(lines=["<think>It is large.</think> <answer>48.10</answer>"]))
    chunks = [
        chunk.text
        for chunk, metadata in agent.stream({"messages": [asked("?", picture())]}, stream_mode="messages")
        if metadata["langgraph_node"] == "decide"
    ]
    assert len(chunks) >= 4
    assert "".join(chunks).strip() == "<think>It is large.</think> <answer>48.10</answer>"


def test_a_conversation_goes_on_from_what_was_shown() -> None:
    model = ScriptedChat(lines=[ZOOM, ANSWER, "<think>b</think><answer>Paris</answer>"])
    agent = create_zoom_agent(model, checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    agent.invoke({"messages": [asked("What is the total?", picture())]}, config)
    result = agent.invoke({"messages": [("user", "And the city?")]}, config)
    assert result["answer"] == "Paris"
    assert (result["usage"]["turns"], result["usage"]["zooms"], result["stop"]) == (1, 0, None)
    assert urls(model.seen[-1]) == ["scale=0.5", ""]
    assert result["usage"]["visual_tokens"] == 1500


def test_only_new_images_are_scaled_down() -> None:
    model = ScriptedChat(lines=[ANSWER])
    agent = create_zoom_agent(model, checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    agent.invoke({"messages": [asked("?", picture())]}, config, context={"scale": 1.0})
    agent.invoke({"messages": [asked("And here?", picture(640, 480))]}, config)
    assert urls(model.seen[-1]) == ["", "scale=0.5"]


def test_a_client_that_sends_the_whole_history_has_its_pictures_shown_small_too() -> None:
    model = ScriptedChat(lines=[ANSWER])
    history = [asked("?", picture()), AIMessage("48.10"), HumanMessage("And the tax?")]
    result = create_zoom_agent(model).invoke({"messages": history}, context={"scale": 0.25})
    assert urls(model.seen[0]) == ["scale=0.25"]
    assert [view["width"] for view in result["views"]] == [320]


def test_a_reference_may_be_sent_in_place_of_the_picture() -> None:
    store = MemoryImageStore()
    model = ScriptedChat(lines=[ANSWER])
    question = HumanMessage([*put(store, picture()), {"type": "text", "text": "?"}])
    create_zoom_agent(model, image_store=store).invoke({"messages": [question]})
    assert urls(model.seen[0]) == ["scale=0.5"]
    assert urls([question]) == [""]  # the caller's own message is as it was


def test_it_is_a_subgraph_that_shares_messages() -> None:
    class Wider(MessagesState):
        answer: str

    def shout(state: Wider) -> dict[str, str]:
        return {"answer": state["answer"].upper()}

    model = ScriptedChat(lines=[ZOOM, "<think>a</think><answer>yes</answer>"])
    parent = StateGraph(Wider)
    parent.add_node("look", build_zoom_graph(model, shares=["messages", "answer"]).compile())
    parent.add_node("shout", shout)
    parent.add_edge(START, "look")
    parent.add_edge("look", "shout")
    parent.add_edge("shout", END)
    agent: Any = parent.compile()
    result = agent.invoke({"messages": [asked("?", picture())]})
    assert result["answer"] == "YES"
    assert len(result["messages"]) == 4
    assert urls(result["messages"]) == ["scale=0.5", ""]


def test_a_bad_picture_in_the_parents_checkpoint_does_not_end_its_thread() -> None:
    model = ScriptedChat(lines=[ANSWER])
    parent = StateGraph(MessagesState)
    parent.add_node("look", build_zoom_graph(model).compile())
    parent.add_edge(START, "look")
    parent.add_edge("look", END)
    agent: Any = parent.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    with pytest.raises(UnreadableImage, match=r"message 0 \(human\), block 0"):
        agent.invoke({"messages": [asked("?", b"not a picture")]}, config)
    with pytest.raises(UnreadableImage, match=r"message 1 \(human\), block 1"):
        agent.invoke({"messages": [asked("And here?", picture(), b"nor this")]}, config)
    result = agent.invoke({"messages": [HumanMessage("And without?")]}, config)
    assert "could not be used" in result["messages"][0].text
    assert result["messages"][-1].text == ANSWER
    assert len(list(image_blocks(model.seen[0]))) == 1


async def test_a_picture_of_another_tool_is_not_decoded_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[bool] = []
    put = MemoryImageStore.put

    def watched(self: MemoryImageStore, data: bytes) -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        return put(self, data)

    monkeypatch.setattr(MemoryImageStore, "put", watched)
    block = asked("", picture(640, 480)).content[0]

    @tool
    def page() -> list[Any]:
        """Show a page."""
        return [block]

    agent = create_zoom_agent(ScriptedChat(lines=[other("page"), ANSWER]), tools=[page])
    await agent.ainvoke({"messages": [asked("?", picture())]})
    assert threads == [False, False]


def test_a_model_that_takes_no_tool_choice_none_is_not_given_it() -> None:
    class Named(ScriptedChat):
        def bind_tools(self, tools: Any, *, tool_choice: Any = None, **kwargs: Any) -> Any:
            choice: Any = tool_choice and {"type": "tool", "name": tool_choice}
            return super().bind_tools(tools, tool_choice=choice, **kwargs)

    model = Named(lines=[ZOOM])
    result = create_zoom_agent(model).invoke({"messages": [asked("?", picture())]})
    assert [options.get("tool_choice") for options in model.options] == [None, None]
    assert result["stop"] == "max_zooms"


def test_the_uncompiled_graph_can_be_changed() -> None:
    graph = build_zoom_graph(ScriptedChat(lines=[ANSWER]))
    graph.add_node("log", lambda state: {"stop": "max_seconds"})
    graph.edges.remove(("answer", END))
    graph.add_edge("answer", "log")
    graph.add_edge("log", END)
    assert graph.compile().invoke({"messages": [asked("?", picture())]})["stop"] == "max_seconds"


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def fail() -> str:
    """Always fail."""
    raise RuntimeError("the disk is full")


@tool
async def wait() -> str:
    """Answer later."""
    return "done"


@tool
def approve() -> str:
    """Ask a person."""
    return str(interrupt("May I?"))


@tool
def remember(answer: str) -> Command[Any]:
    """Change the state."""
    return Command(update={"messages": [ToolMessage("kept", tool_call_id="call_1_0")], "answer": answer})


def other(name: str, **arguments: Any) -> str:
    from vtagent.protocol import format_tool_call

    return "<think>a</think>" + format_tool_call(name, arguments)


def run(lines: list[Any], tools: list[BaseTool], **settings: Any) -> dict[str, Any]:
    agent = create_zoom_agent(ScriptedChat(lines=lines), tools=tools)
    result: dict[str, Any] = agent.invoke({"messages": [asked("?", picture())]}, context=settings)
    return result


def tool_messages(result: dict[str, Any]) -> list[ToolMessage]:
    return [message for message in result["messages"] if isinstance(message, ToolMessage)]


def test_other_tools_run_beside_the_zoom() -> None:
    result = run([zoom_call() + other("add", a=2, b=3).removeprefix("<think>a</think>"), ANSWER], [add])
    assert [message.name for message in tool_messages(result)] == ["zoom_image", "add"]
    assert tool_messages(result)[1].text == "5"
    assert result["usage"]["zooms"] == 1
    assert result["stop"] is None


def test_another_tools_failure_becomes_a_message() -> None:
    result = run([other("fail"), other("add", a="x"), ANSWER], [fail, add])
    first, second = tool_messages(result)
    assert (first.status, first.text) == ("error", "RuntimeError: the disk is full")
    assert second.status == "error"
    assert result["answer"] == "48.10"


async def test_tools_may_be_coroutines() -> None:
    agent = create_zoom_agent(ScriptedChat(lines=[other("wait"), ANSWER]), tools=[wait])
    result = await agent.ainvoke({"messages": [asked("?", picture())]})
    assert tool_messages(result)[0].text == "done"


def test_a_tool_may_wait_for_a_person() -> None:
    model = ScriptedChat(lines=[other("approve"), ANSWER])
    agent = create_zoom_agent(model, tools=[approve], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    assert agent.invoke({"messages": [asked("?", picture())]}, config)["__interrupt__"][0].value == "May I?"
    result = agent.invoke(Command(resume="yes"), config)
    assert tool_messages(result)[0].text == "yes"
    assert result["answer"] == "48.10"


def test_a_tool_may_return_a_command() -> None:
    result = run([other("remember", answer="x"), ANSWER], [remember])
    assert tool_messages(result)[0].text == "kept"
    assert result["usage"]["turns"] == 2


def test_a_picture_that_another_tool_returns_becomes_a_view() -> None:
    block = asked("", picture(640, 480)).content[0]

    @tool
    def page() -> list[Any]:
        """Show a page."""
        return [block]

    result = run([other("page"), ANSWER], [page])
    assert [view["kind"] for view in result["views"]] == ["low", "tool"]
    assert result["usage"]["visual_tokens"] == 300 + 80  # the tool's picture is shown at half its sides, too
    assert result["usage"]["full_visual_tokens"] == 1200 + 300


@pytest.mark.parametrize("by", [HumanMessage, ToolMessage])
@pytest.mark.parametrize("asynchronously", [True, False])
async def test_pictures_in_a_command_of_a_tool_become_views_too(by: type[BaseMessage], asynchronously: bool) -> None:
    block = asked("", picture(640, 480)).content[0]

    @tool
    def page() -> Command[Any]:
        """Show a page."""
        if by is ToolMessage:
            return Command(update={"messages": [ToolMessage([block], tool_call_id="call_1_0")]})
        return Command(update={"messages": [ToolMessage("below", tool_call_id="call_1_0"), HumanMessage([block])]})

    model = ScriptedChat(lines=[other("page"), zoom_call(image=2, region=[0, 0, 500, 500]), ANSWER])
    agent = create_zoom_agent(model, tools=[page])
    asking = {"messages": [asked("?", picture())]}
    result = await agent.ainvoke(asking) if asynchronously else agent.invoke(asking)
    assert "base64" not in repr(result)
    seen = ("tool" if by is ToolMessage else "low", 80)  # half of 640 × 480, snapped to the grid
    assert [(view["kind"], view["tokens"]) for view in result["views"][:2]] == [("low", 300), seen]
    assert urls(model.seen[1]) == ["scale=0.5", "scale=0.5"]
    assert result["usage"]["full_visual_tokens"] == 1200 + 300


def test_of_an_unusable_picture_in_a_command_the_model_is_told_in_words() -> None:
    broken = {"type": "image", "base64": "bm8=", "mime_type": "image/png"}

    @tool
    def page() -> Command[Any]:
        """Show a page."""
        return Command(update={"messages": [ToolMessage([broken], tool_call_id="call_1_0"), HumanMessage([broken])]})

    result = run([other("page"), ANSWER], [page])
    assert tool_messages(result)[0].text.startswith("page returned an image that cannot be used")
    assert "could not be used" in result["messages"][3].text
    assert result["answer"] == "48.10"


def test_a_command_to_a_parent_graph_carries_no_pixels_either() -> None:
    block = asked("", picture(640, 480)).content[0]

    @tool
    def hand_over() -> Command[Any]:
        """Give the page to the parent."""
        messages = [ToolMessage([block], tool_call_id="call_1_0")]
        return Command(update={"messages": messages}, goto="last", graph=Command.PARENT)

    parent = StateGraph(MessagesState)
    parent.add_node("look", create_zoom_agent(ScriptedChat(lines=[other("hand_over")]), tools=[hand_over]))
    parent.add_node("last", lambda state: {"messages": [("ai", "done")]})
    parent.add_edge(START, "look")
    result = parent.compile().invoke({"messages": [asked("?", picture())]})
    given = [message for message in result["messages"] if isinstance(message, ToolMessage)]
    assert [block["url"][:9] for _, block in image_blocks(given)] == ["vtimg://s"]


def test_an_image_that_is_sent_twice_is_paid_for_twice() -> None:
    model = ScriptedChat(lines=[ANSWER, ZOOM, ANSWER])
    agent = create_zoom_agent(model, checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    page = picture(1280, 960)

    def tokens(result: dict[str, Any]) -> tuple[int, int, int]:
        usage = result["usage"]
        return len(result["views"]), usage["visual_tokens"], usage["full_visual_tokens"]

    assert tokens(agent.invoke({"messages": [asked("?", page, page)]}, config)) == (1, 600, 2400)
    assert len(urls(model.seen[0])) == 2
    assert tokens(agent.invoke({"messages": [asked("And now?", page)]}, config)) == (2, 900 + 1200, 3600)


def test_a_budget_for_visual_tokens_counts_an_image_as_often_as_it_is_sent() -> None:
    agent = create_zoom_agent(ScriptedChat(lines=[zoom_call(region=[0, 0, 500, 500]), ANSWER]))
    page = picture(1280, 960)
    result = agent.invoke({"messages": [asked("?", page, page)]}, context={"max_visual_tokens": 899})
    assert tool_messages(result)[0].text.startswith("This view costs 300 visual tokens and 299 are left.")
    assert result["usage"]["visual_tokens"] == 600


@pytest.mark.parametrize("beside", [False, True])
async def test_a_store_that_was_tampered_with_ends_the_run_and_is_named(beside: bool, tmp_path: Path) -> None:
    store = DirectoryImageStore(tmp_path)

    def tampering(*_: Any) -> str:
        [file] = tmp_path.glob("*/*")
        file.write_bytes(picture(64, 48))
        store._refs.clear()  # as in a process that takes the run up again
        return ZOOM + (other("add", a=2, b=3).removeprefix("<think>a</think>") if beside else "")

    agent = create_zoom_agent(ScriptedChat(lines=[tampering, ANSWER]), tools=[add], image_store=store)
    with pytest.raises(ImageTampered, match="was changed in the store"):
        await agent.ainvoke({"messages": [asked("?", picture())]})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"model": 4}, "model must be of type BaseChatModel, not int"),
        ({"model": object()}, "model must be of .* not object"),
        ({"image_store": "/tmp/images"}, "image_store must be of type ImageStore, not str"),
        ({"defaults": {"max_zooms": 1}}, "defaults must be of type ZoomContext, not dict"),
        ({"tools": [{"type": "web_search"}]}, "a tool must be a LangChain tool or a function, not dict"),
    ],
)
def test_what_the_graph_cannot_be_built_from_is_named_at_once(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        create_zoom_agent(**wrong)


def test_a_function_is_a_tool() -> None:
    def double(number: int) -> int:
        """Twice the number."""
        return 2 * number

    agent = create_zoom_agent(ScriptedChat(lines=[other("double", number=21), ANSWER]), tools=[double])
    assert tool_messages(agent.invoke({"messages": [asked("?", picture())]}))[0].text == "42"


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        build_zoom_graph(tools=[add, add])


def test_the_models_own_store_and_vision_are_used() -> None:
    class Local(ScriptedChat):
        store: Any = None
        vision: Any = None

    model = Local(lines=[ANSWER], store=MemoryImageStore(), vision=QWEN3_VL)
    result = create_zoom_agent(model).invoke({"messages": [asked("?", picture())]})
    assert result["views"][0]["url"].split("/")[-1].split("?")[0] in model.store


def test_what_another_model_calls_its_store_is_not_taken_for_images() -> None:
    class Elsewhere(ScriptedChat):
        store: bool = True

    result = create_zoom_agent(Elsewhere(lines=[ANSWER])).invoke({"messages": [asked("?", picture())]})
    assert result["answer"] == "48.10"


def test_what_langgraph_compiles_to_can_become_our_agent() -> None:
    graph = build_zoom_graph(ScriptedChat(lines=[ANSWER]))
    plain: Any = StateGraph.compile(graph)
    assert type(plain) is CompiledStateGraph, "LangGraph compiles to a new class: ZoomAgent must extend that one"
    agent = graph.compile(checkpointer=InMemorySaver(), name="reader")
    assert type(agent) is ZoomAgent
    assert vars(agent).keys() == vars(plain).keys(), "ZoomGraph.compile must keep what LangGraph sets, and add nothing"
    assert type(agent.with_config(tags=["mine"])) is ZoomAgent
    assert agent.builder is graph


def test_a_runs_own_model_finds_the_graphs_images_in_its_own_store() -> None:
    class Own(ScriptedChat):
        store: Any = None

    model = Own(lines=[ZOOM, ANSWER], store=MemoryImageStore())
    agent = create_zoom_agent()
    [image] = put(agent.builder.store, picture())
    agent.invoke({"messages": [HumanMessage([image, {"type": "text", "text": "?"}])]}, context={"model": model})
    assert image["url"].rpartition("/")[2] in model.store
