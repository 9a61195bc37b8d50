"""A vLLM server without a model: it answers the endpoints that VLLMEngine uses, and fails on demand."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from vtagent.models.engine import EngineImage
from vtagent.models.placeholders import expand
from vtagent.models.processor import VLProcessor

GENERATE = "/inference/v1/generate"
Policy = Callable[[dict[str, Any], list[int]], list[int]]
"""From a request's body and its expanded prompt to the reply's tokens."""


@dataclass
class FakeVLLM:
    """A server on a free port of this machine.

    Attributes:
        policy: What is sampled; by default a few tokens that depend on all of the prompt, its pixels and the weights.
        troubles: What happens to the next generation requests instead of an answer: "drop", "html", "truncate", "slow",
            "break" (in mid-stream), "garbled" (not in the encoding that it says), "500", "400", …
        calls: Paths of all requests, in order, each with its body.
        version: The name of the weights.
        loaded: The folder of the weights.
        restarts: If set, `version` falls back to it when weights are to be loaded, as if the server had started anew.
        waiting: Set while a "slow" request is held.
    """

    processor: VLProcessor
    policy: Policy | None = None
    troubles: list[str] = field(default_factory=list)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    version: str = "default"
    loaded: str = ""
    failing: set[str] = field(default_factory=set)
    """Paths that answer 500."""
    losing: list[str] = field(default_factory=list)
    """`/pause`, `/resume`: the next one takes effect, and its answer is lost."""
    paused: bool = False
    cached: int = 0
    step: Callable[[int], None] = lambda place: None
    """Called before each token of a stream."""
    waiting: threading.Event = field(default_factory=threading.Event)
    ending: threading.Event = field(default_factory=threading.Event)
    headers: list[dict[str, str]] = field(default_factory=list)

    def __enter__(self) -> FakeVLLM:
        fake = self

        class Handler(_Handler):
            server_of = fake

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ending.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def generations(self) -> list[Any]:
        """The bodies of all generation requests."""
        return [body for path, body in self.calls if path == GENERATE]

    @property
    def orders(self) -> list[str]:
        """The paths of all other requests."""
        return [path for path, _ in self.calls if path != GENERATE]

    def prompt(self, body: dict[str, Any]) -> tuple[list[int], list[Image.Image]]:
        """The prompt of a body, expanded as vLLM does it, and its images."""
        urls = [part["url"] for part in body.get("content_parts", ())]
        images: list[Image.Image] = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
        shown = [EngineImage(str(place), image) for place, image in enumerate(images)]
        return expand(body["token_ids"], shown, self.processor.vision, self.processor.image_token_id), images

    def sample(self, body: dict[str, Any]) -> list[int]:
        """The tokens of a reply."""
        prompt, images = self.prompt(body)
        if self.policy is not None:
            return self.policy(body, prompt)
        seen = repr((prompt, [image.tobytes() for image in images], self.loaded, body["sampling_params"].get("seed")))
        digest = sha256(seen.encode()).digest()
        return [40 + byte % 100 for byte in digest[:6]] + [self.processor.tokenizer.eos_token_id]


def content(tokens: list[int], body: dict[str, Any]) -> list[dict[str, Any]]:
    """Log-probabilities as vLLM words them: the token itself, and, if more are asked for, one other."""
    rest = [{"token_id": 0, "logprob": -0.5}] if body["sampling_params"]["logprobs"] else []
    return [
        {
            "token_id": token,
            "logprob": -token / 64,
            "top_logprobs": [{"token_id": token, "logprob": -token / 64}, *rest],
        }
        for token in tokens
    ]


class _Handler(BaseHTTPRequestHandler):
    server_of: FakeVLLM
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        """The list of models."""
        fake = self.server_of
        fake.calls.append((self.path, None))
        self._answer({"data": [{"id": "tiny", "max_model_len": 4096}]})

    def do_POST(self) -> None:
        """Generate, or carry out a command."""
        fake = self.server_of
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        fake.calls.append((self.path, body))
        fake.headers.append(dict(self.headers))
        if self.path == GENERATE:
            self._generate(body)
        elif self.path.partition("?")[0] in fake.failing:
            self._answer({"error": {"message": "out of\nluck"}}, 500)
        else:
            self._order(body)

    def _order(self, body: Any) -> None:
        fake = self.server_of
        path = self.path.partition("?")[0]
        fake.paused = path == "/pause" or (fake.paused and path != "/resume")
        lost = path in fake.losing
        if lost:
            fake.losing.remove(path)
        match self.path:
            case _ if lost:
                self.close_connection = True
                return
            case "/update_weight_version":
                fake.version = body["new_version"]
            case "/collective_rpc":
                fake.loaded = body["kwargs"]["weights_path"]
            case "/reset_mm_cache" | "/reset_encoder_cache":
                self._raw(b"")
                return
        self._answer({"success": True})

    def _generate(self, body: Any) -> None:
        fake = self.server_of
        trouble = fake.troubles.pop(0) if fake.troubles else ""
        match trouble:
            case "drop":
                self.close_connection = True
                return
            case "slow":
                fake.waiting.set()
                fake.ending.wait(60)
                return
            case "garbled":
                self._raw(b"no gzip", headers={"Content-Encoding": "gzip"})
                return
            case "html":
                self._raw(b"<html>Bad\n gateway</html>")
                return
            case status if status.isdigit():
                self._answer({"error": {"message": f"trouble\nnumber {status}"}}, int(status))
                return
        tokens = fake.sample(body)
        if body.get("stream"):
            self._stream(body, tokens, trouble)
            return
        whole = {"choices": [self._choice(body, tokens, tokens)], **self._about(body), **self._usage(body)}
        text = json.dumps(whole).encode()
        if trouble == "truncate":
            self._head(len(text))
            self.wfile.write(text[: len(text) // 2])
            self.close_connection = True
            return
        self._raw(text)

    def _stream(self, body: Any, tokens: list[int], trouble: str) -> None:
        self._head(None)
        about = self._about(body)
        for place, token in enumerate(tokens):
            if trouble in ("break", "truncate") and place == len(tokens) // 2:
                if trouble == "break":
                    self._event({"error": {"message": "the engine\nis dead", "code": 500}})
                self.close_connection = True
                return
            self.server_of.step(place)
            if not self._event({"choices": [self._choice(body, [token], tokens[: place + 1], tokens)], **about}):
                return
            about = {}
        self._event({"choices": [], **self._usage(body)})
        if self._event("[DONE]"):
            self.wfile.write(b"0\r\n\r\n")

    def _choice(self, body: Any, new: list[int], sofar: list[int], whole: list[int] | None = None) -> dict[str, Any]:
        last = whole is None or sofar == whole
        ended = sofar[-1:] and sofar[-1] in body["sampling_params"]["stop_token_ids"]
        spans = [{"version": version, "start": 0, "end": 0} for version in self.server_of.version.split("+")]
        return {
            "index": 0,
            "token_ids": new,
            "logprobs": {"content": content(new, body)},
            "finish_reason": ("stop" if ended else "length") if last else None,
            "weight_versions": spans if last else None,
        }

    def _about(self, body: Any) -> dict[str, Any]:
        return {"prompt_token_ids": self.server_of.prompt(body)[0]} if body["return_token_ids"] else {}

    def _usage(self, body: Any) -> dict[str, Any]:
        return {"usage": {"prompt_tokens_details": {"cached_tokens": self.server_of.cached}}}

    def _event(self, data: Any) -> bool:
        text = data if isinstance(data, str) else json.dumps(data)
        line = f"data: {text}\n\n".encode()
        try:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
        except OSError:  # the client has closed the connection
            self.close_connection = True
            return False
        return True

    def _answer(self, data: Any, status: int = 200) -> None:
        self._raw(json.dumps(data).encode(), status)

    def _raw(self, text: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self._head(len(text), status, headers)
        self.wfile.write(text)

    def _head(self, length: int | None, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()


def scripted(processor: VLProcessor, *replies: str) -> Policy:
    """A policy that replies with these texts in turn."""
    rest: Iterator[str] = iter(replies)

    def say(body: dict[str, Any], prompt: list[int]) -> list[int]:
        ids: list[int] = processor.tokenizer.encode(next(rest), add_special_tokens=False)
        return [*ids, processor.tokenizer.eos_token_id]

    return say
