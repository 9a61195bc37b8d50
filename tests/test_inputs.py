"""No input ends a thread: the newest message is refused in one clear sentence, an earlier one is replaced by a note."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from tests.checkpointers import IN_MEMORY
from tests.scripted_chat import ANSWER, ScriptedChat, asked, picture
from tests.wire.models import PROVIDERS
from tests.wire.server import Server
from vtagent.errors import ImageError, ImageRefused, ImageTooLarge, UnreadableImage
from vtagent.graphs.middleware import ZoomMiddleware
from vtagent.graphs.zoom import create_zoom_agent
from vtagent.images import ImageLimits, MemoryImageStore
from vtagent.media import kind_of
from vtagent.models.capabilities import reads_of

pytestmark = IN_MEMORY

PDF = base64.b64encode(b"%PDF-1.7").decode()
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a PDF": ({"type": "file", "mime_type": "application/pdf", "base64": PDF}, "a PDF: render its pages to images"),
    "a PDF of OpenAI's": (
        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}},
        "a PDF: render its pages",
    ),
    "a PDF of Anthropic's": (
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}},
        "a PDF: render its pages",
    ),
    "a PDF of Gemini's": ({"type": "media", "mime_type": "application/pdf", "data": PDF}, "a PDF: render its pages"),
    "a PDF's URL": ({"type": "file", "url": "https://example.com/a.pdf?x=1"}, "a PDF: render its pages"),
    "audio": ({"type": "audio", "base64": PDF, "mime_type": "audio/wav"}, "audio: send a transcript"),
    "audio of OpenAI's": ({"type": "input_audio", "input_audio": {"data": PDF, "format": "wav"}}, "audio: send"),
    "a video": ({"type": "video", "base64": PDF, "mime_type": "video/mp4"}, "a video: send single frames"),
    "a file's id": ({"type": "file", "file_id": "file-123"}, "a file: send its text"),
    "an image's id": ({"type": "image", "file_id": "file-123"}, "file ids cannot be read"),
    "an unknown block": ({"type": "hologram", "data": "x"}, "a block of type 'hologram' cannot be read"),
    "no type": ({"data": "x"}, "a block of type None cannot be read"),
    "a broken reference": ({"type": "image", "url": "vtimg://nonsense"}, "vtimg"),
    "no image": ({"type": "image", "base64": PDF, "mime_type": "image/png"}, "image"),
}


class Strict(ScriptedChat):
    """Refuses whatever is neither text nor an image, as a server does, on every turn."""

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        for message in messages:
            for block in message.content if isinstance(message.content, list) else []:
                if isinstance(block, dict) and block.get("type") not in ("text", "image", "image_url"):
                    raise ValueError(f"400: {block}")
        return super()._generate(messages, *args, **kwargs)


def question(block: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [HumanMessage([block, {"type": "text", "text": "What is it?"}])]}


def made(which: str, saver: Any, **fields: Any) -> Any:
    """An agent of a kind, over a strict model."""
    model = Strict(**{"lines": [ANSWER], **fields})
    if which == "middleware":
        return create_agent(model, middleware=[ZoomMiddleware()], checkpointer=saver)
    if which == "graph":
        return create_zoom_agent(model, checkpointer=saver)
    parent = StateGraph(MessagesState).add_node("look", create_zoom_agent(model)).add_edge(START, "look")
    return parent.compile(checkpointer=saver)


@contextmanager
def sqlite(tmp_path: Path) -> Iterator[SqliteSaver]:
    with SqliteSaver.from_conn_string(str(tmp_path / "threads.sqlite")) as saver:
        yield saver


THREAD: Any = {"configurable": {"thread_id": "1"}}


@pytest.mark.parametrize("durability", ["exit", "sync", "async"])
@pytest.mark.parametrize("which", ["graph", "middleware", "subgraph"])
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_input_is_one_error_and_the_next_question_works(
    bad: str, which: str, durability: Any, tmp_path: Path
) -> None:
    block, says = BAD[bad]
    with sqlite(tmp_path) as saver:
        agent = made(which, saver)
        agent.invoke({"messages": [asked("And this?", picture())]}, THREAD, durability=durability)
        before = agent.get_state(THREAD)
        with pytest.raises(ImageError, match=rf"message \d+ \(human\), block 0: .*{says}"):
            agent.invoke(question(block), THREAD, durability=durability)
        if which == "graph":
            assert agent.get_state(THREAD) == before
        result = agent.invoke({"messages": [("user", "And without?")]}, THREAD, durability=durability)
        assert result["messages"][-1].text == ANSWER
        again = agent.invoke({"messages": [asked("And this?", picture(64, 64))]}, THREAD, durability=durability)
        assert again["messages"][-1].text == ANSWER


@pytest.mark.parametrize("durability", ["exit", "sync", "async"])
@pytest.mark.parametrize("which", ["graph", "middleware", "subgraph"])
async def test_the_same_holds_asynchronously(which: str, durability: Any, tmp_path: Path) -> None:
    block, says = BAD["a PDF"]
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "threads.sqlite")) as saver:
        agent = made(which, saver)
        with pytest.raises(ImageRefused, match=says):
            await agent.ainvoke({"messages": [asked("?", picture()), *question(block)["messages"]]}, THREAD)
        result = await agent.ainvoke({"messages": [("user", "And without?")]}, THREAD, durability=durability)
        assert result["messages"][-1].text == ANSWER


@pytest.mark.parametrize("bad", BAD)
def test_in_an_earlier_message_a_note_stands_in_its_place(bad: str) -> None:
    block, _ = BAD[bad]
    model = Strict(lines=[ANSWER])
    history: list[Any] = [*question(block)["messages"], AIMessage("Hm."), HumanMessage("And now?")]
    result = create_zoom_agent(model).invoke({"messages": history})
    assert result["answer"] == "48.10"
    assert "[There was" in model.seen[0][1].text
    assert "What is it?" in model.seen[0][1].text


def test_an_image_beyond_the_stores_limits_is_refused_before_anything_is_saved(tmp_path: Path) -> None:
    store = MemoryImageStore(limits=ImageLimits(max_pixels=10_000))
    with sqlite(tmp_path) as saver:
        agent = create_zoom_agent(Strict(lines=[ANSWER]), image_store=store, checkpointer=saver)
        with pytest.raises(ImageTooLarge):
            agent.invoke({"messages": [asked("?", picture())]}, THREAD)
        assert not list(saver.list(THREAD))


@pytest.mark.parametrize("which", ["graph", "middleware", "subgraph"])
def test_after_a_model_that_failed_the_next_question_works(which: str, tmp_path: Path) -> None:
    with sqlite(tmp_path) as saver:
        agent = made(which, saver, lines=[RuntimeError("429"), ANSWER])
        with pytest.raises(RuntimeError, match="429"):
            agent.invoke({"messages": [asked("?", picture())]}, THREAD)
        result = agent.invoke({"messages": [("user", "Again?")]}, THREAD)
        assert result["messages"][-1].text == ANSWER


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("with_middleware", [False, True])
def test_after_a_model_that_said_nothing_the_next_question_works(name: str, with_middleware: bool) -> None:
    provider = PROVIDERS[name]
    with Server(provider.format(), ["", ANSWER]) as server:
        chat = provider.chat(server)
        agent: Any = create_agent(chat, middleware=[ZoomMiddleware()]) if with_middleware else create_zoom_agent(chat)
        first = agent.invoke({"messages": [asked("?", picture(320, 240))]})
        second = agent.invoke({"messages": [*first["messages"], ("user", "Again?")]})
        assert second["messages"][-1].response_metadata["answer"] == "48.10"
        assert not server.refused


def test_a_model_that_reads_pdf_is_sent_it() -> None:
    block, _ = BAD["a PDF"]
    model = ScriptedChat(lines=[ANSWER], resolves_images=False, profile={"pdf_inputs": True})
    assert create_zoom_agent(model).invoke(question(block))["answer"] == "48.10"
    assert block in model.seen[0][-1].content


def test_the_refusal_says_how_to_name_what_the_model_reads() -> None:
    block, _ = BAD["a PDF"]
    with pytest.raises(ImageRefused, match=r'profile={"pdf_inputs": True}'):
        create_zoom_agent(ScriptedChat(lines=[ANSWER], resolves_images=False)).invoke(question(block))
    with pytest.raises(ImageRefused, match=r"pypdfium2, and send those$"):
        create_zoom_agent(ScriptedChat(lines=[ANSWER])).invoke(question(block))


def test_a_providers_own_blocks_are_left_to_it() -> None:
    own: dict[str, Any] = {"type": "search_result", "source": "s", "title": "t", "content": []}
    model = ScriptedChat(lines=[ANSWER], resolves_images=False)
    message = HumanMessage([own, {"type": "text", "text": "?"}])
    assert create_zoom_agent(model).invoke({"messages": [message]})["answer"] == "48.10"
    assert own in model.seen[0][-1].content


def test_a_tools_pdf_is_told_to_the_model_in_words() -> None:
    pdf, _ = BAD["a PDF"]
    call: Any = {"type": "tool_call", "name": "read_file", "args": {}, "id": "1"}
    history = [HumanMessage("Read."), AIMessage("", tool_calls=[call]), ToolMessage([pdf], tool_call_id="1")]
    model = Strict(lines=[ANSWER])
    assert create_zoom_agent(model).invoke({"messages": history})["answer"] == "48.10"
    assert "[There was a PDF here" in model.seen[0][-1].text


@pytest.mark.parametrize("reads", [{}, None, {"pdf_inputs": True}, {"pdf_inputs": True, "pdf_tool_message": True}])
def test_what_a_model_reads_is_what_its_profile_says(reads: Any) -> None:
    model = ScriptedChat(lines=[], resolves_images=False, profile=reads)
    assert ("pdf" in reads_of(model)) is bool(reads)
    assert ("pdf" in reads_of(model, from_tools=True)) is bool(reads and "pdf_tool_message" in reads)


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": "a"},
        {"type": "image", "base64": "x"},
        {"type": "file", "mime_type": "image/png", "base64": "x"},
        {"type": "media", "mime_type": "image/png", "data": "x"},
        {"type": "image_url", "image_url": "x"},
        "text",
    ],
)
def test_text_and_images_are_no_media(block: Any) -> None:
    assert kind_of(block) is None


# --- every way in


def pixels_in(agent: Any) -> bool:
    return "base64" in repr(agent.get_state(THREAD).values["messages"])


def test_update_state_stores_references(tmp_path: Path) -> None:
    with sqlite(tmp_path) as saver:
        agent = made("graph", saver)
        agent.update_state(THREAD, {"messages": [asked("?", picture())]}, as_node="__start__")
        assert "vtimg://" in repr(agent.get_state(THREAD).values)
        assert not pixels_in(agent)
        assert agent.invoke(None, THREAD)["answer"] == "48.10"
        with pytest.raises(UnreadableImage):
            agent.update_state(THREAD, {"messages": [asked("?", b"none")]})
        assert agent.invoke({"messages": [("user", "Again?")]}, THREAD)["answer"] == "48.10"


async def test_update_state_stores_references_asynchronously_too(tmp_path: Path) -> None:
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "threads.sqlite")) as saver:
        agent = made("graph", saver)
        await agent.aupdate_state(THREAD, {"messages": [asked("?", picture())]}, as_node="__start__")
        state = await agent.aget_state(THREAD)
        assert "vtimg://" in repr(state.values)
        assert "base64" not in repr(state.values)


@pytest.mark.parametrize("pairs", [False, True])
def test_a_command_that_updates_stores_references(pairs: bool, tmp_path: Path) -> None:
    with sqlite(tmp_path) as saver:
        agent = made("graph", saver)
        agent.invoke({"messages": [("user", "Hello?")]}, THREAD)
        update: Any = {"messages": [asked("?", picture())]}
        command: Any = Command(update=list(update.items()) if pairs else update, goto="observe")
        assert agent.invoke(command, THREAD)["answer"] == "48.10"
        assert not pixels_in(agent)
        bad: Any = Command(update=question(BAD["a PDF"][0]), goto="observe")
        with pytest.raises(ImageRefused):
            agent.invoke(bad, THREAD)
        assert agent.invoke({"messages": [("user", "Again?")]}, THREAD)["answer"] == "48.10"


def test_a_batch_refuses_the_bad_input_alone(tmp_path: Path) -> None:
    with sqlite(tmp_path) as saver:
        agent = made("graph", saver)
        inputs: list[Any] = [question(BAD["a PDF"][0]), {"messages": [asked("?", picture())]}]
        configs: Any = [{"configurable": {"thread_id": name}} for name in "ab"]
        bad, good = agent.batch(inputs, configs, return_exceptions=True)
        assert isinstance(bad, ImageRefused)
        assert good["answer"] == "48.10"


@pytest.mark.filterwarnings("ignore:The v3 streaming protocol")
@pytest.mark.parametrize("version", ["v2", "v3"])
async def test_streams_of_events_refuse_it_too(version: Any) -> None:
    agent = made("graph", None)
    with pytest.raises(ImageRefused):
        await run_of_events(agent, question(BAD["a PDF"][0]), version)


async def run_of_events(agent: Any, input: Any, version: Any) -> None:
    stream = agent.astream_events(input, version=version)
    if version == "v3":
        stream = await stream
    async for _ in stream:
        pass


def test_a_stream_refuses_it_before_its_first_part() -> None:
    agent = made("graph", None)
    with pytest.raises(ImageRefused):
        next(iter(agent.stream(question(BAD["a PDF"][0]), stream_mode="values")))


def test_a_system_message_may_hold_a_bad_block_only_once() -> None:
    model = Strict(lines=[ANSWER])
    system = SystemMessage([BAD["a PDF"][0], {"type": "text", "text": "Be brief."}])
    assert create_zoom_agent(model).invoke({"messages": [system, HumanMessage("?")]})["answer"] == "48.10"
    assert "Be brief." in model.seen[0][0].text
