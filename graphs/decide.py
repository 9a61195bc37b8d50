"""The node that calls the model, which answers or calls a tool, and has to answer when a budget is spent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from langgraph.types import Command

from vtagent.errors import ModelError
from vtagent.graphs.budgets import after_call, forced_by
from vtagent.graphs.model_call import ModelCall, ModelCalls
from vtagent.graphs.node import Node, Parts, ZoomRuntime
from vtagent.graphs.state import ZoomContext, ZoomState


class Decide(Node):
    """Calls the model once, and says which node comes next.

    Args:
        parts: The graph's parts.
        model: The graph's model; None if each run brings its own.
        tools: The tools beside the zoom tool.
        speaks_as: The `name` of replies; None leaves the model's own.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        model: BaseChatModel | None,
        tools: Sequence[BaseTool],
        speaks_as: str | None = None,
    ) -> None:
        super().__init__(parts)
        self.model, self.tools, self.speaks_as = model, list(tools), speaks_as
        self._calls = ModelCalls(parts, prompt_first=True)

    def run(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """Call the model.

        Raises:
            ModelError: There is no model, or it cannot be given what the settings ask for.
        """
        start = time.perf_counter()
        call = self._prepared(state, settings)
        caller, options = call.ready.bound
        message = caller.invoke(_shown(call), config, **{**options, **call.options})
        return self._update(state, call, message, runtime, time.perf_counter() - start)

    async def arun(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """As `run`; the event loop is not blocked."""
        start = time.perf_counter()
        if self.parts.store.in_memory:
            call = self._prepared(state, settings)
        else:
            call = await asyncio.to_thread(self._prepared, state, settings)
        caller, options = call.ready.bound
        message = await caller.ainvoke(_shown(call), config, **{**options, **call.options})
        return self._update(state, call, message, runtime, time.perf_counter() - start)

    def _prepared(self, state: ZoomState, settings: ZoomContext) -> ModelCall:
        model = settings.model or self.model
        if model is None:
            raise ModelError("no model: give one to the builder, or to the run with context=ZoomContext(model=…)")
        offered = settings.max_zooms > 0 and bool(state["views"] or self.tools)
        forced = forced_by(state["usage"], settings, other_tools=bool(self.tools))
        messages: list[Any] = state["messages"]
        eyes = self.parts.eyes(settings.model)
        system = messages[0] if messages and isinstance(messages[0], SystemMessage) else None
        return self._calls.prepare(
            model,
            messages[1:] if system else messages,
            settings,
            system=system,
            prompt=self.parts.prompt_for(settings, eyes),
            # The same tools when it must answer, so that engines can reuse the prompt's prefix.
            tools=[self.parts.zoom_tool_for(eyes, messages), *self.tools] if offered else self.tools,
            zoom_offered=offered,
            stop=forced,
            must_answer=forced is not None,
        )

    def _update(
        self, state: ZoomState, call: ModelCall, message: AIMessage, runtime: ZoomRuntime, seconds: float
    ) -> Command[Literal["zoom", "answer"]]:
        message = call.reply(message)
        if self.speaks_as:
            message = message.model_copy(update={"name": self.speaks_as})
        if any(message.id == earlier.id for earlier in state["messages"]):
            message = message.model_copy(update={"id": None})  # a cached reply must not replace the first one
        usage = after_call(state["usage"], message, seconds)
        names = [each["name"] for each in message.tool_calls]
        calls = [{"name": each["name"], "args": each["args"]} for each in message.tool_calls]
        choice: str = "answer"
        next_node: Literal["zoom", "answer"] = "answer"
        if names or message.invalid_tool_calls:
            choice, next_node = "zoom" if self.parts.tool_name in names or not names else "tool", "zoom"
        runtime.stream_writer(
            {"event": "decision", "choice": choice, "calls": calls, "turn": usage["turns"], "stop": call.stop}
        )
        # A Command is cheaper than a conditional edge, which reads the whole state back to find the next node.
        return Command(update={"messages": [message], "usage": usage, "stop": call.stop}, goto=next_node)


def _shown(call: ModelCall) -> list[BaseMessage]:
    """The messages of a call, the system message first."""
    return [call.system, *call.messages] if call.system else call.messages
