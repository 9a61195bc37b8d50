"""Models that do not know our references get pixels, at the last moment and where their API takes them."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from PIL import Image

from tests.scripted_chat import ANSWER, ZOOM, ScriptedChat, StreamingChat, asked, picture, put, zoom_call
from vtagent.graphs.model_call import NOT_RUN, after_tool_messages
from vtagent.graphs.zoom import create_zoom_agent
from vtagent.images import MemoryImageStore
from vtagent.models.pixel_model import PixelModel
from vtagent.protocol import format_tool_call
from vtagent.visual_tokens import QWEN3_VL


def pictures(messages: list[Any]) -> list[tuple[str, tuple[int, int]]]:
    """The kind of each message that shows a picture, and the picture's size."""
    return [
        (message.type, Image.open(io.BytesIO(base64.b64decode(block["image_url"]["url"].partition(",")[2]))).size)
        for message in messages
        if isinstance(message.content, list)
        for block in message.content
        if block["type"] == "image_url"
    ]


def test_the_image_follows_the_whole_batch_of_tool_messages() -> None:
    two = zoom_call(region=[0, 0, 500, 500]) + format_tool_call("zoom_image", {"region": [500, 500, 1000, 1000]})
    model = ScriptedChat(lines=[two, ANSWER], resolves_images=False)
    create_zoom_agent(model).invoke({"messages": [asked("?", picture(1280, 960))]}, context={"max_zooms": 2})
    assert [message.type for message in model.seen[1]] == ["system", "human", "ai", "tool", "tool", "human"]
    assert pictures(model.seen[1]) == [("human", (640, 480))] * 3
    assert "follows in the next user message" in model.seen[1][3].text


def test_the_image_stays_in_the_tool_message_where_the_model_says_so() -> None:
    profile: Any = {"image_tool_message": True}
    model = ScriptedChat(lines=[ZOOM, ANSWER], resolves_images=False, profile=profile)
    create_zoom_agent(model).invoke({"messages": [asked("?", picture(1280, 960))]})
    assert pictures(model.seen[1]) == [("human", (640, 480)), ("tool", (1280, 960))]


@pytest.mark.parametrize("call", [ZOOM, "<tool_call>zoom, please</tool_call>"], ids=["valid", "invalid"])
def test_a_call_that_was_never_run_is_answered_in_words_when_another_question_comes(call: str) -> None:
    model = ScriptedChat(lines=[call, ANSWER])
    agent = create_zoom_agent(model, checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    agent.invoke({"messages": [asked("?", picture())]}, config, interrupt_before=["zoom"])
    result = agent.invoke({"messages": [HumanMessage("Something else?")]}, config)
    assert result["answer"] == "48.10"
    _, _, asking, answer, question = model.seen[1]
    assert [message.type for message in (asking, answer, question)] == ["ai", "tool", "human"]
    assert isinstance(asking, AIMessage)
    assert isinstance(answer, ToolMessage)
    open_calls = [call["id"] for call in asking.tool_calls] + [call["id"] for call in asking.invalid_tool_calls]
    assert open_calls == [answer.tool_call_id]
    assert (answer.text, answer.status) == (NOT_RUN, "error")


def test_the_placement_is_the_calls_affair_the_state_is_the_same() -> None:
    def kinds(**fields: Any) -> list[str]:
        model = ScriptedChat(lines=[ZOOM, ANSWER], **fields)
        result = create_zoom_agent(model).invoke({"messages": [asked("?", picture())]})
        return [message.type for message in result["messages"]]

    assert kinds(profile={"image_tool_message": True}) == kinds() == ["human", "ai", "tool", "ai"]


def test_moved_images_keep_their_place_in_a_longer_conversation() -> None:
    [block] = put(MemoryImageStore(), picture(64, 48))
    moved = after_tool_messages(
        [
            HumanMessage("?"),
            AIMessage("", tool_calls=[{"name": "zoom_image", "args": {}, "id": "1"}]),
            ToolMessage([block], tool_call_id="1", name="zoom_image"),
            AIMessage("7"),
            HumanMessage("And?"),
        ]
    )
    assert [message.type for message in moved] == ["human", "ai", "tool", "human", "ai", "human"]
    assert moved[3].content == [{"type": "text", "text": "From zoom_image:"}, block]


def test_what_a_model_does_around_its_calls_is_done_in_its_place() -> None:
    class Heard(BaseCallbackHandler):
        tags: Any = None

        def on_chat_model_start(self, *_: Any, tags: Any = None, **__: Any) -> None:
            self.tags = tags

    heard, cache = Heard(), InMemoryCache()
    model = ScriptedChat(lines=[ANSWER, "again"], resolves_images=False, callbacks=[heard], tags=["mine"], cache=cache)
    agent = create_zoom_agent(model)
    for _ in range(2):
        assert agent.invoke({"messages": [HumanMessage("?", id="1")]})["answer"] == "48.10"
    assert "mine" in heard.tags
    assert len(model.seen) == 1


def test_the_views_of_a_run_are_rendered_once_whether_it_is_free_or_forced() -> None:
    agent = create_zoom_agent(ScriptedChat(lines=[ZOOM, ANSWER], resolves_images=False))
    agent.invoke({"messages": [asked("?", picture())]})
    decide: Any = agent.builder.nodes["decide"].runnable
    readers = [ready.reader for ready in decide._calls._kept.values()]
    assert len(readers) == 2
    assert readers[0].vtagent_pixels is readers[1].vtagent_pixels


def test_streams_pass_through() -> None:
    store = MemoryImageStore()
    model = PixelModel.over(StreamingChat(lines=["one two three"], resolves_images=False), store, QWEN3_VL)
    message = HumanMessage([*put(store, picture(64, 48))])
    assert [chunk.text for chunk in model.stream([message]) if chunk.text] == ["one ", "two ", "three "]


@pytest.mark.parametrize("line", ["one two", zoom_call()])
async def test_models_that_do_not_stream_are_streamed_whole(line: str) -> None:
    def model() -> Any:
        return PixelModel.over(ScriptedChat(lines=[line], resolves_images=False), MemoryImageStore(), QWEN3_VL)

    whole = model().invoke("?")
    chunks = [chunk async for chunk in model().astream("?")]
    assert chunks[0].text == whole.text
    assert chunks[0].tool_calls == whole.tool_calls


def test_openais_model_is_given_its_own_dialect(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    class Stop(Exception):
        pass

    def create(**payload: Any) -> None:
        sent.append(payload)
        raise Stop

    model = ChatOpenAI(model="served", base_url="http://localhost:9/v1", api_key="none")  # type: ignore[arg-type]
    monkeypatch.setattr(model.client, "create", create)
    with pytest.raises(Stop):
        create_zoom_agent(model).invoke({"messages": [asked("?", picture())]})
    [payload] = sent
    assert payload["tools"][0]["function"]["name"] == "zoom_image"
    assert payload["messages"][1]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
