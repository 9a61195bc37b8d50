"""What a model sees follows from its eyes, in graph and middleware alike, and what the caller knows counts more."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.utils.function_calling import convert_to_openai_tool

from tests.scripted_chat import ANSWER, ScriptedChat, asked, picture, zoom_call
from tests.test_model_call import pictures
from vtagent.eyes import UnknownModelWarning, eyes_of, eyes_on, lookup
from vtagent.eyes.rules import ClaudePatches, Gemini3Grid
from vtagent.graphs import ZoomContext, create_zoom_agent
from vtagent.graphs.middleware import ZoomMiddleware
from vtagent.graphs.node import Parts
from vtagent.images import MemoryImageStore
from vtagent.models.lazy import LazyVLM
from vtagent.models.pixel_model import Pixels
from vtagent.prompts import PromptTemplate
from vtagent.visual_tokens import QWEN2_5_VL, QWEN3_VL, VisionSpec

KINDS = ["graph", "middleware"]


class SomebodysChat(ScriptedChat):
    """A chat model that no table knows; it takes pixels."""

    resolves_images: bool = False
    model: str = ""


def run(kind: str, model: Any, context: Any = None, **given: Any) -> tuple[list[Any], dict[str, Any]]:
    """Ask about a picture. Gives the views and the usage."""
    asking = {"messages": [asked("?", picture(1280, 960))]}
    if kind == "graph":
        state = create_zoom_agent(model, **given).invoke(asking, context=context)
        return state["views"], dict(state["usage"])
    agent: Any = create_agent(model, middleware=[ZoomMiddleware(**given)])
    looking = agent.invoke(asking, context=context)["zoom"]
    return looking["views"], dict(looking["usage"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({}, (640, 480)),
        ({"vision": QWEN2_5_VL}, (644, 476)),
        ({"eyes": QWEN2_5_VL}, (644, 476)),
        ({"eyes": "qwen2.5vl:7b"}, (644, 476)),
        ({"eyes": {"vision": ClaudePatches(280, 100)}}, (140, 105)),
        ({"eyes": eyes_of("gpt-4o")}, (512, 384)),
    ],
)
def test_what_the_caller_knows_better_counts(kind: str, given: dict[str, Any], size: tuple[int, int]) -> None:
    model = SomebodysChat(lines=[ANSWER])
    [view], usage = run(kind, model, **given)
    assert (view["width"], view["height"]) == size
    assert pictures(model.seen[0]) == [("human", size)]
    assert usage["visual_tokens"] == view["tokens"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_of_a_model_alike_brings_its_way_of_pointing_too(kind: str) -> None:
    model = SomebodysChat(lines=[zoom_call(region=[0, 0, 480, 640]), ANSWER])
    views, _ = run(kind, model, eyes="gemini-2.5-flash")
    assert views[1]["region"] == [0, 0, 640, 480]


@pytest.mark.parametrize("make", [create_zoom_agent, ZoomMiddleware])
def test_eyes_that_make_no_sense_are_refused_at_once(make: Any) -> None:
    with pytest.raises(ValueError, match="give vision= or eyes=, and not both"):
        make(vision=QWEN3_VL, eyes="gpt-4o")
    with pytest.raises(ValueError, match="not the name of a known model"):
        make(eyes="nobody-knows")
    with pytest.raises(ValueError, match="fields of Eyes"):
        make(eyes={"eyesight": 1})


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_model_is_told_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_told", set())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            run(kind, SomebodysChat(lines=[ANSWER], model="nobody-knows"))
        run(kind, SomebodysChat(lines=[ANSWER], model="nobody-knows-either"), eyes="gpt-4o")
        run(kind, ScriptedChat(lines=[ANSWER]))  # renders references itself: we send it no pixels
    [warning] = [each for each in told if each.category is UnknownModelWarning]
    assert "SomebodysChat('nobody-knows')" in str(warning.message)


@pytest.mark.parametrize("kind", KINDS)
def test_every_run_counts_with_the_eyes_of_its_own_model(kind: str) -> None:
    def seen(context: ZoomContext | None) -> tuple[int, int]:
        [view], _ = run(kind, SomebodysChat(lines=[ANSWER], model="gpt-4o"), context)
        return view["width"], view["height"]

    assert seen(None) == (512, 384)
    assert seen(ZoomContext(SomebodysChat(lines=[ANSWER], model="qwen2.5vl:7b"))) == (644, 476)


def parts(model: Any = None, **given: Any) -> Parts:
    return Parts.of(
        model,
        defaults=None,
        store=None,
        vision=None,
        tool_name=None,
        prompt=None,
        fetch=None,
        **given,
    )


def test_what_is_known_of_a_model_is_looked_up_once() -> None:
    model = SomebodysChat(lines=[ANSWER], model="gpt-4o")
    made = parts(model)
    assert made.eyes(model) is made.eyes() is made.eyes(model)
    assert made.zoom_tool_for(made.eyes()) is made.zoom_tool


def test_one_renderer_serves_the_models_that_see_alike() -> None:
    pixels = Pixels(MemoryImageStore())
    assert pixels._renderer(ClaudePatches(1568, 1568)) is pixels._renderer(ClaudePatches(1568, 1568))
    assert pixels._renderer(ClaudePatches(1568, 1568)) is not pixels._renderer(Gemini3Grid())


@pytest.mark.parametrize("name", ["gpt-4o", "claude-opus-4-7", "gemini-3-pro-preview", "qwen3-vl:8b", "nobody-knows"])
def test_eyes_are_found_again_by_api_and_name(name: str) -> None:
    eyes = eyes_of(name, warn=False)
    assert eyes_on(eyes.wire, eyes.model) == eyes
    assert eyes_on("some other API", name).tool_images == "user message"


@pytest.mark.parametrize(
    ("path", "boxes"),
    [
        ("zoom", "thousandths"),
        ("Qwen/Qwen3-VL-2B-Instruct", "thousandths"),
        ("Qwen/Qwen2.5-VL-3B-Instruct", "pixels as shown"),
        ("runs/gpt-4o-distilled", "thousandths"),
    ],
)
def test_a_local_checkpoint_is_known_by_its_grid_and_keeps_our_tool(path: str, boxes: str) -> None:
    eyes = eyes_of(LazyVLM(path=path))
    assert (eyes.known, eyes.boxes, eyes.zoom_dialect) == (True, boxes, "zoom_image")
    renamed = LazyVLM(path="runs/step-200", vision=VisionSpec(14, 2, 784, 784 * 400))
    assert eyes_of(renamed).boxes == "pixels as shown"


def test_the_bundled_policies_tool_is_what_it_was() -> None:
    function = convert_to_openai_tool(parts(LazyVLM(path="zoom")).zoom_tool)["function"]
    region = function["parameters"]["properties"]["region"]
    assert function["name"] == "zoom_image"
    assert region["items"] == {"type": "integer", "minimum": 0, "maximum": 1000}
    assert region["description"].startswith("The part to look at, [x1, y1, x2, y2]: left, top, right, bottom, from 0")


def test_a_prompt_of_ones_own_need_not_know_of_boxes() -> None:
    def plain(*, tool_name: str, scale: float, max_zooms: int) -> str:
        return f"Use {tool_name}."

    def knowing(*, tool_name: str, scale: float, max_zooms: int, boxes: str = "") -> str:
        return f"Boxes: {boxes}."

    prompts: list[tuple[PromptTemplate, str]] = [(plain, "Use zoom_image."), (knowing, "Boxes: pixels as shown.")]
    for prompt, says in prompts:
        model = SomebodysChat(lines=[ANSWER], model="claude-opus-4-7")
        create_zoom_agent(model, system_prompt=prompt).invoke({"messages": [HumanMessage("?")]})
        assert model.seen[0][0].text == says


def test_more_images_than_a_provider_takes_large_are_counted_and_sent_smaller() -> None:
    eyes = eyes_of("anthropic:claude-opus-4-7")
    many = replace(eyes, limits=replace(eyes.limits, many_images=1, many_images_side=560))
    model = SomebodysChat(lines=[ANSWER])
    question = asked("?", picture(1280, 960), picture(1000, 1000))
    context = ZoomContext(scale=1.0)
    state = create_zoom_agent(model, eyes=many).invoke({"messages": [question]}, context=context)
    sizes = [(view["width"], view["height"]) for view in state["views"]]
    assert max(max(size) for size in sizes) <= 560
    shown = model.seen[0][1].content_blocks
    assert len([block for block in shown if block["type"] == "image"]) == len(sizes) == 2
    assert state["usage"]["visual_tokens"] == sum(many.vision.tokens(*size) for size in sizes)
