"""A chat model that says what the test tells it to, records what it is shown, and does nothing else, at once."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from PIL import Image
from pydantic import Field

from vtagent.images import ImageStore
from vtagent.protocol import format_tool_call, parse_reply
from vtagent.views import View

Line = str | AIMessage | Exception | Callable[[list[BaseMessage], dict[str, Any]], "str | AIMessage"]


class ScriptedChat(BaseChatModel):
    """Says its lines in order, and the last one for ever.

    A line is a text (calls are read from it, as `ChatVLM` does), a whole message, an exception to raise, or a function
    of the messages and options of the call.
    """

    lines: list[Any]
    resolves_images: bool = True
    reads_calls: bool = True
    """Whether calls in a text become structured calls; else they stay text, as with a server without a tool parser."""
    seen: list[list[BaseMessage]] = Field(default_factory=list, exclude=True, repr=False)
    options: list[dict[str, Any]] = Field(default_factory=list, exclude=True, repr=False)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    @property
    def offered(self) -> list[list[str]]:
        """The names of the tools offered in each call."""
        return [[tool["function"]["name"] for tool in options.get("tools", ())] for options in self.options]

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        choice = {} if tool_choice is None else {"tool_choice": tool_choice}
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **choice, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        line = self.lines[min(len(self.seen), len(self.lines) - 1)]
        self.seen.append(messages)
        self.options.append(kwargs)
        if isinstance(line, Exception):
            raise line
        said = line(messages, kwargs) if callable(line) else line
        return ChatResult(generations=[ChatGeneration(message=self._message(said))])

    def _message(self, said: str | AIMessage) -> AIMessage:
        if isinstance(said, AIMessage):
            return said.model_copy()
        usage = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}
        reply = parse_reply(said)
        if not self.reads_calls or not (reply.tool_calls or reply.invalid_calls):
            return AIMessage(said, usage_metadata=usage)
        turn = len(self.seen)
        calls = [
            {"name": call.name, "args": call.arguments, "id": f"call_{turn}_{number}"}
            for number, call in enumerate(reply.tool_calls)
        ]
        invalid = [
            {
                "type": "invalid_tool_call",
                "name": None,
                "args": call.text,
                "id": f"bad_{turn}_{number}",
                "error": call.error,
            }
            for number, call in enumerate(reply.invalid_calls)
        ]
        return AIMessage(reply.content, tool_calls=calls, invalid_tool_calls=invalid, usage_metadata=usage)


class StreamingChat(ScriptedChat):
    """The same, one word at a time."""

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        message = self._generate(messages, stop, run_manager, **kwargs).generations[0].message
        for word in str(message.content).split(" "):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word + " "))


@lru_cache
def picture(width: int = 1280, height: int = 960, *, noise: bool = False) -> bytes:
    """A PNG; with noise it cannot be compressed, so 640 × 480 is about 0.9 MB."""
    image = Image.new("RGB", (width, height), "white")
    if noise:
        image = Image.merge("RGB", [Image.effect_noise((width, height), 90.0) for _ in range(3)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def asked(question: str, *pictures: bytes) -> HumanMessage:
    """A user's question, the pictures inside it as base64."""
    blocks: list[str | dict[Any, Any]] = [
        {"type": "image", "base64": base64.b64encode(data).decode(), "mime_type": "image/png"} for data in pictures
    ]
    return HumanMessage([*blocks, {"type": "text", "text": question}])


def put(store: ImageStore, *pictures: bytes) -> list[dict[str, Any]]:
    """The pictures' blocks, already references."""
    return [View(store.put(data)).block() for data in pictures]


ZOOM = '<think>Too small.</think><tool_call>{"name": "zoom_image", "arguments": {}}</tool_call>'
ANSWER = "<think>I can read it.</think><answer>48.10</answer>"


def zoom_call(**arguments: Any) -> str:
    """A reply that zooms."""
    return "<think>Too small.</think>" + format_tool_call("zoom_image", arguments)
