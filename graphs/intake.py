"""Turns what callers and tools send into references, and finds what cannot be shown.

New images go through `vtagent.ingest.ingest_message` into the image store. One rule holds for images that cannot be
used and for blocks that the model cannot read, in the graph and in the middleware: in the newest message they raise, so
that the caller can mend it; in an earlier one a note replaces them. A checkpointer may have kept an earlier message, so
one bad upload does not end a thread for good.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)
from langgraph.types import Command

from vtagent.conversation import name_of
from vtagent.errors import ImageError, ImageRefused, ImageTampered
from vtagent.graphs.storable import plain, storable, storable_reply, without_references
from vtagent.images import ImageStore
from vtagent.ingest import Fetch, ingest_message
from vtagent.media import note, refusal
from vtagent.views import View, asked_for, is_reference

MessageT = TypeVar("MessageT", bound=BaseMessage)

_LOW = 0.5
"""The largest scale of an image that the caller asks to be shown low."""

LOST = "[There was an image here. It is no longer in the image store and cannot be shown.]"
"""What the model is told in place of a lost image."""

BLANK = "[This message was empty.]"
"""What the model is told in place of an earlier message without content."""


def referenced(
    messages: Any,
    store: ImageStore,
    fetch: Fetch | None = None,
    *,
    scale: float = 1.0,
    reads: Collection[str] | None = None,
) -> Any:
    """Replaces the images in messages by references, and makes the messages storable. `resolve` puts pixels back.

    Args:
        messages: In any form that LangGraph takes. Never modified.
        store: Where images go.
        fetch: As for `ingest`.
        scale: The scale of the new references, whichever message they stand in.
        reads: As for `readable`; None leaves all blocks but images to the model.

    Returns:
        `messages` itself if all of it is text, else a list of messages that have ids.

    Raises:
        ImageError: As `take_in`; as `readable`.
    """
    given = convert_to_messages(messages if isinstance(messages, list | tuple) else [messages])
    listed = [_storable(message) for message in given]
    if all(new is old and isinstance(new.content, str) for new, old in zip(listed, given, strict=True)):
        return messages
    if reads is not None:
        listed = readable(listed, reads, reads)
    named = [m if m.id else m.model_copy(update={"id": str(uuid.uuid4())}) for m in listed]
    taken_in = take_in(named, store, fetch)
    changed = {message.id: at_scale(message, scale, store) or message for message in taken_in}
    return [changed.get(message.id, message) for message in named]


def take_in(messages: Iterable[BaseMessage], store: ImageStore, fetch: Fetch | None) -> list[BaseMessage]:
    """Ingests messages as `ingest` does, but leaves references to lost images in place; the model is told of those.

    Args:
        messages: Never modified. In all but the last, notes replace images that cannot be used.
        store: Where images go.
        fetch: As for `ingest`.

    Returns:
        Only the messages that changed.

    Raises:
        ImageTampered: The store was tampered with.
        ImageError: As `ingest`, of the last message.
    """
    changed = []
    listed = list(messages)
    for place, message in enumerate(listed):
        if not isinstance(message.content, list) or all(_is_settled(block, store) for block in message.content):
            continue
        new: BaseMessage | None
        if isinstance(message, AIMessage):
            new = without_references(message)
        else:
            try:
                new = _ingested(message, store, fetch, place)
            except ImageError as error:
                if place == len(listed) - 1 or isinstance(error, ImageTampered):
                    raise
                new = noted(message, store, fetch)
        if new is not None and new is not message:
            changed.append(new)
    return changed


def _ingested(message: BaseMessage, store: ImageStore, fetch: Fetch | None, place: int = 0) -> BaseMessage | None:
    return ingest_message(message, store, fetch=fetch, position=place, leave=lambda block: is_lost(block, store))


def readable(
    messages: Sequence[BaseMessage], reads: Collection[str], reads_from_tools: Collection[str]
) -> list[BaseMessage]:
    """The messages as a model can read them: without PDF, audio, video and unknown blocks that it does not read.

    Args:
        messages: A conversation, the newest message last. Never modified.
        reads: What the model reads beside text and images.
        reads_from_tools: The same, in tool messages.

    Raises:
        ImageRefused: The last message is a human or system message and has such a block. In others a note replaces it.
    """
    told = []
    for place, message in enumerate(messages):
        if isinstance(message.content, list) and isinstance(message, HumanMessage | SystemMessage | ToolMessage):
            known = reads_from_tools if isinstance(message, ToolMessage) else reads
            whys = [refusal(block, known) for block in message.content]
            if any(whys):
                if place == len(messages) - 1 and not isinstance(message, ToolMessage):
                    index, why = next((index, why) for index, why in enumerate(whys) if why)
                    raise ImageRefused(f"message {place} ({message.type}), block {index}: {why}")
                told_blocks = [note(b) if why else b for b, why in zip(message.content, whys, strict=True)]
                message = message.model_copy(update={"content": told_blocks})
        told.append(message)
    return told


def without_blanks(messages: Iterable[BaseMessage]) -> list[BaseMessage]:
    """The messages with a sentence in place of each blank one but the last: some servers refuse those.

    A reply is blank if the model refused, or spent its tokens on a thought.
    """
    told = list(messages)
    for place, message in enumerate(told[:-1]):
        if isinstance(message, AIMessage | HumanMessage) and _is_blank(message):
            told[place] = message.model_copy(update={"content": BLANK})
    return told


def _is_blank(message: BaseMessage) -> bool:
    if isinstance(message, AIMessage) and (message.tool_calls or message.invalid_tool_calls):
        return False
    blocks = [message.content] if isinstance(message.content, str) else message.content
    said = (block.get("text") if isinstance(block, dict) and block.get("type") == "text" else block for block in blocks)
    return not any(not isinstance(each, str) or each.strip() for each in said)


def _storable(message: BaseMessage) -> BaseMessage:
    """A message of a caller's that can be stored, as far as this package knows its fields."""
    if not isinstance(message, AIMessage):
        return storable(message)
    clean = storable_reply(message)
    calls = {name: plain(getattr(clean, name)) for name in ("tool_calls", "invalid_tool_calls")}
    same = all(calls[name] is getattr(clean, name) for name in calls)
    return clean if same else clean.model_copy(update=calls)


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
    return (name := _name(block)) is not None and name in store


def is_lost(block: object, store: ImageStore) -> bool:
    """Whether a block is a well-formed reference to an image that the store does not hold."""
    return (name := _name(block)) is not None and name not in store


def _name(block: object) -> str | None:
    """The sha256 in a well-formed reference; None for any other block."""
    if not isinstance(block, dict) or not is_reference(block):
        return None
    try:
        return name_of(block["url"])
    except ImageRefused:
        return None


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
        _ingested(message, store, fetch)
    except ImageError:
        content = [_usable(message, block, store, fetch) for block in message.content]
        return message.model_copy(update={"content": content})
    return message


def _usable(message: BaseMessage, block: Any, store: ImageStore, fetch: Fetch | None) -> Any:
    """A block with a reference in place of its image, or a note if that cannot be used."""
    try:
        new = _ingested(message.model_copy(update={"content": [block]}), store, fetch)
        return block if new is None else new.content[0]
    except ImageError as error:
        why = str(error).partition(": ")[2]  # without the message's position
        return {"type": "text", "text": f"[There was a picture here that could not be used: {why}]"}


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
