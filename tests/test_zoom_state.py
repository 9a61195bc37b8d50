"""No pixels where they do not belong: not in state, checkpoints, streams or traces, whatever the model."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from tests.checkpointers import IN_MEMORY
from tests.scripted_chat import ANSWER, ZOOM, ScriptedChat, StreamingChat, asked, picture
from vtagent.conversation import image_blocks
from vtagent.graphs.intake import LOST
from vtagent.graphs.zoom import build_zoom_graph, create_zoom_agent
from vtagent.images import DirectoryImageStore, MemoryImageStore
from vtagent.models.records import KEY, make_record

pytestmark = IN_MEMORY


class Recorder(BaseTracer):
    """Everything that a tracer such as LangSmith's would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.payloads: list[str] = []

    def _persist_run(self, run: Run) -> None:
        """Called with the root run; its children hang below it."""

    def _start_trace(self, run: Run) -> None:
        super()._start_trace(run)
        self.payloads.append(repr((run.name, run.inputs, run.extra, run.serialized)))

    def _end_trace(self, run: Run) -> None:
        super()._end_trace(run)
        self.payloads.append(repr((run.name, run.inputs, run.outputs, run.events, run.extra)))


class Listener(BaseCallbackHandler):
    """What a plain callback handler is handed."""

    def __init__(self) -> None:
        self.payloads: list[str] = []

    def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
        self.payloads.append(repr(inputs))

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self.payloads.append(repr((messages, kwargs)))

    def on_tool_start(self, serialized: Any, input_str: str, **kwargs: Any) -> None:
        self.payloads.append(repr((input_str, kwargs)))


def has_pixels(text: str, data: bytes) -> bool:
    encoded = base64.b64encode(data).decode()
    return "base64," in text or "iVBORw0KGgo" in text or encoded[100:140] in text or "PNG\\r" in text


def test_the_check_for_pixels_finds_them() -> None:
    data = picture(64, 48)
    assert has_pixels(repr(asked("?", data)), data)
    assert has_pixels(repr(data), data)


@pytest.mark.parametrize("resolves_images", [True, False])
@pytest.mark.parametrize("kind", [ScriptedChat, StreamingChat])
def test_state_streams_and_traces_carry_no_pixels(resolves_images: bool, kind: type[ScriptedChat]) -> None:
    data = picture(640, 480, noise=True)
    lines = [ZOOM, ANSWER] if kind is ScriptedChat else [ANSWER]
    model = kind(lines=lines, resolves_images=resolves_images)
    recorder, listener = Recorder(), Listener()
    modes: Any = ["values", "updates", "messages", "custom", "debug"]
    streamed = list(
        create_zoom_agent(model).stream(
            {"messages": [asked("?", data)]}, {"callbacks": [recorder, listener]}, stream_mode=modes
        )
    )
    final = [chunk for mode, chunk in streamed if mode == "values"][-1]
    assert final["answer"] == "48.10"
    assert not has_pixels(repr(streamed), data)
    assert len(recorder.payloads) >= 10
    assert not has_pixels("".join(recorder.payloads), data)
    assert len(listener.payloads) >= 5
    assert not has_pixels("".join(listener.payloads), data)
    saw_pixels = any(has_pixels(repr(messages), data) for messages in model.seen)
    assert saw_pixels is not resolves_images


async def test_the_same_holds_asynchronously() -> None:
    data = picture(640, 480, noise=True)
    model = ScriptedChat(lines=[ZOOM, ANSWER], resolves_images=False)
    recorder = Recorder()
    agent = create_zoom_agent(model)
    events = [
        event
        async for event in agent.astream_events(
            {"messages": [asked("?", data)]}, {"callbacks": [recorder]}, version="v2"
        )
    ]
    assert len(events) > 10
    assert "vtimg://" in repr(events[0])  # the root's own, which repeats the input
    assert not has_pixels(repr(events), data)
    assert not has_pixels("".join(recorder.payloads), data)


def test_the_state_is_json() -> None:
    model = ScriptedChat(lines=[ZOOM, ANSWER])
    result = create_zoom_agent(model).invoke({"messages": [asked("?", picture())]})
    messages = result.pop("messages")
    assert json.loads(json.dumps(result)) == result
    for message in messages:
        fields = {key: value for key, value in message.model_dump().items() if key != "id"}
        assert json.loads(json.dumps(fields)) == fields


def weighty(text: str, tokens: int, new_ids: int = 30, start: int = 0) -> AIMessage:
    """A reply of so many tokens with its record as `ChatVLM` keeps it; most ids are small, as in Qwen's vocabulary."""
    thought = " What I look for is there." * (tokens // 7 - 3) + "</think>"
    said = ScriptedChat(lines=[text.replace("</think>", thought)]).invoke("")
    record = make_record(
        said,
        start=start,
        prompt_ids=[number * 7919 % 90_000 for number in range(new_ids)],
        completion_ids=[number * 7919 % 90_000 for number in range(tokens)],
        logprobs=[-1 / (3 + number) for number in range(tokens)],
        prefix="ab" * 16,
    )
    said.response_metadata = {"finish_reason": "stop", "model_name": "Qwen/Qwen3-VL-4B-Instruct", KEY: record}
    return said


def conversation(path: Path, tokens: int = 60, prompt: int = 100) -> tuple[Any, list[Any], bytes]:
    """A model, five questions on an image of a megabyte, and that image.

    The bundled policy's first prompt has about 100 tokens beside the image's; a Qwen model's 600, tools among them.
    """
    data = picture(640, 540, noise=True)
    start = prompt + tokens
    lines: list[Any] = [weighty(ZOOM, tokens, prompt), *[weighty(ANSWER, tokens, start=start)] * 5]
    for number, line in enumerate(lines):
        line.tool_calls = [{**call, "id": f"call_{number}"} for call in line.tool_calls]
    turns = [asked("What is the total?", data), *[HumanMessage(f"And line {n}?") for n in range(2, 6)]]
    return ScriptedChat(lines=lines), turns, data


@pytest.mark.parametrize(("tokens", "prompt"), [(60, 100), (100, 600)])
def test_five_turns_on_a_megabyte_keep_the_database_under_100_kb(tokens: int, prompt: int, tmp_path: Path) -> None:
    model, turns, data = conversation(tmp_path, tokens, prompt)
    assert len(data) > 900_000
    config: Any = {"configurable": {"thread_id": "1"}}
    with SqliteSaver.from_conn_string(str(tmp_path / "state.sqlite")) as saver:
        agent = create_zoom_agent(model, checkpointer=saver, image_store=DirectoryImageStore(tmp_path / "images"))
        for turn in turns:
            result = agent.invoke({"messages": [turn]}, config)
    assert len(result["messages"]) == 12
    assert len(list(image_blocks(result["messages"]))) == 2
    files = list(tmp_path.glob("state.sqlite*"))
    assert sum(file.stat().st_size for file in files) < 100_000
    assert not any(has_pixels(repr(file.read_bytes()), data) for file in files)


async def test_the_same_with_the_async_checkpointer(tmp_path: Path) -> None:
    model, turns, _ = conversation(tmp_path)
    config: Any = {"configurable": {"thread_id": "1"}}
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "state.sqlite")) as saver:
        agent = create_zoom_agent(model, checkpointer=saver)
        for turn in turns:
            await agent.ainvoke({"messages": [turn]}, config)
        assert len((await agent.aget_state(config)).values["messages"]) == 12
    assert sum(file.stat().st_size for file in tmp_path.glob("state.sqlite*")) < 100_000


def test_even_every_step_can_be_saved_without_pixels(tmp_path: Path) -> None:
    data = picture(640, 480, noise=True)
    with SqliteSaver.from_conn_string(str(tmp_path / "state.sqlite")) as saver:
        agent = build_zoom_graph(ScriptedChat(lines=[ZOOM, ANSWER])).compile(checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "1"}}
        agent.invoke({"messages": [asked("?", data)]}, config, durability="sync")
        assert len(list(agent.get_state_history(config))) > 4
    assert sum(file.stat().st_size for file in tmp_path.glob("state.sqlite*")) < 100_000


def test_a_lost_image_is_told_to_the_model_in_words_and_kept_in_the_conversation() -> None:
    lost = create_zoom_agent(ScriptedChat(lines=[ANSWER]), image_store=MemoryImageStore()).invoke(
        {"messages": [asked("What is the total?", picture())]}
    )["messages"]
    model = ScriptedChat(lines=[ANSWER])
    result = create_zoom_agent(model, image_store=MemoryImageStore()).invoke(
        {"messages": [*lost, asked("And here?", picture(640, 480))]}
    )
    assert LOST in model.seen[0][1].text
    assert len(list(image_blocks(model.seen[0]))) == 1
    assert len(list(image_blocks(result["messages"]))) == 2
    assert [view["width"] for view in result["views"]] == [320]


def test_messages_survive_langchains_serialiser() -> None:
    result = create_zoom_agent(ScriptedChat(lines=[ZOOM, ANSWER])).invoke({"messages": [asked("?", picture())]})
    assert all(isinstance(message, BaseMessage) for message in result["messages"])
    assert "vtimg://sha256/" in dumps(result["messages"])
