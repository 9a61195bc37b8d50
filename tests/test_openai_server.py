"""`ServedVLM`: the answers of an OpenAI-compatible server, retries, and error messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any, NamedTuple

import openai
import pytest
import tenacity.nap
from langchain_core.messages import HumanMessage

from vtagent.errors import ModelError
from vtagent.graphs.zoom import create_zoom_agent
from vtagent.models import openai_server as served
from vtagent.models.openai_server import ServedVLM, served_vlm


class Answer(NamedTuple):
    body: bytes
    mime: str = "application/json"
    status: int = 200
    missing: int = 0
    """Bytes that the headers announce and that are never sent."""
    silence: float = 0.0
    """Seconds between the headers and the body."""
    pause: str = ""
    """The `Retry-After` header."""


class Handler(BaseHTTPRequestHandler):
    """Answers each request with the next of the server's answers, and repeats the last one."""

    server: Any

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        answers = self.server.answers
        answer = answers[min(len(self.server.keys), len(answers) - 1)]
        self.server.keys.append(self.headers["Authorization"])
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.mime)
        self.send_header("Content-Length", str(len(answer.body) + answer.missing))
        if answer.pause:
            self.send_header("Retry-After", answer.pause)
        self.end_headers()
        self.server.over.wait(answer.silence)
        self.wfile.write(answer.body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(served, "_PAUSE", 0.0)
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.keys, server.over = [], Event()
    server.handle_error = lambda *_: None  # clients that timed out have closed the connection
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def model_of(server: Any, timeout: float = 30) -> ServedVLM:
    return served_vlm("any", f"http://127.0.0.1:{server.server_port}/v1", timeout)


@pytest.fixture
def model(server: Any) -> ServedVLM:
    return model_of(server)


async def _astreamed(model: ServedVLM, said: list[str]) -> str:
    async for chunk in model.astream("Total?"):
        said.append(chunk.text)
    return "".join(said)


WAYS: dict[str, Callable[[ServedVLM], str]] = {
    "invoke": lambda model: model.invoke("Total?").text,
    "ainvoke": lambda model: asyncio.run(model.ainvoke("Total?")).text,
    "stream": lambda model: "".join(chunk.text for chunk in model.stream("Total?")),
    "astream": lambda model: asyncio.run(_astreamed(model, [])),
}
WHOLE = b'{"choices": [{"message": {"role": "assistant", "content": "48.10"}, "finish_reason": "stop", "index": 0}]}'
PIECE = b'data: {"choices": [{"delta": {"role": "assistant", "content": "48.10"}, "index": 0}]}\n\n'
CUT = b'{"id": "1", "cho'


def good(way: str) -> Answer:
    return Answer(PIECE + b"data: [DONE]\n\n", "text/event-stream") if "stream" in way else Answer(WHOLE)


def bad(kind: str, way: str) -> Answer:
    """An answer that cannot be read."""
    cut = b"data: " + CUT + b"\n\n" if "stream" in way else CUT
    return {
        "a page": Answer(b"<html>Welcome</html>", "text/html"),
        "broken JSON": Answer(cut),
        "half of it": Answer(CUT, missing=50),
        "too busy": Answer(b"{}", status=503),
    }[kind]


SAID = {
    "a page": "does not answer as .*is the URL right",
    "broken JSON": "does not answer as .*is the URL right",
    "half of it": "peer closed connection",
    "too busy": r"refused \(503\)",
}


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_is_the_servers(way: str, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server.answers = [good(way)]
    assert WAYS[way](model_of(server)) == "48.10"
    assert server.keys == ["Bearer secret"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", SAID)
def test_an_answer_that_is_none_is_asked_for_once_more(way: str, kind: str, model: ServedVLM, server: Any) -> None:
    server.answers = [bad(kind, way), good(way)]
    assert WAYS[way](model) == "48.10"
    assert len(server.keys) == 2


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", SAID)
def test_and_then_told_of_in_one_line_that_names_the_server(way: str, kind: str, model: ServedVLM, server: Any) -> None:
    server.answers = [bad(kind, way)]
    with pytest.raises(ModelError, match=SAID[kind]) as raised:
        WAYS[way](model)
    assert str(model.openai_api_base) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(server.keys) == 2


def test_what_was_said_is_not_asked_for_again(model: ServedVLM, server: Any) -> None:
    server.answers = [Answer(PIECE, "text/event-stream", missing=50)]
    said: list[str] = []
    with pytest.raises(ModelError, match="peer closed connection"):
        said.extend(chunk.text for chunk in model.stream("Total?"))
    assert (said, len(server.keys)) == (["48.10"], 1)
    said.clear()
    with pytest.raises(ModelError, match="peer closed connection"):
        asyncio.run(_astreamed(model, said))
    assert (said, len(server.keys)) == (["48.10"], 2)


@pytest.mark.parametrize("way", WAYS)
def test_of_a_silent_server_the_limit_is_told(way: str, server: Any) -> None:
    server.answers = [good(way)._replace(silence=60)]
    model = model_of(server, timeout=0.3)
    with pytest.raises(
        ModelError, match=rf"{model.openai_api_base} was silent for 0.3 s; --timeout or VTAGENT_TIMEOUT"
    ):
        WAYS[way](model)
    assert len(server.keys) == 2


def test_within_the_limit_a_stream_may_begin_late(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGCHAIN_OPENAI_STREAM_CHUNK_TIMEOUT_S", "0.1")
    server.answers = [good("astream")._replace(silence=0.5)]
    assert WAYS["astream"](model_of(server)) == "48.10"
    assert len(server.keys) == 1


@pytest.mark.parametrize("way", WAYS)
def test_an_absent_server_is_named(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "_PAUSE", 0.0)
    with pytest.raises(ModelError, match=r"no server answers at http://127\.0\.0\.1:9/v1"):
        WAYS[way](served_vlm("any", "http://127.0.0.1:9/v1", 10))


@pytest.mark.parametrize(("wanted", "slept"), [("7", 7.0), ("86400", 60.0), ("Mon, 23 Nov 2026 00:00:00 GMT", 0.0)])
def test_a_server_may_say_how_long_it_wants_to_be_left_alone(
    wanted: str, slept: float, model: ServedVLM, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(tenacity.nap, "time", SimpleNamespace(sleep=pauses.append))
    server.answers = [Answer(b"{}", status=429, pause=wanted), good("invoke")]
    assert model.invoke("Total?").text == "48.10"
    assert pauses == [slept]


@pytest.mark.parametrize("none", [bad("a page", "invoke"), Answer(b'{"choices": []}')], ids=["a page", "no choices"])
def test_so_it_is_in_a_graph_whichever_way_that_runs(none: Answer, model: ServedVLM, server: Any) -> None:
    agent = create_zoom_agent(model)
    server.answers = [none]
    asked: Any = {"messages": [HumanMessage("Total?")]}
    with pytest.raises(ModelError, match="is the URL right"):
        agent.invoke(asked)
    with pytest.raises(ModelError, match="is the URL right"):
        asyncio.run(agent.ainvoke(asked))


@pytest.mark.parametrize("way", WAYS)
def test_what_the_server_refuses_is_asked_once(way: str, model: ServedVLM, server: Any) -> None:
    server.answers = [Answer(b'{"error": {"message": "too\\nlong"}}', status=400)]
    with pytest.raises(ModelError, match=r"refused \(400\): .*too.*long") as raised:
        WAYS[way](model)
    assert isinstance(raised.value.__cause__, openai.BadRequestError)
    assert len(server.keys) == 1
