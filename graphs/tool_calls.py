"""Brings every reply into one form: text, structured calls with unique ids, nothing that a checkpoint cannot store."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, InvalidToolCall, ToolCall
from langchain_core.messages.tool import invalid_tool_call, tool_call

from vtagent.protocol import InvalidCall, check_call, new_call_id, with_structured_calls


def structured(message: AIMessage) -> AIMessage:
    """The reply with its calls in the message's own fields, whether a server put them there or left them as text."""
    if message.tool_calls or message.invalid_tool_calls:
        return _checked(message)
    return with_structured_calls(message)


def without_calls(message: AIMessage) -> AIMessage:
    """Drops the tool calls of a reply that has to be an answer."""
    plain = structured(message)
    if not plain.tool_calls and not plain.invalid_tool_calls:
        return plain
    content = plain.content
    if isinstance(content, list):
        called = ("tool_use", "tool_call", "function_call", "non_standard")
        content = [block for block in content if not (isinstance(block, dict) and block.get("type") in called)]
    kept = {key: value for key, value in plain.additional_kwargs.items() if key != "tool_calls"}
    update: dict[str, Any] = {"content": content, "additional_kwargs": kept, "tool_calls": [], "invalid_tool_calls": []}
    return plain.model_copy(update=update)


def why_invalid(call: InvalidToolCall) -> str:
    """What is wrong with an invalid call, in words for the model."""
    name = f" of {call['name'][:80]!r}" if call["name"] else ""
    return (call["error"] or f"The call{name} could not be read: its arguments are not valid JSON.").strip()[:500]


def _checked(message: AIMessage) -> AIMessage:
    """The reply with calls that cannot be run or stored moved to its invalid calls, and with an id for each call."""
    seen: set[str] = set()
    valid: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for call in message.tool_calls:
        name, args, id_ = _encodable(call["name"]), call["args"], _unique_id(call["id"], seen)
        read = check_call(call["name"], args)
        if isinstance(read, InvalidCall):
            invalid.append(invalid_tool_call(name=name, args=read.text[:1000], id=id_, error=read.error))
        else:
            valid.append(call if (name, id_) == (call["name"], call["id"]) else tool_call(name=name, args=args, id=id_))
    for bad in message.invalid_tool_calls:
        id_ = _unique_id(bad["id"], seen)
        kept = id_ == bad["id"]
        invalid.append(
            bad if kept else invalid_tool_call(name=bad["name"], args=bad["args"], id=id_, error=bad["error"])
        )
    if valid == message.tool_calls and invalid == message.invalid_tool_calls:
        return message
    return message.model_copy(update={"tool_calls": valid, "invalid_tool_calls": invalid})


def _unique_id(id_: str | None, seen: set[str]) -> str:
    """The id, or a new one if it is missing or was seen before."""
    if not id_ or id_ in seen:
        id_ = new_call_id()
    seen.add(id_)
    return id_


def _encodable(name: str) -> str:
    return name.encode(errors="replace").decode()
