"""`LlamaCpp`: POST /v1/chat/completions as a lenient local server answers it.

Source: ggml-org/llama.cpp, tools/server/README.md.
"""

from __future__ import annotations

from typing import Any

from tests.wire import openai_errors as openai
from tests.wire.openai_chat import OpenAIChat
from tests.wire.server import Refusal, Request


class LlamaCpp(OpenAIChat):
    """Chat Completions as llama.cpp's server answers it: options that it does not know are passed over.

    Images are read from user messages alone: the templates of most checkpoints write only the text of a tool's message,
    so an image there is lost without a word. It is refused here.
    """

    def check(self, request: Request) -> None:
        """See `Format.check`."""
        if request.path not in ("/v1/chat/completions", "/chat/completions"):
            raise Refusal("File Not Found", 404, kind="not_found_error")
        request.streamed = bool(request.body.get("stream"))
        messages = request.body.get("messages")
        if not isinstance(messages, list):
            raise Refusal("'messages' must be an array")
        for place, message in enumerate(messages):
            content = message.get("content")
            if isinstance(content, str):
                request.characters += len(content)
            for part in content if isinstance(content, list) else ():
                if part.get("type") == "text":
                    request.characters += len(part["text"])
                elif part.get("type") == "image_url":
                    self.check_place(message["role"], f"messages[{place}]")
                    openai.check_image(request, part["image_url"]["url"], None, role=message["role"], where="url")
                else:
                    raise Refusal("unsupported content[].type")

    def error(self, refusal: Refusal) -> Any:
        """See `Format.error`."""
        kind = refusal.kind or "invalid_request_error"
        return {"error": {"code": refusal.status, "message": refusal.message, "type": kind}}
