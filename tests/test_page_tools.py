"""`search_pages` and `view_page` in an agent: pages are found by their words, seen small, and zoomed into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from tests.pdfs import report
from tests.scripted_chat import ScriptedChat
from vtagent.graphs.middleware import ZoomMiddleware
from vtagent.images import MemoryImageStore
from vtagent.pages.library import take_in_paths
from vtagent.tools import create_page_tools


def call(name: str, id_: str, **arguments: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": id_}])


def ran(folder: Path, *calls: AIMessage, files: int = 1) -> list[ToolMessage]:
    """What an agent is told that makes these calls, one after the other."""
    store = MemoryImageStore()
    paths = [folder / f"report{n}.pdf" for n in range(files)]
    for path in paths:
        path.write_bytes(report(20, {13: "The warranty lasts 17 months."}))
    tools = create_page_tools(take_in_paths(paths, store), image_store=store)
    model = ScriptedChat(lines=[*calls, AIMessage("17 months")])
    agent = create_agent(model, tools, middleware=[ZoomMiddleware(image_store=store)])
    result = agent.invoke({"messages": [HumanMessage("How long does the warranty last?")]})
    assert result["messages"][-1].text == "17 months"
    return [message for message in result["messages"] if isinstance(message, ToolMessage)]


def images(message: ToolMessage) -> list[str]:
    return [each["url"] for each in message.content if isinstance(each, dict) and each["type"] == "image"]


def test_an_agent_finds_a_page_looks_at_it_small_and_zooms_into_it(tmp_path: Path) -> None:
    found, seen, zoomed = ran(
        tmp_path,
        call("search_pages", "1", words="How long does the warranty last?"),
        call("view_page", "2", page=13),
        call("zoom_image", "3", region=[0, 450, 500, 600]),
    )
    first = found.text.splitlines()[0]
    assert first.startswith("report0.pdf, page 13: ")
    assert "The warranty lasts 17 months." in first
    assert found.artifact == {"pages": [[0, 13], *found.artifact["pages"][1:]]}
    [low] = images(seen)
    [sharp] = images(zoomed)
    assert "page=13" in low
    assert "scale=0.5" in low
    assert "page=13" in sharp
    assert "region=0,450,500,600" in sharp.replace("%2C", ",")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"page": 21}, "there is no document"),
        ({"page": 21, "document": "report1.pdf"}, "there is no page 21 in report1.pdf: it has 20"),
        ({"page": 0, "document": "report1.pdf"}, "there is no page 0 in report1.pdf"),
        ({"page": 1, "document": "../secret.pdf"}, "name one of report0.pdf, report1.pdf"),
    ],
)
def test_a_page_that_is_not_there_is_told_with_what_would_be_right(
    arguments: dict[str, Any], says: str, tmp_path: Path
) -> None:
    [told] = ran(tmp_path, call("view_page", "1", **arguments), files=2)
    assert told.status == "error"
    assert says.lower() in told.text.lower()


def test_a_search_that_finds_nothing_says_so(tmp_path: Path) -> None:
    [told] = ran(tmp_path, call("search_pages", "1", words="zebra"))
    assert told.text == "No page shares a word with that."


def test_tools_over_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no document"):
        create_page_tools([], image_store=MemoryImageStore())
