"""`zoom_image` by hand, in a ToolNode and in create_agent: it shows a view, or says what would be right."""

from __future__ import annotations

import doctest
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from tests.scripted_chat import ANSWER, ScriptedChat, picture, zoom_call
from vtagent.images import ImageStore, MemoryImageStore
from vtagent.regions import Region
from vtagent.tools import zoom_image
from vtagent.tools.zoom_image import create_zoom_tool
from vtagent.views import View
from vtagent.visual_tokens import QWEN3_VL


@pytest.fixture
def store() -> ImageStore:
    return MemoryImageStore()


@pytest.fixture
def tool(store: ImageStore) -> BaseTool:
    return create_zoom_tool(image_store=store, vision=QWEN3_VL)


@pytest.fixture
def low(store: ImageStore) -> View:
    return View(store.put(picture(1280, 960)), scale=0.5)


def shown(*views: View) -> list[AnyMessage]:
    return [HumanMessage([*(view.block() for view in views), {"type": "text", "text": "What is the total?"}])]


def call(tool: BaseTool, messages: list[AnyMessage], **arguments: Any) -> ToolMessage:
    """The tool's answer to a model's call, outside of any graph."""
    message = tool.invoke(
        {"type": "tool_call", "id": "1", "name": tool.name, "args": {**arguments, "messages": messages}}
    )
    assert isinstance(message, ToolMessage)
    return message


def url_of(message: ToolMessage) -> str:
    [block] = [block for block in message.content_blocks if block["type"] == "image"]
    return str(block["url"])


def test_the_example_in_the_docstring_holds() -> None:
    assert doctest.testmod(zoom_image).failed == 0


def test_without_a_region_it_shows_the_whole_image_at_full_resolution(tool: BaseTool, low: View) -> None:
    answer = call(tool, shown(low))
    assert url_of(answer) == View(low.ref).url
    assert answer.text == "Image 1 (1280 × 960 pixels), the whole image, shown at 1280 × 960."
    assert answer.artifact == {"view": View(low.ref).url}


def test_with_a_region_it_shows_that_part(tool: BaseTool, low: View) -> None:
    answer = call(tool, shown(low), region=[500, 0, 1000, 500])
    assert url_of(answer) == View(low.ref, region=Region(500, 0, 1000, 500)).url
    assert "region [500, 0, 1000, 500], shown at 640 × 480" in answer.text


def test_a_region_is_grown_to_what_a_model_can_look_at(tool: BaseTool, low: View) -> None:
    answer = call(tool, shown(low), region=[500, 500, 501, 501])
    region = View.parse_url(url_of(answer))[2]
    assert region is not None
    left, top, right, bottom = region.to_pixels(1280, 960)
    assert right - left >= 32
    assert bottom - top >= 32


def test_images_are_counted_from_one_in_the_order_they_were_shown(tool: BaseTool, low: View, store: ImageStore) -> None:
    second = View(store.put(picture(640, 480)), scale=0.5)
    assert url_of(call(tool, shown(low, second), image=2)) == View(second.ref).url


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"image": 2}, "There is no image 2: image is 1."),
        ({"image": 0}, "There is no image 0"),
        ({"image": "first"}, "There is no image 'first'"),
        ({"image": True}, "There is no image True"),
        ({"image": [1] * 1000}, "There is no image [1, 1, 1"),
        ({"region": [0, 0, 1]}, "needs four numbers"),
        ({"region": [-5, 0, 10, 10]}, "not negative"),
        ({"region": [0, 0, 5000, 5000]}, "runs past 1000; give [x1, y1, x2, y2] as integers 0-1000"),
        ({"region": [640, 0, 1280, 480]}, "runs past 1000"),
        ({"region": [0.5, 0.5, 1, 1]}, "could be fractions"),
        ({"region": [1000, 500, 500, 0]}, "could be swapped corners"),
        ({"region": [100, 100, 100, 200]}, "is empty"),
        ({"region": "the top"}, "is not four numbers"),
        ({"region": {"a": 1}}, "needs exactly x1, y1, x2 and y2"),
        ({"bbox_2d": [0, 0, 10, 10], "label": "x"}, "takes only region and image, not bbox_2d, label"),
    ],
)
def test_a_wrong_argument_is_answered_with_what_would_be_right(
    tool: BaseTool, low: View, arguments: dict[str, Any], says: str
) -> None:
    answer = call(tool, shown(low), **arguments)
    assert answer.status == "error"
    assert says in answer.text
    assert len(answer.text) < 400


@pytest.mark.parametrize("number", ["2", " 2 ", 2.0])
def test_a_number_that_is_written_as_text_is_that_number(
    tool: BaseTool, low: View, store: ImageStore, number: object
) -> None:
    second = View(store.put(picture(640, 480)), scale=0.5)
    assert url_of(call(tool, shown(low, second), image=number)) == View(second.ref).url


def test_a_conversation_without_images_is_told_so(tool: BaseTool) -> None:
    assert "no image in this conversation" in call(tool, [HumanMessage("Hello")]).text
    assert "no image in this conversation" in tool.invoke({})


def test_what_was_shown_is_refused(tool: BaseTool, low: View) -> None:
    whole, part = View(low.ref), View(low.ref, region=Region(0, 0, 500, 500))
    for seen, asked in [(whole, {}), (whole, {"region": [0, 0, 10, 10]}), (part, {"region": [100, 100, 400, 400]})]:
        answer = call(tool, shown(low, seen), **asked)
        assert answer.status == "error"
        assert answer.text.startswith("You have already been shown this")


def test_what_was_shown_in_part_or_of_another_image_is_granted(tool: BaseTool, low: View, store: ImageStore) -> None:
    other = View(store.put(picture(640, 480)))
    part = View(low.ref, region=Region(0, 0, 500, 500))
    assert call(tool, shown(low, part, other), region=[0, 0, 600, 500]).status == "success"
    assert call(tool, shown(low, part, other)).status == "success"


def test_a_part_of_a_huge_image_is_finer_than_the_whole(tool: BaseTool, low: View, store: ImageStore) -> None:
    modest = create_zoom_tool(image_store=store, vision=replace(QWEN3_VL, max_pixels=512 * 512))
    assert call(modest, shown(View(low.ref)), region=[0, 0, 100, 100]).status == "success"
    assert call(tool, shown(View(low.ref)), region=[0, 0, 100, 100]).status == "error"


def test_an_image_that_the_store_has_lost_does_not_count(tool: BaseTool, low: View) -> None:
    lost = View(MemoryImageStore().put(picture(64, 64)))
    assert url_of(call(tool, shown(lost, low))) == View(low.ref).url


def test_the_model_is_told_the_arguments_but_not_the_injected_one(store: ImageStore) -> None:
    function = convert_to_openai_tool(create_zoom_tool(image_store=store, vision=QWEN3_VL, name="look"))["function"]
    assert function["name"] == "look"
    assert set(function["parameters"]["properties"]) == {"region", "image"}
    assert function["parameters"]["properties"]["region"]["minItems"] == 4
    assert "required" not in function["parameters"]


@given(region=st.none() | st.lists(st.integers() | st.floats() | st.text(max_size=3) | st.none(), max_size=5))
def test_any_region_is_shown_or_refused(region: Any) -> None:
    store = MemoryImageStore()
    view = View(store.put(picture(300, 200)), scale=0.5)
    answer = call(create_zoom_tool(image_store=store, vision=QWEN3_VL), shown(view), region=region)
    assert answer.status in ("success", "error")
    assert answer.text


async def test_it_runs_asynchronously(tool: BaseTool, low: View) -> None:
    arguments = {"messages": shown(low)}
    answer = await tool.ainvoke({"type": "tool_call", "id": "1", "name": tool.name, "args": arguments})
    assert url_of(answer) == View(low.ref).url


def test_it_works_in_a_tool_node(tool: BaseTool, low: View) -> None:
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode([tool]))
    graph.add_edge(START, "tools")
    graph.add_edge("tools", END)
    forged = {"region": [0, 0, 500, 500], "messages": []}
    reply = AIMessage("", tool_calls=[{"name": "zoom_image", "args": forged, "id": "1"}])
    answer = graph.compile().invoke({"messages": [*shown(low), reply]})["messages"][-1]
    assert url_of(answer).endswith("region=0,0,500,500")


def test_it_works_in_create_agent(tool: BaseTool, low: View) -> None:
    model = ScriptedChat(lines=[zoom_call(), zoom_call(region=[0, 0, 10, 10]), ANSWER])
    agent: Any = create_agent(model, [tool])
    messages = agent.invoke({"messages": shown(low)})["messages"]
    granted, refused = [message for message in messages if isinstance(message, ToolMessage)]
    assert url_of(granted) == View(low.ref).url
    assert refused.status == "error"
