"""`ZoomMiddleware`: an agent of `create_agent` looks cheaply first, zooms within budgets, and is else left alone."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    LLMToolSelectorMiddleware,
    ModelCallLimitMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    TodoListMiddleware,
    ToolRetryMiddleware,
)
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import Runnable
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import BaseModel, SecretStr

from tests.scripted_chat import ANSWER, ZOOM, ScriptedChat, StreamingChat, asked, picture, put, zoom_call
from tests.test_model_call import pictures as sizes
from vtagent.conversation import image_blocks, name_of
from vtagent.errors import ImageRefused, ImageTampered, ModelError, UnreadableImage
from vtagent.graphs import ZoomContext
from vtagent.graphs.middleware import ZoomMiddleware
from vtagent.images import DirectoryImageStore, MemoryImageStore
from vtagent.models.chat import ChatVLM
from vtagent.protocol import format_tool_call
from vtagent.visual_tokens import QWEN2_5_VL


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


@tool
def screenshot() -> list[dict[str, Any]]:
    """Take a picture of the screen."""
    return [
        {"type": "image", "base64": base64.b64encode(picture(640, 480)).decode(), "mime_type": "image/png"},
        {"type": "text", "text": "the screen"},
    ]


def chat(*lines: Any, **fields: Any) -> ScriptedChat:
    """Someone else's model: it takes pixels."""
    return ScriptedChat(lines=list(lines), **{"resolves_images": False, **fields})


def run(
    model: Any, /, *messages: BaseMessage, tools: Any = (), before: Any = (), agent: Any = None, **options: Any
) -> dict[str, Any]:
    settings = options.pop("settings", {})
    middleware = ZoomMiddleware(defaults=ZoomContext(**settings), **options)
    built = create_agent(model, tools, middleware=[*before, middleware], **(agent or {}))
    result: dict[str, Any] = built.invoke(
        {"messages": list(messages or [asked("What is the total?", picture())])}, {"recursion_limit": 60}
    )
    return result


def texts(result: dict[str, Any]) -> list[str]:
    return [message.text for message in result["messages"] if isinstance(message, ToolMessage)]


# ---------------------------------------------------------------- looking


def test_a_model_that_can_read_the_low_view_answers_at_a_quarter_of_the_tokens() -> None:
    model = chat("It is 48.10.")
    result = run(model)
    assert result["messages"][-1].text == "It is 48.10."
    assert sizes(model.seen[0]) == [("human", (640, 480))]
    usage = result["zoom"]["usage"]
    assert (usage["visual_tokens"], usage["full_visual_tokens"], usage["zooms"]) == (300, 1200, 0)


def test_a_model_that_cannot_zooms_once() -> None:
    model = chat(ZOOM, "It is 48.10.")
    result = run(model)
    assert [message.type for message in result["messages"]] == ["human", "ai", "tool", "ai"]
    assert sizes(model.seen[1]) == [("human", (640, 480)), ("human", (1280, 960))]
    assert [view["kind"] for view in result["zoom"]["views"]] == ["low", "zoom"]
    assert (result["zoom"]["usage"]["zooms"], result["zoom"]["usage"]["visual_tokens"]) == (1, 1500)


async def test_the_same_asynchronously() -> None:
    model = chat(ZOOM, "It is 48.10.")
    agent = create_agent(model, middleware=[ZoomMiddleware()])
    result = await agent.ainvoke({"messages": [asked("?", picture())]})
    assert sizes(model.seen[1]) == [("human", (640, 480)), ("human", (1280, 960))]
    assert (result["zoom"]["usage"]["zooms"], result["zoom"]["stop"]) == (1, "max_zooms")


def test_runs_share_nothing() -> None:
    def sees(messages: list[BaseMessage], options: Any) -> str:
        return "done" if any(isinstance(message, ToolMessage) for message in messages) else ZOOM

    agent = create_agent(chat(sees), middleware=[ZoomMiddleware()])
    questions: list[Any] = [{"messages": [asked("?", picture(320 + 32 * n, 320))]} for n in range(6)]
    results = asyncio.run(agent.abatch(questions))
    assert [result["zoom"]["usage"]["zooms"] for result in results] == [1] * 6
    assert [result["zoom"]["views"][1]["width"] for result in results] == [320 + 32 * n for n in range(6)]


def test_our_own_model_reads_the_references_itself_and_its_prompt_only_grows() -> None:
    model = scripted_vlm([ZOOM, ANSWER])
    result = run(model, asked("?", picture(256, 192)), model=model)
    first, second = model.engine.requests
    assert [image.pixels.size for image in second.images] == [(128, 96), (256, 192)]
    assert result["zoom"]["usage"]["visual_tokens"] == 60
    said = tuple(result["messages"][1].response_metadata["tokens"]["completion_ids"])
    assert second.token_ids[: len(first.token_ids) + len(said)] == first.token_ids + said


def test_given_our_model_its_store_and_sizes_are_used() -> None:
    model = scripted_vlm([ANSWER])
    middleware = ZoomMiddleware(model)
    assert (middleware.store, middleware.vision) == (model.image_store, model.vision)


def test_images_in_another_store_are_handed_to_our_model() -> None:
    model = scripted_vlm([ANSWER])
    run(model, asked("?", picture(256, 192)), vision=model.vision, image_store=MemoryImageStore())
    assert [image.pixels.size for image in model.engine.requests[0].images] == [(128, 96)]


def test_sizes_that_are_not_our_models_are_refused() -> None:
    with pytest.raises(ModelError, match=r"other image sizes than ChatVLM sees: without vision="):
        run(scripted_vlm([ANSWER]), vision=QWEN2_5_VL)


def test_sizes_are_those_of_the_model_that_is_called() -> None:
    model = scripted_vlm([ANSWER])
    state = run(model, asked("?", picture(256, 192)))
    [view] = state["zoom"]["views"]
    assert (view["width"], view["height"]) == model.engine.requests[0].images[0].pixels.size


def test_a_second_turn_begins_a_new_account_and_does_not_look_again() -> None:
    agent = create_agent(chat(ZOOM, "48.10", "Cash."), middleware=[ZoomMiddleware()])
    first = agent.invoke({"messages": [asked("?", picture())]})
    second = agent.invoke({"messages": [*first["messages"], HumanMessage("How was it paid?")]})
    assert (second["zoom"]["usage"]["turns"], second["zoom"]["usage"]["zooms"]) == (1, 0)
    assert second["zoom"]["usage"]["visual_tokens"] == 1500


def test_a_picture_that_cannot_be_read_ends_the_run_with_one_clear_line() -> None:
    with pytest.raises(UnreadableImage, match=r"message 0 \(human\), block 0"):
        run(chat("?"), HumanMessage([{"type": "image", "base64": "bm90IGFuIGltYWdl"}]))


def test_the_thread_outlives_a_picture_that_could_not_be_read() -> None:
    model = chat("It is 48.10.")
    agent = create_agent(model, middleware=[ZoomMiddleware()], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    bad: Any = HumanMessage([{"type": "image", "base64": "bm90IGFuIGltYWdl"}, {"type": "text", "text": "?"}])
    with pytest.raises(UnreadableImage):
        agent.invoke({"messages": [bad]}, config)
    result = agent.invoke({"messages": [asked("And this?", picture())]}, config)
    assert result["messages"][-1].text == "It is 48.10."
    assert "[There was a picture here that could not be used: not a complete image" in model.seen[0][1].text
    assert "bm90IGFuIGltYWdl" not in repr(result["messages"])


def scripted_vlm(*arguments: Any) -> ChatVLM:
    """See `tests.fakes`, which needs torch; `make test-versions` has none."""
    pytest.importorskip("torch")
    from tests.fakes import scripted_vlm as make

    return make(*arguments)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "../../etc/passwd", "vtimg://sha256/../../etc/passwd", "https://example.org/a.png"]
)
def test_a_source_that_is_not_opened_ends_its_own_run_and_not_the_thread(url: str) -> None:
    model = chat("It is 48.10.")
    agent = create_agent(model, middleware=[ZoomMiddleware()], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    with pytest.raises(ImageRefused, match=re.escape(url)):
        agent.invoke({"messages": [HumanMessage([{"type": "image", "url": url}])]}, config)
    assert model.seen == []
    agent.invoke({"messages": [asked("And this?", picture())]}, config)
    assert "[There was a picture here that could not be used:" in model.seen[0][1].text
    assert sizes(model.seen[0]) == [("human", (640, 480))]


@pytest.mark.parametrize("known", [True, False])
def test_an_image_that_was_changed_in_the_store_is_never_shown(known: bool, tmp_path: Path) -> None:
    """Whether this process has read the original before, or only finds the changed one."""
    store, model = DirectoryImageStore(tmp_path), chat("48.10")
    [block] = put(store, picture())
    name = name_of(block["url"])
    (tmp_path / name[:2] / name).write_bytes(picture(1280, 64))
    with pytest.raises(ImageTampered, match=f"image {name} was changed in the store"):
        run(model, HumanMessage([block]), image_store=store if known else DirectoryImageStore(tmp_path))
    assert model.seen == []


# ---------------------------------------------------------------- what the model is offered


def test_without_an_image_the_agent_is_as_it_was() -> None:
    model = chat("Hello.")
    run(model, HumanMessage("Hi"), tools=[multiply], agent={"system_prompt": "Be kind."})
    assert model.offered == [["multiply"]]
    assert [message.text for message in model.seen[0]] == ["Be kind.", "Hi"]


@pytest.mark.parametrize("system", ["Be kind.", SystemMessage([{"type": "text", "text": "Be kind."}])])
def test_the_agents_own_prompt_stands_first(system: Any) -> None:
    model = chat("48.10")
    run(model, agent={"system_prompt": system})
    [said] = [message.text for message in model.seen[0] if isinstance(message, SystemMessage)]
    assert said.startswith("Be kind.")
    assert "zoom_image, once at the most" in said


@pytest.mark.parametrize(("prompt", "kinds"), [("Look!", ["system", "human"]), (None, ["human"])])
def test_the_prompt_can_be_replaced_or_left_out(prompt: str | None, kinds: list[str]) -> None:
    model = chat("48.10")
    run(model, system_prompt=prompt)
    assert [message.type for message in model.seen[0]] == kinds


def test_no_zooms_allowed_none_offered() -> None:
    model = chat("48.10")
    result = run(model, tools=[multiply], settings={"max_zooms": 0})
    assert model.offered == [["multiply"]]
    assert result["zoom"]["stop"] is None


def test_the_context_of_a_run_sets_its_budgets() -> None:
    model = chat(zoom_call(region=[0, 0, 500, 500]), zoom_call(region=[500, 500, 1000, 1000]), "48.10")
    agent = create_agent(model, middleware=[ZoomMiddleware()], context_schema=ZoomContext)
    result = agent.invoke({"messages": [asked("?", picture())]}, context=ZoomContext(max_zooms=2, scale=0.25))
    assert result["zoom"]["usage"]["zooms"] == 2
    assert sizes(model.seen[0]) == [("human", (320, 256))]


def test_tool_images_stay_in_tool_messages_where_the_models_profile_says_so() -> None:
    profile: Any = {"image_tool_message": True}
    model = chat(ZOOM, "48.10", profile=profile)
    run(model)
    assert sizes(model.seen[1]) == [("human", (640, 480)), ("tool", (1280, 960))]


def test_the_tool_can_have_another_name() -> None:
    model = chat("<think>a</think>" + format_tool_call("request_resize", {}), "48.10")
    result = run(model, tool_name="request_resize")
    assert model.offered[0] == ["request_resize"]
    assert result["zoom"]["usage"]["zooms"] == 1


# ---------------------------------------------------------------- budgets


def test_a_model_with_nothing_but_zooms_must_answer_when_they_are_spent() -> None:
    model = chat(ZOOM, ZOOM)
    result = run(model)
    assert model.options[1]["tool_choice"] == "none"
    assert model.offered == [["zoom_image"]] * 2
    assert result["messages"][-1].tool_calls == []
    assert result["zoom"]["stop"] == "max_zooms"


def test_a_model_that_takes_none_for_a_tools_name_is_not_told_none() -> None:
    class Other(ScriptedChat):
        def bind_tools(self, tools: Any, *, tool_choice: str | None = None, **kwargs: Any) -> Runnable[Any, AIMessage]:
            choice = {"tool_choice": {"type": "tool", "name": tool_choice}} if tool_choice else {}
            bound: Runnable[LanguageModelInput, AIMessage] = super().bind_tools(tools, **kwargs)
            return bound.bind(**choice) if choice else bound

    model = Other(lines=[ZOOM, ZOOM], resolves_images=False)
    result = run(model)
    assert "tool_choice" not in model.options[1]
    assert result["messages"][-1].tool_calls == []


def test_a_model_that_refuses_none_is_not_told_none() -> None:
    class Other(ScriptedChat):
        def bind_tools(self, tools: Any, *, tool_choice: str | None = None, **kwargs: Any) -> Runnable[Any, AIMessage]:
            if tool_choice is not None:
                raise ValueError(f"unknown tool_choice {tool_choice!r}")
            return super().bind_tools(tools, **kwargs)

    model = Other(lines=[ZOOM, ZOOM], resolves_images=False)
    result = run(model)
    assert "tool_choice" not in model.options[1]
    assert (result["messages"][-1].tool_calls, result["zoom"]["usage"]["zooms"]) == ([], 1)


def test_with_other_tools_spent_zooms_are_not_offered_and_the_agent_goes_on() -> None:
    model = chat(ZOOM, format_tool_call("multiply", {"a": 6, "b": 7}), "42")
    result = run(model, tools=[multiply])
    assert model.offered == [["zoom_image", "multiply"], ["multiply"], ["multiply"]]
    assert result["messages"][-1].text == "42"


def test_zooms_side_by_side_are_granted_in_their_order() -> None:
    two = zoom_call(region=[0, 0, 500, 500]) + format_tool_call("zoom_image", {"region": [500, 500, 1000, 1000]})
    result = run(chat(two, "48.10"))
    assert [message.status for message in result["messages"] if isinstance(message, ToolMessage)] == [
        "success",
        "error",
    ]
    assert "No zoom is left" in texts(result)[1]
    assert (result["zoom"]["usage"]["zooms"], result["zoom"]["usage"]["mistakes"]) == (1, 1)


def test_a_mistake_before_a_zoom_in_one_reply_costs_no_zoom() -> None:
    reply = zoom_call(region=[0, 0, 9000, 9000]) + format_tool_call("zoom_image", {})
    result = run(chat(reply, "48.10"))
    assert (result["zoom"]["usage"]["zooms"], result["zoom"]["usage"]["mistakes"]) == (1, 1)


def test_the_same_view_twice_in_one_reply_is_shown_once() -> None:
    result = run(chat(ZOOM + format_tool_call("zoom_image", {}), "48.10"), settings={"max_zooms": 3})
    assert "already been shown" in texts(result)[1]


def test_a_view_beyond_the_visual_tokens_is_refused_with_what_is_left() -> None:
    result = run(chat(ZOOM, "48.10"), settings={"max_visual_tokens": 700})
    assert texts(result) == [
        "This view costs 1200 visual tokens and 400 are left. Ask for a smaller region, or answer."
    ]
    assert result["zoom"]["usage"]["visual_tokens"] == 300


def test_spent_seconds_end_the_zooming() -> None:
    model = chat(ZOOM, ZOOM)
    result = run(model, settings={"max_seconds": 0.0, "max_zooms": 5})
    assert model.options[0]["tool_choice"] == "none"
    assert result["zoom"]["stop"] == "max_seconds"


def test_a_call_that_was_not_offered_is_refused() -> None:
    model = chat(ZOOM, ZOOM, "48.10")
    result = run(model, tools=[multiply])
    assert model.offered[1] == ["multiply"]
    assert texts(result)[1] == "There is no more to see: max_zooms is reached. Answer from what you see."


@pytest.mark.parametrize("reads_calls", [True, False])
def test_calls_that_cannot_be_read_are_explained_and_end(reads_calls: bool) -> None:
    broken = "<think>a</think><tool_call>{broken</tool_call>"
    result = run(chat(broken, ZOOM, "48.10", reads_calls=reads_calls))
    assert "not valid JSON" in texts(result)[0]
    assert result["messages"][-1].text == "48.10"
    endless = run(chat(broken, reads_calls=reads_calls))
    assert (endless["zoom"]["stop"], endless["zoom"]["usage"]["mistakes"]) == ("max_mistakes", 3)


def test_a_call_that_cannot_be_read_is_answered_beside_one_that_is_run() -> None:
    broken = "<tool_call>{broken</tool_call>"
    result = run(chat(ZOOM + broken, "48.10"))
    assert [message.type for message in result["messages"]] == ["human", "ai", "tool", "tool", "ai"]
    reply = result["messages"][1]
    asked_for = {call["id"] for call in [*reply.tool_calls, *reply.invalid_tool_calls]}
    answered = {message.tool_call_id: message.status for message in result["messages"][2:4]}
    assert set(answered) == asked_for
    assert sorted(answered.values()) == ["error", "success"]
    assert (result["zoom"]["usage"]["zooms"], result["zoom"]["usage"]["mistakes"]) == (1, 1)


def test_calls_of_tools_that_do_not_exist_end() -> None:
    result = run(chat(format_tool_call("zoom_out", {})))
    assert (result["zoom"]["stop"], result["zoom"]["usage"]["mistakes"]) == ("max_mistakes", 3)


def test_zoom_bias_goes_to_our_model_and_is_refused_by_others() -> None:
    model = scripted_vlm([ANSWER])
    run(model, model=model, settings={"zoom_bias": 2.0})
    assert model.engine.requests[0].sampling.call_bias.value == 2.0
    with pytest.raises(ModelError, match="ScriptedChat takes no zoom_bias"):
        run(chat("48.10"), settings={"zoom_bias": 2.0})


# ---------------------------------------------------------------- beside other tools and middleware


def test_another_tools_picture_becomes_a_reference_and_is_shown_low_first() -> None:
    model = chat(format_tool_call("screenshot", {}), "done")
    result = run(model, HumanMessage("What is on the screen?"), tools=[screenshot])
    assert len(list(image_blocks(result["messages"]))) == 1
    assert sizes(model.seen[1]) == [("human", (320, 256))]
    assert model.offered == [["screenshot"], ["zoom_image", "screenshot"]]
    assert [view["kind"] for view in result["zoom"]["views"]] == ["tool"]


async def test_another_tools_picture_in_a_command_becomes_a_reference_too() -> None:
    @tool
    async def show() -> Command[Any]:
        """Show."""
        block = {"type": "image", "base64": base64.b64encode(picture(64, 48)).decode()}
        return Command(
            update={"messages": [ToolMessage([block], tool_call_id="call_1_0"), asked("!", picture(64, 48))]}
        )

    agent = create_agent(chat(format_tool_call("show", {}), "done"), [show], middleware=[ZoomMiddleware()])
    result = await agent.ainvoke({"messages": [HumanMessage("?")]})
    assert len(list(image_blocks(result["messages"]))) == 2


def test_another_tools_broken_picture_is_told_in_words() -> None:
    @tool
    def broken() -> list[dict[str, Any]]:
        """Break."""
        return [{"type": "image", "base64": "bm90IGFuIGltYWdl"}]

    result = run(chat(format_tool_call("broken", {}), "done"), HumanMessage("?"), tools=[broken])
    assert texts(result)[0].startswith("broken returned an image that cannot be used")


class Shouting(AgentMiddleware[Any, Any, Any]):
    """Changes every reply, to show that others' hooks run."""

    def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        response = handler(request)
        response.result[0].content = response.result[0].content.upper()
        return response


def test_others_middleware_runs_beside_it() -> None:
    model = chat(ZOOM, "it is 48.10")
    before = [TodoListMiddleware(), ModelCallLimitMiddleware(run_limit=5), ToolRetryMiddleware(), Shouting()]
    result = run(model, before=before, tools=[multiply])
    assert result["messages"][-1].text == "IT IS 48.10"
    assert result["zoom"]["usage"]["zooms"] == 1
    assert set(model.offered[0]) == {"zoom_image", "write_todos", "multiply"}


@pytest.mark.parametrize(("last", "sees"), [(True, [("human", (640, 480))]), (False, [])])
def test_a_selector_of_tools_sees_the_picture_where_it_is_listed_last(last: bool, sees: Any) -> None:
    def select(messages: list[BaseMessage], options: Any) -> AIMessage:
        chosen = {"name": options["tools"][0]["function"]["name"], "args": {"tools": ["zoom_image"]}, "id": "1"}
        return AIMessage("", tool_calls=[chosen])

    model = chat(select, "48.10")
    middleware: list[Any] = [ZoomMiddleware(), LLMToolSelectorMiddleware(max_tools=1)]
    agent = create_agent(model, [multiply], middleware=middleware if last else middleware[::-1])
    result = agent.invoke({"messages": [asked("?", picture())]})
    assert result["messages"][-1].text == "48.10"
    assert (sizes(model.seen[0]), model.offered[1]) == (sees, ["zoom_image"])


def test_a_retried_call_is_counted_once_and_shown_the_same() -> None:
    model = chat(ZOOM, RuntimeError("busy"), "48.10")
    result = run(model, before=[ModelRetryMiddleware(max_retries=2, initial_delay=0.0, jitter=False)])
    assert sizes(model.seen[1]) == sizes(model.seen[2])
    assert (result["zoom"]["usage"]["zooms"], result["zoom"]["usage"]["turns"]) == (1, 2)


def test_a_fallback_model_is_shown_pixels_too() -> None:
    second = chat("48.10")
    run(chat(RuntimeError("down")), before=[ModelFallbackMiddleware(second)])
    assert sizes(second.seen[0]) == [("human", (640, 480))]


def test_structured_responses_keep_working() -> None:
    class Total(BaseModel):
        """The total."""

        amount: str

    model = chat(ZOOM, format_tool_call("Total", {"amount": "48.10"}))
    result = run(model, agent={"response_format": Total})
    assert result["structured_response"] == Total(amount="48.10")
    assert model.offered == [["zoom_image", "Total"], ["Total"]]


def test_langchain_still_knows_what_a_named_model_can_do() -> None:
    class Named(ScriptedChat):
        model_name: str = "gpt-5"

    class Total(BaseModel):
        """The total."""

        amount: str

    model = Named(lines=['{"amount": "48.10"}'], resolves_images=False)
    result = run(model, agent={"response_format": Total})
    assert result["structured_response"] == Total(amount="48.10")
    assert "response_format" in model.options[0]


def test_streams_pass_through() -> None:
    model = StreamingChat(lines=["one two three"], resolves_images=False)
    agent = create_agent(model, middleware=[ZoomMiddleware()])
    streamed = agent.stream({"messages": [asked("?", picture())]}, stream_mode=["messages", "custom"])
    chunks: list[Any] = list(streamed)
    assert [chunk[0].text for mode, chunk in chunks if mode == "messages" and chunk[0].text] == [
        "one ",
        "two ",
        "three ",
    ]
    assert [chunk["event"] for mode, chunk in chunks if mode == "custom"] == ["observe"]


def test_zooms_and_refusals_are_told_as_they_happen() -> None:
    two = ZOOM + format_tool_call("zoom_image", {})
    agent = create_agent(chat(two, "48.10"), middleware=[ZoomMiddleware()])
    events: list[Any] = list(agent.stream({"messages": [asked("?", picture())]}, stream_mode="custom"))
    assert sorted(event["event"] for event in events) == ["observe", "refused", "zoom"]


# ---------------------------------------------------------------- many images


def test_older_images_give_way_to_a_note_in_the_call_and_stay_in_the_state() -> None:
    model = chat("48.10")
    pictures = [picture(320 + 32 * n, 320) for n in range(4)]
    result = run(model, asked("Compare.", *pictures), keep_images=2)
    assert [size for _, size in sizes(model.seen[0])] == [(288, 256), (320, 256)]
    assert (
        "[Image 1 stood here and is no longer shown. zoom_image with image=1 shows it again.]" in model.seen[0][1].text
    )
    assert len(list(image_blocks(result["messages"]))) == 4
    assert len(result["zoom"]["views"]) == 2


def test_images_have_the_numbers_that_the_tool_knows_even_where_others_have_taken_some_out_of_the_call() -> None:
    class Forgetful(AgentMiddleware[Any, Any, Any]):
        def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
            return handler(request.override(messages=request.messages[1:]))

    model = chat(zoom_call(image=2), "48.10")
    pictures = [asked(f"{n}", picture(640, 320 + 32 * n)) for n in range(3)]
    result = run(model, *pictures, before=[Forgetful()], keep_images=1)
    assert "[Image 2 stood here" in model.seen[0][1].text
    assert texts(result)[0].startswith("Image 2 (640 × 352 pixels), the whole image")


def test_a_lost_image_has_no_number() -> None:
    """A is lost, so the tool counts B as 1: the note in B's place must, too."""
    lost = put(MemoryImageStore(), picture(64, 48))
    model = chat(zoom_call(image=1), "48.10")
    pictures = asked("?", picture(640, 480), picture(800, 480))
    result = run(model, HumanMessage([*lost]), pictures, keep_images=1, image_store=MemoryImageStore())
    assert "[Image 1 stood here and is no longer shown. zoom_image with image=1 shows it again.]" in repr(model.seen[0])
    assert texts(result)[0].startswith("Image 1 (640 × 480 pixels), the whole image")


def test_an_image_out_of_sight_can_be_asked_for_again_and_is_then_the_newest() -> None:
    model = chat(zoom_call(image=1), "48.10")
    result = run(model, asked("Compare.", picture(640, 480), picture(800, 480)), keep_images=1)
    assert result["zoom"]["usage"]["zooms"] == 1
    assert [size for _, size in sizes(model.seen[1])] == [(320, 256), (640, 480)]
    assert "[Image 2 stood here and is no longer shown.]" in model.seen[1][1].text


def test_even_what_was_zoomed_into_before_it_went_out_of_sight() -> None:
    store = MemoryImageStore()
    [first] = put(store, picture(640, 480))
    seen = [HumanMessage([first]), AIMessage("", tool_calls=[{"name": "zoom_image", "args": {}, "id": "1"}])]
    shown = ToolMessage([first], name="zoom_image", tool_call_id="1")
    model = chat(ZOOM, "48.10")
    result = run(
        model, *seen, shown, AIMessage("7"), asked("And?", picture(800, 480)), keep_images=1, image_store=store
    )
    assert result["zoom"]["usage"]["zooms"] == 1


def test_a_lost_image_is_told_in_words() -> None:
    lost = put(MemoryImageStore(), picture(64, 48))
    model = chat("48.10")
    run(model, HumanMessage([*lost]), asked("And here?", picture()), image_store=MemoryImageStore())
    assert "no longer in the image store" in model.seen[0][1].text
    assert len(sizes(model.seen[0])) == 1


def test_keeping_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ZoomMiddleware(keep_images=0)


def test_a_models_setting_called_store_is_no_image_store() -> None:
    model = ChatOpenAI(model="served", base_url="http://localhost:9/v1", api_key=SecretStr("none"), store=True)
    assert isinstance(ZoomMiddleware(model).store, MemoryImageStore)
    store = MemoryImageStore()
    assert ZoomMiddleware(model, image_store=store).store is store


def test_a_call_that_was_never_run_is_answered_in_words() -> None:
    model = chat("48.10")
    asking = AIMessage("", tool_calls=[{"name": "multiply", "args": {"a": 1, "b": 2}, "id": "1"}])
    result = run(model, asked("?", picture()), asking, HumanMessage("Something else?"), tools=[multiply])
    assert [message.type for message in result["messages"]] == ["human", "ai", "human", "ai"]
    answers = [message for message in model.seen[0] if isinstance(message, ToolMessage)]
    assert [(answer.tool_call_id, answer.text) for answer in answers] == [("1", "This call was not run.")]
