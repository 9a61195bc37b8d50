"""One vLLM server over HTTP, asked with patience: every failure is retried as configured, then told in one line.

What mends by itself (no connection, a broken answer, one that is not JSON, 5xx, too slow) is `Trouble` and tried again;
what does not (4xx) is told at once.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from itertools import count
from typing import Any, TypeVar

import httpx

from vtagent.errors import ModelError
from vtagent.models.vllm.wire import Trouble

_T = TypeVar("_T")
_CONNECT_SECONDS = 10.0
_LONGEST_PAUSE = 30.0
_KEEP_SECONDS = 2.0
"""Idle connections are dropped before the server does it (after 5 s), which would look like a failure."""
_ORDER_SECONDS = 900.0
"""For orders to the server, such as loading weights: they wait for the requests under way."""
_TRANSIENT = (408, 425, 429)


class Server:
    """A server's address and how patiently it is asked. To be used from one event loop.

    Args:
        url: Where it listens, with or without `/v1`.
        api_key: What `vllm serve --api-key` was given.
        timeout: Seconds for one try.
        retries: Tries after the first.
        backoff: Seconds before the second try, doubled before each further one, at most 30.
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
            verify=address.scheme == "https",  # loading certificates takes longer than making the rest
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEEP_SECONDS),
        )

    async def patiently(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """What `attempt` returns, tried anew after each `Trouble`.

        Raises:
            ModelError: the last trouble, or one that another try cannot mend.
        """
        for tries in count(1):
            try:
                return await self._once(attempt, self.timeout)
            except Trouble as trouble:
                if tries > self._retries:
                    tried = f", tried {tries} times" if tries > 1 else ""
                    raise ModelError(f"{self.name} {trouble}{tried}") from trouble
            pause = min(self._backoff * 2 ** (tries - 1), _LONGEST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.75, 1.0))
        raise AssertionError  # `count` does not end

    async def order(self, path: str, body: Any = None) -> Any:
        """The JSON that answers a body; never sent twice, and given minutes to be carried out.

        Raises:
            ModelError: it failed.
        """
        try:
            return await self._once(lambda: self.post(path, body), _ORDER_SECONDS)
        except Trouble as trouble:
            raise ModelError(f"{self.name} {trouble}") from trouble

    async def _once(self, attempt: Callable[[], Awaitable[_T]], seconds: float) -> _T:
        try:
            async with asyncio.timeout(seconds):
                return await attempt()
        except TimeoutError as error:
            raise Trouble(f"gave no complete answer within {seconds:g} seconds") from error
        except httpx.ConnectError as error:
            raise Trouble(f"does not answer ({_line(str(error)) or type(error).__name__})") from error
        except httpx.RequestError as error:  # undecodable answers among them
            raise Trouble(f"broke off its answer ({_line(str(error)) or type(error).__name__})") from error

    async def get(self, path: str) -> Any:
        """The JSON at a path, asked for once."""
        return await self._json(self._client.build_request("GET", path))

    async def post(self, path: str, body: Any = None) -> Any:
        """The JSON that answers a body, asked for once; None where the answer is empty."""
        return await self._json(self._client.build_request("POST", path, json=body))

    async def events(self, path: str, body: Any) -> AsyncGenerator[Any, None]:
        """The JSON of each server-sent event that answers a body; complete only if it ends with `[DONE]`."""
        response = await self._client.send(self._client.build_request("POST", path, json=body), stream=True)
        try:
            if response.status_code >= 300:
                await response.aread()
                self._refuse(response)
            async for line in response.aiter_lines():
                if not line.startswith("data:"):
                    if line.strip() and not line.startswith((":", "event:", "id:", "retry:")):
                        raise Trouble(f"answered with what is not an event: {_line(line)!r}")
                    continue
                if (data := line[5:].strip()) == "[DONE]":
                    return
                event = _parsed(data)
                if isinstance(event, dict) and isinstance(event.get("error"), dict):
                    raise Trouble(f"failed: {_line(str(event['error'].get('message')))}")
                yield event
            raise Trouble("broke off its answer (no end of the stream)")
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

    def _refuse(self, response: httpx.Response) -> None:
        told = f"({response.status_code}): {_message(response)}"
        if response.status_code >= 500 or response.status_code in _TRANSIENT:
            raise Trouble(f"failed {told}")
        raise ModelError(f"{self.name} refused {told}")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Trouble(f"answered with what is not JSON: {_line(text, 80)!r}") from error


def _message(response: httpx.Response) -> str:
    """What a server says of its refusal, in OpenAI's form, in FastAPI's, or in whatever it has."""
    if response.status_code == 404:
        return f"there is no {response.request.url.path}; is it vllm serve with --enable-scale-out?"
    try:
        told: Any = response.json()
    except ValueError:
        return _line(response.text) or "no reason given"
    if isinstance(told, dict):
        told = told.get("error") or told.get("detail") or told.get("message") or told
    if isinstance(told, dict):
        told = told.get("message") or told
    return _line(str(told))


def _line(text: str, limit: int = 300) -> str:
    return " ".join(text.split())[:limit]
