"""The model's turn: it is shown the conversation and answers or calls, or, when a budget is spent, must answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig
from langchain_core.tools import BaseTool
from langgraph.types import Command

from vtagent.errors import ModelError
from vtagent.graphs.budgets import after_call, forced_by
from vtagent.graphs.model_call import (
    after_tool_messages,
    can_be_forbidden,
    reads_references,
    takes_tool_images,
    with_open_calls_answered,
    without_lost_images,
    zoom_biased,
)
from vtagent.graphs.node import Node, ZoomRuntime
from vtagent.graphs.state import Stop, ZoomContext, ZoomState
from vtagent.graphs.tool_calls import structured, without_calls
from vtagent.images import ImageStore
from vtagent.models.pixel_model import PixelModel
from vtagent.prompts import PromptTemplate
from vtagent.views import ViewRenderer
from vtagent.visual_tokens import VisionSpec

_KEPT = 16  # bound models kept ready: a graph rarely serves more than a few

Caller: TypeAlias = Runnable[LanguageModelInput, AIMessage]


@dataclass(frozen=True)
class Turn:
    """One call of the model, ready to be made."""

    model: Caller
    messages: list[BaseMessage]
    options: dict[str, Any]
    forced: Stop | None


class Decide(Node):
    """Calls the model."""

    def __init__(
        self,
        defaults: ZoomContext,
        *,
        model: BaseChatModel | None,
        store: ImageStore,
        vision: VisionSpec,
        zoom_tool: BaseTool,
        tools: Sequence[BaseTool],
        prompt: str | PromptTemplate | None,
    ) -> None:
        super().__init__(defaults)
        self.model, self.store, self.vision, self.prompt = model, store, vision, prompt
        self.zoom_tool, self.tools = zoom_tool, list(tools)
        self._renderer = ViewRenderer(store, vision)
        self._ready: dict[tuple[int, bool, bool], tuple[BaseChatModel, tuple[Caller, dict[str, Any]]]] = {}

    def run(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """Call the model once."""
        start = time.perf_counter()
        turn = self._prepare(state, settings)
        message = turn.model.invoke(turn.messages, config, **turn.options)
        return self._update(state, turn, message, runtime, time.perf_counter() - start)

    async def arun(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """Call the model once, without blocking the event loop."""
        start = time.perf_counter()
        if self.store.in_memory:
            turn = self._prepare(state, settings)
        else:
            turn = await asyncio.to_thread(self._prepare, state, settings)
        message = await turn.model.ainvoke(turn.messages, config, **turn.options)
        return self._update(state, turn, message, runtime, time.perf_counter() - start)

    def _prepare(self, state: ZoomState, settings: ZoomContext) -> Turn:
        model = settings.model or self.model
        if model is None:
            raise ModelError("no model: give one to the builder, or to the run with context=ZoomContext(model=…)")
        offered = settings.max_zooms > 0 and bool(state["views"] or self.tools)
        forced = forced_by(state["usage"], settings, other_tools=bool(self.tools))
        messages = with_open_calls_answered(without_lost_images(state["messages"], self.store))
        messages = self._with_prompt(messages, settings)
        if not takes_tool_images(model):
            messages = after_tool_messages(messages)
        caller, bound = self._bound(model, offered, forced is not None)
        options = dict(bound)
        if settings.zoom_bias and offered and not forced:
            options |= zoom_biased(model, settings)
        return Turn(caller, messages, options, forced)

    def _with_prompt(self, messages: list[BaseMessage], settings: ZoomContext) -> list[BaseMessage]:
        prompt = self.prompt
        if callable(prompt):
            name = self.zoom_tool.name
            prompt = prompt(tool_name=name, scale=settings.scale, max_zooms=settings.max_zooms)
        if prompt is None:
            return messages
        if not messages or not isinstance(messages[0], SystemMessage):
            return [SystemMessage(prompt), *messages]
        theirs = messages[0].content  # many templates read only one system message
        if isinstance(theirs, str):
            return [SystemMessage(f"{prompt}\n\n{theirs}"), *messages[1:]]
        return [SystemMessage([{"type": "text", "text": f"{prompt}\n\n"}, *theirs]), *messages[1:]]

    def _bound(self, model: BaseChatModel, offered: bool, forced: bool) -> tuple[Caller, dict[str, Any]]:
        """The model with its tools; the same ones when it must answer, so that the prompt's prefix can be reused."""
        key = (id(model), offered, forced)
        known = self._ready.get(key)
        if known is not None and known[0] is model:
            return known[1]
        shared = self._renderer
        reader = model if reads_references(model) else PixelModel.over(model, self.store, self.vision, renderer=shared)
        tools = [self.zoom_tool, *self.tools] if offered else self.tools
        bound: Caller = reader
        if tools:
            try:
                forbidden = {"tool_choice": "none"} if forced and can_be_forbidden(model, tools) else {}
                bound = reader.bind_tools(tools, **forbidden)
            except NotImplementedError as error:
                raise ModelError(f"{type(model).__name__} cannot be given tools: it has no bind_tools") from error
        elif reads_references(model):
            bound = reader.bind(tool_choice="none")
        if len(self._ready) >= _KEPT:
            self._ready.clear()
        ready = _unwrapped(bound)
        self._ready[key] = model, ready
        return ready

    def _update(
        self, state: ZoomState, turn: Turn, message: AIMessage, runtime: ZoomRuntime, seconds: float
    ) -> Command[Literal["zoom", "answer"]]:
        message = without_calls(message) if turn.forced else structured(message)
        if any(
            message.id == said.id for said in state["messages"]
        ):  # a cached reply: it must not replace its first self
            message = message.model_copy(update={"id": None})
        usage = after_call(state["usage"], message, seconds)
        names = [call["name"] for call in message.tool_calls]
        calls = [{"name": call["name"], "args": call["args"]} for call in message.tool_calls]
        choice: str = "answer"
        next_node: Literal["zoom", "answer"] = "answer"
        if names or message.invalid_tool_calls:
            choice, next_node = "zoom" if self.zoom_tool.name in names or not names else "tool", "zoom"
        runtime.stream_writer(
            {"event": "decision", "choice": choice, "calls": calls, "turn": usage["turns"], "stop": turn.forced}
        )
        # Saying where to go next is cheaper than a conditional edge, which reads the whole state back to find out.
        return Command(update={"messages": [message], "usage": usage, "stop": turn.forced}, goto=next_node)


def _unwrapped(bound: Caller) -> tuple[Caller, dict[str, Any]]:
    """A plain binding as the model and its options: the same call, without merging configs each time."""
    if not isinstance(bound, RunnableBinding) or bound.config or bound.config_factories:
        return bound, {}
    if type(bound).invoke is not RunnableBinding.invoke or type(bound).ainvoke is not RunnableBinding.ainvoke:
        return bound, {}
    return bound.bound, dict(bound.kwargs)
