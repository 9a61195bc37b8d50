"""Which images and views a conversation holds, read from its messages alone: nothing is remembered elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from langchain_core.messages import BaseMessage

from vtagent.images import ImageRef, ImageStore
from vtagent.views import View, is_reference
from vtagent.visual_tokens import VisionSpec


@lru_cache(maxsize=4096)
def name_of(url: str) -> str:
    """The sha256 in a view's URL; asked for often, as every node looks at every reference.

    Raises:
        ImageRefused: It is not a view's URL.
    """
    return View.parse_url(url)[0]


def image_blocks(messages: Iterable[BaseMessage]) -> Iterator[tuple[BaseMessage, dict[str, Any]]]:
    """Every image reference in the messages, in order, with the message that holds it."""
    for message in messages:
        if isinstance(message.content, list):
            for block in message.content:
                if isinstance(block, dict) and is_reference(block):
                    yield message, block


def shown_views(messages: Iterable[BaseMessage], store: ImageStore) -> list[tuple[View, BaseMessage]]:
    """Every view in the messages, in order, with the message that shows it; lost images are left out.

    A view that stands there twice is there twice, as a model is shown it twice.
    """
    return [
        (View.from_block(block, store), message)
        for message, block in image_blocks(messages)
        if name_of(block["url"]) in store
    ]


def images_of(views: Iterable[View]) -> list[ImageRef]:
    """The distinct images behind views, in the order in which they were first seen; the model counts them from 1."""
    return list({view.ref.sha256: view.ref for view in views}.values())


def already_shown(view: View, shown: Sequence[View], vision: VisionSpec) -> View | None:
    """The earlier view, if any, that already shows all that `view` would show, no less sharply."""
    return next((earlier for earlier in shown if earlier.covers(view, vision)), None)
