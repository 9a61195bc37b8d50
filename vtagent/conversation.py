"""Which images and views a conversation holds, read from its messages alone, and which of them the model still sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from vtagent.images import ImageRef, ImageStore
from vtagent.views import UNSEEN, View, is_reference


@lru_cache(maxsize=4096)
def name_of(url: str) -> str:
    """The sha256 in a view's URL. Cached, as every node looks at every reference.

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
    return list({view.ref.sha256: view.ref for view in views}.values())


def newest_in_sight(
    messages: Sequence[BaseMessage],
    keep: int | None,
    *,
    tool_name: str | None,
    numbered: Sequence[BaseMessage] | None = None,
) -> list[BaseMessage]:
    """Replaces all views of all but the newest images by a note, for one call of the model; the state keeps them.

    Args:
        messages: A conversation of references, without lost images. Never modified.
        keep: How many images stay; an image is as new as its latest view. None keeps all.
        tool_name: The tool that can show an image again, for the note; None if there is none.
        numbered: The messages whose images the tool counts, if others than these: other middleware may have removed
            some from the call.
    """

    def note(block: dict[str, Any], number: int) -> dict[str, Any]:
        again = f" {tool_name} with image={number} shows it again." if tool_name else ""
        return {"type": "text", "text": f"[Image {number} stood here and is no longer shown.{again}]"}

    return _with_old_images_replaced(messages, keep, note, numbered)


def as_the_tool_sees(messages: Sequence[BaseMessage], keep: int | None, store: ImageStore) -> list[BaseMessage]:
    """The messages for the zoom tool: images out of sight keep their number, but do not count as already shown.

    Args:
        messages: As for `newest_in_sight`.
        keep: As for `newest_in_sight`.
        store: Where the images are.
    """

    def unseen(block: dict[str, Any], number: int) -> dict[str, Any]:
        return View(View.from_block(block, store).ref, UNSEEN).block()

    return _with_old_images_replaced(messages, keep, unseen)


def _with_old_images_replaced(
    messages: Sequence[BaseMessage],
    keep: int | None,
    replacement: Callable[[dict[str, Any], int], dict[str, Any]],
    numbered: Sequence[BaseMessage] | None = None,
) -> list[BaseMessage]:
    names = _names(messages)
    if keep is None or len(set(names)) <= keep:
        return list(messages)
    number = {name: n for n, name in enumerate(dict.fromkeys([*_names(numbered or ()), *names]), 1)}
    kept = set(list(dict.fromkeys(reversed(names)))[:keep])

    def shown(block: Any) -> Any:
        if not is_reference(block) or (name := name_of(block["url"])) in kept:
            return block
        return replacement(block, number[name])

    return [
        message.model_copy(update={"content": [shown(block) for block in message.content]})
        if isinstance(message.content, list) and any(is_reference(block) for block in message.content)
        else message
        for message in messages
    ]


def _names(messages: Sequence[BaseMessage]) -> list[str]:
    return [name_of(block["url"]) for _, block in image_blocks(messages)]
