"""Warns when a model that cannot read image references is sent some: only this process can turn them into pixels.

The models of a graph and of `ZoomMiddleware` are given pixels. References reach another model where a later node of a
parent graph reads the same messages, or where other middleware asks a model of its own. Its provider then refuses the
request with words that help nobody. Such calls are made in places that this package does not see; so it listens to
LangChain's callbacks of every chat model in the process.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from contextvars import ContextVar
from functools import cache
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.tracers.context import register_configure_hook

from vtagent.models.pixel_model import is_given_pixels

__all__ = ["UnreadReferenceWarning", "watch"]


class UnreadReferenceWarning(UserWarning):
    """A model that cannot read image references is sent some."""


class Watcher(BaseCallbackHandler):
    """Warns before a chat model is sent references that it cannot read."""

    run_inline = True
    ignore_llm = ignore_chain = ignore_agent = ignore_retriever = ignore_retry = ignore_custom_event = True

    def on_chat_model_start(
        self, serialized: dict[str, Any] | None, messages: list[list[BaseMessage]], **kwargs: Any
    ) -> None:
        """Look at what is about to be sent.

        Args:
            serialized: What LangChain tells of the model.
            messages: What it is sent.
            kwargs: Not used.
        """
        if not any(_is_reference(block) for batch in messages for block in _blocks(batch)):
            return
        if is_given_pixels(serialized) or _reads_references(tuple((serialized or {}).get("id") or ())):
            return
        name = ((serialized or {}).get("id") or ["a model"])[-1]
        warnings.warn(
            f"{name} is sent image references (vtimg://…), which it cannot read; its provider will refuse them. A node "
            "that reads an agent's messages needs vtagent.graphs.resolve(messages, store, model). Middleware that asks "
            "a model, such as LLMToolSelectorMiddleware, is to be listed after ZoomMiddleware and given no model=",
            UnreadReferenceWarning,
            stacklevel=2,
        )


def watch() -> None:
    """Begin to watch the chat models of this process; once is enough."""
    _register()


@cache
def _register() -> None:
    # LangChain reads the handler from a context variable; as its default, it holds in every thread and task.
    watcher = Watcher()
    register_configure_hook(ContextVar("vtagent_watcher", default=watcher), inheritable=False)


def _blocks(messages: list[BaseMessage]) -> Any:
    return (block for message in messages if isinstance(message.content, list) for block in message.content)


def _is_reference(block: object) -> bool:
    """Whether a block is a reference, also in the form that LangChain brings images into before it calls back."""
    if not isinstance(block, Mapping):
        return False
    inner = block.get("image_url") if block.get("type") == "image_url" else block
    url = inner.get("url") if isinstance(inner, Mapping) else None
    return isinstance(url, str) and url.startswith("vtimg:")


@cache
def _reads_references(path: tuple[str, ...]) -> bool:
    """Whether the class of that path reads references, as `ChatVLM` does; a class inside a function counts as one."""
    module = sys.modules.get(".".join(path[:-1]))
    if module is None:  # packages of providers go by other paths than their modules'
        return False
    kind = getattr(module, path[-1], None)
    field = getattr(kind, "model_fields", {}).get("resolves_images")
    return kind is None or bool(field.default if field is not None else getattr(kind, "resolves_images", False))
