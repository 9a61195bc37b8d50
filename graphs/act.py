"""The node that runs what the model called: it answers each call, in order; a mistake costs no zoom.

`zoom_image` and the caller's own tools run in one LangGraph `ToolNode`. Then the run's budgets grant or refuse each new
view, in the order of the calls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import replace
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from langgraph.config import get_config
from langgraph.errors import GraphInterrupt
from langgraph.func import task
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Command

from vtagent.conversation import image_blocks
from vtagent.errors import ImageTampered
from vtagent.graphs.budgets import Ledger, in_view
from vtagent.graphs.intake import command_without_pixels, is_quick, without_pixels
from vtagent.graphs.keeping import checkpointer_of
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
            output = self._run(known, settings, config) if known else []
        return self._update(state, settings, *_sorted_out(output), runtime, start)

    async def arun(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """Run the calls, tools that are coroutines among them."""
        start = time.perf_counter()
        if zoom := self._only_a_zoom(state):
            output: Any = {"messages": [await self._zoom_tool(settings).ainvoke(zoom, config)]}
        else:
            known = self._known_calls(state)
            output = await self._arun(known, settings, config) if known else []
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

    def _run(self, known: dict[str, Any], settings: ZoomContext, config: RunnableConfig) -> Any:
        """`ToolNode`'s output for the calls, each run as a task where one of them could wait for a person."""
        if not self._may_be_resumed(known, config):
            return self._tools(settings).invoke(known, config)
        waiting = [_one_call(self, each, settings) for each in _one_by_one(known)]
        wait(waiting)  # an interrupt ends the node: what still runs would run again when it is resumed
        return _joined(waiting)

    async def _arun(self, known: dict[str, Any], settings: ZoomContext, config: RunnableConfig) -> Any:
        if not self._may_be_resumed(known, config):
            return await self._tools(settings).ainvoke(known, config)
        waiting = [_aone_call(self, each, settings) for each in _one_by_one(known)]
        await asyncio.wait(waiting)
        return _joined(waiting)

    def _may_be_resumed(self, known: dict[str, Any], config: RunnableConfig) -> bool:
        """Whether one of several calls could interrupt the run, so that the others must not run twice."""
        calls = _last_reply(known).tool_calls
        others = any(call["name"] != self.parts.tool_name for call in calls)
        return len(calls) > 1 and others and checkpointer_of(config) is not None

    def _without_pixels(self, output: Any, scale: float) -> list[Any]:
        """`ToolNode`'s output as a checkpointer may keep it until the run is resumed."""
        store, fetch = self.parts.store, self.parts.fetch
        return [
            command_without_pixels(item, store, fetch, scale=scale)
            if isinstance(item, Command)
            else {"messages": [self._as_kept(message, scale) for message in item["messages"]]}
            for item in (output if isinstance(output, list) else [output])
        ]

    def _as_kept(self, message: ToolMessage, scale: float) -> ToolMessage:
        """A tool's answer with references; a zoom's view keeps its resolution."""
        if message.name == self.parts.tool_name:
            return message
        return without_pixels(message, self.parts.store, self.parts.fetch, scale=scale)

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


def _run_one(act: Act, state: dict[str, Any], settings: ZoomContext) -> list[Any]:
    """Run one call; a checkpointer keeps what it returns, so that it runs once even if another call waits."""
    return act._without_pixels(act._tools(settings).invoke(state, get_config()), settings.scale)


async def _arun_one(act: Act, state: dict[str, Any], settings: ZoomContext) -> list[Any]:
    """As `_run_one`."""
    output = await act._tools(settings).ainvoke(state, get_config())
    return await asyncio.to_thread(act._without_pixels, output, settings.scale)


_task: Any = task(name="tool")
_one_call, _aone_call = _task(_run_one), _task(_arun_one)


def _one_by_one(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The state once for each call of its last reply."""
    *before, reply = state["messages"]
    return [
        {**state, "messages": [*before, reply.model_copy(update={"tool_calls": [call]})]} for call in reply.tool_calls
    ]


def _joined(done: Sequence[Any]) -> list[Any]:
    """The output of finished tasks.

    Args:
        done: Futures that are done.

    Raises:
        GraphInterrupt: Tools wait for a person; it lists what all of them ask.
    """
    asked = [each.exception() for each in done]
    interrupts = [part for error in asked if isinstance(error, GraphInterrupt) for part in error.args[0]]
    failed = next((error for error in asked if error is not None and not isinstance(error, GraphInterrupt)), None)
    if failed is None and interrupts:
        raise GraphInterrupt(interrupts)
    return [item for each in done for item in each.result()]


def _last_reply(state: Mapping[str, Any]) -> AIMessage:
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
