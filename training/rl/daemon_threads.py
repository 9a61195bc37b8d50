"""An executor for tools that may hang: its threads neither block other work nor keep the process alive."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class DaemonThreads(ThreadPoolExecutor):
    """Starts a daemon thread whenever none is free, so that a call that hangs takes no place from others.

    The event loop accepts only a ThreadPoolExecutor as its default executor, hence the base class. Its pool is unused.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._free = threading.Semaphore(0)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """See `Executor.submit`."""
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        self._calls.put(call)
        if not self._free.acquire(blocking=False):
            threading.Thread(target=self._work, name="vtagent-rollout-thread", daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            self._calls.get()()
            self._free.release()
