"""A graph node with a sync and an async way through, written as one class."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Any, TypeAlias

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.runtime import Runtime, get_runtime

from vtagent.graphs.state import ZoomContext, ZoomState, settings_of

ZoomRuntime: TypeAlias = Runtime[ZoomContext]


class Node(Runnable[ZoomState, Any]):
    """One step of the graph: the state in, an update of the state out."""

    def __init__(self, defaults: ZoomContext) -> None:
        self.defaults = defaults

    @abstractmethod
    def run(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """Do the step."""

    async def arun(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """Do the step in an event loop; by default in a thread, since images are read from disk and decoded."""
        return await asyncio.to_thread(self.run, state, settings, runtime, config)

    def invoke(self, input: ZoomState, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """See `run`."""
        runtime = get_runtime(ZoomContext)
        return self.run(input, settings_of(runtime.context, self.defaults), runtime, config or {})

    async def ainvoke(self, input: ZoomState, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """See `arun`."""
        runtime = get_runtime(ZoomContext)
        return await self.arun(input, settings_of(runtime.context, self.defaults), runtime, config or {})
