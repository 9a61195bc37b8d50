"""Models on an OpenAI-compatible server: the chat model, its retries and errors, and the look-ups of the command line.

Importing this needs langchain-openai (the extra `openai`), so callers import it when a server is named.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import openai
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_openai import ChatOpenAI
from pydantic import SecretStr
from tenacity import RetryCallState, retry, retry_if_exception, stop_after_attempt

from vtagent.errors import ModelError
from vtagent.eyes import Vision, eyes_of
from vtagent.protocol import TOOL_CALL

_PAUSE = 0.5
"""Seconds between two tries if the server asks for no other pause."""
_LONGEST_PAUSE = 60.0
"""Seconds; a longer `Retry-After` is cut to this."""
_LISTED = 12
"""Models that an error names."""
_ADVICE = {
    "does not support tools": "take a model that can call tools, or ask without zooming: --max-zooms 0",  # Ollama
    "requires --jinja": "start llama-server with --jinja",
    "exceeds the available context": "start the server with a larger context: docs/laptop.md",  # llama.cpp
    "greater than the context length": "load the model with a larger context: docs/laptop.md",  # LM Studio
}
"""What helps against refusals of servers on a laptop, by words of theirs."""
_NO_EVENT = "no event in the stream"
"""The client skips what is not an event, so an HTML page reads as an empty stream."""


def _is_transient(error: BaseException) -> bool:
    match error:
        case openai.APIStatusError():
            return error.status_code in (408, 409, 429) or error.status_code >= 500
        case openai.OpenAIError():
            return isinstance(error, openai.APIConnectionError)
    return isinstance(error, Exception)  # an answer that the client could not read; not a cancellation


def _pause(state: RetryCallState) -> float:
    """Seconds until the next try: `Retry-After`, if the server sent it in seconds."""
    error = state.outcome.exception() if state.outcome else None
    wanted = error.response.headers.get("retry-after", "") if isinstance(error, openai.APIStatusError) else ""
    return min(float(wanted), _LONGEST_PAUSE) if wanted.isdecimal() else _PAUSE


_retried = retry(retry=retry_if_exception(_is_transient), stop=stop_after_attempt(2), wait=_pause, reraise=True)


class ServedVLM(ChatOpenAI):
    """`ChatOpenAI` with one retry of transient failures, and a one-line ModelError for those that remain.

    Transient are: no connection, a timeout, a busy or broken server (408, 409, 429, 5xx), and an answer that cannot be
    read (an HTML page, truncated JSON, no choices). A stream is retried only before its first chunk. The error names
    the server; its `__cause__` is the client's own error.
    """

    def _get_request_payload(self, input_: Any, *, stop: Any = None, **kwargs: Any) -> dict[str, Any]:
        payload = super()._get_request_payload(input_, stop=stop, **kwargs)
        # OpenAI has renamed the limit and refuses the old name; servers that speak its dialect know the old one best.
        if "max_completion_tokens" in payload and "openai.com" not in (self.openai_api_base or ""):
            payload["max_tokens"] = payload.pop("max_completion_tokens")
        return payload

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        generate = super()._generate

        @_retried
        def attempt() -> ChatResult:
            return _checked(generate(messages, stop, run_manager, **kwargs))

        with model_errors(self.openai_api_base):
            return attempt()

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        generate = super()._agenerate

        @_retried
        async def attempt() -> ChatResult:
            return _checked(await generate(messages, stop, run_manager, **kwargs))

        with model_errors(self.openai_api_base):
            return await attempt()

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        stream = super()._stream

        @_retried
        def begin() -> tuple[ChatGenerationChunk, Iterator[ChatGenerationChunk]]:
            chunks = stream(*args, **kwargs)
            for first in chunks:
                return first, chunks
            raise ValueError(_NO_EVENT)

        with model_errors(self.openai_api_base):
            first, rest = begin()
            yield first
            yield from rest

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        stream = super()._astream

        @_retried
        async def begin() -> tuple[ChatGenerationChunk, AsyncIterator[ChatGenerationChunk]]:
            chunks = stream(*args, **kwargs)
            async for first in chunks:
                return first, chunks
            raise ValueError(_NO_EVENT)

        with model_errors(self.openai_api_base):
            first, rest = await begin()
            yield first
            async for chunk in rest:
                yield chunk


def served_vlm(name: str, base_url: str, timeout: float, *, max_tokens: int | None = None) -> ServedVLM:
    """A served model with greedy decoding, authenticated by OPENAI_API_KEY if that is set.

    Args:
        name: The model's name on the server.
        base_url: The server's URL, `/v1` included.
        timeout: Seconds that the server may stay silent in one try; there are two tries (see `ServedVLM`).
        max_tokens: Most tokens of one reply; None leaves it to the server.
    """
    return ServedVLM(
        model=name,
        base_url=base_url,
        api_key=SecretStr(os.environ.get("OPENAI_API_KEY") or "none"),  # the client insists on one, most servers do not
        temperature=0,
        max_completion_tokens=max_tokens,
        timeout=timeout,
        stream_chunk_timeout=None,  # the default ends an async stream after two minutes of silence
        max_retries=0,  # the client does not retry unreadable answers, so ServedVLM does all retries
    )


def load_served(
    name: str | None, base_url: str, timeout: float, *, max_tokens: int | None = None
) -> tuple[str, ServedVLM, Vision]:
    """The model's name, the model, and its image sizes.

    Args:
        name: The model's name on the server; None takes its only one, models for embeddings apart.
        base_url: The server's URL, `/v1` included.
        timeout: Seconds that the server may stay silent in one try. The list of models is asked for once.
        max_tokens: Most tokens of one reply; None leaves it to the server.

    Raises:
        ModelError: The server lists no model, or several, or does not answer; or `base_url` is not a URL.
    """
    if name is None:
        with model_errors(base_url):
            listed = [model.id for model in _client(base_url, timeout).models.list().data or ()]
        chatting = [each for each in listed if "embed" not in each.lower()]
        if not chatting:
            raise ModelError(f"the server at {base_url} lists no model that chats; name one with --model")
        if len(chatting) > 1:
            names = ", ".join(chatting[:_LISTED]) + (", …" if len(chatting) > _LISTED else "")
            raise ModelError(f"the server at {base_url} serves several models; name one with --model: {names}")
        [name] = chatting
    with model_errors(base_url):  # the client refuses what cannot be a URL
        model = served_vlm(name, base_url, timeout, max_tokens=max_tokens)
    return name, model, eyes_of(model).vision


def call_token_id(name: str, base_url: str, timeout: float) -> int:
    """The id of a served model's `<tool_call>` token, which vLLM tells and other servers do not.

    Args:
        name: The model's name on the server.
        base_url: The server's URL, with or without `/v1`.
        timeout: Seconds that the server may stay silent.

    Raises:
        ModelError: The server does not tell the id, or does not answer.
    """
    root = base_url.rstrip("/").removesuffix("/v1")
    body = {"model": name, "prompt": TOOL_CALL[0], "add_special_tokens": False}
    with model_errors(base_url):
        try:
            answer: Any = _client(base_url, timeout).post(f"{root}/tokenize", body=body, cast_to=object)
        except openai.APIStatusError:
            answer = None
    match answer:
        case {"tokens": [int(token)]}:
            return token
    raise ModelError(
        f"the server at {base_url} does not tell the id of a token {TOOL_CALL[0]}; "
        "--zoom-bias needs it: give it with --zoom-token-id"
    )


@contextmanager
def model_errors(base_url: str | None) -> Iterator[None]:
    """Turn every error of a request to the server at `base_url` into a one-line ModelError."""
    try:
        yield
    except Exception as error:
        raise _model_error(error, base_url) from error


def _client(base_url: str, timeout: float) -> openai.OpenAI:
    """The client of a served model, for requests that need no model; it retries nothing."""
    client: openai.OpenAI = served_vlm("any", base_url, timeout).root_client
    return client


def _checked(result: ChatResult) -> ChatResult:
    if not result.generations:
        raise ValueError("no choices")
    return result


def _model_error(error: Exception, base_url: str | None) -> ModelError:
    """What is wrong with the server at `base_url`, in one line.

    The clients hardly validate an answer: one of another kind makes them fail with an error of any class.
    """
    server = f"the server at {base_url}"
    match error:
        case openai.APITimeoutError():
            limit = error.request.extensions["timeout"]["read"]
            text = f"{server} was silent for {limit:g} s; --timeout or VTAGENT_TIMEOUT gives it more"
        case openai.APIConnectionError():
            cause: BaseException = error
            while cause.__cause__ is not None:  # the client's own text is always "Connection error."
                cause = cause.__cause__
            text = f"no server answers at {base_url} ({cause})"
        case openai.APIStatusError():
            advice = next((advice for words, advice in _ADVICE.items() if words in error.message), "")
            text = f"{server} refused ({error.status_code}): {error.message}{advice and f' ({advice})'}"
        case openai.OpenAIError():
            text = f"{server} failed: {error}"
        case _:
            what = f"{type(error).__name__}: {error}"[:200]
            text = f"{server} does not answer as an OpenAI-compatible one does; is the URL right? ({what})"
    return ModelError(" ".join(text.split())[:1000])
