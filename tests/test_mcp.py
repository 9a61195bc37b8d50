"""`vtagent mcp`: agents see images through the official client, and nothing outside of the folders."""

from __future__ import annotations

import base64
import io
import json
import random
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolMessage
from langchain_mcp_adapters.tools import load_mcp_tools
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.memory import create_connected_server_and_client_session
from mcp.types import CallToolResult, ImageContent, TextContent
from PIL import Image

from tests.pdfs import report
from tests.scripted_chat import ScriptedChat
from vtagent.cli import _load, run
from vtagent.errors import ImageError
from vtagent.eyes.assistants import ASSISTANTS, eyes_for
from vtagent.graphs import create_zoom_agent
from vtagent.images import MemoryImageStore
from vtagent.mcp.folders import Folders
from vtagent.mcp.viewing import MOST_BYTES, Viewer
from vtagent.mcp_command import server_of
from vtagent.options import parsers
from vtagent.training.documents.render import render_document
from vtagent.user_input import image_block

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "examples" / "documents" / "small-print.png"


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder with a scan, a document in a folder below, and something to hide beside it."""
    folder = tmp_path / "scans"
    (folder / "2026").mkdir(parents=True)
    Image.effect_noise((1600, 1200), 90).convert("RGB").save(folder / "noise.png")
    (folder / "2026" / "receipt.png").write_bytes(PAGE.read_bytes())
    (folder / "note.txt").write_text("no image")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    return folder


def options(*arguments: object) -> Any:
    return parsers()[1]["mcp"].parse_args(list(map(str, arguments)))


@asynccontextmanager
async def connected(*arguments: object) -> AsyncIterator[ClientSession]:
    """A client of a server in this process."""
    given = options(*arguments)
    server = server_of(given, partial(_load, given))
    async with create_connected_server_and_client_session(server._mcp_server) as session:
        yield session


def text_of(result: CallToolResult) -> str:
    assert isinstance(result.content[0], TextContent)
    return result.content[0].text


def pixels_of(result: CallToolResult) -> Image.Image:
    [image] = [block for block in result.content if isinstance(block, ImageContent)]
    assert len(base64.b64decode(image.data)) <= MOST_BYTES
    return Image.open(io.BytesIO(base64.b64decode(image.data)))


def said_size(text: str) -> tuple[int, int]:
    [(width, height)] = re.findall(r"shown at (\d+) × (\d+)", text)
    return int(width), int(height)


async def test_an_agents_server_shows_images_over_stdio(scans: Path) -> None:
    server = StdioServerParameters(command=sys.executable, args=["-m", "vtagent", "mcp", "--root", str(scans)])
    async with stdio_client(server) as streams, ClientSession(*streams) as session:
        said = await session.initialize()
        assert said.serverInfo.name == "vtagent"
        assert "zoom_image" in (said.instructions or "")
        names = [tool.name for tool in (await session.list_tools()).tools]
        assert names == ["list_images", "open", "look", "zoom_image", "search_pages", "view_page", "savings"]
        listed = text_of(await session.call_tool("list_images"))
        assert [line.split("  ")[0] for line in listed.splitlines()] == ["scans/2026/receipt.png", "scans/noise.png"]
        looked = await session.call_tool("look", {"image": "scans/noise.png"})
        assert pixels_of(looked).size == said_size(text_of(looked))
        zoomed = await session.call_tool("zoom_image", {"image": "scans/noise.png", "region": [0, 0, 200, 200]})
        assert pixels_of(zoomed).size == said_size(text_of(zoomed))
        assert looked.meta is not None
        assert zoomed.meta is not None
        assert 0 < zoomed.meta["vtagent"]["tokens"] < looked.meta["vtagent"]["tokens"]


def test_the_documented_snippet_runs() -> None:
    [snippet] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "mcp.md").read_text(encoding="utf-8"), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", snippet], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "['list_images', 'open', 'look', 'zoom_image', 'search_pages', 'view_page', 'savings']\n", (
        done.stderr
    )


@contextmanager
def over_http(scans: Path) -> Iterator[str]:
    """The address of a server of its own process."""
    command = [sys.executable, "-m", "vtagent", "mcp", "--root", str(scans), "--http", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield re.findall(r"http://127\.0\.0\.1:\d+/mcp", line)[0]
        finally:
            process.terminate()


async def test_it_serves_two_clients_over_http_and_no_web_page_of_another_origin(scans: Path) -> None:
    with over_http(scans) as address:
        async with (
            streamable_http_client(address) as (reading, writing, _),
            streamable_http_client(address) as (reading2, writing2, _),
            ClientSession(reading, writing) as one,
            ClientSession(reading2, writing2) as two,
        ):
            await one.initialize()
            await two.initialize()
            first = await one.call_tool("look", {"image": "2026/receipt.png"})
            second = await two.call_tool("look", {"image": "2026/receipt.png"})
            assert pixels_of(first).tobytes() == pixels_of(second).tobytes()
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        for changed, code in ({"Origin": "http://evil.example"}, 403), ({"Host": "evil.example"}, 421):
            assert httpx.post(address, content=body, headers={**headers, **changed}).status_code == code
        assert httpx.post(address, content=b" " * 300_000, headers=headers).status_code == 413


def test_a_port_that_is_taken_is_one_line(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with over_http(scans) as address:
        port = re.findall(r":(\d+)/", address)[0]
        assert run(["mcp", "--root", str(scans), "--http", port]) == 2
    assert f"port {port} cannot be used" in capsys.readouterr().err


async def test_langchains_adapters_give_the_tools_to_create_agent(scans: Path) -> None:
    def call(name: str, **arguments: Any) -> AIMessage:
        return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": f"call-{name}"}])

    model = ScriptedChat(
        lines=[
            call("look", image="2026/receipt.png"),
            call("zoom_image", image="2026/receipt.png", region=[0, 500, 1000, 1000]),
            "It is $170.71.",
        ]
    )
    async with connected("--root", scans, "--for", "qwen") as session:
        agent: Any = create_agent(model, await load_mcp_tools(session))
        state = await agent.ainvoke({"messages": [("user", "What is the total?")]})
    replies = [message for message in state["messages"] if isinstance(message, ToolMessage)]
    assert [[block["type"] for block in reply.content if isinstance(block, dict)] for reply in replies] == [
        ["text", "image"],
        ["text", "image"],
    ]
    assert state["messages"][-1].text == "It is $170.71."


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../secret.png", "not in a folder that may be read"),
        ("/etc/passwd", "not in a folder that may be read"),
        ("scans/link.png", "not in a folder that may be read"),
        ("link.png", "not in a folder that may be read"),
        ("a\0b", "is not a path"),
        ("missing.png", "there is no image"),
        ("note.txt", "note.txt"),
    ],
)
@pytest.mark.parametrize("tool", ["open", "look", "zoom_image"])
async def test_a_name_that_leads_nowhere_or_out_is_one_sentence(scans: Path, tool: str, name: str, why: str) -> None:
    async with connected("--root", scans) as session:
        result = await session.call_tool(tool, {"image": name})
    assert result.isError
    assert why in text_of(result)
    assert str(scans.parent) not in text_of(result)


@pytest.mark.parametrize(
    ("tool", "arguments", "why"),
    [
        ("look", {}, "look: image: Field required"),
        ("look", {"image": ["a"]}, "look: image: Input should be a valid string"),
        ("look", {"image": "x" * 5000}, "look: image: String should have at most 4096 characters"),
        ("savings", {"images": []}, "savings: images: List should have at least 1 item"),
        ("savings", {"images": ["a"] * 51}, "savings: images: List should have at most 50 items"),
        ("zoom_image", {"image": "noise.png", "region": "all"}, "zoom_image: region: Input should be a valid list"),
        ("zoom_image", {"image": "noise.png", "region": [1, 2]}, "region"),
        ("rm", {}, "Unknown tool: rm"),
    ],
)
async def test_nonsense_is_answered_with_one_sentence(
    scans: Path, tool: str, arguments: dict[str, Any], why: str
) -> None:
    async with connected("--root", scans) as session:
        result = await session.call_tool(tool, arguments)
        assert result.isError
        assert text_of(result).startswith(why) or why in text_of(result)
        assert len(text_of(result)) < 500
        assert not (await session.call_tool("look", {"image": "noise.png"})).isError


@settings(max_examples=200)
@given(st.text(max_size=60) | st.lists(st.sampled_from(["..", ".", "", "scans", "x.png"]), max_size=6).map("/".join))
def test_no_name_leads_out_of_the_folders(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "hypothesis-scans"
    (folder / "scans").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64)).save(folder / "x.png")  # outside
    with pytest.raises(ImageError):
        Folders([folder / "scans"]).put(name, MemoryImageStore())


async def test_pages_of_a_pdf_are_found_by_their_words_seen_small_and_zoomed_into(scans: Path) -> None:
    (scans / "report.pdf").write_bytes(report(20, {13: "The warranty lasts 17 months."}))
    async with connected("--root", scans) as session:
        assert "scans/report.pdf" in text_of(await session.call_tool("list_images"))
        documents = {"documents": ["scans/report.pdf", "scans/noise.png"], "words": "How long does the warranty last?"}
        found = await session.call_tool("search_pages", documents)
        first, *_, last = text_of(found).splitlines()
        assert first.startswith("scans/report.pdf#page=13: ")
        assert "The warranty lasts 17 months." in first
        assert last == "1 of 21 pages have no text: look at them with view_page."
        seen = await session.call_tool("view_page", {"document": "scans/report.pdf", "page": 13})
        assert pixels_of(seen).size == said_size(text_of(seen))
        zoomed = await session.call_tool("zoom_image", {"image": "scans/report.pdf#page=13", "region": [0, 0, 99, 99]})
        assert pixels_of(zoomed).size == said_size(text_of(zoomed))
        nothing = {"documents": ["scans/report.pdf"], "words": "zebra"}
        assert text_of(await session.call_tool("search_pages", nothing)) == "No page shares a word with that."


@pytest.mark.parametrize(
    ("tool", "arguments", "why"),
    [
        ("look", {"image": "report.pdf"}, "'report.pdf': it has 3 pages: name one, such as 'report.pdf#page=1'"),
        ("look", {"image": "report.pdf#page=4"}, "there is no page 4"),
        ("view_page", {"document": "report.pdf", "page": 0}, "view_page: page: Input should be greater than or equal"),
        ("view_page", {"document": "../secret.png", "page": 1}, "not in a folder that may be read"),
        ("view_page", {"document": "broken.pdf", "page": 1}, "'broken.pdf': "),
        ("search_pages", {"documents": ["broken.pdf"], "words": "a"}, "'broken.pdf': "),
        ("search_pages", {"documents": [], "words": "a"}, "documents: List should have at least 1 item"),
    ],
)
async def test_a_page_that_cannot_be_shown_is_one_sentence(
    scans: Path, tool: str, arguments: dict[str, Any], why: str
) -> None:
    (scans / "report.pdf").write_bytes(report(3))
    (scans / "broken.pdf").write_bytes(b"%PDF-1.7 nothing")
    async with connected("--root", scans) as session:
        result = await session.call_tool(tool, arguments)
    assert result.isError
    assert why in text_of(result)
    assert str(scans.parent) not in text_of(result)


@pytest.mark.parametrize("client", ASSISTANTS)
async def test_sizes_and_tokens_follow_the_clients_model(scans: Path, client: str) -> None:
    async with connected("--root", scans, "--for", client) as session:
        result = await session.call_tool("look", {"image": "noise.png"})
        viewer = Viewer(Folders([scans]), eyes_for(client))
        width, height = pixels_of(result).size
        assert result.meta is not None
        facts = result.meta["vtagent"]
        assert (facts["width"], facts["height"]) == (width, height)
        assert facts["tokens"] == viewer.eyes.vision.tokens(width, height)
        assert viewer.boxes in text_of(result)
        described = {tool.name: tool for tool in (await session.list_tools()).tools}["zoom_image"]
        assert viewer.boxes in described.inputSchema["properties"]["region"]["description"]


async def test_ask_answers_as_the_graph_does_and_counts_alike_on_fifty_pages(tmp_path: Path) -> None:
    pages = [render_document(f"mcp/{number}", print_size="small" if number % 2 else "large") for number in range(50)]
    for number, page in enumerate(pages):
        page.image.save(tmp_path / f"{number:02d}.png")
    store = MemoryImageStore()
    _, model, vision = _load(options("--root", tmp_path, "--model", "zoom"), store)
    graph: Any = create_zoom_agent(model, image_store=store, vision=vision)
    zooms = 0
    async with connected("--root", tmp_path, "--model", "zoom") as session:
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        assert "vtagent samples" in (tools["ask"].description or "")
        for number, page in enumerate(pages):
            question = page.fields[0].question(random.Random(number))
            block = image_block(tmp_path / f"{number:02d}.png", store)
            state = graph.invoke({"messages": [("user", [block, {"type": "text", "text": question}])]})
            result = await session.call_tool("ask", {"images": [f"{number:02d}.png"], "question": question})
            assert result.meta is not None
            facts = result.meta["vtagent"]
            assert (facts["answer"], facts["views"]) == (state["answer"], state["views"])
            counted = ("visual_tokens", "full_visual_tokens", "zooms")
            assert [facts["usage"][key] for key in counted] == [state["usage"][key] for key in counted]
            assert text_of(result).startswith(state["answer"])
            zooms += state["usage"]["zooms"]
    assert 20 <= zooms <= 30  # small print is every other page
