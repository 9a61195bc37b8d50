"""`Gemini`: generateContent and streamGenerateContent as Google's Gemini API answers them.

Source: Google, Gemini API reference, "Generating content"; `gemini_check` names those of the rules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.wire.gemini_check import SIGNATURE, Check
from tests.wire.server import Format, Refusal, Request, Turn, cut, sse

PATH = re.compile(r"/v1(?:beta)?/models/([^/:]+):(generateContent|streamGenerateContent)(?:\?(.*))?")
MAX_BYTES = 20 * 2**20
"""Of the request's body; raised to 100 MB in 2026 for some models. The lower limit holds everywhere."""
STATUSES = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}


@dataclass
class Gemini(Format):
    """The Gemini API of Google AI Studio, versions v1 and v1beta.

    Images beside function responses, in the same user content, are accepted: so langchain-google-genai sends the images
    of tool messages. Whether a turn of several calls takes them is disputed (google-gemini/gemini-cli #16137).

    Args:
        max_bytes: Of the request's body.
    """

    max_bytes: int = MAX_BYTES

    def check(self, request: Request) -> None:
        """See `Format.check`."""
        found = PATH.fullmatch(request.path)
        if not found:
            raise Refusal("Requested entity was not found.", 404)
        if "x-goog-api-key" not in request.headers and "key=" not in (found[3] or ""):
            said = "Method doesn't allow unregistered callers (callers without established identity)."
            raise Refusal(said, 403)
        if int(request.headers.get("content-length", 0)) > self.max_bytes:
            raise Refusal(f"Request payload size exceeds the limit: {self.max_bytes} bytes.")
        request.streamed = found[2] == "streamGenerateContent"
        Check(request, found[1]).run()

    def whole(self, turn: Turn) -> Any:
        """See `Format.whole`."""
        text = [{"text": turn.reply.text}] if turn.reply.text else []
        return _response(turn, text + _calls(turn), last=True)

    def pieces(self, turn: Turn) -> Iterator[bytes]:
        """See `Format.pieces`; without `alt=sse` the stream is one JSON list."""
        parts: list[list[dict[str, Any]]] = [[{"text": text}] for text in cut(turn.reply.text)]
        if turn.reply.calls:
            parts.append(_calls(turn))
        chunks = [_response(turn, part, last=part is parts[-1]) for part in parts]
        if "alt=sse" in turn.request.path:
            yield from (sse(chunk) for chunk in chunks)
            return
        for place, chunk in enumerate(chunks):
            yield (("," if place else "[") + json.dumps(chunk)).encode()
        yield b"]"

    def error(self, refusal: Refusal) -> Any:
        """See `Format.error`."""
        status = refusal.kind or STATUSES.get(refusal.status, "INTERNAL")
        return {"error": {"code": refusal.status, "message": refusal.message, "status": status}}


def _calls(turn: Turn) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for call in turn.reply.calls:
        part: dict[str, Any] = {"functionCall": {"name": call.name, "args": call.arguments}}
        if not parts:  # of parallel calls, only the first is signed
            part["thoughtSignature"] = f"{SIGNATURE}{turn.number:04d}"
        parts.append(part)
    return parts


def _response(turn: Turn, parts: list[dict[str, Any]], *, last: bool) -> dict[str, Any]:
    images = sum(image.tokens for image in turn.request.images)
    details = [{"modality": "TEXT", "tokenCount": turn.prompt_tokens - images}]
    if turn.request.images:
        details.append({"modality": "IMAGE", "tokenCount": images})
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if last:
        candidate["finishReason"] = "STOP"
    usage = {
        "promptTokenCount": turn.prompt_tokens,
        "candidatesTokenCount": turn.completion_tokens,
        "totalTokenCount": turn.prompt_tokens + turn.completion_tokens,
        "promptTokensDetails": details,
    }
    found = PATH.fullmatch(turn.request.path)
    model = found[1] if found else ""
    return {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": model,
        "responseId": f"response{turn.number:04d}",
    }
