"""The node that runs what the model called: each call is answered, in order, and a mistake costs no zoom.

`zoom_image` and the caller's own tools run in one LangGraph `ToolNode`; then each new view is granted or refused by the
run's budgets, in the order of the calls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    InvalidToolCall,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import Command

from vtagent.conversation import already_shown, image_blocks
from vtagent.errors import ImageError, ImageTampered
from vtagent.graphs.budgets import in_view, record
from vtagent.graphs.intake import noted
from vtagent.graphs.node import Node, ZoomRuntime
from vtagent.graphs.observe import Fetch, is_quick, referenced, take_in
from vtagent.graphs.state import ZoomContext, ZoomState
from vtagent.images import ImageStore
from vtagent.tools.zoom_image import refusal
from vtagent.views import View
from vtagent.visual_tokens import VisionSpec


class Act(Node):
    """Answers every call of the last reply."""

    def __init__(
        self,
        defaults: ZoomContext,
        *,
        zoom_tool: BaseTool,
        tools: Sequence[BaseTool],
        store: ImageStore,
        vision: VisionSpec,
        fetch: Fetch | None,
    ) -> None:
        super().__init__(defaults)
        self.zoom_tool = zoom_tool
        self.zoom, self.store, self.vision, self.fetch = zoom_tool.name, store, vision, fetch
        self.names = [zoom_tool.name, *(tool.name for tool in tools)]
        self.tools = ToolNode([zoom_tool, *tools], handle_tool_errors=_say)

    def run(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """Run the calls."""
        start = time.perf_counter()
        if zoom := self._only_a_zoom(state):
            output: Any = {"messages": [self.zoom_tool.invoke(zoom, config)]}
        else:
            callable_ = self._callable(state)
            output = self.tools.invoke(callable_, config) if callable_ else []
        return self._update(state, settings, *_sorted_out(output), runtime, start)

    async def arun(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """Run the calls, tools that are coroutines among them."""
        start = time.perf_counter()
        if zoom := self._only_a_zoom(state):
            output: Any = {"messages": [await self.zoom_tool.ainvoke(zoom, config)]}
        else:
            callable_ = self._callable(state)
            output = await self.tools.ainvoke(callable_, config) if callable_ else []
        answers, commands = _sorted_out(output)
        if not commands and is_quick(answers.values(), self.store):
            return self._update(state, settings, answers, commands, runtime, start)
        return await asyncio.to_thread(self._update, state, settings, answers, commands, runtime, start)

    def _only_a_zoom(self, state: ZoomState) -> dict[str, Any] | None:
        """The one call, if it is a zoom: by far the usual case, and not worth `ToolNode`'s threads."""
        match _last_reply(state).tool_calls:
            case [call] if call["name"] == self.zoom:
                return {**call, "args": {**call["args"], "messages": state["messages"]}, "type": "tool_call"}
        return None

    def _callable(self, state: ZoomState) -> dict[str, Any] | None:
        """The state with only those calls in the last reply that name a tool; None when there are none."""
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
        commands = [self._without_pixels(command, settings) for command in commands]
        said: list[BaseMessage] = []
        ledger = Ledger(state, settings, self.zoom, self.store, self.vision)
        for call in reply.tool_calls:
            name, id_ = call["name"], str(call["id"])
            if name not in self.names:
                known = ", ".join(self.names)
                said.append(ledger.mistake(f"There is no tool {name[:80]!r}; call one of: {known}.", name[:80], id_))
            elif id_ in answers:
                answer = answers.pop(id_)
                said.append(
                    ledger.granted(answer) if name == self.zoom else without_pixels(answer, self.store, self.fetch)
                )
        for bad in reply.invalid_tool_calls:
            said.append(ledger.mistake(why(bad), bad["name"] or self.zoom, str(bad["id"])))
        said += [without_pixels(answer, self.store, self.fetch) for answer in answers.values()]
        for event in ledger.events:
            runtime.stream_writer(event)
        views, usage = ledger.views, ledger.usage
        told: list[Any] = [*_messages_of(commands), *said]
        if any(message.name != self.zoom for message, _ in image_blocks(told)):
            before: list[Any] = state["messages"]
            now: Any = add_messages(before, told)
            views, usage = in_view(now, usage, self.store, tool_name=self.zoom, vision=self.vision)
        usage["seconds"] += time.perf_counter() - start
        update = {"messages": said, "views": views, "usage": usage}
        return [*commands, update] if commands else update

    def _without_pixels(self, command: Command[Any], settings: ZoomContext) -> Command[Any]:
        """What a tool wants done to the state, with references for pictures in the messages it brings."""
        if not isinstance(command.update, Mapping) or not command.update.get("messages"):
            return command
        brought = [
            without_pixels(message, self.store, self.fetch)
            if isinstance(message, ToolMessage)
            else noted(message, self.store, self.fetch)
            for message in convert_to_messages(command.update["messages"])
        ]
        messages = referenced(brought, self.store, self.fetch, scale=settings.scale)
        return replace(command, update={**command.update, "messages": messages})


class Ledger:
    """The run's accounts while the calls of one reply are answered."""

    def __init__(
        self, state: ZoomState, settings: ZoomContext, tool_name: str, store: ImageStore, vision: VisionSpec
    ) -> None:
        self.settings, self.tool_name, self.store, self.vision = settings, tool_name, store, vision
        self.usage, self.views = state["usage"].copy(), list(state["views"])
        self.granted_now: list[View] = []
        self.events: list[dict[str, Any]] = []

    def mistake(self, text: str, name: str, id_: str) -> ToolMessage:
        """Answer a call that cannot be run, at the cost of no zoom."""
        self.usage["mistakes"] += 1
        self.events.append({"event": "refused", "name": name, "reason": text})
        return ToolMessage(text, name=name, tool_call_id=id_, status="error")

    def granted(self, message: ToolMessage) -> ToolMessage:
        """The zoom tool's answer if the budgets allow the view, else the refusal."""
        if message.status == "error":
            return self.mistake(message.text, self.tool_name, message.tool_call_id)
        view = View.from_url(message.artifact["view"], self.store)
        if text := self._objection(view):
            return self.mistake(text, self.tool_name, message.tool_call_id)
        self.granted_now.append(view)
        self.views.append(record(view, message, tool_name=self.tool_name, vision=self.vision))
        self.usage["zooms"] += 1
        self.usage["visual_tokens"] += self.views[-1]["tokens"]
        self.events.append({"event": "zoom", "view": self.views[-1], "zooms": self.usage["zooms"]})
        return message

    def _objection(self, view: View) -> str | None:
        if self.usage["zooms"] >= self.settings.max_zooms:
            return f"No zoom is left (the limit is {self.settings.max_zooms}). Answer from what you see."
        if earlier := already_shown(view, self.granted_now, self.vision):
            return refusal(earlier)
        if self.settings.max_visual_tokens is not None:
            left = self.settings.max_visual_tokens - self.usage["visual_tokens"]
            if (cost := view.tokens(self.vision)) > left:
                return f"This view costs {cost} visual tokens and {left} are left. Ask for a smaller region, or answer."
        return None


def without_pixels(message: ToolMessage, store: ImageStore, fetch: Fetch | None) -> ToolMessage:
    """What another tool answered, with references for its pictures; one that cannot be used is told of in words."""
    try:
        changed = take_in([message], store, fetch)
    except ImageError as error:
        text = f"{message.name} returned an image that cannot be used: {error}"
        return message.model_copy(update={"content": text, "status": "error", "artifact": None})
    return next((new for new in changed if isinstance(new, ToolMessage)), message)


def _last_reply(state: ZoomState) -> AIMessage:
    reply = state["messages"][-1]
    assert isinstance(reply, AIMessage)
    return reply


def _sorted_out(output: Any) -> tuple[dict[str, ToolMessage], list[Command[Any]]]:
    """`ToolNode`'s output as answers by call id, and what else the tools want done to the state."""
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


def _say(error: Exception) -> str:
    """An error of a tool, in words for the model; a store that was tampered with ends the run, whoever found it."""
    if isinstance(error, ImageTampered):
        raise error
    return f"{type(error).__name__}: {error}"[:1000]


def why(bad: InvalidToolCall) -> str:
    """What was wrong with a call that could not be read, in words for the model."""
    name = f" of {bad['name'][:80]!r}" if bad["name"] else ""
    return (bad["error"] or f"The call{name} could not be read: its arguments are not valid JSON.").strip()[:500]
