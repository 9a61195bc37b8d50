"""Converts LangChain messages to the form that the chat templates of Qwen models read, and lists their views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage

from vtagent.errors import ModelError
from vtagent.images import ImageStore
from vtagent.ingest import ingest_message
from vtagent.models.codec import Codec
from vtagent.protocol import TOOL_CALL
from vtagent.views import View, is_reference


def with_references(messages: Sequence[BaseMessage], store: ImageStore) -> list[BaseMessage]:
    """Put image data of messages into the store and replace it by references.

    Raises:
        ImageError: The store refuses an image.
    """
    return [ingest_message(message, store) or message for message in messages]


def with_images_first(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Move the images of each human message before its text; images and texts keep their own order.

    A message with text between its images stays as it is: such texts say which image is which.
    """
    return [_images_first(message) for message in messages]


def views_of(messages: Sequence[BaseMessage], store: ImageStore) -> list[View]:
    """The views in messages, in order."""
    return [View.from_block(block, store) for message in messages for block in _blocks(message) if is_reference(block)]


def to_template(messages: Sequence[BaseMessage], codec: Codec) -> list[dict[str, Any]]:
    """Convert messages to the form that chat templates read. Control tokens in their texts are broken up.

    Raises:
        ModelError: A message or a block is of a kind that the model cannot be shown.
    """
    return [_message(message, codec) for message in messages]


def _message(message: BaseMessage, codec: Codec) -> dict[str, Any]:
    match message:
        case AIMessage():
            invalid = [f"{TOOL_CALL[0]}{call['args'] or ''}{TOOL_CALL[1]}" for call in message.invalid_tool_calls]
            out: dict[str, Any] = {
                "role": "assistant",
                "content": codec.defuse("\n".join([message.text, *invalid]).strip()),
            }
            if message.tool_calls:
                out["tool_calls"] = [
                    {
                        "type": "function",
                        "function": {"name": codec.defuse(call["name"]), "arguments": _defused(call["args"], codec)},
                    }
                    for call in message.tool_calls
                ]
            return out
        case HumanMessage():
            role = "user"
        case SystemMessage():
            role = "system"
        case ToolMessage():
            role = "tool"
        case ChatMessage():
            role = message.role
        case _:
            raise ModelError(f"a {message.type} message cannot be shown to the model")
    return {"role": role, "content": _content(message, codec)}


def _images_first(message: BaseMessage) -> BaseMessage:
    if not isinstance(message, HumanMessage) or isinstance(message.content, str):
        return message
    places = [place for place, block in enumerate(message.content) if is_reference(block)]
    if places and places[-1] - places[0] >= len(places):  # texts stand between them
        return message
    content = sorted(message.content, key=lambda block: not is_reference(block))  # sorting is stable
    return message if content == message.content else message.model_copy(update={"content": content})


def _content(message: BaseMessage, codec: Codec) -> str | list[dict[str, Any]]:
    parts = [_part(block, codec) for block in _blocks(message)]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _part(block: str | dict[str, Any], codec: Codec) -> dict[str, Any]:
    if isinstance(block, str):
        return {"type": "text", "text": codec.defuse(block)}
    if block.get("type") == "text":
        return {"type": "text", "text": codec.defuse(str(block.get("text", "")))}
    if is_reference(block):
        return {"type": "image"}
    raise ModelError(f"a block of type {block.get('type')!r} cannot be shown to the model; send text and images")


def _blocks(message: BaseMessage) -> list[Any]:
    return [message.content] if isinstance(message.content, str) else list(message.content)


def _defused(value: Any, codec: Codec) -> Any:
    if isinstance(value, str):
        return codec.defuse(value)
    if isinstance(value, dict):
        return {codec.defuse(str(key)): _defused(item, codec) for key, item in value.items()}
    return [_defused(item, codec) for item in value] if isinstance(value, list) else value
