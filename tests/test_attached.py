"""Files in a message: every dialect becomes a document of the conversation, and no file stays in the message."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from tests.image_samples import RED, encode, solid
from tests.pdfs import PdfPage, pdf, report
from tests.scripted_chat import ScriptedChat
from vtagent.errors import ImageRefused, ImageTooLarge, UnreadableImage
from vtagent.graphs.document_qa import create_document_agent
from vtagent.graphs.server import document_agent
from vtagent.images import ImageLimits, MemoryImageStore
from vtagent.limits import DocumentLimits
from vtagent.pages.attached import take_in_message
from vtagent.training.documents import render_page

PDF = base64.b64encode(report(3, {2: "The warranty lasts 17 months."})).decode()
TEXT = {"type": "text", "text": "How long does the warranty last?"}
DIALECTS: dict[str, tuple[dict[str, Any], str]] = {
    "standard": ({"type": "file", "base64": PDF, "mime_type": "application/pdf"}, "document 1"),
    "standard, named": (
        {"type": "file", "base64": PDF, "mime_type": "application/pdf", "extras": {"name": "r.pdf"}},
        "r.pdf",
    ),
    "v0": ({"type": "file", "source_type": "base64", "data": PDF, "mime_type": "application/pdf"}, "document 1"),
    "OpenAI": (
        {"type": "file", "file": {"filename": "r.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}},
        "r.pdf",
    ),
    "Responses": (
        {"type": "input_file", "filename": "r.pdf", "file_data": f"data:application/pdf;base64,{PDF}"},
        "r.pdf",
    ),
    "Anthropic": (
        {
            "type": "document",
            "title": "r.pdf",
            "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
        },
        "r.pdf",
    ),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_file_becomes_a_document_and_leaves_the_message(dialect: str) -> None:
    block, name = DIALECTS[dialect]
    message = HumanMessage([block, TEXT], id="1")
    [record], rest = take_in_message(message, MemoryImageStore())
    assert (record["name"], record["pages"]) == (name, 3)
    assert rest is not None
    assert (rest.content, rest.id) == ([TEXT], "1")
    assert message.content == [block, TEXT]


def test_images_are_documents_of_one_page_and_equal_names_are_told_apart() -> None:
    store = MemoryImageStore()
    image = {
        "type": "image",
        "base64": base64.b64encode(encode(solid((64, 64), RED))).decode(),
        "mime_type": "image/png",
    }
    named = DIALECTS["OpenAI"][0]
    records, _ = take_in_message(HumanMessage([image, named, named, TEXT]), store)
    assert [(record["name"], record["pages"]) for record in records] == [
        ("image 1", 1),
        ("r.pdf", 3),
        ("r.pdf (2)", 3),
    ]
    more, _ = take_in_message(HumanMessage([named, TEXT]), store, known=records)
    assert more[0]["name"] == "r.pdf (3)"
    assert take_in_message(HumanMessage([TEXT]), store) == ([], None)
    assert take_in_message(HumanMessage("Why?"), store) == ([], None)


@pytest.mark.parametrize(
    ("block", "error", "says"),
    [
        ({"type": "file", "url": "https://example.org/r.pdf"}, ImageRefused, "URLs are not fetched"),
        ({"type": "file", "file": {"file_id": "file-1"}}, ImageRefused, "file ids cannot be read"),
        ({"type": "file", "base64": "%%", "mime_type": "application/pdf"}, UnreadableImage, "block 0 of the message"),
        ({"type": "file", "base64": 7, "mime_type": "application/pdf"}, UnreadableImage, "must be base64 text"),
        ({"type": "file", "base64": base64.b64encode(b"a note").decode()}, UnreadableImage, "block 0 of the message"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(block: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        take_in_message(HumanMessage([block, TEXT]), MemoryImageStore())


def test_a_file_beyond_the_limit_is_refused_before_it_is_decoded() -> None:
    store = MemoryImageStore(limits=ImageLimits(documents=DocumentLimits(max_bytes=100)))
    with pytest.raises(ImageTooLarge, match="at most 100 bytes"):
        take_in_message(HumanMessage([DIALECTS["standard"][0], TEXT]), store)


def test_a_thread_is_asked_about_the_files_of_its_messages_and_keeps_none_of_their_bytes() -> None:
    agent = create_document_agent(
        ScriptedChat(lines=["<answer>17 months</answer>"]),
        image_store=MemoryImageStore(),
        checkpointer=InMemorySaver(),
    )
    thread: Any = {"configurable": {"thread_id": "1"}}
    first: Any = {"messages": [HumanMessage([DIALECTS["OpenAI"][0], TEXT])]}
    result = agent.invoke(first, thread)
    assert result["answer"]["evidence"][0]["document"] == "r.pdf"
    assert result["answer"]["evidence"][0]["page"] == 2
    assert PDF[:50] not in json.dumps([message.model_dump(mode="json") for message in result["messages"]])
    later: Any = {"messages": [HumanMessage("And how long does the warranty last again?")]}
    assert agent.invoke(later, thread)["answer"]["usage"]["pages"] == 1


async def test_the_served_agent_answers_about_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = render_page("served", print_size="large")
    section = next(each for each in page.sections if each.print_size == "large")
    monkeypatch.setenv("VTAGENT_IMAGES", str(tmp_path))
    monkeypatch.setenv("VTAGENT_MODEL", "base")
    monkeypatch.delenv("VTAGENT_BASE_URL", raising=False)
    data = base64.b64encode(pdf([PdfPage(size=(161.28, 115.2), image=page.image)])).decode()
    asked = {"type": "text", "text": f"What is the {section.fields[0].label} in {section.heading}?"}
    message = HumanMessage([{"type": "file", "base64": data, "mime_type": "application/pdf"}, asked])
    agent: Any = await document_agent()
    given: Any = {"messages": [message]}
    result = await agent.ainvoke(given, context={"zoom_bias": -20.0})  # as a server sends it
    assert result["answer"]["text"] == section.fields[0].value
