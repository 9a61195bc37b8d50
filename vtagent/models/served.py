"""A model that an OpenAI-compatible server has loaded, as a chat model whose errors say what is wrong.

It needs langchain-openai; only who asks a server imports it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from vtagent.errors import ModelError


class ServedVLM(ChatOpenAI):
    """`ChatOpenAI`, but an answer that is none (a page, cut JSON) raises a ModelError that names the server."""

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        with readable(self.openai_api_base):
            return super()._generate(messages, stop, run_manager, **kwargs)

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        with readable(self.openai_api_base):
            return await super()._agenerate(messages, stop, run_manager, **kwargs)

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        with readable(self.openai_api_base):
            chunk = None
            for chunk in super()._stream(*args, **kwargs):
                yield chunk
            _some(chunk)

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        with readable(self.openai_api_base):
            chunk = None
            async for chunk in super()._astream(*args, **kwargs):
                yield chunk
            _some(chunk)


def _some(chunk: ChatGenerationChunk | None) -> None:
    if chunk is None:  # what is no event is passed over: so a whole page may come
        raise ValueError("no event in the stream")


def served_vlm(name: str, base_url: str, timeout: float) -> ServedVLM:
    """The model, greedy, with the key that OPENAI_API_KEY holds.

    Args:
        name: As it is served.
        base_url: Where.
        timeout: Seconds that the server may stay silent; it is asked twice.
    """
    key = SecretStr(api_key())
    return ServedVLM(model=name, base_url=base_url, api_key=key, temperature=0, max_retries=1, timeout=timeout)


def api_key() -> str:
    """What OPENAI_API_KEY holds; servers of one's own want none, their clients want a text."""
    return os.environ.get("OPENAI_API_KEY") or "none"


@contextmanager
def readable(base_url: str | None) -> Iterator[None]:
    """Around one request: the clients check little of an answer, and trip in many ways over one of another kind."""
    import openai

    try:
        yield
    except openai.OpenAIError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}"[:200]
        raise ModelError(
            f"the server at {base_url} does not answer as an OpenAI-compatible one does; is the URL right? ({said})"
        ) from error
