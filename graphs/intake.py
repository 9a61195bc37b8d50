"""Turns what callers and tools send into references, and finds what cannot be shown.

New images go through `vtagent.ingest.ingest_message` into the image store. A bad image in a run's last message raises.
A checkpointer may have kept that message by then, so a bad image in an earlier message is replaced by a note: one bad
upload does not end a thread for good.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage, ToolMessage, convert_to_messages
from langgraph.types import Command

from vtagent.conversation import name_of
from vtagent.errors import ImageError
from vtagent.images import ImageStore
from vtagent.ingest import Fetch, ingest_message
from vtagent.views import View, asked_for, is_reference

MessageT = TypeVar("MessageT", bound=BaseMessage)

_LOW = 0.5
"""The largest scale of an image that the caller asks to be shown low."""

LOST = "[There was an image here. It is no longer in the image store and cannot be shown.]"
"""What the model is told in place of a lost image."""


def referenced(messages: Any, store: ImageStore, fetch: Fetch | None = None, *, scale: float = 1.0) -> Any:
    """Replaces the images in messages by references; `resolve` puts them back.

    Args:
        messages: In any form that LangGraph takes. Never modified.
        store: Where images go.
        fetch: As for `ingest`.
        scale: The scale of the new references.

    Returns:
        `messages` itself if all of it is text, else a list of messages that have ids.

    Raises:
        ImageError: As `ingest`.
    """
    listed = convert_to_messages(messages if isinstance(messages, list | tuple) else [messages])
    if all(isinstance(message.content, str) for message in listed):
        return messages
    named = [m if m.id else m.model_copy(update={"id": str(uuid.uuid4())}) for m in listed]
    taken_in = take_in(named, store, fetch)
    changed = {message.id: at_scale(message, scale, store) or message for message in taken_in}
    return [changed.get(message.id, message) for message in named]


def take_in(messages: Iterable[BaseMessage], store: ImageStore, fetch: Fetch | None) -> list[BaseMessage]:
    """Ingests messages as `ingest` does, but leaves references to lost images in place; the model is told of those.

    Args:
        messages: Never modified.
        store: Where images go.
        fetch: As for `ingest`.

    Returns:
        Only the messages that changed.

    Raises:
        ImageError: As `ingest`.
    """
    changed = []
    for place, message in enumerate(messages):
        if not isinstance(message.content, list) or all(_is_settled(block, store) for block in message.content):
            continue
        new = ingest_message(message, store, fetch=fetch, position=place, leave=lambda block: is_lost(block, store))
        if new is not None:
            changed.append(new)
    return changed


def is_quick(messages: Iterable[BaseMessage], store: ImageStore) -> bool:
    """Whether taking in the messages reads and decodes nothing, so that the event loop need not be left for it."""
    return store.in_memory and all(
        isinstance(message.content, str) or all(_is_settled(block, store) for block in message.content)
        for message in messages
    )


def _is_settled(block: object, store: ImageStore) -> bool:
    """Whether a block is text or a good reference."""
    if not isinstance(block, dict) or block.get("type") == "text":
        return True
    return is_reference(block) and name_of(block["url"]) in store


def is_lost(block: object, store: ImageStore) -> bool:
    """Whether a block is a well-formed reference to an image that the store does not hold."""
    return isinstance(block, dict) and is_reference(block) and name_of(block["url"]) not in store


def at_scale(message: BaseMessage, scale: float, store: ImageStore) -> BaseMessage | None:
    """Lowers the whole, unscaled images of a message to `scale`; None if that changes nothing.

    The caller's own `detail` is respected: "low" lowers at every `scale`, "high" and "original" stay whole.

    Args:
        message: Of a person or of a tool other than the zoom tool. Never modified.
        scale: Above 0 and at most 1.
        store: Where the images are.
    """
    if not isinstance(message, HumanMessage | SystemMessage | ToolMessage) or isinstance(message.content, str):
        return None
    content = [_low(block, scale, store) if isinstance(block, dict) else block for block in message.content]
    if all(new is old for new, old in zip(content, message.content, strict=True)):
        return None
    return message.model_copy(update={"content": content})


def _low(block: dict[str, Any], scale: float, store: ImageStore) -> dict[str, Any]:
    if not is_reference(block) or is_lost(block, store):
        return block
    view, asked = View.from_block(block, store), asked_for(block)
    wanted = {setting.removeprefix("MEDIA_RESOLUTION_").lower() for setting in asked.values()}
    if wanted:
        scale = min(scale, _LOW) if wanted == {"low"} else 1.0
    if scale == 1 or view.scale != 1 or view.region is not None:
        return block
    return {**block, **View(view.ref, scale).block(asked)}


def noted(message: BaseMessage, store: ImageStore, fetch: Fetch | None) -> BaseMessage:
    """The message with a note in place of each image that cannot be used; the message itself if all can be.

    Args:
        message: One that is not the newest of its conversation. Never modified.
        store: Where images go.
        fetch: As for `ingest`.
    """
    try:
        take_in([message], store, fetch)
    except ImageError:
        content = [_note(message, block, store, fetch) for block in message.content]
        return message.model_copy(update={"content": content})
    return message


def _note(message: BaseMessage, block: Any, store: ImageStore, fetch: Fetch | None) -> Any:
    try:
        take_in([message.model_copy(update={"content": [block]})], store, fetch)
    except ImageError as error:
        why = str(error).partition(": ")[2]  # without the message's position
        return {"type": "text", "text": f"[There was a picture here that could not be used: {why}]"}
    return block


def without_lost_images(messages: Iterable[MessageT], store: ImageStore) -> list[MessageT]:
    """The messages with a sentence in place of each reference to an image that the store does not hold."""
    told = []
    for message in messages:
        if isinstance(message.content, list) and any(is_lost(block, store) for block in message.content):
            content = [{"type": "text", "text": LOST} if is_lost(block, store) else block for block in message.content]
            message = message.model_copy(update={"content": content})
        told.append(message)
    return told


def without_pixels(message: ToolMessage, store: ImageStore, fetch: Fetch | None, *, scale: float = 1.0) -> ToolMessage:
    """A tool's answer with references for its images; if one cannot be used, an error in words.

    Args:
        message: The answer of a tool other than the zoom tool. Never modified.
        store: Where images go.
        fetch: As for `ingest`.
        scale: The scale at which whole images are shown.
    """
    try:
        changed = take_in([message], store, fetch)
    except ImageError as error:
        text = f"{message.name} returned an image that cannot be used: {error}"
        return message.model_copy(update={"content": text, "status": "error", "artifact": None})
    taken_in = next((new for new in changed if isinstance(new, ToolMessage)), message)
    low = at_scale(taken_in, scale, store)
    return low if isinstance(low, ToolMessage) else taken_in


def command_without_pixels(
    command: Command[Any], store: ImageStore, fetch: Fetch | None, *, scale: float = 1.0
) -> Command[Any]:
    """A tool's command with references for the images in the messages that it brings.

    Args:
        command: Never modified.
        store: Where images go.
        fetch: As for `ingest`.
        scale: As for `referenced`.
    """
    if not isinstance(command.update, Mapping) or not command.update.get("messages"):
        return command
    brought = [
        without_pixels(message, store, fetch, scale=scale)
        if isinstance(message, ToolMessage)
        else noted(message, store, fetch)
        for message in convert_to_messages(command.update["messages"])
    ]
    messages = referenced(brought, store, fetch, scale=scale)
    return replace(command, update={**command.update, "messages": messages})
