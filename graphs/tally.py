"""What one run of someone else's agent has looked at and spent, counted from its messages, and which budget is spent.

Nothing is kept between runs or outside the state: parallel calls of tools come to the same count, and so does a run
that is taken up again after a restart.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from typing_extensions import TypedDict

from vtagent.conversation import image_blocks
from vtagent.graphs.budgets import forced_by
from vtagent.graphs.state import Stop, Usage, ViewRecord, ZoomContext, no_usage

REFUSED = {"refused": True}
"""The artifact of a zoom's answer that counts as a mistake; a person's refusal has none."""


class Looking(TypedDict):
    """What an agent's run has looked at."""

    views: list[ViewRecord]
    """What the latest call of the model was shown."""
    usage: Usage
    """What the run has cost; `seconds` is time in calls of the model."""
    stop: Stop | None
    """The budget that ended the looking; None: there was more to be had."""


def nothing_yet() -> Looking:
    """The tally of a run that has not begun."""
    return Looking(views=[], usage=no_usage(), stop=None)


def looking_of(state: Mapping[str, Any]) -> Looking:
    """The tally in an agent's state."""
    looking: Looking | None = state.get("zoom")
    return looking or nothing_yet()


def with_answers(
    looking: Looking, messages: Sequence[BaseMessage], *, tool_name: str, others: Collection[str]
) -> Usage:
    """The usage once the tool messages that answer the last reply are counted.

    Args:
        looking: The tally when the last reply was made.
        messages: The conversation.
        tool_name: The zoom tool's name.
        others: The names of the agent's other tools. Their failures are no mistakes of looking, and neither is a zoom
            that a person refused; all other failures are.
    """
    reply, answers = last_batch(messages)
    usage = looking["usage"].copy()
    unread = {call["id"] for call in reply.invalid_tool_calls} if reply else set()
    for answer in answers:
        if answer.status == "error":
            mistaken = answer.artifact == REFUSED if answer.name == tool_name else answer.name not in others
            usage["mistakes"] += mistaken or answer.tool_call_id in unread
        elif answer.name == tool_name and any(image_blocks([answer])):
            usage["zooms"] += 1
    return usage


def last_batch(messages: Sequence[BaseMessage]) -> tuple[AIMessage | None, list[ToolMessage]]:
    """The last reply, and the tool messages that follow it."""
    answers: list[ToolMessage] = []
    for message in reversed(messages):
        if isinstance(message, AIMessage):
            return message, answers[::-1]
        if isinstance(message, ToolMessage):
            answers.append(message)
    return None, []


def spent(usage: Usage, settings: ZoomContext) -> Stop | None:
    """Which budget for looking is used up. How often an agent calls its model is its own affair: turns do not count."""
    return forced_by({**usage, "turns": 0}, settings, other_tools=False)
