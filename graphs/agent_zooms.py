"""Grants or refuses an agent's zooms by the run's budgets, and replaces the images of its other tools by references.

What a run has looked at is counted from its messages, so each of several parallel tool calls gets the same totals, and
so does a run that is resumed after a restart.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NotRequired, TypeAlias

from langchain.agents.middleware.types import ToolCallRequest
from langchain_core.messages import AIMessage, BaseMessage, ToolCall, ToolMessage
from langchain_core.tools import BaseTool
from langgraph.types import Command
from typing_extensions import TypedDict

from vtagent.conversation import image_blocks
from vtagent.eyes import Eyes
from vtagent.graphs.budgets import Ledger, Stop, Usage, ViewRecord, no_usage, spent
from vtagent.graphs.intake import command_without_pixels, is_quick, without_pixels
from vtagent.graphs.node import Parts
from vtagent.graphs.sight import as_the_tool_sees
from vtagent.graphs.state import ZoomContext, settings_of

Answer: TypeAlias = ToolMessage | Command[Any]

REFUSED = {"refused": True}
"""The artifact of a zoom's answer that counts as a mistake; a person's refusal has none."""


_REPLAYS = 8  # replies of runs that act at this moment
_KEPT = "kept"
"""A key that only the tally in a state has."""


class Looking(TypedDict):
    """What an agent's run has looked at."""

    views: list[ViewRecord]
    """What the latest call of the model was shown."""
    usage: Usage
    """What the run has cost; `seconds` is time in calls of the model."""
    stop: Stop | None
    """The budget that ended the zooming; None if none did."""
    eyes: NotRequired[str]
    """How the model of the latest call sees, as `Parts.eyes_named` finds it again: it wrote the boxes of its calls."""


def nothing_yet() -> Looking:
    """The value for a run that has not begun."""
    return Looking(views=[], usage=no_usage(), stop=None)


def looking_of(state: Mapping[str, Any]) -> Looking:
    """What the run has looked at, from an agent's state."""
    looking: dict[str, Any] = dict(state.get("zoom") or nothing_yet())
    looking.pop(_KEPT, None)
    return looking  # type: ignore[return-value]


def own_tally(kept: Looking, new: Looking) -> Any:
    """What an agent's state holds after an update: another agent's tally never takes the place of its own.

    A subagent's result holds the subagent's tally, and tools such as those of deepagents write a whole result into the
    state of the agent that called them, several at once if they ran in parallel. What was read out of a state is
    marked; what the middleware writes is not.

    Args:
        kept: What the state holds.
        new: The update.
    """
    return kept if _KEPT in new else {**new, _KEPT: True}


def with_answers(
    looking: Looking, messages: Sequence[BaseMessage], *, tool_name: str, others: Collection[str]
) -> Usage:
    """The usage with the tool messages that answer the last reply counted.

    Args:
        looking: The value when the last reply was made.
        messages: The conversation.
        tool_name: The zoom tool's name.
        others: The names of the agent's other tools. Their failures do not count as mistakes, and neither does a zoom
            that a person refused; all other failures do.
    """
    reply, answers = _last_batch(messages)
    usage = looking["usage"].copy()
    ours = (None, "", tool_name)
    invalid = {call["id"] for call in reply.invalid_tool_calls if call["name"] in ours} if reply else set()
    for answer in answers:
        if answer.status == "error":
            mistaken = answer.artifact == REFUSED if answer.name == tool_name else answer.name not in others
            usage["mistakes"] += mistaken or answer.tool_call_id in invalid
        elif answer.name == tool_name and any(image_blocks([answer])):
            usage["zooms"] += 1
    return usage


class AgentZooms:
    """Judges what an agent's tools answer.

    Args:
        parts: The middleware's parts.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._replays: deque[Replay] = deque(maxlen=_REPLAYS)
        self._lock = threading.Lock()

    def as_the_tool_sees(self, request: ToolCallRequest) -> ToolCallRequest:
        """A zoom's request with the conversation that the zoom tool is to judge, and the tool that the model knows."""
        state = {**request.state, "messages": self._replay(request).seen}
        changed: dict[str, Any] = {
            "state": state,
            "tool": self._parts.zoom_tool_for(self._eyes_of(looking_of(request.state))),
        }
        if request.runtime is not None:
            changed["runtime"] = replace(request.runtime, state=state)
        return request.override(**changed)

    def grant(self, request: ToolCallRequest, answer: Answer) -> Answer:
        """The answer to a zoom if the budgets allow it, else a refusal.

        The calls of one reply run in parallel, and a restarted run has no memory of them. So each call is judged after
        a replay of the calls before it, and the totals agree.

        Args:
            request: The call.
            answer: What the zoom tool answered.
        """
        if isinstance(answer, Command):
            return answer
        parts, looking, settings = self._parts, looking_of(request.state), self._settings(request)
        if stop := spent(looking["usage"], settings):
            ledger = self._ledger(looking, settings)
            text = f"There is no more to see: {stop} is reached. Answer from what you see."
            answer = ledger.refuse(text, parts.tool_name, answer.tool_call_id)
        else:
            ledger = self._replay(request).before(str(request.tool_call["id"]))
            answer = ledger.grant(answer)
        if answer.status == "error":
            answer = answer.model_copy(update={"artifact": REFUSED})
        if request.runtime is not None:
            request.runtime.stream_writer(ledger.events[-1])
        return answer

    def is_quick(self, answer: Answer) -> bool:
        """Whether taking in another tool's answer reads and decodes nothing."""
        return isinstance(answer, ToolMessage) and is_quick([answer], self._parts.store)

    def of_another_tool(self, request: ToolCallRequest, answer: Answer) -> Answer:
        """Another tool's answer with references for its images, which are shown low first.

        Args:
            request: The call. If there is no such tool, and the model sees no image, it is not told of the zoom tool.
            answer: What the tool answered.
        """
        store, fetch, scale = self._parts.store, self._parts.fetch, self._settings(request).scale
        if isinstance(answer, Command):
            return command_without_pixels(answer, store, fetch, scale=scale)
        if request.tool is None and answer.status == "error" and not looking_of(request.state)["views"]:
            answer = answer.model_copy(update={"content": self._without_our_name(answer.content)})
        return without_pixels(answer, store, fetch, scale=scale)

    def _without_our_name(self, content: Any) -> Any:
        """LangChain's list of the tools that there are, without ours."""
        if not isinstance(content, str):
            return content
        name = self._parts.tool_name
        return content.replace(f"[{name}, ", "[").replace(f", {name}", "")

    def _settings(self, request: ToolCallRequest) -> ZoomContext:
        return settings_of(getattr(request.runtime, "context", None), self._parts.defaults)

    def _eyes_of(self, looking: Looking) -> Eyes:
        return self._parts.eyes_named(looking.get("eyes"))

    def _ledger(self, looking: Looking, settings: ZoomContext) -> Ledger:
        parts = self._parts
        return Ledger(
            looking["views"],
            looking["usage"],
            settings,
            tool_name=parts.tool_name,
            store=parts.store,
            eyes=self._eyes_of(looking),
        )

    def _replay(self, request: ToolCallRequest) -> Replay:
        """The replay of the reply that made this call; the calls of one reply share one."""
        messages = request.state["messages"]
        reply, answered = _last_batch(messages)
        # `HumanInTheLoopMiddleware` leaves calls in the reply as the model made them, and says here what a person made
        # of them.
        edited: Mapping[str, Any] = request.state.get("hitl_edited_tool_calls") or {}
        done = frozenset(answer.tool_call_id for answer in answered)
        batch = Batch(reply, done, edited, looking_of(request.state), self._settings(request))
        with self._lock:
            for each in self._replays:
                if each.batch.is_same(batch):
                    return each
            seen = as_the_tool_sees(messages, [view["url"] for view in batch.looking["views"]], self._parts.store)
            zoom_tool = self._parts.zoom_tool_for(self._eyes_of(batch.looking))
            replay = Replay(batch, zoom_tool, seen, self._ledger(batch.looking, batch.settings))
            self._replays.append(replay)
            return replay


@dataclass(frozen=True, eq=False)
class Batch:
    """The calls of one reply, and the state in which they are run."""

    reply: AIMessage | None
    done: frozenset[str]
    """The ids of the calls that are answered: those that a person refused are not run."""
    edited: Mapping[str, Any]
    """The calls that a person edited, by id; they are run as edited."""
    looking: Looking
    """What the run has looked at, as of the reply."""
    settings: ZoomContext

    def is_same(self, other: Batch) -> bool:
        """Whether the other one is of that very reply, in that state."""
        mine, theirs = ((each.done, each.edited, each.looking, each.settings) for each in (self, other))
        return self.reply is other.reply and mine == theirs


class Replay:
    """The zooms of one reply, judged in the order of its calls; each is run once, when a later call has to know.

    Args:
        batch: The calls.
        zoom_tool: Runs them.
        seen: The conversation as the zoom tool is to judge it.
        ledger: What has been granted, as of the reply.
    """

    def __init__(self, batch: Batch, zoom_tool: BaseTool, seen: Sequence[BaseMessage], ledger: Ledger) -> None:
        self.batch, self.seen = batch, seen
        self._zoom_tool, self._ledger = zoom_tool, ledger
        self._calls = list(batch.reply.tool_calls) if batch.reply else []
        self._places = {str(call["id"]): place for place, call in enumerate(self._calls)}
        self._before: list[Ledger] = [ledger.copy()]
        self._lock = threading.Lock()

    def before(self, id_: str) -> Ledger:
        """The ledger before a call, a copy.

        Args:
            id_: The call's id. For one that the reply does not have, all calls of the reply stand before it.
        """
        place = self._places.get(id_, len(self._calls))
        with self._lock:
            while len(self._before) <= place:
                self._run(self._calls[len(self._before) - 1])
                self._before.append(self._ledger.copy())
            return self._before[place].copy()

    def _run(self, call: ToolCall) -> None:
        id_ = str(call["id"])
        run = self.batch.edited.get(id_, call)
        if run["name"] == self._zoom_tool.name and id_ not in self.batch.done:
            args = {**run["args"], "messages": self.seen}
            answer = self._zoom_tool.invoke({**call, "args": args, "type": "tool_call"}, {"callbacks": []})
            self._ledger.grant(answer)


def _last_batch(messages: Sequence[BaseMessage]) -> tuple[AIMessage | None, list[ToolMessage]]:
    """The last reply, and the tool messages that follow it."""
    answers: list[ToolMessage] = []
    for message in reversed(messages):
        if isinstance(message, AIMessage):
            return message, answers[::-1]
        if isinstance(message, ToolMessage):
            answers.append(message)
    return None, []
