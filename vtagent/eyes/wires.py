"""The table of APIs, by LangChain's class names: where a tool's image may stand and what a request may hold."""

from __future__ import annotations

from dataclasses import dataclass, field

from vtagent.eyes.facts import Fact, Limits, LowSetting, ToolImages
from vtagent.eyes.known import DETAIL_LOW, MEDIA_RESOLUTION_LOW

__all__ = ["UNKNOWN_WIRE", "WIRES", "Wire", "wire_named", "wire_of_class", "wire_of_provider"]

_MB = 10**6


@dataclass(frozen=True)
class Wire:
    """One API as LangChain's package for it speaks it.

    Attributes:
        name: Of the API.
        classes: Chat model classes that speak it; subclasses count.
        providers: Names that `init_chat_model` has for it.
        tool_images: Where an image that a tool returns may stand.
        settings: Low settings that it takes to the model.
        limits: What a request may hold.
        facts: With their sources.
    """

    name: str
    classes: frozenset[str]
    providers: frozenset[str]
    tool_images: ToolImages
    facts: tuple[Fact, ...]
    settings: tuple[LowSetting, ...] = ()
    limits: Limits = field(default_factory=Limits)


_GPT_GUIDE = "https://developers.openai.com/api/docs/guides/images-vision"
_CLAUDE_VISION = "https://platform.claude.com/docs/en/build-with-claude/vision"

_GPT_LIMITS = Limits(request_bytes=512 * _MB, images=1500)
_GPT_LIMITS_FACT = Fact("at most 1,500 images and 512 MB a request", _GPT_GUIDE, "2026-10", "D")

_CLAUDE_LIMITS = Limits(
    max_side=8000, image_bytes=5 * _MB, request_bytes=32 * _MB, images=100, many_images=20, many_images_side=2000
)
_CLAUDE_LIMITS_FACTS = (
    Fact("8,000 px a side; with more than 20 images 2,000 px", _CLAUDE_VISION, "2026-10", "D"),
    Fact(
        "100 images (600 on models of a larger context than 200,000), 32 MB a request", _CLAUDE_VISION, "2026-10", "D"
    ),
    Fact("5 MB an image on Bedrock and Vertex, 10 MB of base64 on the direct API", _CLAUDE_VISION, "2026-10", "D"),
)

WIRES: tuple[Wire, ...] = (
    Wire(
        "chat completions",
        frozenset({"BaseChatOpenAI", "ChatOpenAI", "AzureChatOpenAI"}),
        frozenset({"openai", "azure_openai"}),
        "user message",
        (
            Fact(
                "images in a tool message are refused (400), whatever the profile's image_tool_message says",
                "the API's error: image ... only allowed for role user",
                "2026-11",
                "M",
            ),
            _GPT_LIMITS_FACT,
        ),
        (DETAIL_LOW,),
        _GPT_LIMITS,
    ),
    Wire(
        "responses",
        frozenset(),
        frozenset(),
        "tool message",
        (
            Fact(
                "images may stand in a tool's output",
                "OpenAI's reference of the Responses API",
                "2026-11",
                "D",
            ),
            _GPT_LIMITS_FACT,
        ),
        (DETAIL_LOW,),
        _GPT_LIMITS,
    ),
    Wire(
        "anthropic",
        frozenset({"ChatAnthropic", "ChatAnthropicVertex", "ChatAnthropicBedrock"}),
        frozenset({"anthropic", "google_anthropic_vertex", "anthropic_bedrock"}),
        "tool message",
        (Fact("images may stand in a tool_result", _CLAUDE_VISION, "2026-10", "D"), *_CLAUDE_LIMITS_FACTS),
        limits=_CLAUDE_LIMITS,
    ),
    Wire(
        "bedrock",
        frozenset({"ChatBedrock", "ChatBedrockConverse"}),
        frozenset({"bedrock", "bedrock_converse"}),
        "tool message",
        (
            Fact(
                "images may stand in a toolResult",
                "Amazon Bedrock, Converse",
                "2026-11",
                "?",
            ),
            *_CLAUDE_LIMITS_FACTS,
        ),
        limits=_CLAUDE_LIMITS,
    ),
    Wire(
        "gemini",
        frozenset({"ChatGoogleGenerativeAI", "ChatVertexAI"}),
        frozenset({"google_genai", "google_vertexai"}),
        "tool message",
        (
            Fact(
                "the package writes a tool message's images as parts beside the function response",
                "langchain-google-genai, _convert_tool_message_to_parts",
                "2026-11",
                "S",
            ),
        ),
        (MEDIA_RESOLUTION_LOW,),
    ),
    Wire(
        "ollama",
        frozenset({"ChatOllama"}),
        frozenset({"ollama"}),
        "user message",
        (Fact("the tool role is mostly text only", "Ollama, llama.cpp and LM Studio", "2026-11", "?"),),
    ),
    Wire(
        "local",
        frozenset({"ChatVLM", "LazyVLM"}),
        frozenset(),
        "tool message",
        (Fact("the model's chat template shows images in a tool message", "vtagent.models", "2026-11", "S"),),
    ),
)
"""Every known API."""

UNKNOWN_WIRE = Wire(
    "unknown",
    frozenset(),
    frozenset(),
    "user message",
    (Fact("an image in a user message is accepted wherever images are", "assumed", "2026-11", "?"),),
)
"""What is assumed of an API that is not in the table."""


def wire_of_class(names: list[str]) -> Wire | None:
    """The API of a chat model by the names of its class and of the classes that it derives from; None if unknown.

    Args:
        names: Along the method resolution order.
    """
    return next((wire for name in names for wire in WIRES if name in wire.classes), None)


def wire_of_provider(provider: str) -> Wire | None:
    """The API of a provider by the name that `init_chat_model` has for it; None if unknown."""
    return next((wire for wire in WIRES if provider in wire.providers), None)


def wire_named(name: str) -> Wire:
    """The API of this name; `UNKNOWN_WIRE` if it is not in the table."""
    return next((wire for wire in WIRES if wire.name == name), UNKNOWN_WIRE)
