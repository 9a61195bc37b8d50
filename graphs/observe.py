"""The first node: pictures become references, and new ones are first shown at low resolution."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, convert_to_messages
from langchain_core.runnables import RunnableConfig

from vtagent.conversation import name_of
from vtagent.graphs.budgets import in_view
from vtagent.graphs.node import Node, ZoomRuntime
from vtagent.graphs.state import ZoomContext, ZoomState, no_usage
from vtagent.images import ImageStore
from vtagent.ingest import ingest_one
from vtagent.views import View, is_reference
from vtagent.visual_tokens import VisionSpec

Fetch = Callable[[str], bytes]


class Observe(Node):
    """Takes in the new messages and begins the run's accounts."""

    def __init__(
        self, defaults: ZoomContext, *, store: ImageStore, vision: VisionSpec, tool_name: str, fetch: Fetch | None
    ) -> None:
        super().__init__(defaults)
        self.store, self.vision, self.tool_name, self.fetch = store, vision, tool_name, fetch

    def run(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """Return references in place of pictures, at `scale` where the model has not seen them yet."""
        start = time.perf_counter()
        messages: Sequence[BaseMessage] = state["messages"]
        if not messages:
            raise ValueError('nothing to look at: give at least one message, {"messages": [...]}')
        taken_in = {message.id: message for message in take_in(messages, self.store, self.fetch)}
        last = max((i for i, message in enumerate(messages) if isinstance(message, AIMessage)), default=-1)
        changed = dict(taken_in)
        for i, message in enumerate(messages):
            fresh = i > last or message.id in taken_in
            if fresh and (low := at_scale(taken_in.get(message.id, message), settings.scale, self.store)) is not None:
                changed[message.id] = low
        now = [changed.get(message.id, message) for message in messages]
        views, usage = in_view(now, no_usage(), self.store, tool_name=self.tool_name, vision=self.vision)
        usage["seconds"] = time.perf_counter() - start
        runtime.stream_writer({"event": "observe", "views": views, "visual_tokens": usage["visual_tokens"]})
        update = {"answer": None, "stop": None, "views": views, "usage": usage}
        return {**update, "messages": list(changed.values())} if changed else update

    async def arun(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """As `run`, in a thread where images are to be read."""
        if is_quick(state["messages"], self.store):
            return self.run(state, settings, runtime, config)
        return await super().arun(state, settings, runtime, config)


def is_quick(messages: Iterable[BaseMessage], store: ImageStore) -> bool:
    """Whether the messages can be taken in without reading or decoding anything, so that no thread is needed for it."""
    return store.in_memory and all(
        isinstance(message.content, str) or all(_is_settled(block, store) for block in message.content)
        for message in messages
    )


def take_in(messages: Iterable[BaseMessage], store: ImageStore, fetch: Fetch | None) -> list[BaseMessage]:
    """`ingest`, except that a reference to a lost image is left where it is: the model will be told (see `resolve`)."""
    changed = []
    for place, message in enumerate(messages):
        if not isinstance(message.content, list) or all(_is_settled(block, store) for block in message.content):
            continue
        new = ingest_one(message, store, fetch=fetch, position=place, leave=lambda block: is_lost(block, store))
        if new is not None:
            changed.append(new)
    return changed


def _is_settled(block: object, store: ImageStore) -> bool:
    """Whether a block is text or a good reference: then there is nothing to take in."""
    if not isinstance(block, dict) or block.get("type") == "text":
        return True
    return is_reference(block) and name_of(block["url"]) in store


def is_lost(block: object, store: ImageStore) -> bool:
    """Whether a block is a well-formed reference to an image that the store does not (or no longer) hold."""
    return isinstance(block, dict) and is_reference(block) and name_of(block["url"]) not in store


def at_scale(message: BaseMessage, scale: float, store: ImageStore) -> BaseMessage | None:
    """The message with its whole, unscaled images at `scale`; None when that changes nothing."""
    if scale == 1 or not isinstance(message, HumanMessage | SystemMessage) or isinstance(message.content, str):
        return None
    content = [_low(block, scale, store) if isinstance(block, dict) else block for block in message.content]
    if all(new is old for new, old in zip(content, message.content, strict=True)):
        return None
    return message.model_copy(update={"content": content})


def _low(block: dict[str, Any], scale: float, store: ImageStore) -> dict[str, Any]:
    if not is_reference(block) or is_lost(block, store):
        return block
    view = View.from_block(block, store)
    return block if view.scale != 1 or view.region is not None else View(view.ref, scale).block()


def referenced(messages: Any, store: ImageStore, fetch: Fetch | None, *, scale: float = 1.0) -> Any:
    """Messages in any form LangGraph takes, with references for pictures; the caller's objects are not touched.

    Args:
        messages: See above.
        store: Where pictures go.
        fetch: As for `ingest`.
        scale: At which the references show what was a picture until now, wherever it stands in the conversation.
    """
    listed = convert_to_messages(messages if isinstance(messages, list | tuple) else [messages])
    if all(isinstance(message.content, str) for message in listed):
        return messages
    named = [m if m.id else m.model_copy(update={"id": str(uuid.uuid4())}) for m in listed]
    taken_in = take_in(named, store, fetch)
    changed = {message.id: at_scale(message, scale, store) or message for message in taken_in}
    return [changed.get(message.id, message) for message in named]
