"""Brings every reply into one form: text, structured calls with unique ids, nothing that a checkpoint cannot store."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, InvalidToolCall, ToolCall
from langchain_core.messages.tool import invalid_tool_call, tool_call

from vtagent.graphs.storable import plain, storable_reply
from vtagent.protocol import (
    InvalidCall,
    check_call,
    new_call_id,
    parse_reply,
    was_cut,
    with_structured_calls,
    without_tags,
)

ANSWER = "answer"
"""The key of a final reply's `response_metadata` that holds its answer: text without thoughts and tags, or None."""


def structured(message: BaseMessage) -> AIMessage:
    """The reply with its calls in the message's own fields, whether a server put them there or left them as text.

    It can be stored, whatever the server sent.
    """
    reply = storable_reply(message)
    if reply.tool_calls or reply.invalid_tool_calls:
        return _checked(reply)
    return with_structured_calls(reply)


def without_calls(message: BaseMessage) -> AIMessage:
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


def with_answer(message: AIMessage) -> AIMessage:
    """The reply with its answer in `response_metadata["answer"]`, where it calls nothing.

    So any graph around the agent finds the clean answer in the last message.
    """
    if message.tool_calls or message.invalid_tool_calls:
        return message
    metadata = {**message.response_metadata, ANSWER: answer_of(message)}
    return message.model_copy(update={"response_metadata": metadata})


def answer_of(message: BaseMessage) -> str | None:
    """What `<answer>` holds, else the text outside the reasoning; None if there is neither. It has no tags.

    Of a reply that was cut at its limit, only a closed `<answer>` counts: the rest is half a thought or half a number.
    NUL characters are left out: PostgreSQL stores none.
    """
    answer: str | None = message.text
    if isinstance(message, AIMessage):
        reply = parse_reply(message.text)
        answer = without_tags(reply.answer or "") if was_cut(message) else reply.best_answer
    return (answer or "").replace("\0", "").strip() or None


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
        name, args, id_ = _word(call["name"]) or "", call["args"], _unique_id(call["id"], seen)
        read = check_call(call["name"] if isinstance(call["name"], str) else name, args)
        if isinstance(read, InvalidCall):
            invalid.append(invalid_tool_call(name=name, args=read.text[:1000], id=id_, error=read.error))
        else:
            kept = (name, id_) == (call["name"], call["id"]) and read.arguments is args
            valid.append(call if kept else tool_call(name=name, args=read.arguments, id=id_))
    for bad in message.invalid_tool_calls:
        id_, words = _unique_id(bad["id"], seen), {key: _word(bad.get(key)) for key in ("name", "args", "error")}
        kept = id_ == bad["id"] and all(words[key] == bad.get(key) for key in words)
        invalid.append(bad if kept else invalid_tool_call(id=id_, **words))
    if valid == message.tool_calls and invalid == message.invalid_tool_calls:
        return message
    return message.model_copy(update={"tool_calls": valid, "invalid_tool_calls": invalid})


def _unique_id(id_: object, seen: set[str]) -> str:
    """The id, or a new one if it is missing, cannot be stored or was seen before."""
    if not isinstance(id_, str) or not id_ or id_ in seen or plain(id_) is not id_:
        id_ = new_call_id()
    seen.add(id_)
    return id_


def _word(value: object) -> str | None:
    """A call's field as text that can be stored; None if it has none."""
    return None if value is None else str(plain(value if isinstance(value, str) else repr(value)[:1000]))
