"""The first node: replaces images by references and shows new ones at low resolution."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig

from vtagent.graphs.budgets import in_view, no_usage
from vtagent.graphs.intake import at_scale, is_quick, take_in
from vtagent.graphs.keeping import warn_if_images_are_lost
from vtagent.graphs.node import Node, ZoomRuntime
from vtagent.graphs.state import ZoomContext, ZoomState


class Observe(Node):
    """Takes in the new messages and begins the run's usage."""

    def run(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """Replace images by references, at `scale` where the model has not seen them yet.

        Raises:
            ValueError: The state has no messages.
            ImageError: As `ingest`.
        """
        start = time.perf_counter()
        messages: Sequence[BaseMessage] = state["messages"]
        if not messages:
            raise ValueError('nothing to look at: give at least one message, {"messages": [...]}')
        store = self.parts.store
        warn_if_images_are_lost(store)
        taken_in = {message.id: message for message in take_in(messages, store, self.parts.fetch)}
        last_reply = max((i for i, message in enumerate(messages) if isinstance(message, AIMessage)), default=-1)
        changed = dict(taken_in)
        for i, message in enumerate(messages):
            fresh = i > last_reply or message.id in taken_in
            if fresh and (low := self._low(taken_in.get(message.id, message), settings)) is not None:
                changed[message.id] = low
        now = [changed.get(message.id, message) for message in messages]
        eyes = self.parts.eyes(settings.model)
        views, usage = in_view(now, no_usage(), store, tool_name=self.parts.tool_name, eyes=eyes)
        usage["seconds"] = time.perf_counter() - start
        runtime.stream_writer({"event": "observe", "views": views, "visual_tokens": usage["visual_tokens"]})
        update = {"answer": None, "stop": None, "views": views, "usage": usage}
        return {**update, "messages": list(changed.values())} if changed else update

    def _low(self, message: BaseMessage, settings: ZoomContext) -> BaseMessage | None:
        zoomed = isinstance(message, ToolMessage) and message.name == self.parts.tool_name
        return None if zoomed else at_scale(message, settings.scale, self.parts.store)

    async def arun(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """As `run`, in a thread where images are to be read."""
        if is_quick(state["messages"], self.parts.store):
            return self.run(state, settings, runtime, config)
        return await super().arun(state, settings, runtime, config)
