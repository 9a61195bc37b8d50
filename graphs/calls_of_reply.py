"""Brings the calls of a reply within bounds: an untagged call is a call, and one reply has only so many of them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.messages.tool import invalid_tool_call, tool_call

from vtagent.protocol import THINK, InvalidCall, new_call_id, parse_call

__all__ = ["bounded", "with_untagged_calls", "without_calls_of"]

_FENCE = re.compile(r"```(?:json|tool_call)?\s*\n?(.*?)\n?\s*```|\[TOOL_REQUEST\](.*?)\[END_TOOL_REQUEST\]", re.DOTALL)
"""What stands around a call that a server leaves as text: a code fence, or LM Studio's marks."""
_LONGEST = 100_000  # characters: a longer text is no call
_SHOWN = 1000  # characters of a call that could not be read, as they are kept
_CALL_BLOCKS = ("tool_use", "tool_call", "function_call", "non_standard")
_CALLS_AGAIN = ("tool_calls", "function_call")
"""Where packages keep the calls a second time, among the message's additional fields."""


def with_untagged_calls(message: AIMessage, names: Collection[str]) -> AIMessage:
    """The message with the call that is its whole text moved to its calls, or to the invalid ones; else itself.

    Servers without a tool parser, and models out of practice, leave `{"name": "zoom_image", "arguments": …}` as text,
    bare, in a code fence or between LM Studio's marks. That is never an answer. Text that does not name a tool stays as
    it is.

    Args:
        message: A reply without structured calls.
        names: The tools that the model was offered.

    Example:
        >>> reply = with_untagged_calls(AIMessage('{"name": "zoom_image", "arguments": {}}'), {"zoom_image"})
        >>> reply.text, reply.tool_calls[0]["name"]
        ('', 'zoom_image')
    """
    if message.tool_calls or message.invalid_tool_calls or not isinstance(message.content, str):
        return message
    before, closed, after = message.content.rpartition(THINK[1])
    text = after.strip()
    if not text.startswith(("{", "`", "[TOOL_REQUEST]")) or len(text) > _LONGEST:
        return message
    if fenced := _FENCE.fullmatch(text):
        text = (fenced[1] or fenced[2] or "").strip()
    name = _tool_named(text, names)
    if name is None:
        return message
    call = parse_call(text)
    changes: dict[str, Any] = {"content": f"{before}{closed}"}
    if isinstance(call, InvalidCall):
        invalid = invalid_tool_call(name=name, args=call.text[:_SHOWN], id=new_call_id(), error=call.error)
        changes["invalid_tool_calls"] = [invalid]
    else:
        changes["tool_calls"] = [tool_call(name=call.name, args=call.arguments, id=new_call_id())]
    return message.model_copy(update=changes)


def _tool_named(text: str, names: Collection[str]) -> str | None:
    """The tool that a JSON object names, or that text which is meant as one begins with; None for any other text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        named = re.match(r'\{\s*"(?:name|tool|function)"\s*:\s*"([^"\\]{1,100})"', text)
        return named[1] if named and named[1] in names else None
    name = value.get("name") if isinstance(value, dict) else None
    return name if isinstance(name, str) and name in names else None


def bounded(message: AIMessage, most: int, *, tool_name: str, only: Collection[str | None] | None = None) -> AIMessage:
    """The message with at most `most` calls. One invalid call in place of the rest says so.

    Args:
        message: A reply with structured calls.
        most: How many calls stay: the first valid ones, then the first invalid ones.
        tool_name: The name of the call that stands for the rest.
        only: The names whose calls are counted and left out, None among them for calls without one; None: all calls.
    """

    def counts(call: Any) -> bool:
        return only is None or (call["name"] or None) in only

    valid = [call for call in message.tool_calls if counts(call)]
    invalid = [call for call in message.invalid_tool_calls if counts(call)]
    total = len(valid) + len(invalid)
    if total <= most:
        return message
    beyond = [*valid[most:], *invalid[max(0, most - len(valid)) :]]
    dropped = set(map(id, beyond))
    error = (
        f"Your reply has {total} calls; at most {most} calls of one reply are run, and the other {total - most} were "
        "not. Ask again for what you still need, in fewer calls."
    )
    rest = invalid_tool_call(name=tool_name, args="", id=beyond[0]["id"] or new_call_id(), error=error)
    return _with_calls(
        message,
        [call for call in message.tool_calls if id(call) not in dropped],
        [*(call for call in message.invalid_tool_calls if id(call) not in dropped), rest],
    )


def without_calls_of(message: AIMessage, name: str, *, unreadable: bool) -> AIMessage:
    """The message without its calls of one tool.

    Args:
        message: A reply with structured calls.
        name: The tool.
        unreadable: Whether unreadable calls that name no other tool go, too.
    """
    valid = [call for call in message.tool_calls if call["name"] != name]
    invalid = message.invalid_tool_calls
    if unreadable:
        invalid = [call for call in invalid if call["name"] and call["name"] != name]
    if len(valid) == len(message.tool_calls) and len(invalid) == len(message.invalid_tool_calls):
        return message
    return _with_calls(message, valid, invalid)


def _with_calls(message: AIMessage, valid: list[Any], invalid: list[Any]) -> AIMessage:
    """The message with other calls; blocks of its content that make a call which is left out are left out, too."""
    left = {call["id"] for call in (*valid, *invalid)}
    gone = {call["id"] for call in (*message.tool_calls, *message.invalid_tool_calls)} - left
    content = message.content
    if isinstance(content, list):
        content = [block for block in content if not (isinstance(block, dict) and _id_of(block) in gone)]
    kept = {key: value for key, value in message.additional_kwargs.items() if key not in _CALLS_AGAIN}
    update = {"content": content, "additional_kwargs": kept, "tool_calls": valid, "invalid_tool_calls": invalid}
    return message.model_copy(update=update)


def _id_of(block: dict[str, Any]) -> Any:
    """The id of the call that a block makes; None for any other block."""
    if block.get("type") not in _CALL_BLOCKS:
        return None
    value = block.get("value")
    return block.get("call_id") or block.get("id") or (value.get("id") if isinstance(value, dict) else None)
