"""What clients of `langgraph dev` may rely on: every dialect of images, streams, context, threads, no pixels kept."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import SyncLangGraphClient

from tests.server.conftest import Server
from tests.test_zoom_state import has_pixels

ROOT = Path(__file__).parents[2]
DATA = (ROOT / "examples" / "documents" / "small-print.png").read_bytes()
TEXT = base64.b64encode(DATA).decode()
GOLD = "$170.71"

DIALECTS: dict[str, dict[str, Any]] = {
    "Agent Chat UI": {"type": "image", "mimeType": "image/png", "data": TEXT, "metadata": {"name": "receipt.png"}},
    "Agent Chat UI, before": {"type": "image", "source_type": "base64", "mime_type": "image/png", "data": TEXT},
    "LangChain": {"type": "image", "base64": TEXT, "mime_type": "image/png"},
    "OpenAI": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{TEXT}"}},
    "OpenAI Responses": {"type": "input_image", "image_url": f"data:image/png;base64,{TEXT}"},
    "Anthropic": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": TEXT}},
}


@pytest.fixture
def client(server: Server) -> Iterator[SyncLangGraphClient]:
    with get_sync_client(url=server.url, timeout=300) as client:
        yield client


def asked(block: dict[str, Any] = DIALECTS["LangChain"], question: str = "What is the Total?") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [block, {"type": "text", "text": question}]}]}


@pytest.mark.parametrize("block", DIALECTS.values(), ids=DIALECTS)
def test_every_dialect_of_images_is_read_and_none_is_kept(block: dict[str, Any], client: SyncLangGraphClient) -> None:
    thread = client.threads.create()["thread_id"]
    result: Any = client.runs.wait(thread, "zoom", input=asked(block))
    assert (result["answer"], result["usage"]["zooms"]) == (GOLD, 1)
    kept = repr((client.threads.get_state(thread), client.threads.get_history(thread)))
    assert not has_pixels(kept, DATA)
    assert TEXT[100:140] not in kept


def check_streamed(chunks: list[Any]) -> None:
    """All of a run has come: its steps, its events, its words as they were said, and no pixels."""
    updates = [name for chunk in chunks if chunk.event == "updates" for name in chunk.data]
    assert updates == ["observe", "decide", "zoom", "decide", "answer"]
    events = [chunk.data["event"] for chunk in chunks if chunk.event == "custom"]
    assert events == ["observe", "decision", "zoom", "decision", "answer"]
    said = "".join(
        str(chunk.data[0]["content"])
        for chunk in chunks
        if chunk.event == "messages" and chunk.data[0]["type"] == "AIMessageChunk"
    )
    assert f"<answer>{GOLD}</answer>" in said
    sent = repr([chunk.data for chunk in chunks])
    assert not has_pixels(sent, DATA)
    assert TEXT[100:140] not in sent


def test_updates_messages_and_events_are_streamed(client: SyncLangGraphClient) -> None:
    modes: Any = ["updates", "messages-tuple", "custom"]
    check_streamed(list(client.runs.stream(None, "zoom", input=asked(), stream_mode=modes)))


def test_a_run_brings_its_own_settings(client: SyncLangGraphClient) -> None:
    result: Any = client.runs.wait(None, "zoom", input=asked(), context={"max_zooms": 0})
    assert (result["usage"]["zooms"], len(result["views"])) == (0, 1)


def test_a_thread_goes_on(client: SyncLangGraphClient) -> None:
    thread = client.threads.create()["thread_id"]
    client.runs.wait(thread, "zoom", input=asked())
    again: Any = {"messages": [{"role": "user", "content": "What is the ID?"}]}
    result: Any = client.runs.wait(thread, "zoom", input=again)
    assert [message["type"] for message in result["messages"]][:5] == ["human", "ai", "tool", "ai", "human"]
    assert [view["kind"] for view in result["views"]][:2] == ["low", "zoom"]


@pytest.mark.parametrize("block", DIALECTS.values(), ids=DIALECTS)
def test_as_a_remote_graph_it_is_a_graph_like_any_other(block: dict[str, Any], client: SyncLangGraphClient) -> None:
    remote = RemoteGraph("zoom", sync_client=client)
    result = remote.invoke(asked(block))
    assert (result["answer"], result["usage"]["zooms"]) == (GOLD, 1)
    check_streamed(list(remote.stream(asked(block), stream_mode=["updates", "messages", "custom"])))
    assert {"observe", "decide", "zoom", "answer"} <= set(remote.get_graph().nodes)


def test_a_bad_picture_is_refused_and_the_thread_lives_on(client: SyncLangGraphClient) -> None:
    thread = client.threads.create()["thread_id"]
    bad = {"type": "image", "base64": base64.b64encode(b"no picture" * 99).decode(), "mime_type": "image/png"}
    with pytest.raises(Exception, match="UnreadableImage"):  # the server keeps an error's text to itself, in its log
        client.runs.wait(thread, "zoom", input=asked(bad))
    result: Any = client.runs.wait(thread, "zoom", input=asked())
    assert result["answer"] == GOLD


def test_the_event_loop_is_never_blocked(server: Server, client: SyncLangGraphClient) -> None:
    client.runs.wait(None, "zoom", input=asked())  # the server watches for blocking calls, and refuses them
    assert "BlockingError" not in server.log.read_text(encoding="utf-8")


def test_its_schemas_can_be_read(client: SyncLangGraphClient) -> None:
    [assistant] = client.assistants.search(graph_id="zoom")
    schemas: Any = client.assistants.get_schemas(assistant["assistant_id"])
    assert "messages" in schemas["input_schema"]["properties"]
    assert {"answer", "views", "usage", "stop"} <= set(schemas["output_schema"]["properties"])
    assert {"max_zooms", "scale", "zoom_bias"} <= set(schemas["context_schema"]["properties"])
    assert "model" not in schemas["context_schema"]["properties"]
