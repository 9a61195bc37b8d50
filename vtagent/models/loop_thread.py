"""A thread with an event loop that runs coroutines for any thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from vtagent.errors import ModelError, VtagentError, described

_T = TypeVar("_T")


class LoopThread:
    """Runs coroutines concurrently in a daemon thread, which starts with the first one.

    Args:
        name: Name of the thread.
        closed: Error text for work that is started after `close`.
        at_end: Awaited when the thread ends.
        executor: Runs what coroutines hand to threads; asyncio's own executor if absent.
    """

    def __init__(
        self,
        name: str,
        *,
        closed: str,
        at_end: Callable[[], Awaitable[None]] | None = None,
        executor: ThreadPoolExecutor | None = None,
    ) -> None:
        self._name, self._closed, self._at_end, self._executor = name, closed, at_end, executor
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._end: ModelError | None = None

    def run(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Start a coroutine. Cancelling its future cancels it.

        The future raises a VtagentError unchanged and any other error as a one-line ModelError. After `close` it raises
        ModelError.
        """
        with self._lock:
            if self._end is None:
                return asyncio.run_coroutine_threadsafe(self._guarded(work), self._running())
        work.close()
        refused: Future[_T] = Future()
        refused.set_exception(ModelError(self._closed))
        return refused

    def close(self, error: ModelError) -> None:
        """Refuse new work and fail the work in progress with `error`. Safe to call twice, also concurrently."""
        with self._lock:
            first, self._end = self._end is None, self._end or error
            loop, thread = self._loop, self._thread
        if loop is not None and thread is not None and thread.is_alive():
            if first:  # a second stop would interrupt the thread's cleanup
                loop.call_soon_threadsafe(loop.stop)
            if thread is not threading.current_thread():
                thread.join()

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            if self._executor is not None:
                self._loop.set_default_executor(self._executor)
            self._thread = threading.Thread(target=self._live, args=(self._loop,), name=self._name, daemon=True)
            self._thread.start()
        return self._loop

    def _live(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()
        loop.run_until_complete(self._finish())
        loop.close()

    async def _finish(self) -> None:
        await asyncio.sleep(0)  # work that was submitted just now starts, and is refused
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        if self._at_end is not None:
            await self._at_end()
        await asyncio.get_running_loop().shutdown_default_executor()
        await asyncio.sleep(0)  # results reach the futures

    async def _guarded(self, work: Coroutine[Any, Any, _T]) -> _T:
        if self._end is not None:
            work.close()
            raise self._end
        try:
            return await work
        except asyncio.CancelledError:
            if self._end is not None:
                raise self._end from None
            raise
        except VtagentError:
            raise
        except Exception as error:
            raise ModelError(f"the model failed: {described(error)}") from error
