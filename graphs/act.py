"""The node that runs what the model called: it answers each call, in order; a mistake costs no zoom.

`zoom_image` and the caller's own tools run in one LangGraph `ToolNode`. Then the run's budgets grant or refuse each new
view, in the order of the calls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Command

from vtagent.conversation import image_blocks
from vtagent.errors import ImageTampered
from vtagent.graphs.budgets import Ledger, in_view
from vtagent.graphs.intake import command_without_pixels, is_quick, without_pixels
from vtagent.graphs.node import Node, Parts, ZoomRuntime
from vtagent.graphs.sight import as_the_tool_sees
from vtagent.graphs.state import ZoomContext, ZoomState
from vtagent.graphs.tool_calls import why_invalid

_KEPT = 16  # a graph rarely serves more models


class Act(Node):
    """Answers every call of the last reply.

    Args:
        parts: The graph's parts.
        tools: The tools beside the zoom tool.
    """

    def __init__(self, parts: Parts, *, tools: Sequence[BaseTool]) -> None:
        super().__init__(parts)
        self.names = [parts.tool_name, *(tool.name for tool in tools)]
        self._others = tools
        self._nodes: dict[int, tuple[BaseTool, ToolNode]] = {}

    def run(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """Run the calls."""
        start = time.perf_counter()
        if zoom := self._only_a_zoom(state):
            output: Any = {"messages": [self._zoom_tool(settings).invoke(zoom, config)]}
        else:
            known = self._known_calls(state)
            output = self._tools(settings).invoke(known, config) if known else []
        return self._update(state, settings, *_sorted_out(output), runtime, start)

    async def arun(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """Run the calls, tools that are coroutines among them."""
        start = time.perf_counter()
        if zoom := self._only_a_zoom(state):
            output: Any = {"messages": [await self._zoom_tool(settings).ainvoke(zoom, config)]}
        else:
            known = self._known_calls(state)
            output = await self._tools(settings).ainvoke(known, config) if known else []
        answers, commands = _sorted_out(output)
        if not commands and is_quick(answers.values(), self.parts.store):
            return self._update(state, settings, answers, commands, runtime, start)
        return await asyncio.to_thread(self._update, state, settings, answers, commands, runtime, start)

    def _zoom_tool(self, settings: ZoomContext) -> BaseTool:
        """The zoom tool that reads what the run's model writes."""
        return self.parts.zoom_tool_for(self.parts.eyes(settings.model))

    def _tools(self, settings: ZoomContext) -> ToolNode:
        """All tools, the zoom tool as the run's model knows it."""
        zoom_tool = self._zoom_tool(settings)
        if (made := self._nodes.get(id(zoom_tool))) is None:
            if len(self._nodes) >= _KEPT:
                self._nodes.clear()
            node = ToolNode(
                [zoom_tool, *self._others],
                handle_tool_errors=_in_words,
                wrap_tool_call=lambda request, execute: execute(self._as_seen(request)),
                awrap_tool_call=self._arun_as_seen,
            )
            made = self._nodes[id(zoom_tool)] = zoom_tool, node  # the tool, so that its id stays its own
        return made[1]

    def _only_a_zoom(self, state: ZoomState) -> dict[str, Any] | None:
        """The only call of the reply, if it is a zoom: the usual case, which needs none of `ToolNode`'s threads."""
        match _last_reply(state).tool_calls:
            case [call] if call["name"] == self.parts.tool_name:
                return {**call, "args": {**call["args"], "messages": self._seen(state)}, "type": "tool_call"}
        return None

    def _seen(self, state: ZoomState) -> Sequence[BaseMessage]:
        """The conversation as the zoom tool is to judge it."""
        messages: list[BaseMessage] = list(state["messages"])
        return as_the_tool_sees(messages, [view["url"] for view in state["views"]], self.parts.store)

    def _as_seen(self, request: ToolCallRequest) -> ToolCallRequest:
        """A call's request; for a zoom, with the conversation as the zoom tool is to judge it."""
        if request.tool_call["name"] != self.parts.tool_name:
            return request
        state = {**request.state, "messages": self._seen(request.state)}
        changed: Any = {"state": state, "runtime": replace(request.runtime, state=state)}
        return request.override(**changed)

    async def _arun_as_seen(
        self, request: ToolCallRequest, execute: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]
    ) -> ToolMessage | Command[Any]:
        return await execute(self._as_seen(request))

    def _known_calls(self, state: ZoomState) -> dict[str, Any] | None:
        """The state with only those calls in the last reply that name a tool; None if there are none."""
        reply = _last_reply(state)
        calls = [call for call in reply.tool_calls if call["name"] in self.names]
        if not calls:
            return None
        if len(calls) == len(reply.tool_calls):
            return dict(state)
        messages: list[AnyMessage] = [*state["messages"][:-1], reply.model_copy(update={"tool_calls": calls})]
        return {**state, "messages": messages}

    def _update(
        self,
        state: ZoomState,
        settings: ZoomContext,
        answers: dict[str, ToolMessage],
        commands: list[Command[Any]],
        runtime: ZoomRuntime,
        start: float,
    ) -> Any:
        reply = _last_reply(state)
        parts, zoom = self.parts, self.parts.tool_name
        store, fetch = parts.store, parts.fetch
        commands = [command_without_pixels(command, store, fetch, scale=settings.scale) for command in commands]
        said: list[BaseMessage] = []
        eyes, scale = parts.eyes(settings.model), settings.scale
        ledger = Ledger(state["views"], state["usage"], settings, tool_name=zoom, store=store, eyes=eyes)
        for call in reply.tool_calls:
            name, id_ = call["name"], str(call["id"])
            if name not in self.names:
                text = f"There is no tool {name[:80]!r}; call one of: {', '.join(self.names)}."
                said.append(ledger.refuse(text, name[:80], id_))
            elif id_ in answers:
                answer = answers.pop(id_)
                said.append(ledger.grant(answer) if name == zoom else without_pixels(answer, store, fetch, scale=scale))
        for bad in reply.invalid_tool_calls:
            said.append(ledger.refuse(why_invalid(bad), bad["name"] or zoom, str(bad["id"])))
        said += [without_pixels(answer, store, fetch, scale=scale) for answer in answers.values()]
        for event in ledger.events:
            runtime.stream_writer(event)
        views, usage = ledger.views, ledger.usage
        told: list[Any] = [*_messages_of(commands), *said]
        if any(message.name != zoom for message, _ in image_blocks(told)):
            before: list[Any] = state["messages"]
            now: Any = add_messages(before, told)
            views, usage = in_view(now, usage, store, tool_name=zoom, eyes=eyes)
        usage["seconds"] += time.perf_counter() - start
        update = {"messages": said, "views": views, "usage": usage}
        return [*commands, update] if commands else update


def _last_reply(state: ZoomState) -> AIMessage:
    reply = state["messages"][-1]
    assert isinstance(reply, AIMessage)
    return reply


def _sorted_out(output: Any) -> tuple[dict[str, ToolMessage], list[Command[Any]]]:
    """`ToolNode`'s output as answers by call id, and the commands that tools returned."""
    answers: dict[str, ToolMessage] = {}
    commands: list[Command[Any]] = []
    for item in output if isinstance(output, list) else [output]:
        if isinstance(item, Command):
            commands.append(item)
        else:
            answers.update({message.tool_call_id: message for message in item["messages"]})
    return answers, commands


def _messages_of(commands: Iterable[Command[Any]]) -> list[BaseMessage]:
    """The messages that commands bring to this graph."""
    own = [command.update for command in commands if command.graph is None and isinstance(command.update, Mapping)]
    return [message for update in own for message in update.get("messages") or ()]


def _in_words(error: Exception) -> str:
    """A tool's error, in words for the model.

    Raises:
        ImageTampered: The error is that; a store that was tampered with ends the run.
    """
    if isinstance(error, ImageTampered):
        raise error
    return f"{type(error).__name__}: {error}"[:1000]
