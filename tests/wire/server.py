"""A hosted model's HTTP API on loopback, without a model: it refuses what the real API refuses and replies by a script.

    with Server(OpenAIChat(), [Reply(calls=(Call("zoom_image"),)), "48.10"]) as server:
        ChatOpenAI(base_url=f"{server.url}/v1", …)

A `Format` knows one wire format: what it refuses, and how it words a reply, a stream and an error.
"""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, TypeAlias

CHARACTERS_PER_TOKEN = 4
"""The stand-ins count text roughly; only the tokens of images follow the vendors' rules."""


@dataclass(frozen=True)
class Call:
    """A tool call that the model makes."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What the model says: text, tool calls, or both."""

    text: str = ""
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True)
class ShownImage:
    """An image of an accepted request.

    Attributes:
        role: Whose message it stands in: "user" or "tool".
        media_type: As the bytes are, not as the request says.
        size: Width and height in pixels.
        setting: The detail or media resolution that the request asks for; None if it names none.
        tokens: What the vendor bills for it.
    """

    role: str
    media_type: str
    size: tuple[int, int]
    setting: str | None
    tokens: int


@dataclass
class Request:
    """A request that was read as JSON, and what the format found in it."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    streamed: bool = False
    images: list[ShownImage] = field(default_factory=list)
    characters: int = 0
    """Of text, in all of the prompt."""
    cache_marks: list[str] = field(default_factory=list)
    """Where the request asks for prompt caching."""

    @property
    def prompt_tokens(self) -> int:
        """The prompt as billed: text by its length, images by the vendor's rule."""
        return -(-self.characters // CHARACTERS_PER_TOKEN) + sum(image.tokens for image in self.images)


Line: TypeAlias = str | Reply | Callable[[Request], "str | Reply"]


class Refusal(Exception):
    """The real API answers this request with an error.

    Args:
        message: The error's text, as the real API words it.
        status: The HTTP status.
        kind: The error's type in the vendor's error body; None: the one that belongs to the status.
        param: Which parameter is at fault, where the vendor names it.
        code: The vendor's short name of the error.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        *,
        kind: str | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.kind, self.param, self.code = message, status, kind, param, code


@dataclass(frozen=True)
class Refused:
    """A refused request, and why; `request` is None if it could not be read."""

    status: int
    reason: str
    request: Request | None


@dataclass(frozen=True)
class Turn:
    """An accepted request and the reply to it.

    Attributes:
        request: The request.
        reply: The scripted reply.
        number: How many replies this server gave before.
    """

    request: Request
    reply: Reply
    number: int

    @property
    def model(self) -> str:
        """The model that the request asks for."""
        return str(self.request.body.get("model", ""))

    @property
    def prompt_tokens(self) -> int:
        """As billed."""
        return self.request.prompt_tokens

    @property
    def completion_tokens(self) -> int:
        """As billed."""
        said = self.reply.text + "".join(call.name + json.dumps(call.arguments) for call in self.reply.calls)
        return -(-len(said) // CHARACTERS_PER_TOKEN)

    def call_id(self, place: int, prefix: str = "call_") -> str:
        """An id for the call at `place` of the reply; no other call of the server has it."""
        return f"{prefix}{self.number:04d}{place:04d}"


class Format(ABC):
    """One wire format."""

    stream_type: ClassVar[str] = "text/event-stream"
    models: Sequence[str] = ()
    """What `GET …/models` lists."""

    @abstractmethod
    def check(self, request: Request) -> None:
        """Refuse what the real API refuses; note in `request` whether it streams, its text and its images.

        Raises:
            Refusal: The real API answers with an error.
        """

    @abstractmethod
    def whole(self, turn: Turn) -> Any:
        """The reply as one JSON value."""

    @abstractmethod
    def pieces(self, turn: Turn) -> Iterator[bytes]:
        """The reply as the stream's bytes, cut where a client may see it cut."""

    @abstractmethod
    def error(self, refusal: Refusal) -> Any:
        """The error's JSON body."""


class Server:
    """A server of one format on a free port of this machine.

    Attributes:
        url: Where it listens, without a path.
        requests: All requests that could be read, in order, refused ones included.
        refused: What was refused, and why.
    """

    def __init__(self, format: Format, script: Sequence[Line] = ()) -> None:
        self.format, self.script = format, list(script)
        self.requests: list[Request] = []
        self.refused: list[Refused] = []
        self._given = 0
        self._faults: list[BaseException] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Server:
        server = self

        class Handler(_Handler):
            server_of = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        if self._faults and error[1] is None:
            raise self._faults[0]

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def turn(self, request: Request) -> Turn:
        """Check a request and take the script's next line for it.

        Raises:
            Refusal: The request is refused, or the script has no line left.
        """
        with self._lock:
            self.requests.append(request)
            self.format.check(request)
            if self._given >= len(self.script):
                raise Refusal(f"The script has no reply number {self._given + 1}.")
            line = self.script[self._given]
            said = line(request) if callable(line) else line
            turn = Turn(request, Reply(said) if isinstance(said, str) else said, self._given)
            self._given += 1
            return turn

    def note(self, refusal: Refusal, request: Request | None) -> None:
        """Keep a refusal."""
        self.refused.append(Refused(refusal.status, refusal.message, request))

    def fault(self, error: BaseException) -> None:
        """Keep an error of the server itself; leaving the server raises it."""
        self._faults.append(error)


class _Handler(BaseHTTPRequestHandler):
    server_of: ClassVar[Server]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.close_connection = True
        listed = [{"id": name, "object": "model", "owned_by": "us"} for name in self.server_of.format.models]
        status = 200 if self.path.endswith("/models") else 404
        self._send(status, json.dumps({"object": "list", "data": listed}).encode(), "application/json")

    def do_POST(self) -> None:
        self.close_connection = True
        try:
            self._answer()
        except ConnectionError:
            pass  # the client left in mid-stream
        except Exception as error:
            self.server_of.fault(error)
            self._send(500, b"the stand-in server failed", "text/plain")

    def _answer(self) -> None:
        server, request = self.server_of, None
        try:
            request = self._request()
            turn = server.turn(request)
        except Refusal as refusal:
            server.note(refusal, request)
            self._send(refusal.status, json.dumps(server.format.error(refusal)).encode(), "application/json")
            return
        if not request.streamed:
            self._send(200, json.dumps(server.format.whole(turn)).encode(), "application/json")
            return
        self._headers(200, server.format.stream_type)
        for piece in server.format.pieces(turn):
            self.wfile.write(piece)
            self.wfile.flush()

    def _request(self) -> Request:
        """The request.

        Raises:
            Refusal: It is no JSON object.
        """
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            body = json.loads(data)
        except ValueError as error:
            raise Refusal(f"We could not parse the JSON body of your request: {error}") from error
        if not isinstance(body, dict):
            raise Refusal("The body of your request is not a JSON object.")
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Request(self.path, headers, body)

    def _headers(self, status: int, media_type: str, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Connection", "close")
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _send(self, status: int, data: bytes, media_type: str) -> None:
        self._headers(status, media_type, len(data))
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def sse(data: Any, event: str | None = None) -> bytes:
    """A server-sent event.

    Args:
        data: A JSON value, or a text that is sent as it is.
        event: The event's name; None: no name.

    Returns:
        The event's bytes, the empty line at its end included.
    """
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {event}\n" if event else "").encode() + f"data: {text}\n\n".encode()


def words(text: str) -> frozenset[str]:
    """The words of a text, such as the names of fields."""
    return frozenset(text.split())


def cut(text: str) -> list[str]:
    """The text in two pieces, as a stream brings it; in one, if it is a single character."""
    middle = len(text) // 2
    return [piece for piece in (text[:middle], text[middle:]) if piece]
