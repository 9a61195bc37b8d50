"""One zoom on each server of a laptop, and what is said of its peculiarities. docs/laptop.md tells the same."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from tests.image_samples import encode, scene
from tests.scripted_chat import asked
from tests.wire.laptop import Laptop, LlamaServer, LMStudio, OllamaV1
from tests.wire.server import Call, Line, Reply, Server
from vtagent.errors import ModelError
from vtagent.graphs import create_zoom_agent
from vtagent.models.openai_server import load_served
from vtagent.visual_tokens import QWEN3_VL

KINDS: tuple[type[Laptop], ...] = (LlamaServer, OllamaV1, LMStudio)
BOX: dict[str, Any] = {"bbox_2d": [0, 0, 500, 1000], "label": "total", "img_idx": 0}
ZOOM = Reply("<think>Small.</think>", (Call("image_zoom_in_tool", BOX),))
ANSWER = "<think>Now.</think><answer>48.10</answer>"
JSON = json.dumps({"name": "image_zoom_in_tool", "arguments": BOX})
every_kind = pytest.mark.parametrize("kind", KINDS)


def question(width: int = 1280, height: int = 960) -> HumanMessage:
    return asked("What is the total?", encode(scene((width, height))))


def run(server: Server, *, max_tokens: int | None = None, message: HumanMessage | None = None, **agent: Any) -> Any:
    _, model, vision = load_served(None, f"{server.url}/v1", 20.0, max_tokens=max_tokens)
    made = create_zoom_agent(model, **{"vision": vision, **agent})
    return made.invoke({"messages": [message or question()]})


@every_kind
def test_a_run_zooms_and_answers(kind: type[Laptop]) -> None:
    with Server(kind(), [ZOOM, ANSWER]) as server:
        state = run(server, max_tokens=500)
    assert (state["answer"], state["usage"]["zooms"], server.refused) == ("48.10", 1, [])
    assert [request.body["max_tokens"] for request in server.requests] == [500, 500]
    assert [image.role for image in server.requests[-1].images] == ["user", "user"]


@every_kind
@pytest.mark.parametrize(
    "form", ["{}", "```json\n{}\n```", "[TOOL_REQUEST]{}[END_TOOL_REQUEST]", "<think>So.</think> {}"]
)
def test_a_call_that_was_left_in_the_text_is_a_call(kind: type[Laptop], form: str) -> None:
    with Server(kind(), [form.replace("{}", JSON), ANSWER]) as server:
        state = run(server)
    assert (state["answer"], state["usage"]["zooms"], state["usage"]["mistakes"]) == ("48.10", 1, 0)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Anna", "arguments": {}}',
        f"I would write {JSON}",
        '{"total": "48.10"}',
    ],
)
def test_json_that_calls_no_tool_is_an_answer(text: str) -> None:
    with Server(OllamaV1(), [text]) as server:
        state = run(server)
    assert (state["answer"], state["usage"]["zooms"]) == (text, 0)


@every_kind
def test_a_model_that_calls_although_it_must_answer_is_not_run_again(kind: type[Laptop]) -> None:
    with Server(kind(), [ZOOM, ZOOM]) as server:
        state = run(server)
    assert (state["answer"], state["stop"], len(server.requests)) == (None, "max_zooms", 2)


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (LlamaServer(tools=False), "requires --jinja flag (start llama-server with --jinja)"),
        (
            OllamaV1(tools=False),
            "does not support tools (take a model that can call tools, or ask without zooming: --max-",
        ),
        (LlamaServer(context=300), "try increasing it (start the server with a larger context: docs/laptop.md)"),
        (LMStudio(context=300), "(load the model with a larger context: docs/laptop.md)"),
    ],
)
def test_a_refusal_says_in_one_line_what_helps(server: Laptop, said: str) -> None:
    with Server(server, [ANSWER] * 3) as running, pytest.raises(ModelError) as caught:
        run(running)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_without_tools_answers_where_it_may_not_zoom() -> None:
    with Server(OllamaV1(tools=False), [ANSWER]) as server:
        _, model, vision = load_served(None, f"{server.url}/v1", 20.0)
        agent = create_zoom_agent(model, vision=vision)
        assert agent.invoke({"messages": [question()]}, context={"max_zooms": 0})["answer"] == "48.10"


def test_a_floor_of_1024_tokens_is_told_as_the_smallest_image() -> None:
    """Small views are enlarged by the server, so they would cost more than is counted."""
    floor = replace(QWEN3_VL, min_pixels=1024 * 32**2)
    script: list[Line] = [ZOOM, ANSWER]
    with Server(LlamaServer(context=9000, image_floor=1024), script) as server:
        state = run(server, message=question(2560, 1920), vision=floor)
    shown = [image.size for image in server.requests[-1].images]
    assert [view["tokens"] for view in state["views"]] == [width * height // 32**2 for width, height in shown]
    assert min(view["tokens"] for view in state["views"]) >= 1024


def test_the_only_model_that_chats_is_taken_whatever_is_listed_first() -> None:
    with Server(LMStudio(["text-embedding-nomic-embed-text-v1.5", "qwen/qwen3-vl-4b"]), [ANSWER]) as server:
        name, _, vision = load_served(None, f"{server.url}/v1", 20.0)
    assert (name, vision) == ("qwen/qwen3-vl-4b", QWEN3_VL)


def test_of_several_models_one_has_to_be_named() -> None:
    with Server(OllamaV1(["nomic-embed-text", "qwen3-vl:8b", "llava:7b"]), [ANSWER]) as server:
        with pytest.raises(ModelError, match=r"serves several models; name one with --model: qwen3-vl:8b, llava:7b$"):
            load_served(None, f"{server.url}/v1", 20.0)
        assert load_served("llava:7b", f"{server.url}/v1", 20.0)[0] == "llava:7b"


def test_a_server_with_embedding_models_alone_is_told() -> None:
    with (
        Server(OllamaV1(["nomic-embed-text"]), [ANSWER]) as server,
        pytest.raises(ModelError, match="lists no model that chats"),
    ):
        load_served(None, f"{server.url}/v1", 20.0)
