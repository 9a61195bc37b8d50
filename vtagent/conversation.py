"""Which images and views a conversation holds, read from its messages alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from vtagent.images import ImageRef, ImageStore
from vtagent.views import View, is_reference


@lru_cache(maxsize=4096)
def name_of(url: str) -> str:
    """The id of the image or page in a view's URL. Cached, as every node looks at every reference.

    Raises:
        ImageRefused: It is not a view's URL.
    """
    return View.parse_url(url)[0]


def image_blocks(messages: Iterable[BaseMessage]) -> Iterator[tuple[BaseMessage, dict[str, Any]]]:
    """Every image reference in the messages, in order, with the message that holds it.

    Those in a model's own replies are left out: a model shows no images, so it made them up.
    """
    for message in messages:
        if isinstance(message.content, list) and not isinstance(message, AIMessage):
            for block in message.content:
                if isinstance(block, dict) and is_reference(block):
                    yield message, block


def shown_views(messages: Iterable[BaseMessage], store: ImageStore) -> list[tuple[View, BaseMessage]]:
    """Every view in the messages, in order, with the message that shows it; lost images are left out.

    A view that the model is shown twice is listed twice.
    """
    return [
        (View.from_block(block, store), message)
        for message, block in image_blocks(messages)
        if name_of(block["url"]) in store
    ]


def images_of(views: Iterable[View]) -> list[ImageRef]:
    """The distinct images behind views, in the order in which they were first seen; the model counts them from 1."""
    return list({view.ref.id: view.ref for view in views}.values())
