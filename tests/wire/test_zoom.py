"""One zoom on each wire format, through the graph and through the middleware: sync, async, streamed.

The model writes its box in its own convention. Whatever the API, the zoom shows the left half of the image, and the
usage counts what the provider bills.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest, wrap_model_call
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver

from tests.image_samples import encode, scene
from tests.scripted_chat import asked
from tests.wire.models import KEY, LLAMA_CPP, PROVIDERS, QUIET
from tests.wire.server import Call, Line, Reply, Request, Server
from vtagent.eyes import eyes_of
from vtagent.graphs import ZoomContext, create_zoom_agent
from vtagent.graphs.middleware import ZoomMiddleware
from vtagent.images import MemoryImageStore
from vtagent.regions import Region
from vtagent.visual_tokens import QWEN2_5_VL, QWEN3_VL

pytestmark = QUIET

SIZE = (1280, 960)
PAGE = encode(scene(SIZE))
LEFT_HALF = Region(0, 0, 500, 1000)


@dataclass(frozen=True)
class Expected:
    """What is known of the first two calls of a model that zooms into the left half of the page.

    Attributes:
        low: Size in pixels of the low view.
        high: Size in pixels of the zoom.
        box: The left half, as the model writes it on the low view.
        settings: The low setting of the two images.
        whole: Tokens billed for the whole page.
        tool_role: Whose message shows a tool's image.
    """

    low: tuple[int, int]
    high: tuple[int, int]
    box: list[int]
    settings: list[str | None] = field(default_factory=lambda: [None, None])
    whole: int = 0
    tool_role: str = "user"


EXPECTED = {
    "openai_chat": Expected((512, 384), (640, 960), [0, 0, 500, 1000], ["low", None], 765),
    "openai_responses": Expected((512, 384), (640, 960), [0, 0, 500, 1000], ["low", None], 630, "tool"),
    "anthropic": Expected((640, 480), (640, 960), [0, 0, 320, 480], whole=46 * 35, tool_role="tool"),
    "gemini": Expected((640, 480), (640, 960), [0, 0, 1000, 500], ["LOW", None], 1064),
    "ollama": Expected((644, 476), (644, 952), [0, 0, 322, 476], whole=46 * 34),
}
AGENTS: dict[str, Callable[..., Any]] = {
    "graph": create_zoom_agent,
    "middleware": lambda model, tools=(), **more: create_agent(
        model, tools, middleware=[ZoomMiddleware(model, **more)]
    ),
}


def zooming(box: list[int]) -> list[Line]:
    return [Reply("<think>Too small.</think>", (Call("zoom_image", {"region": box}),)), "<answer>48.10</answer>"]


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
    with Server(PROVIDERS[name].format(), zooming(EXPECTED[name].box)) as server:
        yield server


def views_and_usage(state: Any) -> tuple[list[Any], Any]:
    """What the run has looked at, of the graph's or of the agent's state."""
    looking = state.get("zoom", state)
    return looking["views"], looking["usage"]


def check_bill(state: Any, request: Request, name: str) -> None:
    """The usage is what the images of the last request were billed."""
    tokens, counted = sum(image.tokens for image in request.images), views_and_usage(state)[1]["visual_tokens"]
    if name == "gemini":  # the stand-in bills the setting's budget; a grid of the image's shape rarely fills it
        assert 0.9 * tokens <= counted <= tokens
    else:
        assert counted == tokens


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("kind", list(AGENTS))
def test_a_zoom_is_shown_and_the_question_answered(kind: str, way: str, name: str, server: Server) -> None:
    agent, expected = AGENTS[kind](PROVIDERS[name].chat(server)), EXPECTED[name]
    state = WAYS[way](agent, {"messages": [asked("What is the Total?", PAGE)]})
    assert not server.refused
    assert "48.10" in state["messages"][-1].text
    first, second = server.requests
    assert [image.size for image in first.images] == [expected.low]
    assert [image.size for image in second.images] == [expected.low, expected.high]
    assert [image.setting for image in second.images] == expected.settings
    assert [image.role for image in second.images] == ["user", expected.tool_role]
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
    views, usage = views_and_usage(state)
    check_bill(state, second, name)
    assert usage["full_visual_tokens"] == expected.whole
    assert views[0]["tokens"] <= 0.3 * expected.whole
    zoomed = state["messages"][2].artifact["view"]
    assert zoomed.endswith(f"?region={LEFT_HALF}")


LARGE = encode(scene((3840, 2880)), "JPEG")
SMALL: dict[str, Any] = {"ollama": replace(QWEN2_5_VL, max_pixels=10**6)}
"""Where the left half of the large page would be shown as it is, the model is given a lower limit."""


@pytest.mark.parametrize("kind", list(AGENTS))
def test_a_zoom_into_a_zoom_lands_where_the_model_meant(kind: str, name: str) -> None:
    seen = SMALL.get(name) or eyes_of(PROVIDERS[name].name).vision
    low, (across, down) = seen.low(3840, 2880, 0.5), seen.fit(1920, 2880)
    # The left half; then its right upper quarter: in its own pixels where boxes are those, else in the whole image's.
    pixels = [0, 0, low[0] // 2, low[1]], [across // 2, 0, across, down // 2]
    boxes = {
        "anthropic": pixels,
        "ollama": pixels,
        "gemini": ([0, 0, 1000, 500], [0, 250, 500, 500]),
    }.get(name, ([0, 0, 500, 1000], [250, 0, 500, 500]))
    lines = [zooming(boxes[0])[0], *zooming(boxes[1])]
    with Server(PROVIDERS[name].format(), lines) as server:
        agent = AGENTS[kind](PROVIDERS[name].chat(server), vision=SMALL.get(name), defaults=ZoomContext(max_zooms=2))
        state = agent.invoke({"messages": [asked("What is the Total?", LARGE)]})
        assert not server.refused
    zooms = [message.artifact["view"] for message in state["messages"] if isinstance(message, ToolMessage)]
    first, second = (Region(*map(int, zoom.partition("region=")[2].split(","))) for zoom in zooms)
    for found, meant in ((first, LEFT_HALF), (second, Region(250, 0, 500, 500))):
        assert all(
            abs(f - m) <= 1 for f, m in zip(found, meant, strict=True)
        )  # a side may have an odd number of pixels
    check_bill(state, server.requests[-1], name)


@tool
def screenshot() -> list[dict[str, Any]]:
    """Show the screen."""
    return [dict(block) for block in asked("", PAGE).content if isinstance(block, dict) and block["type"] == "image"]


@pytest.mark.parametrize("kind", list(AGENTS))
def test_the_image_of_another_tool_is_shown_low_first_and_can_be_zoomed(kind: str, name: str) -> None:
    expected = EXPECTED[name]
    lines = [Reply("<think>Look.</think>", (Call("screenshot"),)), *zooming(expected.box)]
    with Server(PROVIDERS[name].format(), lines) as server:
        agent = AGENTS[kind](PROVIDERS[name].chat(server), tools=[screenshot])
        state = agent.invoke({"messages": [HumanMessage("What is the Total on the screen?")]})
        assert not server.refused
    _, seen, zoomed = server.requests
    assert [(image.size, image.setting) for image in seen.images] == [(expected.low, expected.settings[0])]
    assert [image.size for image in zoomed.images] == [expected.low, expected.high]
    assert state["messages"][4].artifact["view"].endswith(f"?region={LEFT_HALF}")
    check_bill(state, zoomed, name)
    if name in ("anthropic", "ollama"):
        assert f"Image 1, shown at {expected.low[0]} × {expected.low[1]}." in json.dumps(seen.body, ensure_ascii=False)


@pytest.mark.parametrize("kind", list(AGENTS))
@pytest.mark.parametrize(
    ("detail", "size", "setting"),
    [("high", (1024, 768), "high"), ("original", (1024, 768), "original"), ("auto", (512, 384), "low")],
)
@pytest.mark.parametrize("name", ["openai_chat", "openai_responses"])
def test_a_callers_own_detail_is_respected(
    kind: str, detail: str, size: tuple[int, int], setting: str, name: str
) -> None:
    question = asked("What is the Total?", PAGE)
    image: Any = question.content[0]
    url = f"data:image/png;base64,{image['base64']}"
    own = HumanMessage([{"type": "image_url", "image_url": {"url": url, "detail": detail}}, question.content[1]])
    with Server(PROVIDERS[name].format(), ["<answer>48.10</answer>"]) as server:
        state = AGENTS[kind](PROVIDERS[name].chat(server)).invoke({"messages": [own]})
        assert not server.refused
    [request] = server.requests
    assert [(image.size, image.setting) for image in request.images] == [(size, setting)]
    check_bill(state, request, name)


def test_a_callers_detail_low_holds_at_full_scale_too() -> None:
    question = asked("What is the Total?", PAGE)
    image: Any = {**dict(question.content[0]), "extras": {"detail": "low"}}  # type: ignore[arg-type]
    with Server(PROVIDERS["openai_chat"].format(), ["<answer>48.10</answer>"]) as server:
        agent = create_zoom_agent(PROVIDERS["openai_chat"].chat(server), defaults=ZoomContext(scale=1.0))
        agent.invoke({"messages": [HumanMessage([image, question.content[1]])]})
    assert [(shown.setting, shown.tokens) for shown in server.requests[0].images] == [("low", 85)]


def tools_of(request: Request) -> str:
    return json.dumps(request.body["tools"], ensure_ascii=False)


@pytest.mark.parametrize("kind", list(AGENTS))
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("openai_chat", "[x1, y1, x2, y2]: left, top, right, bottom, from 0 to 1000"),
        ("gemini", "[y1, x1, y2, x2]: top, left, bottom, right, from 0 to 1000"),
        ("anthropic", "in pixels of the image as you were shown it last. Image 1 was first shown at 640 × 480."),
        ("ollama", "in pixels of the image as you were shown it last. Image 1 was first shown at 644 × 476."),
    ],
)
def test_the_tools_schema_and_the_prompt_speak_the_models_convention(kind: str, says: str, name: str) -> None:
    with Server(PROVIDERS[name].format(), zooming(EXPECTED[name].box)) as server:
        AGENTS[kind](PROVIDERS[name].chat(server)).invoke({"messages": [asked("?", PAGE)]})
    first, second = server.requests
    assert says in tools_of(first)
    assert tools_of(second) == tools_of(first)  # a prompt that the provider has cached stays what it was
    prompt = json.dumps(first.body, ensure_ascii=False).replace(tools_of(first), "")
    order = "region [y1, x1, y2, x2]" if name == "gemini" else "region [x1, y1, x2, y2]"
    assert f"With {order}, in{' pixels' if 'pixels' in says else 'tegers from 0'}" in prompt


@pytest.mark.parametrize("kind", list(AGENTS))
def test_qwen3_vl_is_offered_the_tool_that_it_is_trained_on(kind: str) -> None:
    def call(box: list[int], index: int) -> Reply:
        arguments = {"bbox_2d": box, "label": "the Total", "img_idx": index}
        return Reply("<think>Too small.</think>", (Call("image_zoom_in_tool", arguments),))

    lines: list[Line] = [call([0, 0, 500, 1000], 0), call([500, 0, 1000, 500], 1), "<answer>48.10</answer>"]
    with Server(LLAMA_CPP.format(), lines) as server:
        model = LLAMA_CPP.chat(server)
        vision = replace(QWEN3_VL, max_pixels=10**6)
        agent = AGENTS[kind](model, vision=vision, defaults=ZoomContext(max_zooms=2))
        state = agent.invoke({"messages": [asked("What is the Total?", LARGE)]})
        assert not server.refused
    zooms = [message.artifact["view"] for message in state["messages"] if isinstance(message, ToolMessage)]
    assert [zoom.partition("region=")[2] for zoom in zooms] == ["0,0,500,1000", "250,0,500,500"]
    assert "bbox_2d [x1, y1, x2, y2]" in json.dumps(server.requests[0].body)
    for name in ("image_zoom_in_tool", "bbox_2d", "label", "img_idx"):
        assert name in tools_of(server.requests[0])


@pytest.mark.parametrize("kind", list(AGENTS))
@pytest.mark.parametrize("other", ["anthropic", "gemini"])
def test_a_runs_own_model_sees_with_its_own_eyes(kind: str, other: str) -> None:
    with Server(PROVIDERS[other].format(), zooming(EXPECTED[other].box)) as server:
        agent = AGENTS[kind](PROVIDERS["openai_chat"].chat(server))
        context = ZoomContext(PROVIDERS[other].chat(server))
        state = agent.invoke({"messages": [asked("What is the Total?", PAGE)]}, context=context)
        assert not server.refused
    second = server.requests[1]
    assert [image.size for image in second.images] == [EXPECTED[other].low, EXPECTED[other].high]
    assert state["messages"][2].artifact["view"].endswith(f"?region={LEFT_HALF}")
    check_bill(state, second, other)


def test_a_model_that_other_middleware_chooses_sees_with_its_own_eyes() -> None:
    with Server(PROVIDERS["anthropic"].format(), zooming(EXPECTED["anthropic"].box)) as server:
        chosen = PROVIDERS["anthropic"].chat(server)

        @wrap_model_call
        def choose(request: ModelRequest[Any], handler: Callable[..., Any]) -> Any:
            return handler(request.override(model=chosen))

        store, saver = MemoryImageStore(), InMemorySaver()

        def made() -> Any:
            middleware: list[Any] = [choose, ZoomMiddleware(image_store=store)]
            return create_agent(PROVIDERS["openai_chat"].chat(server), middleware=middleware, checkpointer=saver)

        config: Any = {"configurable": {"thread_id": "1"}}
        asking = {"messages": [asked("What is the Total?", PAGE)]}
        made().invoke(asking, config, interrupt_before=["tools"])
        state = made().invoke(None, config)  # as another process would: the state says how the model sees
    assert state["messages"][2].artifact["view"].endswith(f"?region={LEFT_HALF}")
    check_bill(state, server.requests[1], "anthropic")


def test_a_servers_owner_may_say_that_it_shows_images_of_tools() -> None:
    with Server(LLAMA_CPP.format(), ["x"]) as server:
        url = f"{server.url}/v1"
        profile: Any = {"image_tool_message": True}
        plain = ChatOpenAI(model="gpt-4o", base_url=url, api_key=KEY)
        told = ChatOpenAI(model="qwen3-vl", base_url=url, api_key=KEY, profile=profile)
        hosted = ChatOpenAI(model="gpt-4o", api_key=KEY, profile=profile)
    assert [eyes_of(model).tool_images for model in (plain, told, hosted)] == [
        "user message",
        "tool message",
        "user message",
    ]
