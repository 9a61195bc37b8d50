"""The OpenAI-compatible endpoints of servers on a laptop, as far as they differ from one another.

Sources: ggml-org/llama.cpp, tools/server/README.md, #16842 and #16921; docs.ollama.com, "OpenAI compatibility" and
"Context length"; lmstudio.ai/docs, "Tool use" and "OpenAI-like API".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from tests.wire.llama_cpp import LlamaCpp
from tests.wire.server import Refusal, Request, words


class Laptop(LlamaCpp):
    """What the three have in common: a context that the prompt has to fit into, and a list of models.

    Args:
        models: What the server lists, embedding models included.
        context: Tokens of a prompt that fit.
        image_floor: Tokens that an image takes at least.
        tools: Whether the model's template has tools.
    """

    prefix: ClassVar[str] = "/v1"

    def __init__(
        self,
        models: Iterable[str] = ("qwen3-vl",),
        *,
        context: int = 4096,
        image_floor: int = 8,
        tools: bool = True,
    ) -> None:
        self.models = list(models)
        self.context, self.image_floor, self.tools = context, image_floor, tools

    def check(self, request: Request) -> None:
        """See `Format.check`."""
        if request.body.get("tools") and not self.tools:
            self.refuse_tools(request)
        super().check(request)
        lifted = sum(max(self.image_floor, image.tokens) for image in request.images)
        self.check_context(request, request.characters // 4 + lifted)

    def refuse_tools(self, request: Request) -> None:
        """Refuse tools as this server does."""
        raise NotImplementedError

    def check_context(self, request: Request, tokens: int) -> None:
        """Refuse a prompt that is too long as this server does, or cut it."""
        raise NotImplementedError


class LlamaServer(Laptop):
    """llama.cpp's `llama-server`. Without `--jinja` it refuses tools."""

    def refuse_tools(self, request: Request) -> None:
        """See `Laptop.refuse_tools`."""
        raise Refusal("tools param requires --jinja flag", 500, kind="server_error")

    def check_context(self, request: Request, tokens: int) -> None:
        """See `Laptop.check_context`."""
        if tokens > self.context:
            told = f"exceeds the available context size ({self.context} tokens), try increasing it"
            said = f"request ({tokens} tokens) {told}"
            raise Refusal(said, kind="exceed_context_size_error")


class OllamaV1(Laptop):
    """Ollama's OpenAI-compatible endpoint. It passes over `tool_choice`, `logit_bias` and `max_completion_tokens`.

    A prompt that is too long is cut at its beginning without a word, so the image of the question is gone. That is
    refused here, because nobody would see it.
    """

    IGNORED: ClassVar[frozenset[str]] = words("logit_bias max_completion_tokens")

    def check(self, request: Request) -> None:
        """See `Format.check`."""
        if ignored := sorted(self.IGNORED & request.body.keys()):
            raise Refusal(f"Ollama does not read {', '.join(ignored)}")
        super().check(request)

    def refuse_tools(self, request: Request) -> None:
        """See `Laptop.refuse_tools`."""
        model = request.body["model"]
        raise Refusal(f"registry.ollama.ai/library/{model} does not support tools", kind="api_error")

    def check_context(self, request: Request, tokens: int) -> None:
        """See `Laptop.check_context`."""
        if tokens > self.context:
            raise Refusal(f"Ollama would cut this prompt of {tokens} tokens to {self.context} without a word")


class LMStudio(Laptop):
    """LM Studio. It takes `tool_choice` as a word alone, and may leave the calls of a model in its text."""

    CHOICES: ClassVar[tuple[Any, ...]] = (None, "none", "auto", "required")

    def check(self, request: Request) -> None:
        """See `Format.check`."""
        if request.body.get("tool_choice") not in self.CHOICES:
            raise Refusal("Invalid tool_choice type: 'object'. Supported string values: none, auto, required")
        super().check(request)

    def refuse_tools(self, request: Request) -> None:
        """Tools are never refused: without a template of its own, a model is told of them in the prompt."""

    def check_context(self, request: Request, tokens: int) -> None:
        """See `Laptop.check_context`."""
        if tokens > self.context:
            raise Refusal(
                f"The number of tokens to keep from the initial prompt is greater than the context length: {tokens} > "
                f"{self.context}"
            )
