"""Fits a conversation of references to the model that will read it: where tool images stand, and how pixels reach it.

`ChatVLM` reads references itself. Any other chat model is wrapped in `PixelModel`, which puts the pixels in below
LangChain's callbacks: state, streams and traces still see references alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from vtagent.errors import ModelError
from vtagent.graphs.observe import is_lost
from vtagent.graphs.state import ZoomContext
from vtagent.images import ImageStore, MemoryImageStore
from vtagent.views import is_reference

NOT_RUN = "This call was not run."
LOST = "[There was an image here. It is no longer in the image store and cannot be shown.]"


def store_of(model: object) -> ImageStore:
    """The model's own image store, else a new one in memory. Another model's `store` may be a setting (ChatOpenAI)."""
    own = getattr(model, "store", None)
    return own if isinstance(own, ImageStore) else MemoryImageStore()


def without_lost_images(messages: Iterable[BaseMessage], store: ImageStore) -> list[BaseMessage]:
    """The messages, with a sentence in place of each reference to an image that the store does not hold."""
    said = []
    for message in messages:
        if isinstance(message.content, list) and any(is_lost(block, store) for block in message.content):
            content = [{"type": "text", "text": LOST} if is_lost(block, store) else block for block in message.content]
            message = message.model_copy(update={"content": content})
        said.append(message)
    return said


def with_open_calls_answered(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The messages, with a sentence in answer to each call that has none.

    Somebody asked anew instead of approving a zoom, or a run was killed: servers refuse a conversation with open calls.
    """
    said: list[BaseMessage] = []
    answered = {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
    for message in messages:
        said.append(message)
        if isinstance(message, AIMessage):
            said += [
                ToolMessage(NOT_RUN, name=call["name"], tool_call_id=call["id"] or "", status="error")
                for call in (*message.tool_calls, *message.invalid_tool_calls)
                if call["id"] not in answered
            ]
    return said


def after_tool_messages(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The messages, with the images of tool messages moved to a user message after the whole batch of tool messages.

    Most APIs take text alone from a tool, and want every call of a turn answered before anything else is said.
    """
    said: list[BaseMessage] = []
    waiting: list[Any] = []
    for message in messages:
        if waiting and not isinstance(message, ToolMessage):
            said.append(HumanMessage(waiting))
            waiting = []
        if isinstance(message, ToolMessage) and isinstance(message.content, list):
            images = [block for block in message.content if isinstance(block, dict) and is_reference(block)]
            if images:
                rest = [block for block in message.content if block not in images]
                rest.append({"type": "text", "text": "The image follows in the next user message."})
                waiting += [{"type": "text", "text": f"From {message.name or 'the tool'}:"}, *images]
                message = message.model_copy(update={"content": rest})
        said.append(message)
    return [*said, HumanMessage(waiting)] if waiting else said


def takes_tool_images(model: BaseChatModel) -> bool:
    """Whether the model says that it reads images in tool messages; unknown counts as no, which works everywhere."""
    return bool((getattr(model, "profile", None) or {}).get("image_tool_message"))


def reads_references(model: object) -> bool:
    """Whether the model turns references into pixels itself, as `ChatVLM` does."""
    return bool(getattr(model, "resolves_images", False))


def zoom_biased(model: BaseChatModel, settings: ZoomContext) -> dict[str, Any]:
    """The options of a call that add the settings' `zoom_bias` to the log-odds of zooming.

    Raises:
        ModelError: The model knows no such bias, and its call token is not given.
    """
    if reads_references(model):
        return {"zoom_bias": settings.zoom_bias}
    if settings.zoom_token_id is None:
        raise ModelError(
            f"{type(model).__name__} takes no zoom_bias; give the id of its <tool_call> token as zoom_token_id, and it "
            "gets a logit_bias"
        )
    return {"logit_bias": {str(settings.zoom_token_id): settings.zoom_bias}}


def can_be_forbidden(model: BaseChatModel, tools: Sequence[Any]) -> bool:
    """Whether the model knows the tool choice "none"; some take it for the name of a tool, and their servers refuse."""
    try:
        choice = getattr(model.bind_tools(tools, tool_choice="none"), "kwargs", {}).get("tool_choice")
    except Exception:  # as each package puts it; a model that takes no tools at all says so when they are bound
        return False
    if not isinstance(choice, Mapping):
        return True
    function = choice.get("function")
    return "none" not in (choice.get("name"), function.get("name") if isinstance(function, Mapping) else None)
