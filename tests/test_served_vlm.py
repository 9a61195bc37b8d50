"""`ServedVLM`: an OpenAI-compatible server's answers, and what is said of a server that gives none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import openai
import pytest
from langchain_core.messages import HumanMessage

from vtagent.errors import ModelError
from vtagent.graphs.zoom import create_zoom_agent
from vtagent.models.served import ServedVLM, served_vlm


class Handler(BaseHTTPRequestHandler):
    """Gives every request the server's one answer: status, type, body."""

    server: Any

    def do_POST(self) -> None:
        status, mime, body = self.server.answer
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.keys.append(self.headers["Authorization"])
        self.send_response(status)
        self.send_header("Content-Type", mime)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.keys = []
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def model(server: Any) -> ServedVLM:
    return served_vlm("any", f"http://127.0.0.1:{server.server_port}/v1", 10)


async def _astreamed(model: ServedVLM) -> str:
    return "".join([chunk.text async for chunk in model.astream("Total?")])


WAYS: dict[str, Callable[[ServedVLM], str]] = {
    "invoke": lambda model: model.invoke("Total?").text,
    "ainvoke": lambda model: asyncio.run(model.ainvoke("Total?")).text,
    "stream": lambda model: "".join(chunk.text for chunk in model.stream("Total?")),
    "astream": lambda model: asyncio.run(_astreamed(model)),
}
WHOLE = b'{"choices": [{"message": {"role": "assistant", "content": "48.10"}, "finish_reason": "stop", "index": 0}]}'
PIECE = b'data: {"choices": [{"delta": {"role": "assistant", "content": "48.10"}, "index": 0}]}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_is_the_servers(way: str, model: ServedVLM, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    model = served_vlm("any", str(model.openai_api_base), 10)
    streams = "stream" in way
    server.answer = (200, "text/event-stream", PIECE) if streams else (200, "application/json", WHOLE)
    assert WAYS[way](model) == "48.10"
    assert server.keys == ["Bearer secret"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("mime", "body"),
    [("text/html", b"<html>Welcome</html>"), ("application/json", b'{"id": "1", "cho')],
    ids=["a page", "broken JSON"],
)
def test_an_answer_of_another_kind_is_told_of_with_the_servers_name(
    way: str, mime: str, body: bytes, model: ServedVLM, server: Any
) -> None:
    if "stream" in way and mime == "application/json":
        body = b'data: {"id": "1", "cho\n\n'
    server.answer = (200, mime, body)
    with pytest.raises(ModelError, match=rf"server at {model.openai_api_base} does not answer as .*is the URL right"):
        WAYS[way](model)


def test_so_it_is_in_a_graph_whichever_way_that_runs(model: ServedVLM, server: Any) -> None:
    agent = create_zoom_agent(model)
    server.answer = (200, "text/html", b"<html>Welcome</html>")
    asked: Any = {"messages": [HumanMessage("Total?")]}
    with pytest.raises(ModelError, match="is the URL right"):
        agent.invoke(asked)
    with pytest.raises(ModelError, match="is the URL right"):
        asyncio.run(agent.ainvoke(asked))


@pytest.mark.parametrize("way", WAYS)
def test_what_the_server_refuses_stays_the_clients_error(way: str, model: ServedVLM, server: Any) -> None:
    server.answer = (400, "application/json", b'{"error": {"message": "too long"}}')
    with pytest.raises(openai.BadRequestError, match="too long"):
        WAYS[way](model)
