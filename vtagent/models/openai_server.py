"""A model that an OpenAI-compatible server has loaded, as a chat model whose errors say what is wrong.

It needs langchain-openai; only who asks a server imports it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import openai
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from vtagent.errors import ModelError

_PAUSE = 0.5  # seconds between two tries, where the server asks for no other pause
_LONGEST_PAUSE = 60.0


class ServedVLM(ChatOpenAI):
    """`ChatOpenAI`, but a failure that may pass is tried once more, and one that stays is a ModelError.

    What may pass: no connection, a server that is too slow, too busy or broken (408, 409, 429, 5xx), and an answer that
    is none (a page, cut JSON, no choices). What has begun to stream is not tried again. The error names the server, in
    one line; the client's own is its `__cause__`.
    """

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        again = True
        while True:
            try:
                return _answered(super()._generate(messages, stop, run_manager, **kwargs))
            except Exception as error:
                time.sleep(self._pause(error, again))
                again = False

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        again = True
        while True:
            try:
                return _answered(await super()._agenerate(messages, stop, run_manager, **kwargs))
            except Exception as error:
                await asyncio.sleep(self._pause(error, again))
                again = False

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        again, chunk = True, None
        while True:
            try:
                for chunk in super()._stream(*args, **kwargs):
                    again = False
                    yield chunk
                _some(chunk)
                return
            except Exception as error:
                time.sleep(self._pause(error, again))
                again = False

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        again, chunk = True, None
        while True:
            try:
                async for chunk in super()._astream(*args, **kwargs):
                    again = False
                    yield chunk
                _some(chunk)
                return
            except Exception as error:
                await asyncio.sleep(self._pause(error, again))
                again = False

    def _pause(self, error: Exception, again: bool) -> float:
        """Seconds to wait before the same is asked again.

        Raises:
            ModelError: It may not be asked again, or that would change nothing.
        """
        pause = _PAUSE
        match error:
            case openai.APIStatusError():
                may_pass = error.status_code in (408, 409, 429) or error.status_code >= 500
                wanted = error.response.headers.get("retry-after", "")
                pause = min(float(wanted), _LONGEST_PAUSE) if wanted.isdecimal() else pause
            case openai.OpenAIError():
                may_pass = isinstance(error, openai.APIConnectionError)
            case _:
                may_pass = True
        if not (again and may_pass):
            raise failure(error, self.openai_api_base) from error
        return pause


def _answered(result: ChatResult) -> ChatResult:
    if not result.generations:
        raise ValueError("no choices")
    return result


def _some(chunk: ChatGenerationChunk | None) -> None:
    if chunk is None:  # what is no event is passed over: so a whole page may come
        raise ValueError("no event in the stream")


def served_vlm(name: str, base_url: str, timeout: float) -> ServedVLM:
    """The model, greedy, with the key that OPENAI_API_KEY holds.

    Args:
        name: As it is served.
        base_url: Where.
        timeout: Seconds that the server may stay silent in one try; there are two (see `ServedVLM`).
    """
    return ServedVLM(
        model=name,
        base_url=base_url,
        api_key=SecretStr(api_key()),
        temperature=0,
        timeout=timeout,
        stream_chunk_timeout=None,  # of its own accord it would end asynchronous streams after two minutes of silence
        max_retries=0,  # the client would not retry what it cannot read; we do it all
    )


def api_key() -> str:
    """What OPENAI_API_KEY holds; servers of one's own want none, their clients want a text."""
    return os.environ.get("OPENAI_API_KEY") or "none"


@contextmanager
def asking(base_url: str) -> Iterator[None]:
    """Around one request that is no question for a model: its failure is a ModelError, too."""
    try:
        yield
    except Exception as error:
        raise failure(error, base_url) from error


def failure(error: Exception, base_url: str | None) -> ModelError:
    """What the server at `base_url` did wrong, in one line.

    The clients check little of an answer, and trip in many ways over one of another kind: any error means that.
    """
    server = f"the server at {base_url}"
    match error:
        case openai.APITimeoutError():
            limit = error.request.extensions["timeout"]["read"]
            said = f"{server} was silent for {limit:g} s; --timeout or VTAGENT_TIMEOUT gives it more"
        case openai.APIConnectionError():
            cause: BaseException = error
            while cause.__cause__ is not None:  # the clients themselves say "Connection error." of everything
                cause = cause.__cause__
            said = f"no server answers at {base_url} ({cause})"
        case openai.APIStatusError():
            said = f"{server} refused ({error.status_code}): {error.message}"
        case openai.OpenAIError():
            said = f"{server} failed: {error}"
        case _:
            tripped = f"{type(error).__name__}: {error}"[:200]
            said = f"{server} does not answer as an OpenAI-compatible one does; is the URL right? ({tripped})"
    return ModelError(" ".join(said.split())[:1000])
