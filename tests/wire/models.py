"""The official LangChain chat models, each set up for its stand-in server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_google_genai import ChatGoogleGenerativeAI
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI

from tests.wire.anthropic_messages import AnthropicMessages
from tests.wire.gemini import Gemini
from tests.wire.llama_cpp import LlamaCpp
from tests.wire.ollama_chat import OllamaChat
from tests.wire.openai_chat import OpenAIChat
from tests.wire.openai_responses import OpenAIResponses
from tests.wire.server import Format, Server

KEY: Any = "key"
QUIET = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
"""For tests that use google-genai asynchronously: where aiohttp is installed, it derives from one of its classes."""


@dataclass(frozen=True)
class Provider:
    """A wire format and the chat model that speaks it.

    Attributes:
        format: Makes the format.
        model: Makes the chat model for a server's URL and a model's name.
        name: The model's name, where a test names none.
    """

    format: Callable[[], Format]
    model: Callable[[str, str], BaseChatModel]
    name: str

    def chat(self, server: Server, name: str = "") -> BaseChatModel:
        """A chat model that asks `server`, without retries."""
        return self.model(server.url, name or self.name)


def _openai_chat(url: str, name: str) -> BaseChatModel:
    return ChatOpenAI(model=name, base_url=f"{url}/v1", api_key=KEY, max_retries=0, stream_usage=True)


def _openai_responses(url: str, name: str) -> BaseChatModel:
    return ChatOpenAI(model=name, base_url=f"{url}/v1", api_key=KEY, max_retries=0, use_responses_api=True)


def _anthropic(url: str, name: str) -> BaseChatModel:
    return ChatAnthropic(model_name=name, base_url=url, api_key=KEY, max_retries=0, timeout=30, stop=None)


def _gemini(url: str, name: str) -> BaseChatModel:
    return ChatGoogleGenerativeAI(model=name, base_url=url, api_key=KEY, max_retries=0)


def _ollama(url: str, name: str) -> BaseChatModel:
    return ChatOllama(model=name, base_url=url)


PROVIDERS = {
    "openai_chat": Provider(OpenAIChat, _openai_chat, "gpt-4o"),
    "openai_responses": Provider(OpenAIResponses, _openai_responses, "gpt-5"),
    "anthropic": Provider(AnthropicMessages, _anthropic, "claude-sonnet-5"),
    "gemini": Provider(Gemini, _gemini, "gemini-3-pro-preview"),
    "ollama": Provider(OllamaChat, _ollama, "qwen2.5vl:7b"),
}
"""The five wire formats."""

LLAMA_CPP = Provider(LlamaCpp, _openai_chat, "qwen3-vl")
