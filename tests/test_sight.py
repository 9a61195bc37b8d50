"""Older views give way to notes, by `keep_images` and before a provider's limit is exceeded; the state keeps them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver

from tests.image_samples import encode, scene
from tests.scripted_chat import ANSWER, ScriptedChat, asked, picture, put, zoom_call
from tests.test_model_call import pictures as sizes
from tests.wire.models import PROVIDERS, QUIET
from tests.wire.server import Server
from vtagent.conversation import image_blocks, name_of
from vtagent.eyes import Limits
from vtagent.graphs import ZoomContext, create_zoom_agent
from vtagent.graphs.middleware import ZoomMiddleware
from vtagent.graphs.node import Parts
from vtagent.graphs.sight import Room, Sight, as_the_tool_sees
from vtagent.images import MemoryImageStore
from vtagent.views import View

pytestmark = QUIET


def agent(kind: str, model: Any, *, saver: Any = None, **options: Any) -> Any:
    if kind == "graph":
        return create_zoom_agent(model, checkpointer=saver, **options)
    return create_agent(model, middleware=[ZoomMiddleware(**options)], checkpointer=saver, context_schema=ZoomContext)


def usage_of(state: Any) -> Any:
    return state["usage"] if "usage" in state else state["zoom"]["usage"]


def views_of(state: Any) -> Any:
    return state["views"] if "views" in state else state["zoom"]["views"]


KINDS = pytest.mark.parametrize("kind", ["graph", "middleware"])
PICTURES = [picture(320 + 32 * n, 320) for n in range(4)]


@KINDS
@pytest.mark.parametrize("how", ["argument", "setting"])
def test_older_images_give_way_to_a_note_in_the_call_and_stay_in_the_state(kind: str, how: str) -> None:
    model = ScriptedChat(lines=[ANSWER], resolves_images=False)
    given: Any = {"keep_images": 2} if how == "argument" else {"defaults": ZoomContext(keep_images=2)}
    built = agent(kind, model, **given)
    state = built.invoke({"messages": [asked("Compare.", *PICTURES)]})
    assert [size for _, size in sizes(model.seen[0])] == [(288, 256), (320, 256)]
    note = "[Image 1 stood here and is no longer shown. zoom_image with image=1 shows it again.]"
    assert note in model.seen[0][1].text
    assert len(list(image_blocks(state["messages"]))) == 4
    assert len(views_of(state)) == 2
    assert usage_of(state)["visual_tokens"] == sum(view["tokens"] for view in views_of(state))


@KINDS
def test_a_runs_setting_counts_more_than_the_argument(kind: str) -> None:
    model = ScriptedChat(lines=[ANSWER], resolves_images=False)
    built = agent(kind, model, keep_images=1)
    built.invoke({"messages": [asked("Compare.", *PICTURES)]})
    built.invoke({"messages": [asked("Compare.", *PICTURES)]}, context=ZoomContext(keep_images=3))
    assert [len(sizes(seen)) for seen in model.seen] == [1, 3]


@KINDS
def test_an_image_out_of_sight_can_be_asked_for_again_and_is_then_the_newest(kind: str) -> None:
    model = ScriptedChat(lines=[zoom_call(image=1), ANSWER], resolves_images=False)
    state = agent(kind, model, keep_images=1).invoke(
        {"messages": [asked("Compare.", picture(640, 480), picture(800, 480))]}
    )
    assert usage_of(state)["zooms"] == 1
    assert [size for _, size in sizes(model.seen[1])] == [(320, 256), (640, 480)]
    text = "".join(message.text for message in model.seen[1])
    assert "[Image 2 stood here and is no longer shown.]" in text or kind == "graph"


@KINDS
def test_even_what_was_zoomed_into_before_it_went_out_of_sight(kind: str) -> None:
    model = ScriptedChat(lines=[zoom_call(), ANSWER, zoom_call(image=1), ANSWER], resolves_images=False)
    built = agent(kind, model, keep_images=1, saver=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    built.invoke({"messages": [asked("?", picture(640, 480))]}, config)
    state = built.invoke({"messages": [asked("And this?", picture(800, 480))]}, config)
    assert usage_of(state)["zooms"] == 1


@KINDS
def test_what_is_in_sight_cannot_be_asked_for_again(kind: str) -> None:
    model = ScriptedChat(lines=[zoom_call(), zoom_call(), ANSWER], resolves_images=False)
    state = agent(kind, model, defaults=ZoomContext(max_zooms=3), keep_images=1).invoke(
        {"messages": [asked("?", picture(640, 480))]}
    )
    assert usage_of(state)["zooms"] == 1
    assert "already been shown" in [m.text for m in state["messages"] if isinstance(m, ToolMessage)][1]


def test_keeping_no_image_is_refused() -> None:
    for make in (lambda: create_zoom_agent(keep_images=0), lambda: ZoomContext(keep_images=0)):
        with pytest.raises(ValueError, match="keep_images must be at least 1, not 0"):
            make()
    with pytest.raises(TypeError, match="keep_images must be a whole number or None, not str"):
        ZoomContext(keep_images="two")  # type: ignore[arg-type]


# ---------------------------------------------------------------- a provider's limits


@KINDS
def test_claude_is_never_sent_more_images_than_it_takes(kind: str) -> None:
    """100 images a request; more are refused, and so is every later question on the thread."""
    claude = PROVIDERS["anthropic"]
    pages = [encode(scene((64 + n, 64))) for n in range(110)]
    with Server(claude.format(), ["<answer>48.10</answer>"] * 2) as server:
        built = agent(kind, claude.chat(server), saver=InMemorySaver())
        config: Any = {"configurable": {"thread_id": "1"}}
        built.invoke({"messages": [asked("Compare.", *pages)]}, config)
        state = built.invoke({"messages": [HumanMessage("And?")]}, config)
    assert not server.refused
    assert [len(request.images) for request in server.requests] == [100, 100]
    assert "Image 10 stood here" in repr(server.requests[0].body)
    assert len(list(image_blocks(state["messages"]))) == 110


@KINDS
def test_older_images_give_way_before_the_context_is_full(kind: str) -> None:
    profile: Any = {"max_input_tokens": 2000}
    model = ScriptedChat(lines=[ANSWER], resolves_images=False, profile=profile)
    photographs = [picture(1280, 960 + 32 * n) for n in range(8)]
    state = agent(kind, model).invoke({"messages": [asked("Compare.", *photographs)]})
    shown = usage_of(state)["visual_tokens"]
    assert 1000 < shown < 2000
    assert sizes(model.seen[0])[-1] == ("human", (640, 576))


def test_text_counts_as_well() -> None:
    profile: Any = {"max_input_tokens": 4000}

    def shown(text: str) -> int:
        model = ScriptedChat(lines=[ANSWER], resolves_images=False, profile=profile)
        photographs = [picture(1280, 960 + 32 * n) for n in range(8)]
        create_zoom_agent(model).invoke({"messages": [asked(text, *photographs)]})
        return len(sizes(model.seen[0]))

    assert shown("?") > shown("word " * 1500) > shown("word " * 3000) >= 1
    assert shown("字" * 2000) < shown("a" * 2000)


STORE = MemoryImageStore()
BLOCKS = [put(STORE, picture(320 + 32 * n, 320))[0] for n in range(5)]
ZOOMS = [View(View.from_block(block, STORE).ref, region=None).block() for block in BLOCKS]
PARTS = Parts.of(None, defaults=None, store=STORE, vision=None, tool_name="zoom_image", prompt=None, fetch=None)


@st.composite
def conversations(draw: st.DrawFn) -> list[BaseMessage]:
    messages: list[BaseMessage] = [SystemMessage("Be kind.")]
    for number in draw(st.lists(st.integers(0, 4), max_size=8)):
        view = View(View.from_block(BLOCKS[number], STORE).ref, draw(st.sampled_from([0.25, 0.5, 1.0])))
        kind = draw(st.sampled_from(["human", "tool"]))
        content: Any = [view.block(), {"type": "text", "text": "?"}]
        messages.append(HumanMessage(content) if kind == "human" else ToolMessage(content, tool_call_id="1"))
        messages.append(AIMessage("48.10"))
    return messages


@given(
    messages=conversations(),
    keep=st.none() | st.integers(1, 5),
    images=st.none() | st.integers(1, 6),
    tokens=st.none() | st.integers(50, 2000),
)
@settings(max_examples=200)
def test_what_stays_is_within_the_limits_and_the_newest(
    messages: list[BaseMessage], keep: int | None, images: int | None, tokens: int | None
) -> None:
    class Limited(Sight):
        def _room(self, model: Any) -> Room:
            return Room((Limits(images=images),), tokens)

    before = [block["url"] for _, block in image_blocks(messages)]
    shown = Limited(PARTS).of(messages, ScriptedChat(lines=[]), ZoomContext(keep_images=keep), tool_name="zoom_image")
    after = [block["url"] for _, block in image_blocks(shown)]
    assert len(shown) == len(messages)
    assert [type(message) for message in shown] == [type(message) for message in messages]
    if not before:
        assert shown == messages
        return
    newest = list(dict.fromkeys(name_of(url) for url in reversed(before)))
    kept = {name_of(url) for url in after}
    assert newest[0] in kept
    assert kept == set(newest[: len(kept)])
    assert keep is None or len(kept) <= keep
    if len(set(after)) > 1:
        assert images is None or len(after) <= images
    if (keep is None or keep >= len(newest)) and images is None and tokens is None:
        assert shown == messages
    notes = [
        block["text"]
        for message in shown
        if isinstance(message.content, list)
        for block in message.content
        if isinstance(block, dict) and "no longer shown" in block.get("text", "")
    ]
    assert len(notes) == len(before) - len(after)
    # The tool keeps every image's number, and counts only what is in sight as shown.
    seen = as_the_tool_sees(shown, set(after), STORE)
    tools = as_the_tool_sees([*messages, AIMessage("?")], set(after), STORE)
    assert [name_of(block["url"]) for _, block in image_blocks(tools)] == [name_of(url) for url in before]
    assert [block["url"] for _, block in image_blocks(seen)] == after


@pytest.mark.parametrize(("noise", "stays"), [(False, 5), (True, 2)])
def test_bytes_are_counted_as_they_are_sent(noise: bool, stays: int) -> None:
    """Uncompressed, five views would not fit; those that compress well all stay."""
    store = MemoryImageStore()
    blocks = put(store, *(picture(320 + 32 * n, 320, noise=noise) for n in range(5)))
    parts = Parts.of(None, defaults=None, store=store, vision=None, tool_name="zoom_image", prompt=None, fetch=None)

    class Small(Sight):
        def _room(self, model: Any) -> Room:
            return Room((Limits(request_bytes=900_000),), None)

    shown = Small(parts).of([HumanMessage([*blocks])], ScriptedChat(lines=[]), ZoomContext(), tool_name=None)
    assert len(list(image_blocks(shown))) == stays


@pytest.mark.parametrize(("count", "stays"), [(20, 20), (21, 20)])
def test_more_than_twenty_images_lower_the_side_that_claude_takes(count: int, stays: int) -> None:
    store = MemoryImageStore()
    blocks = put(store, *(picture(2400, 320 + 32 * n) for n in range(count)))
    parts = Parts.of(None, defaults=None, store=store, vision=None, tool_name="zoom_image", prompt=None, fetch=None)

    class Claude(Sight):
        def _room(self, model: Any) -> Room:
            return Room((Limits(max_side=8000, many_images=20, many_images_side=2000),), None)

    shown = Claude(parts).of([HumanMessage([*blocks])], ScriptedChat(lines=[]), ZoomContext(), tool_name=None)
    assert len(list(image_blocks(shown))) == stays
