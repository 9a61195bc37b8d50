"""HTTP requests to one vLLM server: transient failures are retried, and the final error is one line.

Transient (`TransientError`) are: no connection, an incomplete answer, one that is not JSON, 5xx, 408, 425, 429, and a
timeout. Any other 4xx is raised at once.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt

from vtagent.errors import ModelError, one_line
from vtagent.models.vllm.wire import TransientError

_T = TypeVar("_T")
_CONNECT_SECONDS = 10.0
_LONGEST_PAUSE = 30.0
_KEEP_SECONDS = 2.0
"""Idle connections are closed before the server closes them (after 5 s), which would look like a failure."""
_COMMAND_SECONDS = 900.0
"""Time limit of a command, such as loading weights: it waits for the requests under way."""
_TRANSIENT_STATUSES = (408, 425, 429)


class Server:
    """A client of one server, with its retry policy. Not thread-safe: use it from one event loop.

    Args:
        url: The server's URL, with or without `/v1`.
        api_key: The key given to `vllm serve --api-key`; None sends no key.
        timeout: Seconds for one try.
        retries: Tries after the first.
        backoff: Seconds before the second try; doubled before each further one, at most 30.

    Raises:
        ModelError: `url` is not an HTTP URL.
    """

    def __init__(self, url: str, *, api_key: str | None, timeout: float, retries: int, backoff: float) -> None:
        try:
            address = httpx.URL(url.rstrip("/").removesuffix("/v1"))
        except httpx.InvalidURL as error:
            raise ModelError(f"{url!r} is not a URL: {error}") from error
        if address.scheme not in ("http", "https") or not address.host:
            raise ModelError(f"{url!r} is not a URL like http://127.0.0.1:8000")
        self.name = f"the vLLM server at {address.copy_with(username=None, password=None)}"
        self.timeout = timeout
        self._retries = retries
        self._backoff = backoff
        self._client = httpx.AsyncClient(
            base_url=address,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
            verify=address.scheme == "https",  # loading certificates is the slowest part of making a client
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEEP_SECONDS),
        )

    async def with_retries(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Call `attempt` until it succeeds or the tries are used up; only a `TransientError` is retried.

        Args:
            attempt: Makes the requests of one try. The server's timeout limits each call of it.

        Returns:
            The result of `attempt`.

        Raises:
            ModelError: The last try failed, or another try would not help.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(TransientError),
            stop=stop_after_attempt(self._retries + 1),
            wait=self._pause,
            reraise=True,
        )
        try:
            return await retrying(self._once, attempt, self.timeout)
        except TransientError as error:
            tries = retrying.statistics["attempt_number"]
            tried = f", tried {tries} times" if tries > 1 else ""
            raise ModelError(f"{self.name} {error}{tried}") from error

    def _pause(self, state: RetryCallState) -> float:
        """Seconds until the next try; the jitter spreads the retries of requests that failed together."""
        pause: float = min(self._backoff * 2 ** (state.attempt_number - 1), _LONGEST_PAUSE)
        return pause * random.uniform(0.75, 1.0)

    async def command(self, path: str, body: Any = None) -> Any:
        """Have the server do something: POST once, without retries, with a limit of 15 minutes.

        Args:
            path: The endpoint.
            body: Sent as JSON.

        Returns:
            The answer's JSON; None if the answer is empty.

        Raises:
            ModelError: The command failed.
        """
        try:
            return await self._once(lambda: self.post(path, body), _COMMAND_SECONDS)
        except TransientError as error:
            raise ModelError(f"{self.name} {error}") from error

    async def _once(self, attempt: Callable[[], Awaitable[_T]], seconds: float) -> _T:
        try:
            async with asyncio.timeout(seconds):
                return await attempt()
        except TimeoutError as error:
            raise TransientError(f"gave no complete answer within {seconds:g} seconds") from error
        except httpx.ConnectError as error:
            raise TransientError(f"does not answer ({one_line(error)})") from error
        except httpx.RequestError as error:  # includes answers that cannot be decoded
            raise TransientError(f"broke off its answer ({one_line(error)})") from error

    async def get(self, path: str) -> Any:
        """GET a path once and return the answer's JSON."""
        return await self._json(self._client.build_request("GET", path))

    async def post(self, path: str, body: Any = None) -> Any:
        """POST a JSON body once and return the answer's JSON; None if the answer is empty."""
        return await self._json(self._client.build_request("POST", path, json=body))

    async def events(self, path: str, body: Any) -> AsyncGenerator[Any, None]:
        """POST a JSON body once and yield the JSON of each server-sent event, up to `[DONE]`.

        Args:
            path: The endpoint.
            body: Sent as JSON.

        Raises:
            TransientError: The stream ends without `[DONE]`, holds something else than events, or reports an error.
            ModelError: The server refused the request.
        """
        response = await self._client.send(self._client.build_request("POST", path, json=body), stream=True)
        try:
            if response.status_code >= 300:
                await response.aread()
                self._refuse(response)
            async for line in response.aiter_lines():
                if not line.startswith("data:"):
                    if line.strip() and not line.startswith((":", "event:", "id:", "retry:")):
                        raise TransientError(f"answered with what is not an event: {_line(line)!r}")
                    continue
                if (data := line[5:].strip()) == "[DONE]":
                    return
                event = _parsed(data)
                if isinstance(event, dict) and isinstance(event.get("error"), dict):
                    raise TransientError(f"failed: {_line(str(event['error'].get('message')))}")
                yield event
            raise TransientError("broke off its answer (no end of the stream)")
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _json(self, request: httpx.Request) -> Any:
        response = await self._client.send(request)
        if response.status_code >= 300:
            self._refuse(response)
        return _parsed(response.text) if response.content else None

    def _refuse(self, response: httpx.Response) -> NoReturn:
        reason = f"({response.status_code}): {_message(response)}"
        if response.status_code >= 500 or response.status_code in _TRANSIENT_STATUSES:
            raise TransientError(f"failed {reason}")
        raise ModelError(f"{self.name} refused {reason}")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise TransientError(f"answered with what is not JSON: {_line(text, 80)!r}") from error


def _message(response: httpx.Response) -> str:
    """The reason that the server gives for an error: in OpenAI's form, FastAPI's, or as plain text."""
    if response.status_code == 404:
        return f"there is no {response.request.url.path}; is it vllm serve with --enable-scale-out?"
    try:
        answer: Any = response.json()
    except ValueError:
        return _line(response.text) or "no reason given"
    if isinstance(answer, dict):
        answer = answer.get("error") or answer.get("detail") or answer.get("message") or answer
    if isinstance(answer, dict):
        answer = answer.get("message") or answer
    return _line(str(answer))


def _line(text: str, limit: int = 300) -> str:
    return " ".join(text.split())[:limit]
