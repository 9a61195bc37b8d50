"""`ChatOpenAI` against a real `vllm serve`: the zoom graph runs, and what a tool shows is seen."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from tests.vllm.runs import run
from tests.vllm.server import VLLMServer
from vtagent.models.chat import ChatVLM
from vtagent.models.pixel_model import PixelModel
from vtagent.tools.zoom_image import create_zoom_tool
from vtagent.training.data import Example, rendered


@pytest.fixture
def model(server: VLLMServer) -> ChatOpenAI:
    return ChatOpenAI(
        model=str(server.folder),
        base_url=f"{server.url}/v1",
        api_key=SecretStr("none"),
        temperature=0,
        max_completion_tokens=96,
        profile={"image_tool_message": True},
    )


def small_print(count: int, seed: int) -> list[Example]:
    return [example for example in rendered(count, seed=seed) if "small" in example.source]


def test_the_graph_answers_as_with_the_local_model(model: ChatOpenAI, local: ChatVLM) -> None:
    examples = list(rendered(8, seed=13))
    ours = run(local, examples, store=local.image_store)
    theirs = run(model, examples, store=local.image_store, vision=local.vision)
    assert [state["usage"]["zooms"] for state in theirs] == [state["usage"]["zooms"] for state in ours]
    # A hosted model is sent JPEGs, so now and then one character is read differently.
    same = [state["answer"] == other["answer"] for state, other in zip(theirs, ours, strict=True)]
    assert sum(same) >= len(same) - 1


def test_the_answer_follows_the_image_in_the_tool_message(model: ChatOpenAI, local: ChatVLM) -> None:
    one, other = small_print(4, seed=19)[:2]
    states = run(model, [one, other], store=local.image_store, vision=local.vision)
    assert all(state["usage"]["zooms"] for state in states), "documents that are zoomed into are needed"
    asked: list[Any] = states[0]["messages"][:-1]
    exchanged = [shown(states[1]) if isinstance(message, ToolMessage) else message for message in asked]
    reader = PixelModel.over(model, local.image_store, local.vision).bind_tools(
        [create_zoom_tool(image_store=local.image_store, vision=local.vision)]
    )
    assert reader.invoke(asked).text == states[0]["messages"][-1].text
    assert reader.invoke(exchanged).text != states[0]["messages"][-1].text


def shown(state: Any) -> ToolMessage:
    """The tool message of a run."""
    [message] = [message for message in state["messages"] if isinstance(message, ToolMessage)]
    return message
