"""Ingest: every client dialect ends as a reference, every refusal names its place, the rest of a message is kept."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.graph.message import add_messages

from tests.image_samples import encode, quarters
from vtagent.errors import ImageError, ImageNotFound, ImageRefused, ImageTampered, ImageTooLarge, UnreadableImage
from vtagent.images import DirectoryImageStore, ImageLimits, MemoryImageStore
from vtagent.ingest import ingest
from vtagent.regions import Region
from vtagent.views import View

PNG = encode(quarters((64, 48)))
B64 = base64.b64encode(PNG).decode()
DATA_URL = f"data:image/png;base64,{B64}"
WEB = "https://example.com/a.png"

INLINE: dict[str, dict[str, Any]] = {
    "standard base64": {"type": "image", "base64": B64, "mime_type": "image/png"},
    "standard data url": {"type": "image", "url": DATA_URL},
    "v0 base64": {"type": "image", "source_type": "base64", "data": B64, "mime_type": "image/png"},
    "v0 data url": {"type": "image", "source_type": "url", "url": DATA_URL},
    "mcp": {"type": "image", "data": B64, "mimeType": "image/png"},
    "javascript url": {"type": "image", "url": DATA_URL, "mimeType": "image/png"},
    "openai": {"type": "image_url", "image_url": {"url": DATA_URL, "detail": "auto"}},
    "openai bare": {"type": "image_url", "image_url": DATA_URL},
    "responses": {"type": "input_image", "image_url": DATA_URL, "detail": "auto"},
    "anthropic": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": B64}},
    "file of an image type": {"type": "file", "base64": B64, "mime_type": "image/png"},
    "data url in the data slot": {"type": "image", "base64": DATA_URL},
    "broken into lines": {"type": "image", "base64": "\n".join(B64[i : i + 76] for i in range(0, len(B64), 76))},
    "percent escapes": {"type": "image", "url": DATA_URL.replace("+", "%2B").replace("=", "%3D")},
    "wrong mime type": {"type": "image", "base64": B64, "mime_type": "image/jpeg"},
    "extra parameters": {"type": "image", "url": f"data:image/png;name=a.png;base64,{B64}"},
}
REMOTE: dict[str, dict[str, Any]] = {
    "standard": {"type": "image", "url": WEB},
    "v0": {"type": "image", "source_type": "url", "url": WEB},
    "openai": {"type": "image_url", "image_url": {"url": WEB}},
    "openai bare": {"type": "image_url", "image_url": WEB},
    "responses": {"type": "input_image", "image_url": WEB},
    "anthropic": {"type": "image", "source": {"type": "url", "url": WEB}},
}
IDS: dict[str, dict[str, Any]] = {
    "standard": {"type": "image", "file_id": "file-1"},
    "v0": {"type": "image", "source_type": "id", "id": "file-1"},
    "responses": {"type": "input_image", "file_id": "file-1"},
    "anthropic": {"type": "image", "source": {"type": "file", "file_id": "file-1"}},
    "nothing": {"type": "image"},
}


def ask(block: dict[str, Any]) -> HumanMessage:
    return HumanMessage([{"type": "text", "text": "What is this?"}, block], id="q", name="ann")


@pytest.fixture
def store() -> MemoryImageStore:
    return MemoryImageStore()


def reference(store: MemoryImageStore) -> dict[str, Any]:
    return View(store.put(PNG)).block()


@pytest.mark.parametrize("block", INLINE.values(), ids=INLINE.keys())
def test_every_dialect_becomes_the_same_reference(store: MemoryImageStore, block: dict[str, Any]) -> None:
    before = json.dumps(block)
    [message] = ingest([ask(block)], store)
    assert message.content == [{"type": "text", "text": "What is this?"}, reference(store)]
    assert isinstance(message, HumanMessage)
    assert (message.id, message.name) == ("q", "ann")
    assert json.dumps(block) == before


@pytest.mark.parametrize(
    ("block", "kept"),
    [
        ({"type": "image_url", "image_url": {"url": DATA_URL, "detail": "high"}}, {"detail": "high"}),
        ({"type": "input_image", "image_url": DATA_URL, "detail": "low"}, {"detail": "low"}),
        ({"type": "image", "base64": B64, "extras": {"detail": "original"}}, {"detail": "original"}),
        ({"type": "image", "base64": B64, "detail": "sharp"}, {}),
        ({"type": "image", "base64": B64, "detail": ["low"]}, {}),
        (
            {"type": "image", "base64": B64, "media_resolution": "MEDIA_RESOLUTION_LOW"},
            {"media_resolution": "MEDIA_RESOLUTION_LOW"},
        ),
    ],
)
def test_the_callers_own_detail_survives(store: MemoryImageStore, block: dict[str, Any], kept: dict[str, str]) -> None:
    [message] = ingest([ask(block)], store)
    extras = {"width": 64, "height": 48, **kept}
    assert message.content == [{"type": "text", "text": "What is this?"}, {**reference(store), "extras": extras}]


@pytest.mark.parametrize("block", REMOTE.values(), ids=REMOTE.keys())
def test_remote_pictures_are_refused_unless_allowed(store: MemoryImageStore, block: dict[str, Any]) -> None:
    with pytest.raises(ImageRefused, match=r"https://example\.com/a\.png.*fetch="):
        ingest([ask(block)], store)
    [message] = ingest([ask(block)], store, fetch={WEB: PNG}.__getitem__)
    assert message.content[1] == reference(store)


@pytest.mark.parametrize("block", IDS.values(), ids=IDS.keys())
def test_file_ids_and_empty_blocks_are_refused(store: MemoryImageStore, block: dict[str, Any]) -> None:
    with pytest.raises(ImageRefused, match="no picture in the block"):
        ingest([ask(block)], store, fetch=lambda url: PNG)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "FILE:///x", "/etc/passwd", "a.png", "../a.png", r"C:\a.png", "ftp://h/a"]
)
@pytest.mark.parametrize("dialect", REMOTE.values(), ids=REMOTE.keys())
def test_paths_are_refused_even_where_remote_pictures_are_allowed(
    store: MemoryImageStore, dialect: dict[str, Any], url: str
) -> None:
    block = json.loads(json.dumps(dialect).replace(WEB, json.dumps(url)[1:-1]))
    with pytest.raises(ImageRefused, match="files are never opened"):
        ingest([ask(block)], store, fetch=lambda url: Path(url).read_bytes())


@pytest.mark.parametrize(
    "make",
    [HumanMessage, SystemMessage, lambda content: ToolMessage(content, tool_call_id="c")],
    ids=["human", "system", "tool"],
)
def test_human_system_and_tool_messages_are_read(store: MemoryImageStore, make: Callable[[Any], BaseMessage]) -> None:
    [message] = ingest([make([INLINE["mcp"]])], store)
    assert message.content == [reference(store)]


def test_only_messages_that_change_come_back_and_replace_the_old_ones(store: MemoryImageStore) -> None:
    old = [
        SystemMessage("be brief", id="s"),
        ask(INLINE["openai"]),
        AIMessage([INLINE["anthropic"]], id="a"),
        HumanMessage(["plain", {"type": "text", "text": "more"}], id="h"),
        HumanMessage([INLINE["openai"]]),
    ]
    changed = ingest(old, store)
    assert [message.content[-1] for message in changed] == [reference(store)] * 2
    assert changed[0].id == "q"
    assert changed[1].id
    merged = add_messages(old[:4], changed[:1])  # type: ignore[arg-type]
    assert isinstance(merged, list)
    assert [message.id for message in merged] == ["s", "q", "a", "h"]  # type: ignore[union-attr]
    assert B64 not in repr(merged[:2])
    assert ingest(changed, store) == []


def test_references_are_checked_and_left(store: MemoryImageStore) -> None:
    block = View(store.put(PNG), 0.5, Region(0, 0, 500, 500)).block()
    assert ingest([ask(block)], store) == []
    [message] = ingest([ask({"type": "image_url", "image_url": {"url": block["url"]}})], store)
    assert message.content[1] == block
    with pytest.raises(ImageNotFound, match=r"message 0 .human., block 1: .*not in this store"):
        ingest([ask({**block, "url": "vtimg://sha256/" + "0" * 64})], store)
    for url in ("vtimg://sha256/../../etc/passwd", block["url"] + "&x=1", "vtimg:"):
        with pytest.raises(ImageRefused, match="not an image reference"):
            ingest([ask({**block, "url": url})], store)


def test_a_reference_to_a_tampered_image_is_refused(tmp_path: Path) -> None:
    ref = DirectoryImageStore(tmp_path).put(PNG)
    (tmp_path / ref.sha256[:2] / ref.sha256).write_bytes(b"other")
    with pytest.raises(ImageTampered, match=ref.sha256):
        ingest([ask(View(ref).block())], DirectoryImageStore(tmp_path))


@pytest.mark.parametrize(
    ("block", "error", "why"),
    [
        ({"type": "image", "base64": "not base64!"}, UnreadableImage, "not valid base64"),
        ({"type": "image", "base64": B64[:-3]}, UnreadableImage, "not valid base64"),
        ({"type": "image", "base64": ""}, UnreadableImage, "empty"),
        ({"type": "image", "base64": "é"}, UnreadableImage, "not valid base64"),
        ({"type": "image", "data": [137, 80]}, UnreadableImage, "must be base64 text, got list"),
        ({"type": "image", "base64": B64[: len(B64) // 8 * 4]}, UnreadableImage, "complete"),
        ({"type": "image", "url": "data:image/svg+xml,<svg/>"}, UnreadableImage, "not base64"),
        ({"type": "image", "url": "data:"}, UnreadableImage, "not base64"),
        ({"type": "image", "url": 7}, ImageRefused, "no picture"),
        ({"type": "image_url", "image_url": None}, ImageRefused, "no picture"),
        ({"type": "image", "source": "x"}, ImageRefused, "no picture"),
    ],
)
def test_bad_data_gets_one_line_that_names_the_place(
    store: MemoryImageStore, block: dict[str, Any], error: type[ImageError], why: str
) -> None:
    with pytest.raises(error, match=why) as refusal:
        ingest([HumanMessage("hi"), ask(block)], store)
    assert str(refusal.value).startswith("message 1 (human), block 1: ")
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500


def test_too_much_base64_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base64, "b64decode", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(ImageTooLarge, match="at most 1000 bytes"):
        ingest([ask({"type": "image", "base64": "A" * 3001})], MemoryImageStore(limits=ImageLimits(max_bytes=1000)))


def test_what_is_fetched_is_held_to_the_limits_and_a_failed_fetch_is_named(store: MemoryImageStore) -> None:
    with pytest.raises(ImageTooLarge):
        ingest([ask(REMOTE["openai"])], MemoryImageStore(limits=ImageLimits(max_bytes=10)), fetch=lambda url: PNG)
    with pytest.raises(UnreadableImage):
        ingest([ask(REMOTE["openai"])], store, fetch=lambda url: b"<html>")

    def fail(url: str) -> bytes:
        raise OSError("404\nnot found")

    with pytest.raises(ImageNotFound, match=r"could not fetch 'https://example\.com/a\.png': 404 not found"):
        ingest([ask(REMOTE["openai"])], store, fetch=fail)


@given(
    st.dictionaries(
        st.sampled_from(["type", "url", "base64", "data", "source", "image_url", "mimeType", "mime_type", "file_id"]),
        st.sampled_from(["image", "image_url", "input_image", "file", "image/png", "vtimg://", "data:,", "https://x"])
        | st.none()
        | st.integers()
        | st.text()
        | st.dictionaries(st.sampled_from(["url", "data", "type"]), st.text()),
    )
)
def test_any_block_at_all_is_left_swapped_or_refused(block: dict[str, Any]) -> None:
    try:
        changed = ingest([HumanMessage([block])], MemoryImageStore())
    except ImageError as error:
        refusal = str(error)
        assert "\n" not in refusal
    else:
        assert changed == []
