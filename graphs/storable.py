"""Makes what a model or a caller said storable: plain values that every checkpointer takes and reads back.

Checkpointers refuse integers beyond 64 bits, text with lone surrogates and values nested hundreds deep, and end the run
with an error of their own. A server can send all of these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from numbers import Real
from typing import Any, TypeVar

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

MessageT = TypeVar("MessageT", bound=BaseMessage)

DEEPEST = 64
"""Deepest nesting of what is kept; libraries give up somewhere between 250 and 1,000."""

INVENTED = "[The model wrote an image reference here. It showed no image.]"
"""Stands in a reply in place of an image reference that the model made up."""

UNREADABLE = "[The model sent a block here that cannot be read.]"
"""Stands in a reply in place of a block that is none."""

_TOO_DEEP = "[nested too deeply]"
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_MOST_TOKENS = 2**48  # far above every count, and the sum of a run's counts fits into 64 bits
_SURROGATE = re.compile("[\ud800-\udfff]")
_serde = JsonPlusSerializer()


def storable_reply(message: BaseMessage) -> AIMessage:
    """A model's reply as a message that can be stored and counted; the reply itself if it is one already.

    Some servers answer in another role than the assistant's; their reply is an `AIMessage`, too. Calls are not
    touched: see `vtagent.graphs.tool_calls`.
    """
    if not isinstance(message, AIMessage):
        fields = ("content", "additional_kwargs", "response_metadata", "name", "id")
        message = AIMessage.model_construct(**{name: getattr(message, name) for name in fields})
    usage = _usage(message.usage_metadata)
    if usage is not message.usage_metadata:
        message = message.model_copy(update={"usage_metadata": usage})
    return storable(_with_readable_blocks(without_references(message)))


def without_references(message: AIMessage) -> AIMessage:
    """The reply with a sentence in place of each image reference: a model shows no images, so it made them up."""
    if isinstance(message.content, str) or not any(_is_invented(block) for block in message.content):
        return message
    note: dict[str | Any, Any] = {"type": "text", "text": INVENTED}
    return message.model_copy(update={"content": [note if _is_invented(b) else b for b in message.content]})


def _with_readable_blocks(message: AIMessage) -> AIMessage:
    """The reply with a sentence in place of each block whose type is no text; LangChain raises on those."""
    if isinstance(message.content, str) or all(_is_readable(block) for block in message.content):
        return message
    note: Any = {"type": "text", "text": UNREADABLE}
    return message.model_copy(update={"content": [b if _is_readable(b) else note for b in message.content]})


def _is_readable(block: object) -> bool:
    return isinstance(block, str) or (isinstance(block, dict) and isinstance(block.get("type", ""), str))


def _is_invented(block: object) -> bool:
    if not isinstance(block, Mapping):
        return False
    link = block.get("image_url")
    url = link.get("url") if isinstance(link, Mapping) else link or block.get("url")
    return isinstance(url, str) and url.startswith("vtimg:")


def storable(message: MessageT) -> MessageT:
    """A message whose content, metadata, name and id can be stored; the message itself if they can be."""
    extra = message.model_extra or {}
    fields = {name: getattr(message, name) for name in ("content", "additional_kwargs", "response_metadata")}
    fields |= {"name": message.name, "id": message.id, **extra}
    changed = {name: new for name, old in fields.items() if (new := plain(old)) is not old}
    return message.model_copy(update=changed) if changed else message


def plain(value: Any, levels: int = DEEPEST) -> Any:
    """A value that checkpointers store and read back; the value itself if it is one.

    Text loses its lone surrogates. Integers beyond 64 bits become text. What is nested too deeply, or of a class that
    checkpointers do not know, becomes text.

    Args:
        value: Any value. Never modified.
        levels: How many lists and objects may stand inside one another.
    """
    kind = type(value)
    if value is None or kind is bool or kind is float:
        return value
    if kind is str:
        return text(value)
    if kind is int:
        return value if _SMALLEST <= value <= _LARGEST else f"{value:#x}"[:100]  # decimal digits are limited by Python
    if kind is list:
        return _list(value, levels)
    if kind is dict:
        if not levels:
            return _TOO_DEEP
        fields = {_key(key): plain(part, levels - 1) for key, part in value.items()}
        same = all(key in fields and fields[key] is part for key, part in value.items())
        return value if same else fields
    if kind is tuple:
        items = _list(list(value), levels)
        return value if isinstance(items, list) and all(a is b for a, b in zip(items, value, strict=True)) else items
    return _other(value)


def text(value: str) -> str:
    """The text without lone surrogates: halves of characters, as of a reply that was cut off in one."""
    return value if value.isascii() or not _SURROGATE.search(value) else _SURROGATE.sub("", value)


def _list(value: list[Any], levels: int) -> Any:
    if not levels:
        return _TOO_DEEP
    numbers = bool(value) and set(map(type, value)) <= {float, int}  # token ids and log-probabilities, by the thousand
    if numbers and min(value) >= _SMALLEST and max(value) <= _LARGEST:
        return value
    items = [plain(item, levels - 1) for item in value]
    return value if all(a is b for a, b in zip(items, value, strict=True)) else items


def _key(key: Any) -> Any:
    return key if type(key) in (bool, float, type(None)) else plain(key, 0)


def _other(value: Any) -> Any:
    """A value of another class than JSON's, if checkpointers know it and it holds nothing that they refuse."""
    try:
        kind, data = _serde.dumps_typed(value)
        _serde.loads_typed((kind, data))
    except Exception:  # whatever the class raises: what cannot be stored is told in words
        return text(_described(value))
    return value


def _described(value: Any) -> str:
    try:
        return repr(value)[:1000]
    except Exception:  # a class of a caller's own
        return f"[{type(value).__name__}]"


def _usage(usage: Any) -> UsageMetadata | None:
    """A server's counts of tokens, as whole numbers that are not negative; None if there are none."""
    if usage is None:
        return None
    if not isinstance(usage, dict):
        return None
    counted: dict[str, Any] = {}
    for key, value in usage.items():
        if key in ("input_token_details", "output_token_details"):
            details = value if isinstance(value, Mapping) else {}
            counted[key] = {str(name): _count(part) for name, part in details.items() if isinstance(part, Real)}
        else:
            counted[key] = value
    for key in ("input_tokens", "output_tokens"):
        counted[key] = _count(usage.get(key))
    total = _count(usage.get("total_tokens"))
    counted["total_tokens"] = total or _count(counted["input_tokens"] + counted["output_tokens"])
    counted = plain(counted)
    return usage if _same(counted, usage) else counted  # type: ignore[return-value]


def _count(value: object) -> int:
    if type(value) is int:
        return min(max(value, 0), _MOST_TOKENS)
    if not isinstance(value, Real):
        return 0
    number = float(value)
    return min(max(int(number), 0), _MOST_TOKENS) if abs(number) < _MOST_TOKENS else 0


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of the same types: 1.0 and True equal 1, but are no counts."""
    if type(one) is dict and type(other) is dict:
        return one.keys() == other.keys() and all(_same(part, other[key]) for key, part in one.items())
    return one is other or (type(one) is type(other) and bool(one == other))
