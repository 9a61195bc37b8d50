"""The node `decide`: calls the model. The reply is an answer or tool calls; once a budget is spent, only an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from langgraph.types import Command

from vtagent.errors import ModelError
from vtagent.graphs.budgets import Usage, ViewRecord, after_call, forced_by, in_view
from vtagent.graphs.calls_of_reply import bounded
from vtagent.graphs.intake import without_lost_images
from vtagent.graphs.model_call import ModelCall, ModelCalls
from vtagent.graphs.node import Node, Parts, ZoomRuntime
from vtagent.graphs.sight import Sight
from vtagent.graphs.state import ZoomContext, ZoomState
from vtagent.models.runnables import AnyModel, resolved


@dataclass(frozen=True)
class Prepared:
    """A call that is ready to be made, and what the model is shown in it."""

    call: ModelCall
    usage: Usage
    """With the visual tokens of what is shown."""
    views: list[ViewRecord] | None
    """The views that are shown; None if all of the conversation's are."""


class Decide(Node):
    """Calls the model once, and says which node comes next.

    Args:
        parts: The graph's parts.
        model: The graph's model; None if each run brings its own.
        tools: The tools beside the zoom tool.
        sight: What a call of the model is shown.
        speaks_as: The `name` of replies; None leaves the model's own.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        model: AnyModel | None,
        tools: Sequence[BaseTool],
        sight: Sight,
        speaks_as: str | None = None,
    ) -> None:
        super().__init__(parts)
        self.model, self.tools, self.speaks_as = model, list(tools), speaks_as
        self._calls, self._sight = ModelCalls(parts, prompt_first=True, pixels=sight.pixels), sight

    def run(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """Call the model.

        Raises:
            ModelError: There is no model, or it cannot be given what the settings ask for.
        """
        start = time.perf_counter()
        ready = self._prepared(state, settings)
        caller, options = ready.call.ready.bound
        message = caller.invoke(_shown(ready.call), config, **{**options, **ready.call.options})
        return self._update(state, settings, ready, message, runtime, time.perf_counter() - start)

    async def arun(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """As `run`; the event loop is not blocked."""
        start = time.perf_counter()
        if self.parts.store.in_memory:
            ready = self._prepared(state, settings)
        else:
            ready = await asyncio.to_thread(self._prepared, state, settings)
        caller, options = ready.call.ready.bound
        message = await caller.ainvoke(_shown(ready.call), config, **{**options, **ready.call.options})
        return self._update(state, settings, ready, message, runtime, time.perf_counter() - start)

    def _prepared(self, state: ZoomState, settings: ZoomContext) -> Prepared:
        given = settings.model or self.model
        if given is None:
            raise ModelError("no model: give one to the builder, or to the run with context=ZoomContext(model=…)")
        model, parts = resolved(given), self.parts
        eyes = parts.eyes(model)
        told: list[BaseMessage] = without_lost_images(state["messages"], parts.store)
        messages = self._sight.of(told, model, settings, tool_name=parts.tool_name if settings.max_zooms else None)
        usage, views = state["usage"], None
        if any(new is not old for new, old in zip(messages, told, strict=True)):
            views, usage = in_view(messages, usage, parts.store, tool_name=parts.tool_name, eyes=eyes)
        offered = settings.max_zooms > 0 and bool(state["views"] or self.tools)
        forced = forced_by(usage, settings, other_tools=bool(self.tools))
        system = messages[0] if messages and isinstance(messages[0], SystemMessage) else None
        call = self._calls.prepare(
            model,
            messages[1:] if system else messages,
            settings,
            system=system,
            prompt=parts.prompt_for(settings, eyes),
            # The same tools when it must answer, so that engines can reuse the prompt's prefix.
            tools=[parts.zoom_tool_for(eyes, messages), *self.tools] if offered else self.tools,
            zoom_offered=offered,
            stop=forced,
            must_answer=forced is not None,
        )
        return Prepared(call, usage, views)

    def _update(
        self,
        state: ZoomState,
        settings: ZoomContext,
        ready: Prepared,
        message: AIMessage,
        runtime: ZoomRuntime,
        seconds: float,
    ) -> Command[Literal["zoom", "answer"]]:
        call = ready.call
        message = bounded(call.reply(message), settings.max_calls, tool_name=self.parts.tool_name)
        if self.speaks_as:
            message = message.model_copy(update={"name": self.speaks_as})
        if any(message.id == earlier.id for earlier in state["messages"]):
            message = message.model_copy(update={"id": None})  # a cached reply must not replace the first one
        usage = after_call(ready.usage, message, seconds)
        names = [each["name"] for each in message.tool_calls]
        calls = [{"name": each["name"], "args": each["args"]} for each in message.tool_calls]
        choice: str = "answer"
        next_node: Literal["zoom", "answer"] = "answer"
        if names or message.invalid_tool_calls:
            choice, next_node = "zoom" if self.parts.tool_name in names or not names else "tool", "zoom"
        runtime.stream_writer(
            {"event": "decision", "choice": choice, "calls": calls, "turn": usage["turns"], "stop": call.stop}
        )
        update: dict[str, Any] = {"messages": [message], "usage": usage, "stop": call.stop}
        if ready.views is not None:
            update["views"] = ready.views
        # A Command is cheaper than a conditional edge, which reads the whole state back to find the next node.
        return Command(update=update, goto=next_node)


def _shown(call: ModelCall) -> list[BaseMessage]:
    """The messages of a call, the system message first."""
    return [call.system, *call.messages] if call.system else call.messages
