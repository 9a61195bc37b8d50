"""200 threads at once, each with a document of its own: every run answers, and memory does not grow after a minute."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from itertools import cycle
from typing import Any

from langgraph_sdk import get_client, get_sync_client
from langgraph_sdk.client import LangGraphClient

from tests.server.conftest import Server
from tests.server.contract_server import asked
from vtagent.training.data import Example, rendered

THREADS = 200
CLIENTS = 4
"""One has 100 connections, and a run that is waited for holds one of them."""
RIGHT = 0.9
"""Share of right answers; the policy has some 0.97."""
ROUNDS = 8
"""Of the same documents: new ones would fill the engine's caches for some minutes, which have bounds of their own."""
MINUTE = 60
GROWTH = 1.2


async def ask_all(server: Server, examples: Sequence[Example]) -> list[tuple[str, Any]]:
    """The thread and the answer of each, all of them asked at once."""

    async def ask(client: LangGraphClient, example: Example) -> tuple[str, Any]:
        thread = (await client.threads.create())["thread_id"]
        page = {"type": "image", "base64": base64.b64encode(example.image).decode(), "mime_type": "image/png"}
        result: Any = await client.runs.wait(thread, "zoom", input=asked(page, example.question))
        return thread, result["answer"]

    async with AsyncExitStack() as stack:
        made = [get_client(url=server.url, timeout=1800) for _ in range(CLIENTS)]
        clients = [await stack.enter_async_context(client) for client in made]
        return await asyncio.gather(*map(ask, cycle(clients), examples))


def forget(server: Server, threads: Sequence[str]) -> None:
    """Delete threads, which the development server keeps in its memory: what grows besides is a leak."""
    with get_sync_client(url=server.url, timeout=300) as client:
        for thread in threads:
            client.threads.delete(thread)


@contextmanager
def watched(server: Server) -> Iterator[list[tuple[float, int]]]:
    """Seconds since now and the server's bytes, twice a second."""
    samples: list[tuple[float, int]] = []
    began, over = time.monotonic(), threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            samples.append((time.monotonic() - began, server.resident()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield samples
    finally:
        over.set()
        watcher.join()


def test_two_hundred_threads_at_once_and_no_growth_after_the_first_minute(server: Server) -> None:
    examples = list(rendered(THREADS // 2, seed=0))
    right = rounds = 0
    with watched(server) as samples:
        # A quick machine goes on until there is a second minute to compare with the first.
        while rounds < ROUNDS or samples[-1][0] < 2 * MINUTE:
            rounds += 1
            threads, answers = zip(*asyncio.run(ask_all(server, examples)), strict=True)
            assert all(answers), answers
            right += sum(answer in example.answers for answer, example in zip(answers, examples, strict=True))
            forget(server, threads)
            seconds, size = samples[-1]
            print(f"{right} right, {size / 2**20:.0f} MiB after {seconds:.0f} s")
    assert right >= RIGHT * rounds * THREADS
    warm = [size for seconds, size in samples if seconds >= MINUTE]
    print(f"{warm[0] / 2**20:.0f} MiB after a minute, {max(warm) / 2**20:.0f} MiB at most from then on")
    assert samples[-1][0] >= 2 * MINUTE
    assert max(warm) <= GROWTH * warm[0]
