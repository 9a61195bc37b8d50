"""Which of a conversation's images a model is still shown: the newest few, with a note where an older one stood.

Only the call is changed, never the state: an image that went out of sight can be asked for again by its number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.messages import BaseMessage

from vtagent.conversation import image_blocks, name_of
from vtagent.images import ImageStore
from vtagent.views import View, is_reference

_SPECK = 0.0001  # the smallest scale there is: such a view shows nothing that a zoom would not show better


def newest_in_sight(
    messages: Sequence[BaseMessage],
    keep: int | None,
    *,
    tool_name: str | None,
    numbered: Sequence[BaseMessage] | None = None,
) -> list[BaseMessage]:
    """The messages with all views of all but the newest images replaced by a note.

    Args:
        messages: A conversation of references, without lost images. Never modified.
        keep: How many images stay; an image is as new as its latest view. None keeps all.
        tool_name: The tool that can show an image again, for the note; None: there is none.
        numbered: The messages whose images the tool counts, where others than these: other middleware may have taken
            some out of the call.
    """

    def note(block: dict[str, Any], number: int) -> dict[str, Any]:
        again = f" {tool_name} with image={number} shows it again." if tool_name else ""
        return {"type": "text", "text": f"[Image {number} stood here and is no longer shown.{again}]"}

    return _replaced(messages, keep, note, numbered)


def as_the_tool_sees(messages: Sequence[BaseMessage], keep: int | None, store: ImageStore) -> list[BaseMessage]:
    """The messages for the zoom tool: images out of sight keep their number, but count as not yet looked at.

    Args:
        messages: As for `newest_in_sight`.
        keep: As for `newest_in_sight`.
        store: Where the images are.
    """

    def speck(block: dict[str, Any], number: int) -> dict[str, Any]:
        return View(View.from_block(block, store).ref, _SPECK).block()

    return _replaced(messages, keep, speck)


def _replaced(
    messages: Sequence[BaseMessage],
    keep: int | None,
    swap: Callable[[dict[str, Any], int], dict[str, Any]],
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
        return swap(block, number[name])

    return [
        message.model_copy(update={"content": [shown(block) for block in message.content]})
        if isinstance(message.content, list) and any(is_reference(block) for block in message.content)
        else message
        for message in messages
    ]


def _names(messages: Sequence[BaseMessage]) -> list[str]:
    return [name_of(block["url"]) for _, block in image_blocks(messages)]
