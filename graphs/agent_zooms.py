"""Grants or refuses an agent's zooms by the run's budgets, and replaces the images of its other tools by references.

What a run has looked at is counted from its messages and kept in the agent's state alone: parallel calls of tools come
to the same count, and so does a run that is resumed after a restart.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NotRequired, TypeAlias

from langchain.agents.middleware.types import ToolCallRequest
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langgraph.types import Command
from typing_extensions import TypedDict

from vtagent.conversation import as_the_tool_sees, image_blocks
from vtagent.eyes import Eyes
from vtagent.graphs.budgets import Ledger, Stop, Usage, ViewRecord, no_usage, spent
from vtagent.graphs.intake import command_without_pixels, without_lost_images, without_pixels
from vtagent.graphs.node import Parts
from vtagent.graphs.state import settings_of

Answer: TypeAlias = ToolMessage | Command[Any]

REFUSED = {"refused": True}
"""The artifact of a zoom's answer that counts as a mistake; a person's refusal has none."""


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
    invalid = {call["id"] for call in reply.invalid_tool_calls} if reply else set()
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
        keep_images: As for `ZoomMiddleware`.
    """

    def __init__(self, parts: Parts, keep_images: int | None) -> None:
        self._parts, self._keep_images = parts, keep_images

    def as_the_tool_sees(self, request: ToolCallRequest) -> ToolCallRequest:
        """A zoom's request with the conversation that the zoom tool is to judge, and the tool that the model knows."""
        state = {**request.state, "messages": self._seen(request)}
        changed: dict[str, Any] = {
            "state": state,
            "runtime": replace(request.runtime, state=state),
            "tool": self._parts.zoom_tool_for(self._eyes(request)),
        }
        return request.override(**changed)

    def grant(self, request: ToolCallRequest, answer: Answer) -> Answer:
        """The answer to a zoom if the budgets allow it, else a refusal.

        The calls of one reply run in parallel and share no memory. Each call replays the earlier calls, so the totals
        agree.

        Args:
            request: The call.
            answer: What the zoom tool answered.
        """
        if isinstance(answer, Command):
            return answer
        parts, looking = self._parts, looking_of(request.state)
        settings = settings_of(request.runtime.context, parts.defaults)
        ledger = Ledger(
            looking["views"],
            looking["usage"],
            settings,
            tool_name=parts.tool_name,
            store=parts.store,
            eyes=self._eyes(request),
        )
        if stop := spent(looking["usage"], settings):
            text = f"There is no more to see: {stop} is reached. Answer from what you see."
            answer = ledger.refuse(text, parts.tool_name, answer.tool_call_id)
        else:
            for earlier in self._zooms_before(request):
                ledger.grant(earlier)
            answer = ledger.grant(answer)
        if answer.status == "error":
            answer = answer.model_copy(update={"artifact": REFUSED})
        request.runtime.stream_writer(ledger.events[-1])
        return answer

    def without_pixels(self, request: ToolCallRequest, answer: Answer) -> Answer:
        """Another tool's answer with references for its images, which are shown low first.

        Args:
            request: The call.
            answer: What the tool answered.
        """
        scale = settings_of(request.runtime.context, self._parts.defaults).scale
        taken_in = without_pixels if isinstance(answer, ToolMessage) else command_without_pixels
        return taken_in(answer, self._parts.store, self._parts.fetch, scale=scale)  # type: ignore[arg-type]

    def _eyes(self, request: ToolCallRequest) -> Eyes:
        return self._parts.eyes_named(looking_of(request.state).get("eyes"))

    def _seen(self, request: ToolCallRequest) -> list[BaseMessage]:
        found = without_lost_images(request.state["messages"], self._parts.store)
        return as_the_tool_sees(found, self._keep_images, self._parts.store)

    def _zooms_before(self, request: ToolCallRequest) -> list[ToolMessage]:
        """The zoom tool's answers to the calls that stand before this one in the same reply.

        `HumanInTheLoopMiddleware` leaves calls in the reply as the model made them. A call that a person refused is
        already answered and is not run; one that a person edited is run as edited.
        """
        reply, answered = _last_batch(request.state["messages"])
        done = {answer.tool_call_id for answer in answered}
        edited: Mapping[str, Any] = request.state.get("hitl_edited_tool_calls") or {}
        zoom_tool = self._parts.zoom_tool_for(self._eyes(request))
        answers = []
        for call in reply.tool_calls if reply else ():
            if call["id"] == request.tool_call["id"]:
                break
            run = edited.get(str(call["id"]), call)
            if run["name"] == zoom_tool.name and call["id"] not in done:
                args = {**run["args"], "messages": self._seen(request)}
                answers.append(zoom_tool.invoke({**call, "args": args, "type": "tool_call"}, {"callbacks": []}))
        return answers


def _last_batch(messages: Sequence[BaseMessage]) -> tuple[AIMessage | None, list[ToolMessage]]:
    """The last reply, and the tool messages that follow it."""
    answers: list[ToolMessage] = []
    for message in reversed(messages):
        if isinstance(message, AIMessage):
            return message, answers[::-1]
        if isinstance(message, ToolMessage):
            answers.append(message)
    return None, []
