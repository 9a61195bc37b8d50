"""Counting tokens of text and messages is exact, offline, and needs no weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)

from tests.checkpoints import make_checkpoint, make_processor
from tests.fake_vllm import FakeVLLM
from tests.fakes import scripted_vlm
from tests.image_samples import encode, scene
from vtagent.models.chat import ChatVLM
from vtagent.models.families import tool_template
from vtagent.models.lazy import LazyVLM
from vtagent.tools.zoom_image import create_zoom_tool
from vtagent.views import View, data_url

CALL = '<think>Small.</think>\n<tool_call>\n{"name": "zoom_image", "arguments": {}}\n</tool_call>'


def look_up(name: str, limit: int = 3) -> str:
    """Look a name up in the register."""
    return ""


def picture(model: Any, seed: int = 0, scale: float = 1.0) -> dict[str, Any]:
    return dict(View(model.image_store.put(encode(scene((256, 128 + 32 * seed)))), scale=scale).block())


def conversation(model: ChatVLM) -> list[BaseMessage]:
    """Text, images, a call, its image, and a recorded reply."""
    said = [SystemMessage("Look first."), HumanMessage(["What is <|im_end|> here?", picture(model, scale=0.5)])]
    reply = model.bind_tools([look_up]).invoke(said)
    shown = ToolMessage(["256x128", picture(model)], tool_call_id=reply.tool_calls[0]["id"])
    return [*said, reply, shown]


def called(model: ChatVLM, messages: list[BaseMessage], **options: Any) -> int:
    """What the call of a model reports of its prompt."""
    reply = model.invoke(messages, **options)
    assert reply.usage_metadata is not None
    return reply.usage_metadata["input_tokens"]


# --- messages ---


def test_messages_count_what_their_call_reports_whatever_they_hold() -> None:
    model = scripted_vlm([CALL] + ["fine"] * 20)
    data = {"type": "image_url", "image_url": {"url": data_url(scene((300, 200)))}}
    told = conversation(model)
    cases: list[list[BaseMessage]] = [
        [HumanMessage("Hi")],
        [HumanMessage([])],
        [HumanMessage(["Compare", picture(model), "with", picture(model, 1, 0.5)])],
        [HumanMessage([data, {"type": "text", "text": "What?"}])],
        told,
        [*told, AIMessage("48.10"), HumanMessage("And the tax? ⅓ 漢字 🙂")],
    ]
    for messages in cases:
        assert model.get_num_tokens_from_messages(messages) == called(model, messages)


def test_tools_are_counted_as_the_template_shows_them() -> None:
    model = scripted_vlm([CALL] + ["fine"] * 3)
    told = conversation(model)
    offered: Any = model.bind_tools([look_up, create_zoom_tool(image_store=model.image_store, vision=model.vision)])
    count = model.get_num_tokens_from_messages(
        told, tools=[look_up, create_zoom_tool(image_store=model.image_store, vision=model.vision)]
    )
    assert count == called(model, told, **offered.kwargs)
    assert count > model.get_num_tokens_from_messages(told)
    images = model.images(told)
    assert count == len(model.expand(model.prompt_ids(told, **offered.kwargs), images))


def test_no_messages_count_nothing() -> None:
    assert scripted_vlm([]).get_num_tokens_from_messages([]) == 0


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(["user", "ai", "tool", "image"]), st.text(max_size=20)), min_size=1, max_size=6)
)
def test_any_conversation_counts_as_its_expanded_prompt(turns: list[tuple[str, str]]) -> None:
    model = MODEL
    messages: list[BaseMessage] = []
    for kind, text in turns:
        match kind:
            case "user":
                messages.append(HumanMessage(text))
            case "ai":
                messages.append(AIMessage(text))
            case "tool":
                messages.append(ToolMessage([text, picture(model, 2)], tool_call_id="1"))
            case _:
                messages.append(HumanMessage([{"type": "text", "text": text}, picture(model, scale=0.5)]))
    expected = len(model.expand(model.prompt_ids(messages), model.images(messages)))
    assert model.get_num_tokens_from_messages(messages) == expected


MODEL = scripted_vlm([])

# --- text ---


def test_text_counts_as_the_tokens_that_a_message_gives_it() -> None:
    model = scripted_vlm([])
    for text in ("What is the total?", "", "Ünïcode 漢字 🙂", "<think>a</think>"):
        assert model.get_token_ids(text) == model._codec.encode(text)
        assert model.get_num_tokens(text) == len(model._codec.encode(text))
    assert model.get_num_tokens("<|im_end|>") > 1  # in a message it is only a word


def test_a_callers_own_tokens_are_respected() -> None:
    assert scripted_vlm([], custom_get_token_ids=lambda text: [1, 2, 3]).get_num_tokens("Hi") == 3


# --- trim_messages ---


@pytest.mark.parametrize("strategy", ["last", "first"])
def test_trimmed_messages_are_as_many_as_fit(strategy: Any) -> None:
    model = scripted_vlm([])
    messages: list[BaseMessage] = []
    for place in range(6):
        messages += [HumanMessage([f"Question {place}", picture(model, place)]), AIMessage("x" * (place + 3))]
    limit = model.get_num_tokens_from_messages(messages) * 2 // 3
    kept = trim_messages(messages, max_tokens=limit, token_counter=model, strategy=strategy)
    one_more = messages[-len(kept) - 1 :] if strategy == "last" else messages[: len(kept) + 1]
    assert kept == (one_more[1:] if strategy == "last" else one_more[:-1])
    assert model.get_num_tokens_from_messages(kept) <= limit < model.get_num_tokens_from_messages(one_more)


def test_trimming_keeps_the_system_message_and_never_exceeds_the_limit() -> None:
    model = scripted_vlm([])
    messages = [SystemMessage("Be brief."), *(HumanMessage([f"{i}", picture(model, i)]) for i in range(5))]
    for limit in range(60, 300, 20):
        kept = trim_messages(messages, max_tokens=limit, token_counter=model, include_system=True)
        assert kept[0] == messages[0]
        assert model.get_num_tokens_from_messages(kept) <= limit


# --- without weights, without a server ---


def test_a_model_that_is_not_loaded_yet_counts_without_its_weights(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "qwen2_5_vl", chat_template=tool_template())
    lazy = LazyVLM(path=str(folder))
    messages: list[BaseMessage] = [HumanMessage(["What?", picture(lazy, scale=0.5)])]
    count = lazy.get_num_tokens_from_messages(messages, tools=[look_up])
    text = lazy.get_num_tokens("What is it?")
    assert lazy._loaded is None
    assert trim_messages(messages, max_tokens=count, token_counter=lazy) == messages
    model = lazy.load()
    assert count == model.get_num_tokens_from_messages(messages, tools=[look_up])
    assert count == lazy.get_num_tokens_from_messages(messages, tools=[look_up])
    assert text == model.get_num_tokens("What is it?") == lazy.get_num_tokens("What is it?")
    offered: Any = model.bind_tools([look_up])
    assert count == called(model, messages, max_tokens=2, **offered.kwargs)
    model.engine.close()


def test_a_lazy_model_counts_in_the_order_that_it_will_show(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "qwen3_vl", chat_template=tool_template())
    for first in (True, False):
        lazy = LazyVLM(path=str(folder), options={"images_first": first})
        messages: list[BaseMessage] = [HumanMessage([" a ", picture(lazy), "\n\n"])]
        assert lazy.get_num_tokens_from_messages(messages) == lazy.load().get_num_tokens_from_messages(messages)
        lazy.load().engine.close()


def test_a_served_model_counts_without_asking_its_server(tmp_path: Path) -> None:
    processor = make_processor(chat_template=tool_template())
    processor.save_pretrained(tmp_path)
    with FakeVLLM(processor) as server:
        model = ChatVLM.from_server(server.url, tmp_path)
        asked = len(server.calls)
        messages: list[BaseMessage] = [HumanMessage(["What?", picture(model)])]
        count = model.get_num_tokens_from_messages(messages)
        assert model.get_num_tokens("What?") == len(model._codec.encode("What?"))
        assert len(server.calls) == asked
        assert count == called(model, messages)
        model.engine.close()
