"""Brings every reply into one form: text, structured calls with unique ids, nothing that a checkpoint cannot store."""

from __future__ import annotations

import uuid
from typing import Any

from langchain_core.messages import AIMessage, InvalidToolCall, ToolCall
from langchain_core.messages.tool import invalid_tool_call, tool_call

from vtagent.protocol import TOOL_CALL, InvalidCall, check_call, parse_reply


def structured(message: AIMessage) -> AIMessage:
    """The reply with its calls in the message's own fields, whether a server put them there or left them as text."""
    if message.tool_calls or message.invalid_tool_calls:
        return _checked(message)
    if TOOL_CALL[0] not in message.text:
        return message
    reply = parse_reply(message.text)
    valid = [tool_call(name=call.name, args=call.arguments, id=_new_id()) for call in reply.tool_calls]
    invalid = [_invalid(call.text, call.error, None) for call in reply.invalid_calls]
    if not valid and not invalid:
        return message
    return message.model_copy(update={"content": reply.content, "tool_calls": valid, "invalid_tool_calls": invalid})


def without_calls(message: AIMessage) -> AIMessage:
    """The reply of a model that called although it must answer: the calls, which nobody will run, are dropped."""
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


def _checked(message: AIMessage) -> AIMessage:
    seen: set[str] = set()
    valid: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for call in message.tool_calls:
        name, args, id_ = _clean(call["name"]), call["args"], _fresh(call["id"], seen)
        read = check_call(call["name"], args)
        if isinstance(read, InvalidCall):
            invalid.append(_invalid(read.text[:1000], read.error, id_, name))
        else:
            valid.append(call if (name, id_) == (call["name"], call["id"]) else tool_call(name=name, args=args, id=id_))
    for bad in message.invalid_tool_calls:
        id_ = _fresh(bad["id"], seen)
        invalid.append(bad if id_ == bad["id"] else _invalid(bad["args"], bad["error"], id_, bad["name"]))
    if valid == message.tool_calls and invalid == message.invalid_tool_calls:
        return message
    return message.model_copy(update={"tool_calls": valid, "invalid_tool_calls": invalid})


def _fresh(id_: str | None, seen: set[str]) -> str:
    if not id_ or id_ in seen:
        id_ = _new_id()
    seen.add(id_)
    return id_


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def _clean(name: str) -> str:
    return name.encode(errors="replace").decode()


def _invalid(args: str | None, error: str | None, id_: str | None, name: str | None = None) -> InvalidToolCall:
    return invalid_tool_call(name=name, args=args, id=id_ or _new_id(), error=error)
