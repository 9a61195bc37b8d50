"""200 threads at once: every run answers, and the server's memory does not grow once it is warm."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from langgraph_sdk import get_client

from tests.server.conftest import Server
from tests.server.contract_server import GOLD, asked

THREADS = 200
ROUNDS = 4
"""That end after the first minute; the last of them is compared with the first."""


async def ask_all(server: Server) -> list[str | None]:
    async with get_client(url=server.url, timeout=1800) as client:

        async def ask() -> str | None:
            thread = await client.threads.create()
            result: Any = await client.runs.wait(thread["thread_id"], "zoom", input=asked())
            return str(result["answer"])

        return await asyncio.gather(*(ask() for _ in range(THREADS)))


def test_two_hundred_threads_at_once_and_no_growth_after_the_first_minute(server: Server) -> None:
    warm: list[int] = []
    began = time.monotonic()
    while len(warm) < ROUNDS:
        assert asyncio.run(ask_all(server)) == [GOLD] * THREADS
        seconds, resident = time.monotonic() - began, server.resident()
        print(f"after {seconds:.0f} s: {resident / 2**20:.0f} MiB")
        warm += [resident] * (seconds >= 60)
    assert warm[-1] <= 1.2 * warm[0]
